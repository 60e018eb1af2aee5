"""Train one run, or every fold: python scripts/train.py seed.root=56 training.epochs=3      (see --help)."""

import pathlib
import sys

from samebits import compose
from samebits.studies import folds

if __name__ == "__main__":
    sys.exit(compose.main(pathlib.Path(__file__).resolve().parent.parent, folds.train))
