"""Finds the root folder of the user's project. Reads no file in it."""

import pathlib

from samebits.core.errors import UsageError

MARK = pathlib.Path("conf", "config.yaml")
HARNESS_CONF = pathlib.Path(__file__).resolve().parent / "conf"


def find_root(start: pathlib.Path) -> pathlib.Path:
    """Return the nearest folder at or above `start` that has conf/config.yaml.

    Raises:
        UsageError: There is none.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / MARK).is_file():
            return folder
    raise UsageError(
        "project",
        expected=f"{MARK} in this folder or one above it",
        received=f"{start}, without one",
        fix="change to your project's folder, or pass it: samebits --root FOLDER …",
    )
