"""Measure which layers, losses and optimizers are portable: python -m zoo [--write] [--only=TEXT] [Haswell …].

Rows are kept in runs/.zoo: another call runs what is missing.
"""

import argparse
import pathlib
import sys

from zoo import run

from samebits.core.errors import report_errors

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent.parent
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--only", default="", metavar="TEXT", help="test only the cases whose names contain it")
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md and the measured operations")
    parser.add_argument("--minutes", type=float, default=600, help="start no case later; 0: only read the rows")
    parser.add_argument("cpus", nargs="*", metavar="CPU", help="emulated CPUs (default: all)")
    given = parser.parse_intermixed_args()
    names = [name for word in given.cpus for name in word.split(",") if name]
    sys.exit(report_errors(lambda: run.zoo(project, names, given.only, minutes=given.minutes, write=given.write)))
