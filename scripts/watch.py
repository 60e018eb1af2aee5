"""Show the trainings that run now: python scripts/watch.py      (Ctrl-C ends it and no training)."""

import pathlib
import sys

from samebits import compose
from samebits.studies import watch

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(compose.script(lambda: watch.watch(project / "runs")))
