"""Train many seeds and summarize: python scripts/study.py --seeds=1..20 [--versus=…] [override …]."""

import argparse
import pathlib
import shlex
import sys

from samebits import entry, study, sweep

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", default="1..20", help="1..20, 1,5,9 or 1..3,7")
    parser.add_argument("--versus", default="", help="overrides of a second configuration")
    parser.add_argument("--launcher", default="", help=", ".join(sweep.LAUNCHERS))
    parser.add_argument("--jobs", default="", help="runs at once; without it: one a core")
    parser.add_argument("overrides", nargs="*", help="as of scripts/train.py, and hydra.launcher.…=")
    given = parser.parse_args()
    own = [word for word in given.overrides if not word.startswith("hydra.")]
    versus = shlex.split(given.versus)
    launch = sweep.Launch(given.launcher, given.jobs, tuple(word for word in given.overrides if word not in own))
    compose = lambda more: entry.compose(root, own + more)  # noqa: E731
    sys.exit(entry.report_errors(lambda: study.run_study(compose, root, given.seeds, versus, launch)))
