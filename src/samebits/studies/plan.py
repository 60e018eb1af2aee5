"""The runs of a study: named and found again by their inputs, and what became of each. Starts nothing.

    runs/studies/<name>-<digest>/jobs/<number>.yaml     configuration of a run that was still to do
    runs/studies/<name>-<digest>/jobs/<number>.txt      what it printed; <number>.exit: how it ended

The runs themselves lie where `samebits train` puts them, so a study shares them with everything else.
"""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from samebits.core.config import Config, from_dict, to_dict
from samebits.core.config_rules import check
from samebits.core.digest import json_digest
from samebits.core.errors import ConfigError, RecordError
from samebits.core.files import write_yaml
from samebits.runs.folder import RESULT, is_finished, list_attempts, read_json
from samebits.runs.identity import DIGITS, describe_inputs, source_files
from samebits.runtime.pins import check_machine

FOLDER = "studies"


def with_settings(tree: dict[str, Any], settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return nested data with the values of some dotted keys replaced; what is not on their way is shared."""
    changed = dict(tree)
    for key, value in settings:
        *parents, last = key.split(".")
        part = changed
        for parent in parents:
            part[parent] = dict(part[parent])
            part = part[parent]
        part[last] = value
    return changed


@dataclass(frozen=True)
class Run:
    """One run of a study: its variant and number, and how its configuration differs from the variant's.

    Attributes:
        variant: Name of the configuration that it belongs to.
        seed: The number of what is varied.
        base: The variant's configuration.
        settings: Dotted keys and the values that they have in this run; empty: the root seed is `seed`.
        varied: What is varied: seed, fold or bag.
    """

    variant: str
    seed: int
    base: Config
    settings: tuple[tuple[str, Any], ...] = ()
    varied: str = "seed"

    def changes(self) -> tuple[tuple[str, Any], ...]:
        """Return what differs from the variant's configuration, as dotted keys and values."""
        return self.settings or (("seed.root", self.seed),)

    def config(self) -> Config:
        """Return the run's own configuration."""
        return from_dict(with_settings(to_dict(self.base), self.changes()))


@dataclass(frozen=True)
class Record:
    """A run as study.json lists it; attempt None: it did not finish, and `failure` says what is known."""

    variant: str
    seed: int
    inputs: str
    attempt: str | None
    val_accuracy: float | None = None
    val_loss: float | None = None
    weights_digest: str | None = None
    failure: str = ""
    varied: str = "seed"


def name_runs(runs: Sequence[Run], root: pathlib.Path) -> list[str]:
    """Return the inputs digest of every run, as `samebits.runs.identity.name_inputs` gives it.

    Code, lock and configuration are looked at once for each variant: its runs differ in their settings alone.

    Raises:
        ConfigError: A value of a configuration is out of range.
        SeedError: A seed is.
    """
    variants: dict[str, list[Run]] = {}
    for run in runs:
        variants.setdefault(run.variant, []).append(run)
    inputs: dict[str, dict[str, Any]] = {}
    for variant, members in variants.items():
        for run in (min(members, key=lambda run: run.seed), max(members, key=lambda run: run.seed)):
            check(run.config())  # what lies between two numbers that are in range is so too
        base = members[0].base
        check_machine(base.runtime)
        inputs[variant] = describe_inputs(base, root, source_files(base, root))
    names = []
    for run in runs:
        shared = inputs[run.variant]
        own = shared | {"config": with_settings(shared["config"], run.changes())}
        names.append(json_digest(own)[:DIGITS])
    return names


def read_lines(path: pathlib.Path) -> list[str]:
    """Return the lines of a text; a missing file has none."""
    return path.read_text(errors="replace").strip().splitlines() if path.exists() else []


class Study:
    """The runs of a study, their names and its folder.

    Args:
        name: What people call it; the tracker's group too, with the digest.
        runs: What to run; two with equal inputs are one training.
        root: The project's folder.

    Raises:
        ConfigError: There is no run, or a configuration is wrong.
    """

    def __init__(self, name: str, runs: Sequence[Run], root: pathlib.Path) -> None:
        if not runs:
            raise ConfigError("study", expected="at least one run", received="none", fix="samebits study --seeds 1..20")
        self.runs, self.root, self.inputs = list(runs), root, name_runs(runs, root)
        rows = [[run.variant, run.seed, inputs] for run, inputs in zip(self.runs, self.inputs, strict=True)]
        self.name = f"{name}-{json_digest(rows)[:DIGITS]}"
        self.folder = root / runs[0].base.paths.runs / FOLDER / self.name
        self._finished: dict[str, str] = {}  # inputs -> attempt: what is finished stays so

    def inputs_folder(self, number: int) -> pathlib.Path:
        """Return where the attempts of a run lie."""
        base = self.runs[number].base
        return self.root / base.paths.runs / base.name / self.inputs[number]

    def finished(self, number: int) -> pathlib.Path | None:
        """Return the first finished attempt of a run, if there is one."""
        folder, inputs = self.inputs_folder(number), self.inputs[number]
        if inputs not in self._finished:
            attempt = next((each for each in list_attempts(folder) if is_finished(each)), None)
            if attempt is None:
                return None
            self._finished[inputs] = attempt.name
        return folder / self._finished[inputs]

    def missing(self) -> list[int]:
        """Return the numbers of the runs that nobody has finished; equal inputs count once."""
        first: dict[str, int] = {}
        for number, inputs in enumerate(self.inputs):
            first.setdefault(inputs, number)
        return [number for number in first.values() if self.finished(number) is None]

    def record(self, number: int) -> Record:
        """Return what became of a run, from its files."""
        run, inputs = self.runs[number], self.inputs[number]
        attempt = self.finished(number)
        if attempt is None:
            return Record(run.variant, run.seed, inputs, None, failure=self.describe_failure(number), varied=run.varied)
        try:
            result = read_json(attempt / RESULT)
        except RecordError as error:
            return Record(run.variant, run.seed, inputs, None, failure=" ".join(str(error).split()), varied=run.varied)
        accuracy, loss = (float(result["metrics"][key]) for key in ("val_accuracy", "val_loss"))
        digest = result["weights_digest"]
        return Record(run.variant, run.seed, inputs, attempt.name, accuracy, loss, digest, varied=run.varied)

    def describe_failure(self, number: int) -> str:
        """Return what is known of a run that did not finish, in a line."""
        job = self.folder / "jobs" / f"{number}.txt"
        lines, told = read_lines(job), read_lines(self.folder / "launcher.txt")
        if not lines:
            return "it was not begun" + (f"; the launcher: {told[-1]}" if told else "")
        last = next((line for line in lines if "Error" in line), lines[-1])
        return last if job.with_suffix(".exit").exists() else f"its job was killed, cancelled or lost, after: {last}"

    def records(self) -> Iterator[Record]:
        """Yield what became of every run, one result file at a time."""
        return (self.record(number) for number in range(len(self.runs)))

    def prepare(self, number: int) -> None:
        """Write the configuration of a run that is to be started."""
        run = self.runs[number]
        config = run.config()
        config.tracker.group = config.tracker.group or self.name
        config.tracker.tags = [*config.tracker.tags, run.variant]
        for ending in ("exit", "txt"):
            (self.folder / "jobs" / f"{number}.{ending}").unlink(missing_ok=True)
        write_yaml(self.folder / "jobs" / f"{number}.yaml", to_dict(config))


def describe_record(record: Record) -> str:
    """Return a finished or failed run in one line."""
    title = f"{record.variant}  {record.varied} {record.seed}"
    if record.attempt is None or record.weights_digest is None:
        return f"{title}  FAILED: {record.failure}"
    numbers = f"val_accuracy {record.val_accuracy:.4f}  val_loss {record.val_loss:.4f}"
    return f"{title}  {numbers}  weights {record.weights_digest[:12]}"
