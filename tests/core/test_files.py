"""Files under faults: a full disk, a kill, a flipped bit, two processes at once. None leaves a lie behind."""

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
# A child whose files cannot grow beyond so many bytes: writes are cut short, then fail, as on a full disk.
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
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: pathlib.Path) -> None:
    """A write cut short by the disk's end is an error with its reason; the file holds what it held, nothing else."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    code, received = run_limited("files.write_bytes(path, bytes(100000))", path, 4096)

    assert (1, os.strerror(errno.EFBIG)) == (code, received)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.json"]


def test_arrays_that_do_not_fit_leave_the_old_ones(tmp_path: pathlib.Path) -> None:
    """A checkpoint that does not fit on the disk leaves the one that was there, readable."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, {"order": np.arange(3)})
    action = "import numpy; files.write_arrays(path, {'order': numpy.zeros(100000)})"
    code, received = run_limited(action, path, 4096)

    assert (1, os.strerror(errno.EFBIG)) == (code, received)
    assert read_arrays(path)["order"].tolist() == [0, 1, 2]
    assert names_in(tmp_path) == ["checkpoint.arrays"]


@pytest.mark.skipif(not pathlib.Path(FULL_DISK).exists(), reason="no such device here")
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """Without room the error says so, with what to do, and the file holds what it held."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    (tmp_path / f".result.json.{os.getpid()}.partial").symlink_to(FULL_DISK)

    with pytest.raises(RecordError) as caught:
        write_bytes(path, b"new")

    expected = (
        f"{path} could not be written.\n"
        "  Expected: a writable file system with room   Received: No space left on device\n"
        "  Fix: free space or mend the folder, then give the same command again: what was saved before is kept."
    )

    assert expected == str(caught.value)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.json"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """A process killed in the middle of a write leaves the whole old file under its name."""
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    code, _ = run_python(KILLED, path)

    assert code == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_failing_writer_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """An exception of the writer's own passes through; neither half a file nor a temporary one stays."""
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
    """A run whose folder was removed under it ends with a message, not a traceback."""
    for write in (write_json, append_row):
        with pytest.raises(RecordError, match="No such file or directory"):
            write(tmp_path / "gone" / "file", {})


def test_json_and_yaml_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    """Plain data keep their order, their types and their floats' bits."""
    value = {"b": [1, 2.5, None, True], "a": {"ä": "x: y\n", "tiny": 5e-324, "third": 1 / 3, "small": 1e-05}}
    write_json(tmp_path / "a.json", value)
    write_yaml(tmp_path / "a.yaml", value)

    assert repr(value) == repr(read_json(tmp_path / "a.json"))
    assert repr(value) == repr(read_yaml(tmp_path / "a.yaml"))


@pytest.mark.parametrize("room", [0, 1, 20, -1])
def test_a_row_that_does_not_fit_leaves_the_file_as_before(tmp_path: pathlib.Path, room: int) -> None:
    """With no room, little room or one byte too little, an append is undone and reported."""
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
    """With room for exactly one row, that row is there: the limit above is what refuses."""
    path = tmp_path / "rows.jsonl"
    action = "files.append_row(path, dict(step=1))"

    assert run_limited(action, path, len('{"step": 1}\n')) == (0, "")
    assert read_rows(path) == [{"step": 1}]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_holds_no_number_that_json_lacks(tmp_path: pathlib.Path, value: float) -> None:
    """NaN and infinity are no JSON: nothing is written that other readers refuse."""
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
    """A file may hold no array at all."""
    write_arrays(tmp_path / "none.arrays", {})

    assert read_arrays(tmp_path / "none.arrays") == {}


def refuse_arrays(path: pathlib.Path, contents: bytes) -> str:
    """Write a file and return why it is refused."""
    path.write_bytes(contents)

    with pytest.raises(RecordError) as caught:
        read_arrays(path)

    assert f"{path} is damaged." == caught.value.what
    return str(caught.value.received)


