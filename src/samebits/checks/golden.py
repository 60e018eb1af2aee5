"""Compares experiments with their reference digests in golden/. Only `samebits golden --update` rewrites them."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from samebits.checks import explain
from samebits.core.config import Config, flatten
from samebits.core.errors import RecordError
from samebits.core.files import write_json
from samebits.launch import run as launch_run
from samebits.runs.compare import list_nested_differences
from samebits.runs.folder import MACHINE, RESULT, TRACE, is_finished, list_attempts, read_json, read_rows
from samebits.runs.identity import describe_inputs, source_files
from samebits.runtime.machine import arithmetic_versions

FOLDER = "golden"


def golden_path(root: pathlib.Path, experiment: str) -> pathlib.Path:
    """Return the path of an experiment's golden file."""
    return root / FOLDER / f"{experiment}.json"


def decided_by(config: Config, root: pathlib.Path, packages: dict[str, str]) -> dict[str, Any]:
    """Return the inputs that determine an experiment's digests.

    Args:
        config: The experiment's configuration.
        root: The project's folder.
        packages: Versions of the installed packages.
    """
    inputs = describe_inputs(config, root, source_files(config, root))
    return {
        "config": flatten(inputs["config"]),
        "code": inputs["code"]["files"],
        "lock": inputs["lock"],
        "packages": arithmetic_versions(packages),
    }


def describe(config: Config, root: pathlib.Path, attempt: pathlib.Path) -> dict[str, Any]:
    """Return the content of a golden file: the digests of a finished attempt and the inputs that determine them."""
    epochs = [row for row in read_rows(attempt / TRACE) if "step" not in row]
    return {
        "seed": config.seed.root,
        "promise": config.runtime.promise,
        "decided_by": decided_by(config, root, read_json(attempt / MACHINE)["packages"]),
        "epochs": [
            {key: row[key] for key in ("epoch", "data", "order", "bits", "weights", "optimizer") if key in row}
            for row in epochs
        ],
        "weights_digest": read_json(attempt / RESULT)["weights_digest"],
    }


def describe_differences(golden: Any, now: Any) -> list[str]:
    """Return one line per value that differs between two golden descriptions."""
    return [f"{key}: golden {a}, now {b}" for key, a, b in list_nested_differences(golden, now)]


def train(config: Config, root: pathlib.Path) -> pathlib.Path:
    """Train an experiment from the start and return its attempt.

    Raises:
        RecordError: The run did not finish.
    """
    outcome = launch_run.run(dataclasses.replace(config, resume="never"), root)
    if outcome.attempt is None or not is_finished(outcome.attempt):
        raise RecordError(
            f"the run of {config.name} did not finish.",
            expected="a finished run",
            received=f"exit code {outcome.exit_code}",
            fix="read its log.txt.",
        )
    return outcome.attempt


def check(experiment: str, config: Config, root: pathlib.Path) -> int:
    """Train an experiment and compare it with its golden file.

    Returns:
        0: equal in every epoch; 1: different.

    Raises:
        RecordError: There is no golden file. `samebits golden --update` creates it.
    """
    path = golden_path(root, experiment)
    golden = read_json(path)
    attempt = train(config, root)
    found = describe_differences(golden, describe(config, root, attempt))
    results = [line for line in found if line.startswith(("epochs.", "weights_digest"))]
    inputs = [line for line in found if line not in results]
    for line in inputs:
        print(f"  changed input: {line}")
    if not results:
        digest = golden["weights_digest"][:12]
        print(f"GOLDEN {experiment}: seed {golden['seed']}, weights {digest}…, every epoch as recorded")
        return 0
    for line in results[:8]:
        print(f"  {line}")
    counts = f"{len(results)} digests differ, {len(inputs)} inputs changed"
    print(f"NOT GOLDEN {experiment}: {counts}; if this is intended: samebits golden --update {experiment}")
    witness = _find_witness(root, config, golden["weights_digest"])
    if witness is not None:
        explain.explain(witness, attempt, root)
    return 1


def _find_witness(root: pathlib.Path, config: Config, digest: str) -> pathlib.Path | None:
    """Return a finished attempt on this machine with the golden digest, to compare with."""
    for inputs in sorted((root / config.paths.runs / config.name).glob("*")):
        for attempt in list_attempts(inputs):
            if is_finished(attempt) and read_json(attempt / RESULT)["weights_digest"] == digest:
                return attempt
    return None


def update(experiment: str, config: Config, root: pathlib.Path) -> int:
    """Train an experiment, print what changed, and write its golden file."""
    path = golden_path(root, experiment)
    attempt = train(config, root)
    now = describe(config, root, attempt)
    for line in describe_differences(read_json(path), now) if path.exists() else ["new file"]:
        print(f"  {line}")
    path.parent.mkdir(exist_ok=True)
    write_json(path, now)
    print(f"wrote {path.relative_to(root)}; commit it and give the reason in the commit message")
    return 0


def run(experiments: list[str], compose: Callable[[list[str]], Config], root: pathlib.Path, *, write: bool) -> int:
    """Check or write golden files and return the highest exit code. No experiments: all that have a golden file.

    Raises:
        RecordError: No experiment is named, and there is no golden file.
    """
    action = update if write else check
    names = experiments or sorted(path.stem for path in (root / FOLDER).glob("*.json"))
    if not names:
        raise RecordError(
            f"no experiment has a file in {FOLDER}/.",
            expected=f"{FOLDER}/<experiment>.json",
            received="none",
            fix="name an experiment from conf/experiment/: samebits golden --update EXPERIMENT.",
        )
    return max(action(name, compose([f"experiment={name}", "tracker=none"]), root) for name in names)
