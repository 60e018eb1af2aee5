"""Reproduce the article's rounds: python scripts/rounds.py seed.root=56 (overrides apply to every round)."""

import pathlib
import sys

from samebits import compose
from samebits.checks import rounds

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    picture = root / "runs" / "rounds.png"
    sys.exit(
        compose.script(lambda: rounds.rounds(lambda more: compose.compose(root, sys.argv[1:] + more), root, picture))
    )
