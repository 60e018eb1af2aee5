"""Train the same inputs RUNS times under hostile conditions and compare: python scripts/verify.py RUNS seed.root=56."""

import pathlib
import sys

from samebits import compose
from samebits.checks import verify

if __name__ == "__main__":
    runs = int(sys.argv.pop(1)) if sys.argv[1:2] and sys.argv[1].isdecimal() else 2
    project = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(compose.main(project, lambda config, root: verify.verify(config, root, runs)))
