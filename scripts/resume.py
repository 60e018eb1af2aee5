"""Go on with a run that was stopped, with the configuration that it was begun with: python scripts/resume.py RUN."""

import pathlib
import sys

from samebits import entry, launch, record

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    name = sys.argv[1] if len(sys.argv) > 1 else "last"
    task = lambda: launch.resume(record.find_attempt(project / "runs", name), project).exit_code  # noqa: E731
    sys.exit(entry.script(task))
