"""Say what old runs take, and remove it with --yes: python scripts/prune.py [--keep=N] [--yes]."""

import argparse
import pathlib
import sys

from samebits import compose
from samebits.runs import prune

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--keep", type=int, help="finished attempts of equal inputs that stay, the newest; none given: all"
    )
    parser.add_argument("--runs", type=pathlib.Path, default=project / "runs")
    parser.add_argument("--yes", action="store_true", help="remove it")
    given = parser.parse_args()
    sys.exit(compose.report_errors(lambda: prune.prune(given.runs, given.keep, confirmed=given.yes)))
