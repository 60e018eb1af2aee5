"""Files with faults: a full disk, a kill, a flipped bit, two processes. None leaves a damaged file unnoticed."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from processes import Process, run_python, start_python

from samebits.core.errors import FolderError, RecordError
from samebits.core.files import (
    ARRAYS_MAGIC,
    append_row,
    hold_lock,
    make_folder,
    read_arrays,
    write_arrays,
    write_bytes,
    write_file,
    write_json,
    write_yaml,
)
from samebits.runs.folder import (
    read_json,
    read_rows,
    read_yaml,
)

FULL_DISK = "/dev/full"
# A child process whose files cannot grow beyond a limit: writes are truncated, then fail, as on a full disk.
LIMIT = """
import pathlib, resource, signal, sys
from samebits.core import files
from samebits.runs import folder
from samebits.core.errors import RecordError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    ACTION
except RecordError as error:
    print(error.received)
    sys.exit(error.exit_code)
"""
HOLD = """
import pathlib, sys
from samebits.core import files
from samebits.runs import folder
with files.hold_lock(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""
KILLED = """
import os, pathlib, signal, sys
from samebits.core import files
from samebits.runs import folder
def write(stream):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
files.write_file(pathlib.Path(sys.argv[1]), write)
"""


def run_limited(action: str, path: pathlib.Path, limit_bytes: int) -> tuple[int, str]:
    """Run an action on a file in a child whose files cannot grow beyond a limit."""
    return run_python(LIMIT.replace("ACTION", action), path, limit_bytes)


def names_in(folder: pathlib.Path) -> list[str]:
    """Return the names in a folder, including hidden ones."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: pathlib.Path) -> None:
    """A write that does not fit is an error with the reason, and the old file stays unchanged."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    code, received = run_limited("files.write_bytes(path, bytes(100000))", path, 4096)

    assert (1, os.strerror(errno.EFBIG)) == (code, received)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.json"]


def test_arrays_that_do_not_fit_leave_the_old_ones(tmp_path: pathlib.Path) -> None:
    """A checkpoint that does not fit on the disk leaves the old one readable."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, {"order": np.arange(3)})
    action = "import numpy; files.write_arrays(path, {'order': numpy.zeros(100000)})"
    code, received = run_limited(action, path, 4096)

    assert (1, os.strerror(errno.EFBIG)) == (code, received)
    assert read_arrays(path)["order"].tolist() == [0, 1, 2]
    assert names_in(tmp_path) == ["checkpoint.arrays"]


@pytest.mark.skipif(not pathlib.Path(FULL_DISK).exists(), reason="no such device here")
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """On a full disk the error has the reason and a fix, and the old file stays unchanged."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    (tmp_path / f".result.json.{os.getpid()}.partial").symlink_to(FULL_DISK)

    with pytest.raises(RecordError) as caught:
        write_bytes(path, b"new")

    expected = (
        f"{path} could not be written.\n"
        "  Expected: a writable file system with free space   Received: No space left on device\n"
        "  Fix: free disk space or repair the folder, then run the same command again; everything saved so far is kept."
    )

    assert expected == str(caught.value)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.json"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """A process killed during a write leaves the whole old file."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    code, _ = run_python(KILLED, path)

    assert code == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_failing_writer_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """An exception of the writer passes through, and leaves neither an incomplete nor a temporary file."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")

    def write(stream: Any) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, write)

    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.json"]


def test_a_missing_folder_is_a_record_error(tmp_path: pathlib.Path) -> None:
    """Writing into a removed folder is an error with a message."""
    for write in (write_json, append_row):
        with pytest.raises(RecordError, match="No such file or directory"):
            write(tmp_path / "gone" / "file", {})


def test_json_and_yaml_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    """Plain data keeps its order, its types and the bits of its floats."""
    value = {"b": [1, 2.5, None, True], "a": {"ä": "x: y\n", "tiny": 5e-324, "third": 1 / 3, "small": 1e-05}}
    write_json(tmp_path / "a.json", value)
    write_yaml(tmp_path / "a.yaml", value)

    assert repr(value) == repr(read_json(tmp_path / "a.json"))
    assert repr(value) == repr(read_yaml(tmp_path / "a.yaml"))


@pytest.mark.parametrize("room", [0, 1, 20, -1])
def test_a_row_that_does_not_fit_leaves_the_file_as_before(tmp_path: pathlib.Path, room: int) -> None:
    """With no space, little space or one byte too little, an append is undone and reported."""
    path = tmp_path / "rows.jsonl"
    append_row(path, {"step": 1})
    before = path.read_bytes()
    row = {"step": 2, "name": "x" * 200}
    if room < 0:
        room += len(json.dumps(row)) + 1
    code, received = run_limited(f"files.append_row(path, {row!r})", path, len(before) + room)

    assert code == 1
    assert received in (os.strerror(errno.EFBIG), os.strerror(errno.ENOSPC))
    assert before == path.read_bytes()


def test_a_row_that_just_fits_is_written(tmp_path: pathlib.Path) -> None:
    """With space for exactly one row, the row is written. Negative control of the test above."""
    path = tmp_path / "rows.jsonl"
    action = "files.append_row(path, dict(step=1))"

    assert run_limited(action, path, len('{"step": 1}\n')) == (0, "")
    assert read_rows(path) == [{"step": 1}]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_holds_no_number_that_json_lacks(tmp_path: pathlib.Path, value: float) -> None:
    """NaN and infinity are errors, because JSON does not have them."""
    path = tmp_path / "rows.jsonl"

    with pytest.raises(ValueError, match="not JSON compliant"):
        append_row(path, {"loss": value})

    assert not path.exists()


ARRAYS: dict[str, np.ndarray] = {
    "variable/0/lstm/kernel": np.array([[1.5, -0.0], [np.nextafter(np.float32(1), np.float32(2)), 5e-324]], np.float32),
    "nan": np.array([0x7FC00001, 0xFF800000], np.uint32).view(np.float32),
    "order": np.array([3, 1, 2], np.int64),
    "state": np.frombuffer(b'{"epoch": 1}', np.uint8),
    "scalar": np.array(7, np.int32),
    "empty": np.zeros((0, 3), np.float32),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "big_endian": np.arange(3, dtype=">f4"),
}


def test_arrays_come_back_bit_for_bit(tmp_path: pathlib.Path) -> None:
    """Names, dtypes, shapes and all bits survive: -0.0, NaN payloads, scalars and empty arrays too."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, ARRAYS)
    arrays = read_arrays(path)

    assert list(ARRAYS) == list(arrays)
    for name, array in ARRAYS.items():
        assert (array.dtype, array.shape) == (arrays[name].dtype, arrays[name].shape)
        assert array.tobytes() == arrays[name].tobytes()


def test_no_arrays_are_arrays(tmp_path: pathlib.Path) -> None:
    """A file can have no arrays."""
    write_arrays(tmp_path / "none.arrays", {})

    assert read_arrays(tmp_path / "none.arrays") == {}


def refuse_arrays(path: pathlib.Path, contents: bytes) -> str:
    """Write a file and return the error on reading."""
    path.write_bytes(contents)

    with pytest.raises(RecordError) as caught:
        read_arrays(path)

    assert f"{path} is damaged." == caught.value.what
    return str(caught.value.received)


def test_a_flipped_bit_is_refused(tmp_path: pathlib.Path) -> None:
    """One flipped bit anywhere, in the header or in the arrays, is an error."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8

        assert refuse_arrays(path, bytes(flipped)) == "its SHA-256 does not match its contents"


def test_a_truncated_arrays_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A file truncated anywhere is an error, and so is a file with extra bytes."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for contents in (*(whole[:size] for size in range(0, len(whole), 11)), whole[:-1], whole + b"\0"):
        assert refuse_arrays(path, contents) == "its SHA-256 does not match its contents"


def test_a_missing_arrays_file_is_a_record_error(tmp_path: pathlib.Path) -> None:
    """A missing file is an error with a message."""
    with pytest.raises(RecordError, match="No such file or directory"):
        read_arrays(tmp_path / "checkpoint.arrays")


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def seal(contents: bytes) -> bytes:
    """Return the contents with a valid header."""
    return ARRAYS_MAGIC + hashlib.sha256(contents).hexdigest().encode() + b"\n" + contents


def test_no_pickle_is_loaded(tmp_path: pathlib.Path) -> None:
    """A forged file with the right digest runs no code. NumPy with allow_pickle runs it."""
    sprung = tmp_path / "sprung"
    array = np.empty(1, object)
    array[0] = Trap(sprung)
    buffer = io.BytesIO()
    np.savez(buffer, forged=array)

    assert "allow_pickle=False" in refuse_arrays(tmp_path / "forged.arrays", seal(buffer.getvalue()))
    assert "pickled (object) data" in refuse_arrays(tmp_path / "plain.arrays", seal(pickle.dumps(Trap(sprung))))
    assert not sprung.exists()

    with np.load(io.BytesIO(buffer.getvalue()), allow_pickle=True) as arrays:
        arrays["forged"]

    assert sprung.exists()


def test_contents_that_are_no_arrays_are_refused(tmp_path: pathlib.Path) -> None:
    """A file with the right digest but other contents is an error with a message."""
    for contents in (b"", b"text", b"PK\3\4 cut", b"\x93NUMPY"):
        assert refuse_arrays(tmp_path / "other.arrays", seal(contents))


def test_objects_are_not_written(tmp_path: pathlib.Path) -> None:
    """Arrays of Python objects are errors, and the old file stays unchanged."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, {"order": np.arange(3)})

    with pytest.raises(ValueError, match="expected an array of numbers"):
        write_arrays(path, {"reviews": np.array([[1], [2, 3], None], object)})

    assert read_arrays(path)["order"].tolist() == [0, 1, 2]
    assert names_in(tmp_path) == ["checkpoint.arrays"]


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> Iterator[Process]:
    """Yield another process that holds the lock in the folder of this test."""
    with start_python(HOLD, tmp_path / "running.lock") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        yield child
        child.kill()
        child.communicate()


def test_a_lock_excludes_a_second_process(tmp_path: pathlib.Path, holder: Process) -> None:
    """A lock is not available while another process holds it, and is available afterwards."""
    with hold_lock(tmp_path / "running.lock") as held:
        assert not held

    holder.communicate(timeout=60)

    with hold_lock(tmp_path / "running.lock") as held:
        assert held


def test_a_killed_process_holds_no_lock(tmp_path: pathlib.Path, holder: Process) -> None:
    """SIGKILL frees a lock, so a killed run can resume at once."""
    holder.send_signal(signal.SIGKILL)

    assert holder.wait(60) == -signal.SIGKILL
    with hold_lock(tmp_path / "running.lock") as held:
        assert held


def test_a_file_system_without_locks_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks is an error with a fix. Simulates Lustre mounted without flock."""

    def refuse(_stream: object, _operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("samebits.core.files.fcntl.flock", refuse)

    with pytest.raises(FolderError, match="a file system with locks"), hold_lock(tmp_path / "lock"):
        pass


def test_a_lock_ends_with_its_block(tmp_path: pathlib.Path) -> None:
    """A lock is held only in its block, also if the block raises an error."""
    path = tmp_path / "running.lock"

    with contextlib.suppress(KeyError), hold_lock(path) as held:
        assert held
        with hold_lock(path) as again:
            assert not again
        raise KeyError

    with hold_lock(path) as held:
        assert held


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: pathlib.Path) -> None:
    """If a file has the name of the folder, the message has the folder and how to choose another."""
    (tmp_path / "runs").touch()

    with pytest.raises(FolderError) as caught:
        make_folder(tmp_path / "runs" / "smoke")

    assert f"folder {tmp_path / 'runs' / 'smoke'}" == caught.value.what
    assert caught.value.received == "Not a directory"


def test_a_folder_that_is_there_is_left_alone(tmp_path: pathlib.Path) -> None:
    """Creating a folder twice is no error, and the check for write permission leaves no file."""
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")

    assert names_in(tmp_path / "a" / "b") == []
