"""Train many seeds and summarize: python scripts/study.py --seeds=1..20 [--versus=…] [override …]."""

import pathlib
import shlex
import sys

from samebits import entry, study

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    given, launch, own = entry.study_arguments(
        __doc__, seeds=("1..20", entry.SEEDS_HELP), versus=("", "overrides of a second configuration")
    )
    versus = shlex.split(given.versus)
    compose = lambda more: entry.compose(root, own + more)  # noqa: E731
    sys.exit(entry.report_errors(lambda: study.run_study(compose, root, given.seeds, versus, launch)))
