"""Compares `samebits run script.py` with plain `python script.py`: python -m benchmarks.script_cost.

The script trains one of `benchmarks.kinds` with two calls of `fit`. The second is timed, with all that samebits records
of it; the seconds of the whole command include the start of TensorFlow. Ratios compare values from the same turn. Exit
code 1: under `machine`, the command takes more than 1.05 times as long as plain Python.
"""

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

from rich.table import Table

from benchmarks.measuring import ROOT, Command, describe_this_machine, median_and_range, parse_turns, ratios
from samebits.core.terminal import print_table

SCRIPT = ROOT / "tools" / "benchmarks" / "plain_script.py"
MAX_RATIO = 1.05  # of the seconds of the command, `machine` to plain Python
WAYS = ("plain", "machine", "portable")


def run_script(way: str, kind: str, epochs: int, cores: Sequence[int]) -> tuple[float, float]:
    """Run the script. Returns the seconds of its second `fit`, and of the whole command."""
    with tempfile.TemporaryDirectory() as name:
        settings = ["run", str(SCRIPT), f"runtime={way}", "tracker=none", f"--runs={name}", "--"]
        program = [str(SCRIPT)] if way == "plain" else ["-m", "samebits", *settings]
        began = time.monotonic()
        said = Command([sys.executable, *program, kind, str(epochs)], cores, folder=ROOT).run()
        whole_s = time.monotonic() - began
    found = re.search(r"seconds of fit: ([\d.]+)", said)
    if found is None:
        sys.exit(f"the script did not print its time:\n{said}")
    return float(found[1]), whole_s


def main() -> int:
    """Measure, print the table, and return 1 if a script takes too long."""
    given = parse_turns(__doc__, 5, "of the second fit")
    cores = sorted(os.sched_getaffinity(0))[:2]
    heads = ("kind", "cores", "way", "s of fit", "ratio to plain", "s in all", "ratio to plain")
    measured = f"{given.epochs} epochs: median (range) of {given.repeats} turns"
    table = Table(*heads, title=f"{measured}; {describe_this_machine()}")
    met = []
    for kind in given.kinds.split(","):
        for count in range(1, len(cores) + 1):
            turns = [
                {way: run_script(way, kind, given.epochs, cores[:count]) for way in WAYS} for _ in range(given.repeats)
            ]
            for way in WAYS:
                cells = []
                for part in (0, 1):
                    seconds, plain = ([turn[one][part] for turn in turns] for one in (way, "plain"))
                    cells += [median_and_range(seconds), median_and_range(ratios(seconds, plain), ".2f")]
                    if way == "machine" and part == 1:
                        met.append(statistics.median(ratios(seconds, plain)) <= MAX_RATIO)
                table.add_row(kind, str(count), way, *cells)
                print(f"{kind}, {count} core(s), {way}: {cells[3]} times the seconds of plain Python", flush=True)
    print_table(table)
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
