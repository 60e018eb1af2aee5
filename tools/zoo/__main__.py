"""Measure which pieces of Keras are portable: python -m zoo [--write] [--only=Normalization] [Haswell …]."""

import pathlib
import sys

from zoo import run

from samebits import compose

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    words = sys.argv[1:]
    names = [name for word in words if not word.startswith("--") for name in word.split(",") if name]
    pattern = next((word.removeprefix("--only=") for word in words if word.startswith("--only=")), "")
    sys.exit(compose.script(lambda: run.zoo(project, names, pattern, write="--write" in words)))
