"""Kill trainings at random moments and go on with them: python scripts/torture.py [--kills=20] [--kill-seed=7] …."""

import pathlib
import sys

from samebits import compose
from samebits.checks import torture


def number(option: str, default: int | None) -> int | None:
    """Take --option=N from the command line."""
    words = [word for word in sys.argv if word.startswith(f"--{option}=") and word.partition("=")[2].isdecimal()]
    sys.argv[:] = [word for word in sys.argv if not word.startswith(f"--{option}=")]
    return int(words[-1].partition("=")[2]) if words else default


if __name__ == "__main__":
    kills, seed = number("kills", 20), number("kill-seed", None)
    project = pathlib.Path(__file__).resolve().parent.parent
    sys.exit(compose.main(project, lambda config, root: torture.torture(config, root, kills or 20, seed)))
