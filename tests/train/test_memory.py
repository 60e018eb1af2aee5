"""A row source trains from a file ten times larger than the memory that the process may use."""

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT

LIMIT = 1100 * 2**20  # bytes; TensorFlow alone takes half of it
ROW = 2**20  # bytes per row
ROWS = 10 * LIMIT // ROW
GROUPS = {  # the kernel's two kinds of control groups: folder, file of the limit, file of the processes
    "v1": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "tasks"),
    "v2": ("/sys/fs/cgroup", "memory.max", "cgroup.procs"),
}
TRAIN = """
import pathlib, sys
import numpy as np
sys.path[:0] = sys.argv[2:]
import keras
from samebits.train.data import Dataset
from in_process import Small

path = pathlib.Path(sys.argv[1])
pixels = np.memmap(path, np.uint8, "r").reshape(-1, 1024, 1024)

class Images:
    workers = 2
    def __len__(self):
        return len(pixels)
    def batch(self, rows, rng):
        return pixels[rows], (rows % 2).astype("int32")

model = keras.Sequential([
    keras.Input((1024, 1024), dtype="uint8"),
    keras.layers.Lambda(lambda x: keras.ops.cast(x[:, ::128, ::128], "float32")),
    keras.layers.Flatten(),
    keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
])
model.compile("sgd", "mse")
small = Small(lambda: model, Dataset(Images()), epochs=1, batch_size=16)
print(len(small.train(path.parent / "run")["weights"]))
"""
TOO_MUCH = "import sys, numpy; print(numpy.ones(int(sys.argv[1]), 'u1').sum())"


@contextlib.contextmanager
def limited() -> Iterator[Callable[[], None]]:
    """Yield what a child calls before it starts: it enters a control group, or sets a limit for its own data."""
    for folder, limit, processes in GROUPS.values():
        group = pathlib.Path(folder) / f"samebits-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            (group / limit).write_text(str(LIMIT))
            yield lambda file=group / processes: file.write_text(str(os.getpid()))  # type: ignore[misc]
            group.rmdir()
            return
        group.rmdir()
    print("no control group is writable, so the data segment of the process is limited")
    yield lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


@pytest.mark.full
def test_rows_of_a_file_ten_times_the_memory_train(tmp_path: pathlib.Path) -> None:
    """A row source of a sparse, memory-mapped file trains an epoch. An array of the size of the limit does not fit."""
    path = tmp_path / "pixels"
    with path.open("wb") as stream:
        stream.truncate(ROWS * ROW)
    paths = [str(ROOT / "src"), str(ROOT / "tests")]
    commands = {"rows": ["-c", TRAIN, str(path), *paths], "array": ["-c", TOO_MUCH, str(LIMIT)]}
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    with limited() as enter:
        found = {
            name: subprocess.run(  # the child enters the group before it starts Python
                [sys.executable, *command],
                env=environment,
                preexec_fn=enter,
                capture_output=True,
                text=True,
                check=False,
            )
            for name, command in commands.items()
        }

    assert 0 == found["rows"].returncode, found["rows"].stderr[-2000:]
    assert "2" == found["rows"].stdout.split()[-1]
    assert 0 != found["array"].returncode