def test_a_flipped_bit_is_refused(tmp_path: pathlib.Path) -> None:
    """One flipped bit anywhere, in the header or in the arrays, is noticed."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8

        assert refuse_arrays(path, bytes(flipped)) == "its digest is not that of its contents"


def test_a_truncated_arrays_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A file cut short anywhere is noticed, and so is one with something behind it."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for contents in (*(whole[:size] for size in range(0, len(whole), 11)), whole[:-1], whole + b"\0"):
        assert refuse_arrays(path, contents) == "its digest is not that of its contents"


def test_a_missing_arrays_file_is_a_record_error(tmp_path: pathlib.Path) -> None:
    """A file that is not there is an error with a message."""
    with pytest.raises(RecordError, match="No such file or directory"):
        read_arrays(tmp_path / "checkpoint.arrays")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def seal(contents: bytes) -> bytes:
    """Return the contents with a header that is right for them."""
    return ARRAYS_MAGIC + hashlib.sha256(contents).hexdigest().encode() + b"\n" + contents


def test_no_pickle_is_loaded(tmp_path: pathlib.Path) -> None:
    """A forged file with the right digest executes nothing; NumPy itself, when allowed to, walks into the trap."""
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
    """The right digest of something else is refused with a message too."""
    for contents in (b"", b"text", b"PK\3\4 cut", b"\x93NUMPY"):
        assert refuse_arrays(tmp_path / "other.arrays", seal(contents))


def test_objects_are_not_written(tmp_path: pathlib.Path) -> None:
    """Arrays of Python objects would be pickles: they are refused, and the file holds what it held."""
    path = tmp_path / "checkpoint.arrays"
    write_arrays(path, {"order": np.arange(3)})

    with pytest.raises(ValueError, match="arrays of numbers expected"):
        write_arrays(path, {"reviews": np.array([[1], [2, 3], None], object)})

    assert read_arrays(path)["order"].tolist() == [0, 1, 2]
    assert names_in(tmp_path) == ["checkpoint.arrays"]


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> Iterator[Process]:
    """Yield another process that holds the lock of this test's folder."""
    with start_python(HOLD, tmp_path / "running.lock") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        yield child
        child.kill()
        child.communicate()


def test_a_lock_excludes_a_second_process(tmp_path: pathlib.Path, holder: Process) -> None:
    """While another process holds a lock it cannot be had; once that one lets go it can."""
    with hold_lock(tmp_path / "running.lock") as held:
        assert not held

    holder.communicate(timeout=60)

    with hold_lock(tmp_path / "running.lock") as held:
        assert held


def test_a_killed_process_holds_no_lock(tmp_path: pathlib.Path, holder: Process) -> None:
    """SIGKILL frees a lock: a run that was killed can go on at once."""
    holder.send_signal(signal.SIGKILL)

    assert holder.wait(60) == -signal.SIGKILL
    with hold_lock(tmp_path / "running.lock") as held:
        assert held


def test_a_file_system_without_locks_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre mounted without flock answers, which no test machine has."""

    def refuse(_stream: object, _operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("samebits.core.files.fcntl.flock", refuse)

    with pytest.raises(FolderError, match="a file system with locks"), hold_lock(tmp_path / "lock"):
        pass


def test_a_lock_ends_with_its_block(tmp_path: pathlib.Path) -> None:
    """A lock is held in its block alone, also when that ends by an error."""
    path = tmp_path / "running.lock"

    with contextlib.suppress(KeyError), hold_lock(path) as held:
        assert held
        with hold_lock(path) as again:
            assert not again
        raise KeyError

    with hold_lock(path) as held:
        assert held


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: pathlib.Path) -> None:
    """Where a file is in the way, the message names the folder and how to choose another."""
    (tmp_path / "runs").touch()

    with pytest.raises(FolderError) as caught:
        make_folder(tmp_path / "runs" / "smoke")

    assert f"folder {tmp_path / 'runs' / 'smoke'}" == caught.value.what
    assert caught.value.received == "Not a directory"


def test_a_folder_that_is_there_is_left_alone(tmp_path: pathlib.Path) -> None:
    """Making a folder twice is no error, and the look whether it can be written leaves nothing."""
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")

    assert names_in(tmp_path / "a" / "b") == []
