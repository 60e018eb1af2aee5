"""Finds the first difference of two traces. Pure.

The rows of a trace are in the order of events. The first row is from before training: generators, data, initial
weights. Then each epoch has one row per step if it was traced in detail (order, batch, what each part of a split batch
gives, loss, gradients, weights after the update), and one row at its end. A row with "end" is from after training, if
its end changed the weights.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from samebits.core.errors import first_names

# The stages of a row in the order of events, and their names in a message.
STAGES = {
    "generators": "global generator",
    "data": "data",
    "order": "order of the data",
    "batch": "batch contents",
    "parts": "in",
    "loss": "forward loss",
    "gradients": "gradient of",
    "bits": "metric",
    "weights": "weights after the update of",
    "optimizer": "state of the optimizer",
}
NAMED = ("generators", "data", "parts", "gradients", "bits")


@dataclass(frozen=True)
class Divergence:
    """The first difference of two traces.

    Attributes:
        epoch: Counted from 1; 0: before training.
        step: Counted from 1; None: at the end of the epoch, or before training.
        stage: A key of `STAGES`.
        names: The parts of the stage that differ: tensors, arrays, metrics.
    """

    epoch: int
    step: int | None
    stage: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = first_names(self.names)
        if self.epoch == 0:
            if self.stage == "weights":
                return f"initial weights of {names}"
            return f"before training, {STAGES[self.stage]} {names}".rstrip()
        where = f"epoch {self.epoch}" + (f", step {self.step}" if self.step else "")
        if self.step is None and self.stage == "weights":
            return f"{where}, weights at its end of {names}"
        return f"{where}, {STAGES[self.stage]} {names}".rstrip()


def _differing(a: dict[str, str], b: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name in {**a, **b} if a.get(name) != b.get(name))


def row_differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Divergence]:
    """Yield every stage in which two rows of the same place differ, in the order of events."""
    for stage in STAGES:
        if a.get(stage) == b.get(stage) or a.get(stage) is None or b.get(stage) is None:
            continue
        names: tuple[str, ...] = ()
        if stage in NAMED:
            names = _differing(a[stage], b[stage])
        elif stage == "weights":
            names = _differing(a["tensors"], b["tensors"])
        yield Divergence(a["epoch"], a.get("step"), stage, names)


def _place(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return epoch, step, and which of the rows after the end of an epoch it is."""
    step = row.get("step")
    return row["epoch"], 2**62 if step is None else step, row.get("part", 0)


def differences(
    rows_a: Iterable[dict[str, Any]], rows_b: Iterable[dict[str, Any]], ignore: tuple[str, ...] = ("generators",)
) -> Iterator[Divergence]:
    """Yield all differences of two traces in the order of events, at the places that both have.

    Args:
        rows_a: Rows of one trace.
        rows_b: Rows of the other, possibly with another trace level.
        ignore: Stages to skip. The state of a global generator does not matter until code draws from it.
    """
    by_place = {_place(row): row for row in rows_b}
    for row in rows_a:
        other = by_place.get(_place(row))
        if other is not None:
            yield from (found for found in row_differences(row, other) if found.stage not in ignore)


def first_divergence(rows_a: Iterable[dict[str, Any]], rows_b: Iterable[dict[str, Any]]) -> Divergence | None:
    """Return the first difference of two traces, or None if all that both recorded is equal."""
    return next(differences(rows_a, rows_b), None)
