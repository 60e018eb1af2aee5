"""The folder of a run: where things are, and how they are written so that no fault leaves a lie behind.

Whole files are written to a temporary name, flushed and renamed. Lines are appended in one write; a torn last line is
dropped on reading. Knows paths and bytes, not what they mean.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, BinaryIO

import numpy as np
import yaml

from samebits.errors import FolderError, RecordError

INPUTS = "inputs.json"
RESULT = "result.json"
CONFIG = "config.yaml"
SOURCE = "source"  # beside the inputs: all of src/, so that an old run can be run again
SEEDS = "seeds.json"
MACHINE = "machine.json"
METRICS = "metrics.jsonl"
TRACE = "trace.jsonl"
PREDICTIONS = "predictions.arrays"
LOG = "log.txt"
LOCK = "running.lock"
WORKER_LOCK = "worker.lock"
ARRAYS_MAGIC = b"samebits arrays 1\n"

# What the readers of a run's files lean on; a nested key has a dot.
OPTIONAL_INT, OPTIONAL_DICT = (int, type(None)), (dict, type(None))
SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    INPUTS: {"name": str, "config": dict, "code.digest": str, "code.files": dict, "code.files.*": str, "lock": str},
    RESULT: {
        "metrics.val_accuracy": float, "metrics.val_loss": float, "weights_digest": str, "optimizer_digest": str,
        "data_digest": str, "promise": str, "fingerprint": str, "timing": dict,
        "timing.*": (int, float), "resumed_at": (dict, type(None)),
    },
    MACHINE: {
        "arithmetic.promise": str, "arithmetic.fingerprint": str, "arithmetic.settings": dict, "cpu": dict,
        "packages": dict,
    },
    SEEDS: {"points": list, "points.*.point": str, "points.*.rests": str},
    METRICS: {"epoch": int, "step": int, "loss": float, "accuracy": float},
    TRACE: {
        "epoch": int, "step": OPTIONAL_INT, "data": OPTIONAL_DICT, "data.*": str, "generators": OPTIONAL_DICT,
        "gradients": OPTIONAL_DICT, "gradients.*": str, "bits": OPTIONAL_DICT, "bits.*": str, "weights": str,
        "tensors": dict, "tensors.*": str,
    },
    CONFIG: {"name": str, "seed.policy": str, "seed.points": dict, "data": dict, "model": dict, "training": dict},
}  # fmt: skip


def storage_error(path: pathlib.Path, error: OSError) -> RecordError:
    """Return the error that says why a file of a run could not be written."""
    return RecordError(
        f"{path} could not be written.",
        expected="a writable file system with room",
        received=error.strerror or str(error),
        fix="free space or mend the folder, then give the same command again: what was saved before is kept.",
    )


def write_file(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a whole file so that `path` holds either what it held before or all of the new bytes.

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


def list_leftovers(attempt: pathlib.Path) -> list[pathlib.Path]:
    """Return what a killed process left in an attempt: files half written, and checkpoints beside a result."""
    return sorted([*attempt.glob(".*partial*"), *(attempt.glob("checkpoint-*.arrays") if is_finished(attempt) else [])])


def remove_leftovers(attempt: pathlib.Path) -> None:
    """Remove what `list_leftovers` lists; only for one who holds the attempt's lock."""
    for path in list_leftovers(attempt):
        path.unlink(missing_ok=True)


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Write bytes as a whole file; see `write_file`."""
    write_file(path, lambda stream: stream.write(data))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write plain data as indented JSON; see `write_file`."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: pathlib.Path) -> Any:
    """Return the data of a JSON file.

    Raises:
        RecordError: The file is missing or damaged.
    """
    try:
        value = json.loads(path.read_bytes())
        check_shape(value, SHAPES.get(path.name, {}))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} could not be read.",
            expected="a JSON file written by a run",
            received=str(error),
            fix="name another run, or remove this one's folder.",
        ) from error
    return value


def _members(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return part if isinstance(part, list) else []


def check_shape(value: Any, shape: dict[str, type | tuple[type, ...]]) -> None:
    """Refuse data that lack a key, or have something of another type there; "*" is every member of a list or mapping.

    Raises:
        ValueError: Names the key.
    """
    for key, kind in shape.items():
        parts = [value]
        for name in key.split("."):
            if name == "*":
                parts = [inner for part in parts for inner in _members(part)]
            else:
                parts = [part.get(name) if isinstance(part, dict) else None for part in parts]
        if not all(isinstance(part, kind) for part in parts):
            raise ValueError(f"no {key} in it")


def write_yaml(path: pathlib.Path, value: Any) -> None:
    """Write plain data as YAML; see `write_file`."""
    write_bytes(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())


def read_yaml(path: pathlib.Path) -> Any:
    """Return the data of a YAML file.

    Raises:
        RecordError: The file is missing or damaged.
    """
    try:
        value = yaml.safe_load(path.read_bytes())
        check_shape(value, SHAPES.get(path.name, {}))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecordError(
            f"{path} could not be read.",
            expected="a YAML file written by a run",
            received=" ".join(str(error).split()),
            fix="name another run, or remove this one's folder.",
        ) from error
    return value


def append_row(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Append one JSON line; when it does not fit on the disk, the file is left as it was.

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
    """Return when what was appended to a file is on the disk; a missing file is left missing.

    Raises:
        RecordError: The disk could not take it.
    """
    try:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON-lines file; a torn last line is left out, a missing file is empty.

    Raises:
        RecordError: A line other than the last is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(
            f"{path} could not be read.",
            expected="a file of JSON lines written by a run",
            received=error.strerror or str(error),
            fix="name another run, or remove this one's folder.",
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            check_shape(row, SHAPES.get(path.name, {}))
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged in line {number}.",
                expected="one JSON object a line",
                received=repr(line[:60]),
                fix="remove this attempt's folder and give the same command again.",
            ) from error
        rows.append(row)
    return rows


def keep_rows(path: pathlib.Path, count: int) -> None:
    """Cut a JSON-lines file back to its first `count` rows, for a run that goes on from a checkpoint."""
    rows = read_rows(path)
    if path.exists():
        write_bytes(path, b"".join((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows[:count]))


@contextlib.contextmanager
def hold_lock(path: pathlib.Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields whether it could be had. The kernel frees it with the process.

    Raises:
        FolderError: The file system has no locks.
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
                fix="choose another folder for the runs, paths.runs=…, or have this one mounted with locks",
            ) from error  # fmt: skip
        yield True


def is_finished(attempt: pathlib.Path) -> bool:
    """Return whether an attempt has its result, which is the last file that a run writes."""
    return (attempt / RESULT).is_file()


def list_attempts(inputs_folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the attempts in a folder of equal inputs, oldest first."""
    found = [path for path in inputs_folder.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def list_all_attempts(runs: pathlib.Path) -> list[pathlib.Path]:
    """Return every attempt below a folder of runs, sorted by name, digest and number."""
    return [attempt for inputs in sorted(runs.glob("*/*")) for attempt in list_attempts(inputs)]


def find_attempt(runs: pathlib.Path, name: str) -> pathlib.Path:
    """Return the attempt that a user names.

    Args:
        runs: The folder of runs.
        name: A path; the start of an inputs digest, with "/<attempt>" or for its newest; or "last", "last~1", …

    Raises:
        FolderError: There is none, or more than one.
    """
    given = pathlib.Path(name)
    if (given / CONFIG).is_file():
        return given.resolve()
    attempts = [attempt for attempt in list_all_attempts(runs) if (attempt / CONFIG).is_file()]
    last = re.fullmatch(r"last(?:~(\d+))?", name)
    if last:
        attempts.sort(key=lambda attempt: ((attempt / CONFIG).stat().st_mtime_ns, attempt.as_posix()))
        back = int(last[1] or 0)
        found = attempts[-1 - back : len(attempts) - back] if back < len(attempts) else []
    else:
        start, _, number = "/".join(
            given.parts[-2:] if given.parts[-1:] and given.parts[-1].isdecimal() else given.parts[-1:]
        ).partition("/")
        found = [a for a in attempts if start and a.parent.name.startswith(start) and number in ("", a.name)]
        if found and not number and len({a.parent for a in found}) == 1:
            found = found[-1:]
    if len(found) != 1:
        raise FolderError(
            f"run {name}",
            expected="a run's folder, the start of its inputs digest (with /attempt), or last",
            received=f"{len(found)} runs of {len(attempts)} in {runs}",
            fix="name one as make train printed it",
        )
    return found[0]


def make_folder(path: pathlib.Path) -> None:
    """Make a folder and its parents.

    Raises:
        FolderError: It cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FolderError(
            f"folder {path}",
            expected="a folder that can be written",
            received=error.strerror or str(error),
            fix="choose another with paths.runs=… (paths.cache=… for the data's cache) or change its permissions",
        ) from error


def make_attempt(inputs_folder: pathlib.Path) -> pathlib.Path:
    """Make and return the folder of a new attempt; two processes at once get two numbers."""
    attempts = list_attempts(inputs_folder)
    number = int(attempts[-1].name) if attempts else 0
    while True:
        number += 1
        attempt = inputs_folder / str(number)
        try:
            attempt.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise storage_error(attempt, error) from error
        return attempt


def remove_attempt(attempt: pathlib.Path) -> None:
    """Remove an attempt that never began, and the folders above it that are empty then."""
    shutil.rmtree(attempt, ignore_errors=True)
    inputs_folder = attempt.parent
    if not list_attempts(inputs_folder):
        shutil.rmtree(inputs_folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            inputs_folder.parent.rmdir()


class HashingWriter(io.RawIOBase):
    """Passes on what is written, and hashes it; nothing is held in memory, and there is no way back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write bytes; returns how many."""
        self.sha256.update(data)
        return self._stream.write(data)


def _write_array(member: IO[bytes], array: np.ndarray) -> None:
    """Write an array in NumPy's format, as `np.lib.format.write_array` does, but without two copies of it."""
    if array.dtype.hasobject:
        message = f"arrays of numbers expected. Received: {array.dtype}"
        raise ValueError(message)
    np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
    member.write(array.reshape(-1).view(np.uint8).data)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray | Callable[[], np.ndarray]]) -> None:
    """Write named arrays as one file that carries the SHA-256 of its contents; see `write_file`.

    The contents are NumPy's npz format without pickled objects: reading it executes no code.

    Args:
        path: The file; its folder exists.
        arrays: Each array, or a function that gives it: then one at a time is in memory.
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
    """Return the arrays of a file that `write_arrays` wrote.

    Raises:
        RecordError: The file is missing, cut short or has a flipped bit.
    """
    try:
        data = path.read_bytes()
        header_size = len(ARRAYS_MAGIC) + 65
        contents = data[header_size:]
        expected = ARRAYS_MAGIC + hashlib.sha256(contents).hexdigest().encode() + b"\n"
        if data[:header_size] != expected:
            raise ValueError("its digest is not that of its contents")  # noqa: TRY301
        with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(
            f"{path} is damaged.",
            expected="a file as a run wrote it",
            received=str(error),
            fix="remove it; it is made again.",
        ) from error
