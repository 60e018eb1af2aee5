"""Reads the rows that `zoo.cases` wrote, compares those of several CPUs, and says what is portable."""

import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS = "samebits "
NOT_RUN = "not run"


@dataclass(frozen=True)
class Verdict:
    """The result of one case.

    Attributes:
        name: The kind and the name, such as "layer Dense".
        same: The CPUs with the same bits as this one.
        difference: The first stage and CPU that differ from this CPU; "": none.
        refused: The operations that raise an error in a portable run.
        missing: The CPUs that were not compared, each with the reason.
    """

    name: str
    same: tuple[str, ...] = ()
    difference: str = ""
    refused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def is_hole(self) -> bool:
        """Whether the case is not covered: a CPU is missing, other bits are allowed, or ours raises an error."""
        ours_refused = OURS in self.name and self.refused
        return bool(self.missing or (self.difference and not self.refused) or ours_refused)

    @property
    def is_measured(self) -> bool:
        """Whether another CPU has the same bits, and none has others."""
        return bool(self.same) and not self.difference


def read_cases(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Return case -> the row that the processes of one machine wrote."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row for row in map(json.loads, lines)}


def judge_case(name: str, rows: dict[str, dict[str, dict[str, Any]]]) -> Verdict:
    """Return the verdict of a case.

    Args:
        name: The case.
        rows: CPU -> case -> its row. The others are compared with the first CPU.
    """
    reference, *others = ((machine, side.get(name, {"error": NOT_RUN})) for machine, side in rows.items())
    if "stages" not in reference[1]:
        return Verdict(name, missing=(f"{reference[0]}: {reference[1]['error']}",))
    same, differences, missing = [], [], []
    for machine, row in others:
        if "stages" not in row:
            missing.append(f"{machine}: {row['error']}")
            continue
        unlike = [stage for stage, digest in row["stages"].items() if digest != reference[1]["stages"].get(stage)]
        if unlike:
            differences.append(f"{unlike[0]} ({machine})")
        else:
            same.append(machine)
    return Verdict(name, tuple(same), (differences or [""])[0], tuple(reference[1]["refused"]), tuple(missing))


def measured_operations(verdicts: list[Verdict], rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the types of operations in all cases that have the same bits on the CPUs that were compared."""
    good = [verdict.name for verdict in verdicts if verdict.is_measured]
    return sorted({operation for name in good for operation in rows[name]["operations"]})


def describe(verdict: Verdict, stages: Iterable[str]) -> tuple[str, str, str]:
    """Return a case's cells of the table: the shapes compared, its bits and where, its use under portable."""
    shapes = ", ".join(dict.fromkeys(stage.partition(":")[0] for stage in stages)) if verdict.same else "-"
    bits = [f"same on {', '.join(verdict.same)}"] if verdict.same else []
    if verdict.difference:
        shapes, bits = verdict.difference.partition(":")[0], [*bits, f"differ from {verdict.difference}"]
    bits += [f"not compared: {each}" for each in verdict.missing]
    use = "**allowed**" if verdict.is_measured else "-"
    if verdict.difference:
        use = "**NOT REFUSED**"
    if verdict.refused:
        use = f"error: {', '.join(verdict.refused)}"
    return shapes, "; ".join(bits), use
