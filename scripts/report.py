"""Write runs as one HTML page: python scripts/report.py [--out=report.html] [RUN …]      (none named: all finished)."""

import pathlib
import sys

from samebits import compose
from samebits.studies.report import report

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    words = sys.argv[1:]
    out = next((word.removeprefix("--out=") for word in words if word.startswith("--out=")), "report.html")
    names = [word for word in words if not word.startswith("--out=")]
    sys.exit(compose.script(lambda: report.report(project / "runs", names, pathlib.Path(out))))
