"""Change every seed point alone and see what moves: python scripts/audit.py [point …] [override …]."""

import pathlib
import sys

from samebits import audit, entry

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    overrides = ["experiment=smoke", "tracker=none", *(word for word in sys.argv[1:] if "=" in word)]
    only = [word for word in sys.argv[1:] if "=" not in word]
    sys.exit(entry.report_errors(lambda: audit.audit(lambda more: entry.compose(root, overrides + more), root, only)))
