"""Checks that every seed point works: changing one seed must change exactly the stages that use it.

Also scans the source for randomness that no seed point covers.
"""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from samebits.checks.source_scan import scan
from samebits.core.config import Config
from samebits.core.config_rules import check
from samebits.core.errors import SeedError
from samebits.core.seeds import DRAWS, MODEL, POINT_SEED_END, WEIGHT, dotted_key, flatten_points
from samebits.core.terminal import print_table
from samebits.launch.run import train_aside
from samebits.runs.folder import SEEDS, TRACE, read_json, read_rows
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


def expected_start(point: str, consumer: str) -> tuple[str, str]:
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
    if consumer.startswith(DRAWS) or rest.endswith("dropout"):
        return "a step, and nothing before it", "step"
    return (
        f"initial weights of {consumer.removeprefix(WEIGHT) if consumer.startswith(WEIGHT) else 'one tensor'}",
        "initial",
    )


def is_where(point: str, consumer: str, stage: str, first: Divergence) -> bool:
    """Return whether the first difference is in the stage that a point must change first."""
    if stage == "initial":
        if (first.epoch, first.stage) != (0, "weights") or len(first.names) != 1:
            return False
        name = first.names[0].partition("#")[0]  # Keras allows two weights with one path: the trace numbers them
        if consumer.startswith(WEIGHT):
            return name == consumer.removeprefix(WEIGHT)
        return point.split("/")[1] in name.split("/")  # the code made its own integer of the seed
    if stage == "step":
        return first.epoch > 0 and first.stage not in ("order", "batch")
    return (first.epoch, first.step, first.stage) == ((0, None, stage) if stage == "data" else (1, 1, stage))


def judge(point: str, consumer: str, found: list[Divergence]) -> Verdict:
    """Return whether changing one point had exactly the expected effect.

    Args:
        point: The seed point.
        consumer: What uses it, as the run recorded it.
        found: All differences between the traces, including the generators, in order of time.
    """
    words, stage = expected_start(point, consumer)
    moved = [name for one in found if one.stage == "generators" for name in one.names]
    rest = [one for one in found if one.stage != "generators"]
    first = rest[0] if rest else None
    received = (
        str(first) if first else (f"only generator {', '.join(moved)}" if moved else "nothing: the seed has no effect")
    )
    if stage == "generators":
        return Verdict(point, words, received, moved == [point] and first is None)
    return Verdict(point, words, received, first is not None and not moved and is_where(point, consumer, stage, first))


def train_traced(config: Config, folder: pathlib.Path, root: pathlib.Path) -> list[dict[str, Any]]:
    """Train a configuration for one epoch in a folder, traced by stage, and return its trace.

    Raises:
        RecordError: The run did not finish.
    """
    config.trace.level, config.trace.epoch, config.training.epochs = "stage", 1, 1
    return read_rows(train_aside(config, folder, root) / TRACE)


def check_known(only: list[str], points: list[str]) -> None:
    """Refuse points that the configuration does not have.

    Raises:
        SeedError: A point is unknown; the error names it.
    """
    unknown = sorted(set(only) - set(points))
    if unknown:
        raise SeedError("seed point", expected=", ".join(points), received=", ".join(unknown), fix="fix the typo")


class Auditor:
    """Trains the small runs of an audit, and judges the points."""

    def __init__(self, compose: Callable[[list[str]], Config], folder: pathlib.Path, root: pathlib.Path) -> None:
        self.compose, self.folder, self.root = compose, folder, root
        self.data = compose([]).data
        self.base = self.trace("base")
        self.points = read_json(folder / "base" / SEEDS)["points"]

    def trace(self, name: str, *overrides: str) -> list[dict[str, Any]]:
        """Train with some overrides and return the trace."""
        return train_traced(self.compose(list(overrides)), self.folder / name, self.root)

    def repeat(self) -> Verdict:
        """Train the same again, which must change nothing."""
        found = list(differences(self.base, self.trace("again"), ignore=()))
        return Verdict("(none)", "nothing", str(found[0]) if found else "nothing", not found)

    def audit(self, row: dict[str, Any]) -> Verdict:
        """Change one point and judge it. To test a point of a disabled feature, the feature is enabled."""
        point, needs, before = row["point"], [], self.base
        name = point.replace("/", "-")
        if row["source"] == "literal":
            return Verdict(point, "fixed in the code", f"the code has the seed {row['value']}", is_right=True)
        if row["value"] is None:
            return Verdict(point, "a seed", "unseeded", is_right=False)
        if row["rests"]:
            needs = [f"data.{key}={value}" for key, value in ENABLED_BY.get(point, {}).items() if key in self.data]
            before = self.trace(f"{name}-before", *needs) if needs else before
            is_even = point == "data/oversample" and not any(differences(self.base, before))  # nothing to copy
            if not needs or is_even:
                return Verdict(point, "unused in this configuration", row["rests"], is_right=True)
        moved = f"{dotted_key(point)}={(row['value'] + 1) % POINT_SEED_END}"
        return judge(point, row["consumer"], list(differences(before, self.trace(name, *needs, moved), ignore=())))


def audit(compose: Callable[[list[str]], Config], root: pathlib.Path, only: list[str]) -> int:
    """Change one seed point at a time in a small run, print a table, and scan the source.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        only: Points to audit; empty: all.

    Returns:
        0: every point changes exactly its consumer, and the source has no unseeded randomness; 1: otherwise.

    Raises:
        SeedError: The configuration or its model does not have one of the points.
        RecordError: A run did not finish.
    """
    config = compose([])
    check(config)
    listed = list(flatten_points(config.seed.points))
    check_known([point for point in only if not point.startswith(MODEL)], [name for name, _ in listed])
    auditor = Auditor(compose, root / config.paths.runs / ".audit", root)
    check_known(only, [row["point"] for row in auditor.points])
    verdicts = [auditor.repeat()]
    verdicts += [auditor.audit(row) for row in auditor.points if not only or row["point"] in only]
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
