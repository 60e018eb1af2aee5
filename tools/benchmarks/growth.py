"""How time and memory of a run grow: python tools/benchmarks/growth.py [--out=docs/growth.png].

With the number of reviews, their length and the vocabulary, each varied alone from the worked example's values; what
the number of runs costs is many_runs.py. More reviews than there are come from the synthetic data, in their shape.
"""

import argparse
import pathlib
import sys
from dataclasses import dataclass
from typing import Any

from measuring import describe_this_machine, train
from rich.table import Table

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
    """What one training cost: seconds to load the data, to trace, of one step in ms, in all; memory in MB."""

    data_s: float
    prepare_s: float
    step_ms: float
    seconds: float
    megabytes: float


def overrides_of(axis: str, value: int) -> tuple[str, ...]:
    """Return the overrides that put one value on an axis."""
    if axis == "reviews":
        return f"data.rows={value}", f"data.validation_size={value // 5}"
    if axis == "synthetic reviews":
        return *SYNTHETIC, f"data.rows={value}", f"data.validation_size={value // 5}"
    key = {"words in a review": "data.sequence_length", "words in the vocabulary": "data.num_words"}[axis]
    return f"{key}={value}", STEPS


def measure(overrides: tuple[str, ...]) -> Point:
    """Train once and return what it cost."""
    done = train([*overrides, "tracker=none", "training.epochs=1"])
    phases = done.result["phases"]
    prepare_s = phases["prepare_s"] + phases["first_step_s"]
    cost = done.command
    return Point(done.result["timing"]["data_s"], prepare_s, done.step_ms, cost.seconds, cost.megabytes)


def draw(points: dict[str, dict[int, Point]], picture: pathlib.Path) -> None:
    """Draw seconds, a step's time and memory against each axis."""
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
    parser.add_argument("--out", type=pathlib.Path, help="where the figure goes")
    given = parser.parse_args()
    heads = ("", "", "data s", "tracing s", "ms a step", "s in all", "MB")
    table = Table(*heads, title=f"One epoch of the CNN-LSTM, batches of 30; {describe_this_machine()}")
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
