"""Say why two runs differ: python scripts/explain.py A B      (folders, digests with /attempt, last, last~1)."""

import pathlib
import sys

from samebits import compose
from samebits.checks import explain
from samebits.runs import folder


def main() -> int:
    """Find both runs and explain."""
    root = pathlib.Path(__file__).resolve().parent.parent
    a, b = (folder.find_attempt(root / "runs", name) for name in (*sys.argv[1:], "last~1", "last")[:2])
    return explain.explain(a, b, root)


if __name__ == "__main__":
    sys.exit(compose.script(main))
