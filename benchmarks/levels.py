"""What the runtime levels cost: the same steps under each, by turns, as ratios: python benchmarks/levels.py [REPEATS].

A run is 600 steps of the CNN-LSTM on the reviews and an evaluation. Ratios are of medians within this one call, since
the same machine is faster at one time than at another.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile

from rich.table import Table

from samebits.machine import describe_cpu
from samebits.progress import print_table
from samebits.record import read_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEVELS = ("portable", "machine", "free", "article")
STEPS, BATCH_SIZE = 600, 30


def measure(level: str, folder: pathlib.Path) -> float:
    """Return the seconds of one training under a level, without TensorFlow's import and the data."""
    overrides = [f"runtime={level}", "tracker=none", f"paths.runs={folder}", "training.epochs=1"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *overrides, f"training.steps_per_epoch={STEPS}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    newest = max(folder.rglob("result.json"), key=lambda path: path.stat().st_mtime_ns)
    return float(read_json(newest)["timing"]["training_s"])


def main() -> int:
    """Measure every level as often as asked, by turns, and print a table."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    times: dict[str, list[float]] = {level: [] for level in LEVELS}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(repeats):
            for level in LEVELS:
                times[level].append(measure(level, pathlib.Path(name)))
                print(f"turn {turn + 1} of {repeats}  {level:<8}  {times[level][-1]:.1f} s", flush=True)
    cpu = describe_cpu()
    table = Table("runtime", "seconds: median (range)", "samples/s", "time as a ratio to free",
                  title=f"{STEPS} steps and an evaluation on {cpu['model']}, {cpu['cores_usable']} cores")  # fmt: skip
    medians = {level: statistics.median(values) for level, values in times.items()}
    for level, values in times.items():
        spread = f"{medians[level]:.1f} ({min(values):.1f} to {max(values):.1f})"
        rate = f"{STEPS * BATCH_SIZE / medians[level]:.0f}"
        table.add_row(level, spread, rate, f"{medians[level] / medians['free']:.2f}")
    print_table(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
