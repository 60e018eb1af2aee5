"""Change every seed point alone and see what moves: python scripts/audit.py [point …] [override …]."""

import pathlib
import sys

from samebits import compose
from samebits.checks import audit

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    own = [word for word in sys.argv[1:] if "=" in word]
    smoke = [] if any(word.startswith("experiment=") for word in own) else ["experiment=smoke"]
    overrides = [*smoke, "tracker=none", *own]
    only = [word for word in sys.argv[1:] if "=" not in word]
    sys.exit(compose.script(lambda: audit.audit(lambda more: compose.compose(root, overrides + more), root, only)))
