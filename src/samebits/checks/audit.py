"""Checks that every seed point works: changing one seed must change exactly the stages that use it.

Also scans the source for randomness that no seed point covers.
"""

import pathlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from samebits.checks.source_scan import scan
from samebits.core.config import Config, to_dict
from samebits.core.config_rules import check
from samebits.core.errors import RecordError, SeedError
from samebits.core.files import make_folder, write_yaml
from samebits.core.seeds import POINT_SEED_END, dotted_key, resolve_points
from samebits.core.terminal import print_table
from samebits.launch.process import run_child
from samebits.runs.folder import CONFIG, SEEDS, TRACE, is_finished, read_json, read_rows
from samebits.runs.trace_diff import Divergence, differences

# Points that are unused by default, and the data settings that enable them, if the file in conf/data/ lists these keys.
ENABLED_BY: dict[str, dict[str, Any]] = {
    "data/folds": {"folds": 4},
    "data/bootstrap": {"bootstrap": "true"},
    "data/oversample": {"oversample": "true", "positive_share": 0.3},  # the second key makes the data imbalanced
}
GLOBAL_POINTS = ("python/hash", "python/random", "numpy/global", "tensorflow/global")


@dataclass(frozen=True)
class Verdict:
    """The effect of changing one seed point.

    Attributes:
        point: The seed point.
        expected: Where the first change must be, in words.
        received: Where the first change was.
        is_right: Whether they agree.
    """

    point: str
    expected: str
    received: str
    is_right: bool


def expected_start(point: str) -> tuple[str, str]:
    """Return where the first change by a point must be: (in words, the stage)."""
    if point in GLOBAL_POINTS:
        return "only its generator", "generators"
    kind, _, rest = point.partition("/")
    if point == "data/order":
        return "order of epoch 1, nothing before it", "order"
    if kind == "data":
        return "the data", "data"
    if kind == "algorithm":
        return "the first tree, nothing before it", "weights"
    if rest.endswith("dropout"):
        return "forward loss of step 1, nothing before it", "loss"
    return "initial weights of one tensor", "initial"


def judge(point: str, found: list[Divergence]) -> Verdict:
    """Return whether changing one point had exactly the expected effect.

    Args:
        point: The seed point.
        found: All differences between the traces, including the generators, in order of time.
    """
    words, stage = expected_start(point)
    moved = [name for one in found if one.stage == "generators" for name in one.names]
    rest = [one for one in found if one.stage != "generators"]
    first = rest[0] if rest else None
    received = (
        str(first) if first else (f"only generator {', '.join(moved)}" if moved else "nothing: the seed has no effect")
    )
    if stage == "generators":
        return Verdict(point, words, received, moved == [point] and first is None)
    is_right = first is not None and not moved
    if first is not None and stage == "initial":
        layer = point.split("/")[1]
        is_right &= first.epoch == 0 and first.stage == "weights"
        is_right &= len(first.names) == 1 and layer in first.names[0].split("/")
    elif first is not None:
        is_right &= first.stage == stage and (first.epoch, first.step) == ((0, None) if stage == "data" else (1, 1))
    return Verdict(point, words, received, is_right)


def train_traced(config: Config, folder: pathlib.Path, root: pathlib.Path) -> list[dict[str, Any]]:
    """Train a configuration for one epoch in a folder, traced by stage, and return its trace.

    Raises:
        RecordError: The run did not finish. An incomplete trace proves nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    config.trace.level, config.trace.epoch, config.training.epochs = "stage", 1, 1
    write_yaml(folder / CONFIG, to_dict(config))
    code = run_child(config, folder, root)
    if code or not is_finished(folder):
        raise RecordError(
            f"the run in {folder} did not finish, so the audit stops.",
            expected="a finished run",
            received=f"exit code {code}",
            fix="read its log.txt.",
        )
    return read_rows(folder / TRACE)


def check_known(only: list[str], points: list[str]) -> None:
    """Refuse points that the configuration does not have.

    Raises:
        SeedError: A point is unknown; the error names it.
    """
    unknown = sorted(set(only) - set(points))
    if unknown:
        raise SeedError("seed point", expected=", ".join(points), received=", ".join(unknown), fix="fix the typo")


def audit(compose: Callable[[list[str]], Config], root: pathlib.Path, only: list[str]) -> int:
    """Change one seed point at a time in a small run, print a table, and scan the source.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        only: Points to audit; empty: all.

    Returns:
        0: every point changes exactly its consumer, and the source has no unseeded randomness; 1: otherwise.

    Raises:
        SeedError: The configuration does not have one of the points.
        RecordError: A run did not finish.
    """
    config = compose([])
    check(config)
    check_known(only, list(resolve_points(config.seed.root, config.seed.policy, config.seed.points)))
    folder = root / config.paths.runs / ".audit"

    def trace(name: str, overrides: list[str]) -> list[dict[str, Any]]:
        return train_traced(compose(overrides), folder / name, root)

    base = trace("base", [])
    found = list(differences(base, trace("again", []), ignore=()))
    verdicts = [Verdict("(none)", "nothing", str(found[0]) if found else "nothing", not found)]
    for row in read_json(folder / "base" / SEEDS)["points"]:
        point, needs = row["point"], []
        if only and point not in only:
            continue
        name, before = point.replace("/", "-"), base
        if row["rests"]:
            data = config.data
            needs = [f"data.{key}={value}" for key, value in ENABLED_BY.get(point, {}).items() if key in data]
            before = trace(f"{name}-before", needs) if needs else base
            is_even = point == "data/oversample" and not any(differences(base, before))  # nothing to copy
            if not needs or is_even:
                verdicts.append(Verdict(point, "unused in this configuration", row["rests"], is_right=True))
                continue
        moved = f"{dotted_key(point)}={(row['value'] + 1) % POINT_SEED_END}"
        verdicts.append(judge(point, list(differences(before, trace(name, [*needs, moved]), ignore=()))))
    table = Table("seed point changed", "must change first", "changed first", "", title="effect of each seed point")
    for verdict in verdicts:
        table.add_row(verdict.point, verdict.expected, verdict.received, "ok" if verdict.is_right else "WRONG")
    print_table(table)
    wrong = [verdict.point for verdict in verdicts if not verdict.is_right]
    findings = list(scan(root / "src"))
    for finding in findings:
        print(f"  unseeded: {finding}")
    points = f"{len(verdicts) - 1} seed points"
    if wrong or findings:
        print(f"NOT LIVE: {points}; wrong: {', '.join(wrong) or 'none'}; {len(findings)} findings in the source")
        return 1
    print(f"LIVE: {points}; each one changes exactly its consumer; no unseeded randomness found in the source")
    return 0
