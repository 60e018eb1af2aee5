"""Train on bootstrap samples and average the models: python scripts/bagging.py --bags=10 [override …]."""

import pathlib
import sys

import samebits.compose
from samebits.studies import bagging

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    given, launch, own = samebits.compose.study_arguments(__doc__, bags=("10", "how many models"))
    compose = lambda more: samebits.compose.compose(root, own + more)  # noqa: E731
    sys.exit(samebits.compose.report_errors(lambda: bagging.run_bagging(compose, root, given.bags, launch)))
