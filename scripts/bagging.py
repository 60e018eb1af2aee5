"""Train on bootstrap samples and average the models: python scripts/bagging.py --bags=10 [override …]."""

import pathlib
import sys

from samebits import bagging, entry

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    given, launch, own = entry.study_arguments(__doc__, bags=("10", "how many models"))
    compose = lambda more: entry.compose(root, own + more)  # noqa: E731
    sys.exit(entry.report_errors(lambda: bagging.run_bagging(compose, root, given.bags, launch)))
