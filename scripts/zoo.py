"""Measure which pieces of Keras are portable: python scripts/zoo.py [--write] [--only=Normalization] [Haswell …]."""

import pathlib
import sys

from samebits import entry, zoo

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    words = sys.argv[1:]
    names = [name for word in words if not word.startswith("--") for name in word.split(",") if name]
    pattern = next((word.removeprefix("--only=") for word in words if word.startswith("--only=")), "")
    sys.exit(entry.script(lambda: zoo.zoo(project, names, pattern, write="--write" in words)))
