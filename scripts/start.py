"""The image's entry point: check the pins, then run the command: python scripts/start.py COMMAND [ARGUMENT …]."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    from samebits import compose
    from samebits.image import entrypoint

    sys.exit(compose.script(lambda: entrypoint.start(ROOT, sys.argv[1:])))
