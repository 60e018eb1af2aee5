"""Show the trainings that run now: python scripts/watch.py      (Ctrl-C ends it and no training)."""

import pathlib
import sys

from samebits import entry, watch

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(entry.script(lambda: watch.watch(project / "runs")))
