"""Shared code of the benchmarks: runs commands as fresh processes on chosen cores, and measures time and memory.

Time and memory are measured in separate runs, because reading the memory of TensorFlow's processes uses a third of a
core.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from samebits.runs.folder import RESULT, TRACE, read_json
from samebits.runtime.machine import describe_cpu

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLL_S = 0.05
KINDS = ("image", "tabular", "text")  # the modules of `benchmarks.kinds`


@dataclass(frozen=True)
class Command:
    """A command of a project, as a fresh process.

    Attributes:
        words: Program and arguments.
        cores: The cores that it may use; None: all.
        environment: Variables added to this process's own.
        folder: The project's folder.
    """

    words: Sequence[str]
    cores: Sequence[int] | None = None
    environment: dict[str, str] | None = None
    folder: pathlib.Path = ROOT

    def run(self, poll: Callable[[int], None] | None = None) -> str:
        """Run the command and return its output; calls `poll` with the process's id every 50 ms.

        Raises:
            SystemExit: The command failed; the message contains its output.
        """
        pinned = ["taskset", "-c", ",".join(map(str, self.cores))] if self.cores is not None else []
        process = subprocess.Popen(
            [*pinned, *self.words],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "src")} | (self.environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ended = threading.Event()

        def watch() -> None:
            while poll is not None and not ended.wait(POLL_S):
                poll(process.pid)

        watcher = threading.Thread(target=watch)
        watcher.start()
        output, _ = process.communicate()
        ended.set()
        watcher.join()
        if process.returncode:
            sys.exit(f"exit code {process.returncode} of {' '.join(self.words)}:\n{output}")
        return output

    def seconds(self) -> float:
        """Run the command and return its duration in seconds."""
        began = time.monotonic()
        self.run()
        return time.monotonic() - began

    def peak_megabytes(self) -> float:
        """Run the command, untimed, and return the peak memory of all its processes together, in MB (Linux's PSS)."""
        most = [0]

        def poll(pid: int) -> None:
            most[0] = max(most[0], memory_of_tree(pid))

        self.run(poll)
        return most[0] / 1e6


def memory_of_tree(pid: int) -> int:
    """Return the memory of a process and its descendants in bytes; shared pages count once (Linux's PSS)."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0
    mine = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return mine + sum(memory_of_tree(int(child)) for child in children)


@dataclass(frozen=True)
class Trained:
    """One training: its result.json, the duration of the command, and the time to the end of the first step."""

    result: dict[str, Any]
    seconds: float
    first_step_s: float

    @property
    def step_ms(self) -> float:
        """Return the milliseconds per step, without the first step."""
        return float(1e3 * self.result["phases"]["steps_s"] / (self.result["steps"] - 1))


def train_command(overrides: Sequence[str], runs: pathlib.Path, cores: Sequence[int] | None = None) -> Command:
    """Return the command that trains into a folder of runs."""
    return Command([sys.executable, "scripts/train.py", *overrides, f"paths.runs={runs}"], cores)


def train(overrides: Sequence[str], cores: Sequence[int] | None = None) -> Trained:
    """Train in a temporary folder."""
    first_row: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        runs = pathlib.Path(name)

        def poll(_pid: int) -> None:  # the first line of the trace is written just before the first step
            if not first_row:
                first_row.extend(path.stat().st_mtime for path in runs.glob(f"*/*/*/{TRACE}") if path.stat().st_size)

        began, began_s = time.time(), time.monotonic()
        train_command(overrides, runs, cores).run(poll)
        seconds = time.monotonic() - began_s
        (path,) = runs.glob(f"*/*/*/{RESULT}")
        result = read_json(path)
    return Trained(result, seconds, first_row[0] - began + result["phases"]["first_step_s"])


def train_megabytes(overrides: Sequence[str], cores: Sequence[int] | None = None) -> float:
    """Train, untimed, in a temporary folder, and return the peak memory in MB."""
    with tempfile.TemporaryDirectory() as name:
        return train_command(overrides, pathlib.Path(name), cores).peak_megabytes()


def median_and_range(values: Sequence[float], form: str = ".1f") -> str:
    """Return "median (min to max)"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of values from the same turns."""
    return [value / other for value, other in zip(values, others, strict=True)]


def describe_this_machine() -> str:
    """Return the CPU's model, its usable cores and its caches, in words."""
    cpu = describe_cpu()
    caches = ", ".join(f"{name} {size}" for name, size in cpu["caches"].items())
    return f"{cpu['model']}, {cpu['cores_usable']} cores, {caches}"


def parse_turns(description: str | None, epochs: int, trained: str) -> argparse.Namespace:
    """Return the options of a benchmark that trains `KINDS` in turns: repeats, epochs and kinds.

    Args:
        description: The docstring of the benchmark.
        epochs: The default number of epochs.
        trained: What they are epochs of, e.g. "per training".
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="number of turns (default: 3)")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"epochs {trained} (default: {epochs})")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"default: {','.join(KINDS)}")
    return parser.parse_args()
