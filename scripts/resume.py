"""Go on with a run that was stopped, with the configuration that it was begun with: python scripts/resume.py RUN."""

import pathlib
import sys

from samebits import compose
from samebits.launch import run
from samebits.runs import folder

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    name = sys.argv[1] if len(sys.argv) > 1 else "last"
    task = lambda: run.resume(folder.find_attempt(project / "runs", name), project).exit_code  # noqa: E731
    sys.exit(compose.script(task))
