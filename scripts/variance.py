"""Vary each source of randomness alone: python scripts/variance.py --seeds=1..10 [override …]."""

import pathlib
import sys

from samebits import entry, variance

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    given, launch, own = entry.study_arguments(__doc__, seeds=("1..10", entry.SEEDS_HELP))
    compose = lambda more: entry.compose(root, own + more)  # noqa: E731
    sys.exit(entry.report_errors(lambda: variance.run_variance(compose, root, given.seeds, launch)))
