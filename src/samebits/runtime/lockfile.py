"""Reads the lock files: packages, versions and hashes.

Importing it needs only the standard library, because the setup reads the locks before it installs anything. Only
`exact_version` and `locked_versions` need the package `packaging`.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LOCK = "requirements.lock"  # packages for training
DEV_LOCK = "requirements-dev.lock"  # test and lint tools
GPU_LOCK = "requirements-gpu.lock"  # TensorFlow's GPU build


@dataclass(frozen=True)
class Locked:
    """One package of a lock.

    Attributes:
        line: Its first line in the file, counted from 1.
        requirement: Without hashes, e.g. "numpy==2.4.6 ; python_version < '3.14'".
        text: Requirement and hashes as in the file, for pip or uv.
    """

    line: int
    requirement: str
    text: str

    @property
    def name(self) -> str:
        """The normalized name of the package."""
        return normalise(re.split(r"[^\w.-]", self.requirement, maxsplit=1)[0])

    @property
    def has_hash(self) -> bool:
        """Whether the files are pinned by a SHA-256 hash."""
        return "--hash=sha256:" in self.text


def normalise(name: str) -> str:
    """Return the normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(root: pathlib.Path, lock: str = LOCK) -> Iterator[Locked]:
    """Yield every package of a lock, in the order of the file.

    Args:
        root: The project's folder.
        lock: Name of the file.
    """
    lines = (root / lock).read_text(encoding="utf-8").splitlines(keepends=True)
    starts = [place for place, line in enumerate(lines) if line.strip() and line[0] not in "# \t"]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        text = "".join(lines[start:end])
        yield Locked(start + 1, lines[start].rstrip("\\ \n").partition(" --hash")[0], text)


def exact_version(requirement: str) -> str | None:
    """Return the version that a requirement sets with ==, or None if it sets none or is not a valid requirement."""
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415  see the module's docstring

    try:
        exact = re.fullmatch(r"==([^*,]+)", str(Requirement(requirement).specifier))
    except InvalidRequirement:
        return None
    return exact[1] if exact else None


def locked_versions(
    root: pathlib.Path, lock: str = LOCK, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the version of every package that a lock installs, by normalized name.

    Args:
        root: The project's folder.
        lock: Name of the file.
        environment: Values of markers that differ from those of this Python and system.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415  see the module's docstring

    versions = {}
    for locked in read_lock(root, lock):
        version = exact_version(locked.requirement)
        marker = Requirement(locked.requirement).marker if version else None
        if version and (marker is None or marker.evaluate(dict(environment or {}))):
            versions[locked.name] = version
    return versions
