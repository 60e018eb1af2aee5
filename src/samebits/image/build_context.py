"""The build context of the project's image: the files that .dockerignore allows, their digest, and a copy of them.

Uses only the standard library, so that an image can be built without the project's environment.
"""

import hashlib
import pathlib
import shutil
from collections.abc import Iterator

NEVER = ("__pycache__", "*.pyc", ".env*")  # as in .dockerignore


def context_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of the build context, relative to the project's folder and sorted.

    .dockerignore starts with "*" and then lists the allowed names, one "!name" per line. `NEVER` is always excluded.
    """
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return sorted(path for line in lines if line.startswith("!") for path in _files(root, pathlib.Path(line[1:])))


def _files(root: pathlib.Path, name: pathlib.Path) -> Iterator[pathlib.Path]:
    if any(name.match(pattern) for pattern in NEVER):
        return
    if (root / name).is_dir():
        for path in (root / name).iterdir():
            yield from _files(root, name / path.name)
    elif (root / name).is_file():
        yield name


def context_digest(root: pathlib.Path, *more: str) -> str:
    """Return the SHA-256 of the image's inputs: names and bytes of its files, the Dockerfile, and further words."""
    total = hashlib.sha256("\0".join(more).encode())
    for path in [pathlib.Path("Dockerfile"), pathlib.Path(".dockerignore"), *context_files(root)]:
        total.update(f"\0{path.as_posix()}\0{hashlib.sha256((root / path).read_bytes()).hexdigest()}".encode())
    return total.hexdigest()


def copy_context(root: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy the build context into an empty folder with other times, other permissions and in another order.

    An image built from the copy must be identical, because none of these three may change it.
    """
    for path in reversed([pathlib.Path("Dockerfile"), pathlib.Path(".dockerignore"), *context_files(root)]):
        (folder / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(root / path, folder / path)
        (folder / path).chmod(0o600)
