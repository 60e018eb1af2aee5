"""Vary each source of randomness alone: python scripts/variance.py --seeds=1..10 [override …]."""

import pathlib
import sys

import samebits.compose
from samebits.studies import variance

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    given, launch, own = samebits.compose.study_arguments(__doc__, seeds=("1..10", samebits.compose.SEEDS_HELP))
    compose = lambda more: samebits.compose.compose(root, own + more)  # noqa: E731
    sys.exit(samebits.compose.report_errors(lambda: variance.run_variance(compose, root, given.seeds, launch)))
