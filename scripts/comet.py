"""Tell Comet a run again from its folder: python scripts/comet.py [RUN]      (make comet RUN=last).

With COMET_API_KEY it goes online; without, a new offline archive is written, for `comet upload`.
"""

import logging
import pathlib
import sys

from samebits import entry, record, tracking


def main() -> int:
    """Rebuild one run's experiment and print where it is."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    runs = pathlib.Path(__file__).resolve().parent.parent / "runs"
    attempt = record.find_attempt(runs, (sys.argv[1:] or ["last"])[0])
    code = tracking.tell(attempt)
    if code == 0:
        print(record.read_json(attempt / tracking.FOLDER / tracking.STATE)["summary"])
    return code


if __name__ == "__main__":
    sys.exit(entry.script(main))
