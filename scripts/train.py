"""Train one run: python scripts/train.py seed.root=56 training.epochs=3      (see --help)."""

import pathlib
import sys

from samebits import entry, launch

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(entry.main(project, lambda config, root: launch.run(config, root).exit_code))
