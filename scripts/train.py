"""Train one run, or every fold: python scripts/train.py seed.root=56 training.epochs=3 (--help lists the settings)."""

import pathlib
import sys

from samebits import cli

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(cli.main([f"--root={root}", "train", *sys.argv[1:]]))
