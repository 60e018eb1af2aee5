"""Writes files so that a crash cannot leave a damaged one: whole files, appended lines, arrays, locks.

Whole files are written to a temporary name, flushed and renamed. Must not know what a run is.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, BinaryIO

import numpy as np
import yaml

from samebits.core.errors import FolderError, RecordError

ARRAYS_MAGIC = b"samebits arrays 1\n"


def storage_error(path: pathlib.Path, error: OSError) -> RecordError:
    """Return the error for a file that could not be written."""
    return RecordError(
        f"{path} could not be written.",
        expected="a writable file system with free space",
        received=error.strerror or str(error),
        fix="free disk space or repair the folder, then run the same command again; everything saved so far is kept.",
    )


def write_file(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a whole file. Afterwards `path` holds either its old contents or all of the new bytes.

    Args:
        path: The file; its folder exists.
        write: Writes the bytes to the open stream.

    Raises:
        RecordError: The disk is full, the folder is gone or read only.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Write bytes as a whole file; see `write_file`."""
    write_file(path, lambda stream: stream.write(data))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write plain data as indented JSON; see `write_file`."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_yaml(path: pathlib.Path, value: Any) -> None:
    """Write plain data as YAML; see `write_file`."""
    write_bytes(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())


def append_row(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Append one JSON line. If it does not fit on the disk, the file stays unchanged.

    Raises:
        RecordError: The disk is full, the folder is gone or read only.
    """
    data = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        with path.open("ab", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                written = stream.write(data)
            except OSError:
                stream.truncate(end)
                raise
            if written != len(data):
                stream.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  as the write itself would
    except OSError as error:
        raise storage_error(path, error) from error


def sync_file(path: pathlib.Path) -> None:
    """Flush appended lines to the disk. Does nothing if the file is missing.

    Raises:
        RecordError: The disk could not write them.
    """
    try:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error


@contextlib.contextmanager
def hold_lock(path: pathlib.Path) -> Iterator[bool]:
    """Hold a lock file while the block runs. Yields whether it got the lock. The kernel frees it when the process ends.

    Raises:
        FolderError: The file system does not support locks.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise FolderError(
                f"{path}", expected="a file system with locks (flock)", received=error.strerror or str(error),
                fix="choose another runs folder with paths.runs=…, or mount this file system with locks",
            ) from error  # fmt: skip
        yield True


def make_folder(path: pathlib.Path) -> None:
    """Create a folder and its parents.

    Raises:
        FolderError: It cannot be created or is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FolderError(
            f"folder {path}",
            expected="a writable folder",
            received=error.strerror or str(error),
            fix="choose another with paths.runs=… (for the data cache: paths.cache=…), or change its permissions",
        ) from error


class HashingWriter(io.RawIOBase):
    """Writes to a stream and hashes what it writes. Keeps nothing in memory and cannot seek."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write bytes and return how many."""
        self.sha256.update(data)
        return self._stream.write(data)


def _write_array(member: IO[bytes], array: np.ndarray) -> None:
    """Write an array in NumPy's format, as `np.lib.format.write_array` does, but without two copies in memory."""
    if array.dtype.hasobject:
        message = f"expected an array of numbers, received {array.dtype}"
        raise ValueError(message)
    np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
    member.write(array.reshape(-1).view(np.uint8).data)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray | Callable[[], np.ndarray]]) -> None:
    """Write named arrays as one file that starts with the SHA-256 of its contents; see `write_file`.

    The contents are NumPy's npz format without pickled objects, so reading it runs no code.

    Args:
        path: The file; its folder exists.
        arrays: Each array, or a function that returns it, so that only one is in memory at a time.
    """

    def write(stream: BinaryIO) -> None:
        stream.write(ARRAYS_MAGIC + b"0" * 64 + b"\n")
        hashing = HashingWriter(stream)
        with zipfile.ZipFile(hashing, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _write_array(member, np.asarray(array() if callable(array) else array, order="C"))
        stream.seek(len(ARRAYS_MAGIC))
        stream.write(hashing.sha256.hexdigest().encode())

    write_file(path, write)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file written by `write_arrays`.

    Raises:
        RecordError: The file is missing, truncated or has a flipped bit.
    """
    try:
        data = path.read_bytes()
        header_size = len(ARRAYS_MAGIC) + 65
        contents = data[header_size:]
        expected = ARRAYS_MAGIC + hashlib.sha256(contents).hexdigest().encode() + b"\n"
        if data[:header_size] != expected:
            raise ValueError("its SHA-256 does not match its contents")  # noqa: TRY301
        with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(
            f"{path} is damaged.",
            expected="an unchanged file written by a run",
            received=str(error),
            fix="remove it; it will be rebuilt.",
        ) from error
