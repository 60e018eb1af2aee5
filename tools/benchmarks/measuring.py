"""What the benchmarks share: commands as fresh processes on chosen cores, with their memory; medians and ranges."""

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

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Measured:
    """One command: seconds from its start to its end, the most memory of it and its children in MB, what it printed."""

    seconds: float
    megabytes: float
    output: str
    began: float  # time.time()


def memory_of_tree(pid: int) -> int:
    """Return the bytes that a process and all below it hold; each has its share of what several hold (Linux's PSS)."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0
    mine = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return mine + sum(memory_of_tree(int(child)) for child in children)


def run(
    command: Sequence[str],
    cores: Sequence[int] | None = None,
    environment: dict[str, str] | None = None,
    look: Callable[[], None] | None = None,
    cwd: pathlib.Path = ROOT,
) -> Measured:
    """Run a command of a project to its end.

    Args:
        command: Program and arguments.
        cores: The cores that it may use; None: all.
        environment: Variables added to this process's own.
        look: Called every 50 ms while it runs.
        cwd: The project's folder.

    Raises:
        SystemExit: It failed; with what it printed.
    """
    most, ended = [0], threading.Event()
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores is not None else []
    began, began_s = time.time(), time.monotonic()
    process = subprocess.Popen(
        [*pinned, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(cwd / "src")} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            most[0] = max(most[0], memory_of_tree(process.pid))
            if look is not None:
                look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - began_s
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"exit code {process.returncode} of {' '.join(command)}:\n{output}")
    return Measured(seconds, most[0] / 1e6, output, began)


@dataclass(frozen=True)
class Trained:
    """One training: its result.json, the whole command, and seconds from the start to the end of the first step."""

    result: dict[str, Any]
    command: Measured
    first_step_s: float

    @property
    def step_ms(self) -> float:
        """Return the milliseconds of a step after the first."""
        return float(1e3 * self.result["phases"]["steps_s"] / (self.result["steps"] - 1))


def train(overrides: Sequence[str], cores: Sequence[int] | None = None) -> Trained:
    """Train as `make train` does, into a folder that is gone afterwards."""
    begun: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        runs = pathlib.Path(name)

        def look() -> None:  # the first line of the trace is written just before the first step
            if not begun:
                begun.extend(path.stat().st_mtime for path in runs.glob(f"*/*/*/{TRACE}") if path.stat().st_size)

        words = " ".join([*overrides, f"paths.runs={runs}"])
        done = run(["make", "-s", "train", f"OVERRIDES={words}"], cores, look=look)
        (path,) = runs.glob(f"*/*/*/{RESULT}")
        result = read_json(path)
    return Trained(result, done, begun[0] - done.began + result["phases"]["first_step_s"])


def median_and_range(values: Sequence[float], form: str = ".1f") -> str:
    """Return "median (least to most)"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of what was measured in the same turns."""
    return [value / other for value, other in zip(values, others, strict=True)]


def describe_this_machine() -> str:
    """Return the CPU's model, its usable cores and its caches, in words."""
    cpu = describe_cpu()
    caches = ", ".join(f"{name} {size}" for name, size in cpu["caches"].items())
    return f"{cpu['model']}, {cpu['cores_usable']} cores, {caches}"
