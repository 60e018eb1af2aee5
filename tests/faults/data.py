"""Data functions that bring a fault: `load` the one that the variable FAULT describes, the others always the same.

    FAULT="row 20 kill"         after the 20th row of metrics
    FAULT="checkpoint 3 kill"   in the middle of the third checkpoint's write

FAULT is no part of a run's name: the command without it resumes the run.
"""

import os
import pathlib
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from imdb_cnn_lstm.synthetic import make_synthetic_reviews
from samebits import DataContext, Dataset
from samebits.core import files

METRICS = "metrics.jsonl"


def replace_everywhere(function: Callable[..., Any], replacement: Callable[..., Any]) -> None:
    """Put a function in the place of another one in every module of the harness that knows it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("samebits."):
            for key, value in list(vars(module).items()):
                if value is function:
                    setattr(module, key, replacement)


# --- what happens: each function gets the file that is being written, and the words after the action ---


def limit_files(path: pathlib.Path, size_bytes: str = "") -> None:
    """Let no file grow beyond a size, without one the present size of the file and ten bytes: a full disk."""
    limit = int(size_bytes) if size_bytes else path.stat().st_size + 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def limit_cpu(_: pathlib.Path) -> None:
    """Use more CPU time than is allowed: the kernel ends this process, some milliseconds later."""
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass


def send(number: signal.Signals) -> Callable[[pathlib.Path], None]:
    """Return an action that sends this process a signal."""
    return lambda _: os.kill(os.getpid(), number)


def wait(_: pathlib.Path, seconds: str, until: str) -> None:
    """Wait, at most until a file is there."""
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end and not pathlib.Path(until).exists():
        time.sleep(0.01)


ACTIONS: dict[str, Callable[..., object]] = {
    "kill": send(signal.SIGKILL),
    "stop": send(signal.SIGTERM),
    "interrupt": send(signal.SIGINT),
    "limit_cpu": limit_cpu,
    "limit_files": limit_files,
    "delete_attempt": lambda path: shutil.rmtree(path.parent),
    "delete_runs": lambda path: shutil.rmtree(path.parents[3]),
    "delete_metrics": lambda path: path.unlink(),
    "lose_parent": lambda _: setattr(os, "getppid", lambda: 1),
    "block_model": lambda path: (path.parent / "model.keras" / "in the way").mkdir(parents=True),
    "wait": wait,
}


# --- when it happens ---


def install(description: str) -> None:
    """Arrange the fault that a description names; "wait" happens at every row from that one on, all others once."""
    moment, number, action, *words = description.split(" ", 4)

    def act(path: pathlib.Path) -> None:
        ACTIONS[action](path, *words)

    {"row": install_at_row, "checkpoint": install_at_checkpoint}[moment](int(number), act, repeats=action == "wait")


def install_at_row(number: int, act: Callable[[pathlib.Path], None], *, repeats: bool) -> None:
    """Act once so many rows of metrics are written."""
    append_row = files.append_row

    def append_and_act(path: pathlib.Path, row: dict[str, Any]) -> None:
        append_row(path, row)
        if path.name == METRICS:
            rows = path.read_bytes().count(b"\n")
            if rows == number or (repeats and rows > number):
                act(path)

    replace_everywhere(append_row, append_and_act)


def install_at_checkpoint(number: int, act: Callable[[pathlib.Path], None], *, repeats: bool) -> None:
    """Act in the middle of the write of that checkpoint."""
    write_arrays, written = files.write_arrays, []

    def write_and_act(path: pathlib.Path, arrays: dict[str, Any]) -> None:
        if path.name.startswith("checkpoint-"):
            written.append(path)
            if len(written) == number or (repeats and len(written) > number):
                state = arrays["state"]

                def act_and_give() -> np.ndarray:
                    act(path.with_name(METRICS))
                    return np.asarray(state)

                arrays = arrays | {"state": act_and_give}
        write_arrays(path, arrays)

    replace_everywhere(write_arrays, write_and_act)


# --- data functions ---


def load(context: DataContext, **arguments: Any) -> Dataset:
    """Return the synthetic reviews; the variable FAULT says what goes wrong later, if anything."""
    if os.environ.get("FAULT"):
        install(os.environ["FAULT"])
    return make_synthetic_reviews(context, **arguments)


def read_rows(context: DataContext, **arguments: Any) -> Dataset:
    """Read a number of the data from a file that no run's name holds, as a careless data function does."""
    dataset = load(context, **arguments)
    dataset.train.inputs[0, 0] = int((pathlib.Path(__file__).parents[2] / "rows.txt").read_text())
    return dataset


def change_one_review(context: DataContext, **arguments: Any) -> Dataset:
    """Change one word of one review."""
    dataset = load(context, **arguments)
    dataset.train.inputs[5, 3] += 1
    return dataset


def need_much_memory(context: DataContext, **arguments: Any) -> Dataset:
    """Ask for more memory than any machine has."""
    np.zeros((2**60,), np.uint8)
    return load(context, **arguments)


def limit_memory(context: DataContext, **arguments: Any) -> Dataset:
    """Let this process have 16 GiB of addresses, so that no machine tries to give it a terabyte."""
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    return load(context, **arguments)


def save_code(context: DataContext, **arguments: Any) -> Dataset:
    """Save this file anew, as somebody in an editor does."""
    with pathlib.Path(__file__).open("a") as stream:
        stream.write("# saved\n")
    return load(context, **arguments)


def be_stopped(context: DataContext, **arguments: Any) -> Dataset:
    """Be asked to stop before anything is trained."""
    send(signal.SIGTERM)(pathlib.Path())
    return load(context, **arguments)


def leave(context: DataContext, **arguments: Any) -> Dataset:
    """End the process."""
    sys.exit(2)
