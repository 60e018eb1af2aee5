"""Upload a run to Comet from its folder: python scripts/comet.py [RUN]      (make comet RUN=last).

With COMET_API_KEY it goes online; without, a new offline archive is written, for `comet upload`.
"""

import logging
import pathlib
import sys

from samebits import compose
from samebits.launch import comet, tracker
from samebits.runs import folder


def main() -> int:
    """Upload one run, or write its archive, and print where it is."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    runs = pathlib.Path(__file__).resolve().parent.parent / "runs"
    attempt = folder.find_attempt(runs, (sys.argv[1:] or ["last"])[0])
    code = tracker.upload(attempt)
    if code == 0:
        print(folder.read_json(attempt / comet.FOLDER / comet.STATE)["summary"])
    return code


if __name__ == "__main__":
    sys.exit(compose.script(main))
