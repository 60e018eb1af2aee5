"""List what weakens the promise in this copy: python scripts/doctor.py."""

import os
import pathlib
import sys

from samebits import compose
from samebits.checks import doctor

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(compose.script(lambda: doctor.run(root, lambda more: compose.compose(root, more), os.environ)))
