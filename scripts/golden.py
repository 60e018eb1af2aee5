"""Compare experiments with their golden digests: python scripts/golden.py [--update] [experiment …]."""

import pathlib
import sys

from samebits import entry, golden

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    names = [name for name in sys.argv[1:] if name != "--update"]
    write = "--update" in sys.argv[1:]
    sys.exit(entry.script(lambda: golden.run(names, lambda more: entry.compose(root, more), root, write=write)))
