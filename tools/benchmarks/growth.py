"""Measures how time and memory of a run grow with the data: python -m benchmarks.growth [--out=docs/growth.png].

Varies the number of reviews, their length and the size of the vocabulary, one at a time, from the worked example's
values. Synthetic data of the same shape replace reviews beyond the real ones. `python -m benchmarks.many_runs` measures
the cost of many runs.
"""

import argparse
import pathlib
import sys
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.measuring import describe_this_machine, train, train_megabytes
from samebits.core.terminal import print_table

STEPS = "training.steps_per_epoch=200"
SYNTHETIC = ("data=synthetic", "data.num_words=20000", "data.sequence_length=100")
# axis: (values, overrides of one value)
AXES: dict[str, tuple[int, ...]] = {
    "reviews": (1_000, 5_000, 25_000),
    "synthetic reviews": (25_000, 250_000),
    "words in a review": (50, 100, 200, 400, 800),
    "words in the vocabulary": (5_000, 10_000, 20_000, 40_000),
}


@dataclass(frozen=True)
class Point:
    """The cost of one training: loading the data (s), tracing (s), one step (ms), total (s), peak memory (MB)."""

    data_s: float
    prepare_s: float
    step_ms: float
    seconds: float
    megabytes: float


def overrides_of(axis: str, value: int) -> tuple[str, ...]:
    """Return the overrides that set one value of an axis."""
    if axis == "reviews":
        return f"data.rows={value}", f"data.validation_size={value // 5}"
    if axis == "synthetic reviews":
        return *SYNTHETIC, f"data.rows={value}", f"data.validation_size={value // 5}"
    key = {"words in a review": "data.sequence_length", "words in the vocabulary": "data.num_words"}[axis]
    return f"{key}={value}", STEPS


def measure(overrides: tuple[str, ...]) -> Point:
    """Train once for the time and once for the memory, and return the cost."""
    words = [*overrides, "tracker=none", "training.epochs=1"]
    done = train(words)
    phases = done.result["phases"]
    prepare_s = phases["prepare_s"] + phases["first_step_s"]
    return Point(done.result["timing"]["data_s"], prepare_s, done.step_ms, done.seconds, train_megabytes(words))


def draw(points: dict[str, dict[int, Point]], picture: pathlib.Path) -> None:
    """Draw total time, time per step and memory against each axis."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(11, 6), layout="constrained")
    shown = (("seconds", "seconds in all"), ("step_ms", "ms a step"), ("megabytes", "MB"))
    axes: Any = figure.subplots(len(shown), len(points), sharex="col")
    for column, (axis, found) in enumerate(points.items()):
        for row, (name, label) in enumerate(shown):
            heights = [getattr(point, name) for point in found.values()]
            axes[row][column].plot(list(found), heights, "o-")
            axes[row][column].set_xlim(0, 1.05 * max(found))
            axes[row][column].set_ylim(0, 1.1 * max(heights))
            if column == 0:
                axes[row][column].set_ylabel(label)
        axes[-1][column].set_xlabel(axis)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def main() -> int:
    """Measure every point and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="path of the figure")
    given = parser.parse_args()
    heads = ("", "", "data (s)", "tracing (s)", "per step (ms)", "total (s)", "memory (MB)")
    table = Table(*heads, title=f"One epoch of the CNN-LSTM, batch size 30; {describe_this_machine()}")
    points: dict[str, dict[int, Point]] = {axis: {} for axis in AXES}
    for axis, values in AXES.items():
        for value in values:
            measure((*overrides_of(axis, value), "training.steps_per_epoch=2"))  # fills the cache
            point = points[axis][value] = measure(overrides_of(axis, value))
            numbers = (f"{point.data_s:.2f}", f"{point.prepare_s:.1f}", f"{point.step_ms:.1f}")
            table.add_row(axis, str(value), *numbers, f"{point.seconds:.1f}", f"{point.megabytes:.0f}")
            print(f"{axis} {value}: {point.seconds:.1f} s, {point.megabytes:.0f} MB", flush=True)
    print_table(table)
    if given.out:
        draw(points, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
