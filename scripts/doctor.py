"""List what weakens the promise in this copy: python scripts/doctor.py."""

import os
import pathlib
import sys

from samebits import doctor, entry

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(entry.script(lambda: doctor.run(root, lambda more: entry.compose(root, more), os.environ)))
