"""Train many seeds and summarize: python scripts/study.py --seeds=1..20 [--versus=…] [override …]."""

import pathlib
import shlex
import sys

import samebits.compose
from samebits.studies import study

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    given, launch, own = samebits.compose.study_arguments(
        __doc__, seeds=("1..20", samebits.compose.SEEDS_HELP), versus=("", "overrides of a second configuration")
    )
    versus = shlex.split(given.versus)
    compose = lambda more: samebits.compose.compose(root, own + more)  # noqa: E731
    sys.exit(samebits.compose.report_errors(lambda: study.run_study(compose, root, given.seeds, versus, launch)))
