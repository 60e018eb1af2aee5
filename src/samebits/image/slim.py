"""Removes from an environment what training never reads, so that an image of it is smaller.

Usage: python3 slim.py VENV. The Dockerfile runs this file alone, before the project's code is there. Versions, licenses
and all code that runs stay. Uses only the standard library.
"""

import pathlib
import shutil
import struct
import sys

# Below site-packages. A compiler reads the headers, TensorFlow's own build the library of clang, pytest the tests, and
# a type checker the .pyi files. Of packages that are not named here nothing is removed: some read their own .pyi files.
UNREAD = (
    "clang/native",
    "h5py/tests",
    "matplotlib/**/*.pyi",
    "matplotlib/**/tests",
    "numpy/**/*.pyi",
    "numpy/**/tests",
    "pandas/**/*.pyi",
    "pandas/tests",
    "pip",
    "pip-*",
    "scipy/**/*.pyi",
    "scipy/**/tests",
    "sklearn/**/tests",
    "tensorflow/**/*.pyi",
    "tensorflow/include",
    "tensorflow/xla_aot_runtime_src",
)
# Below the environment: installers and manuals.
UNUSED = ("bin/pip*", "bin/uv", "bin/uvx", "share/info", "share/locale", "share/man")

MAGIC = b"\x7fELF\x02\x01"  # an ELF file of 64 bits, little-endian
HEADER_BYTES = 64
TABLES = struct.Struct("<QQ")  # at byte 32: where the program headers and the section headers begin
COUNTS = struct.Struct("<HHHHH")  # at byte 54: size and number of program headers; size, number and names of sections
PROGRAM_HEADER = struct.Struct("<IIQQQQ")  # type, flags, offset in the file, two addresses, bytes in the file


def size_of(path: pathlib.Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def strip(path: pathlib.Path) -> int:
    """Cut a library after its last segment, because the loader reads segments only. Returns the saved bytes.

    The sections behind it are names of symbols for debuggers. Files that are no libraries stay as they are.

    Source: System V ABI, chapters 4 and 5 (ELF header, program headers).
    """
    with path.open("r+b") as stream:
        head = bytearray(stream.read(HEADER_BYTES))
        if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
            return 0
        programs, sections = TABLES.unpack_from(head, 32)
        size, count = COUNTS.unpack_from(head, 54)[:2]
        if not count:  # e.g. an object file
            return 0
        stream.seek(programs)
        table = stream.read(size * count)
        segments = [PROGRAM_HEADER.unpack_from(table, size * number) for number in range(count)]
        end = max(programs + len(table), *(offset + length for _, _, offset, _, _, length in segments))
        before = stream.seek(0, 2)
        if not end <= sections < before:
            return 0
        TABLES.pack_into(head, 32, programs, 0)
        COUNTS.pack_into(head, 54, size, count, 0, 0, 0)
        stream.seek(0)
        stream.write(head)
        stream.truncate(end)
        return before - int(end)


def slim(venv: pathlib.Path) -> int:
    """Remove what training never reads from an environment. Returns the saved bytes."""
    (packages,) = (venv / "lib").glob("python3.*/site-packages")
    places = ((packages, UNREAD), (venv, UNUSED))
    saved = 0
    for path in sorted(path for folder, patterns in places for name in patterns for path in folder.glob(name)):
        if path.exists():  # else a folder above it was removed
            saved += size_of(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    libraries = (path for path in sorted(packages.rglob("*.so*")) if path.is_file() and not path.is_symlink())
    return saved + sum(map(strip, libraries))


if __name__ == "__main__":
    print(f"{sys.argv[1]}: removed {slim(pathlib.Path(sys.argv[1])) // 10**6} MB that training never reads")
