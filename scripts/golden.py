"""Compare experiments with their golden digests: python scripts/golden.py [--update] [experiment …]."""

import pathlib
import sys

from samebits import compose
from samebits.checks import golden

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    names = [name for name in sys.argv[1:] if name != "--update"]
    write = "--update" in sys.argv[1:]
    sys.exit(compose.script(lambda: golden.run(names, lambda more: compose.compose(root, more), root, write=write)))
