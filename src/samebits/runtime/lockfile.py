"""Reads the locks: which packages they name, in which version, and which of them have a hash."""

import pathlib
import re
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement

LOCK = "requirements.lock"  # what training needs
DEV_LOCK = "requirements-dev.lock"  # the test and lint tools


def normalise(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(root: pathlib.Path, name: str = LOCK) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, requirement, whether it has a hash) of every package of a lock."""
    number, words, hashed = 0, "", False
    for count, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1):
        if line[:1] not in ("", "#", " ", "\t"):
            if words:
                yield number, words, hashed
            number, words, hashed = count, line.rstrip("\\ ").partition(" --hash")[0], False
        hashed |= "--hash=sha256:" in line
    if words:
        yield number, words, hashed


def locked_versions(root: pathlib.Path, name: str = LOCK) -> dict[str, str]:
    """Return the version of every package that a lock installs on this Python and system, by normalised name."""
    versions = {}
    for _, words, _ in read_lock(root, name):
        try:
            requirement = Requirement(words)
        except InvalidRequirement:  # doctor names it
            continue
        exact = re.fullmatch(r"==([^*,]+)", str(requirement.specifier))
        if exact and (requirement.marker is None or requirement.marker.evaluate()):
            versions[normalise(requirement.name)] = exact[1]
    return versions
