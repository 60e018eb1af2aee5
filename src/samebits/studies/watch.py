"""Shows the running trainings. Only reads their folders and takes no lock, so it does not affect them."""

import contextlib
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from samebits.core.errors import SamebitsError
from samebits.core.metrics import VALIDATION, Monitor, base_name, order_names
from samebits.core.terminal import describe_value, describe_values, print_table
from samebits.runs.folder import CONFIG, LOCK, LOG, METRICS, is_finished, list_all_attempts, metric_values, read_yaml
from samebits.studies.read_runs import run_key

REFRESH_S = 1.0
TAIL_BYTES = 65_536
MAX_SHOWN = 3  # metrics of training
LOCKS = pathlib.Path("/proc/locks")
RECENT_S = 60.0  # without a visible lock, a run with a row younger than this counts as running


@dataclass(frozen=True)
class Training:
    """The newest records of a running training; None or "": not recorded yet.

    Attributes:
        values: The metrics of training in the last row.
        monitored: The newest value of the monitored metric, in words.
    """

    key: str
    epoch: str
    step: str
    values: dict[str, float]
    monitored: str
    age_s: float | None
    rate: str


def locked_files(locks: pathlib.Path = LOCKS) -> set[tuple[int, int, int]]:
    """Return (device major, device minor, inode) of every locked file; empty if the system does not list locks."""
    try:
        text = locks.read_text(encoding="ascii")
    except (OSError, ValueError):
        return set()
    found = re.findall(r"FLOCK\s+ADVISORY\s+WRITE\s+-?\d+\s+([0-9a-f]+):([0-9a-f]+):(\d+)", text)
    return {(int(major, 16), int(minor, 16), int(inode)) for major, minor, inode in found}


def tail(path: pathlib.Path) -> list[str]:
    """Return the last complete lines of a growing file; none for a missing file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            return stream.read().decode("utf-8", "replace").split("\n")[:-1]
    except OSError:
        return []


def newest_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the last complete rows of metrics, newest first."""
    for line in reversed(tail(path)):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def describe_monitored(rows: Sequence[dict[str, Any]], monitor: str) -> str:
    """Return the newest value of the monitored metric, in words.

    Args:
        rows: The last rows, newest first. Only the last row of an epoch has validation metrics.
        monitor: The metric.
    """
    row = next((row for row in rows if isinstance(row.get(monitor), float)), None)
    if row is None:
        return f"no {monitor} in the last rows" if rows else ""
    return f"{monitor} {describe_value(row[monitor])} (epoch {row.get('epoch')})"


def is_running(attempt: pathlib.Path, locked: set[tuple[int, int, int]], now: float) -> bool:
    """Return whether an attempt is training: its lock is held, or its last row is recent."""
    if is_finished(attempt) or not (attempt / CONFIG).is_file():
        return False
    try:
        status = (attempt / LOCK).stat()
        if (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino) in locked:
            return True
        return now - (attempt / METRICS).stat().st_mtime < RECENT_S
    except OSError:
        return False


def read_training(attempt: pathlib.Path, now: float) -> Training:
    """Return the newest records of a training."""
    rows, log = list(newest_rows(attempt / METRICS)), "\n".join(tail(attempt / LOG))
    row, epochs, monitor = rows[0] if rows else {}, "?", Monitor().name
    try:
        training = read_yaml(attempt / CONFIG)["training"]
        epochs, monitor = training["epochs"], Monitor.of(training).name
        age_s = now - (attempt / METRICS).stat().st_mtime
    except (SamebitsError, OSError, KeyError, TypeError):
        age_s = None
    steps = re.findall(r"step \d+/(\d+)", log)[-1:]
    rates = re.findall(r"(\d+ steps/s)", log)[-1:]
    values = {name: value for name, value in metric_values(row).items() if isinstance(value, float)}
    names = [name for name in order_names(values, base_name(monitor)) if not name.startswith(VALIDATION)]
    return Training(
        key=run_key(attempt),
        epoch=f"{row['epoch']}/{epochs}" if "epoch" in row else "",
        step=f"{row['step']}/{steps[0] if steps else '?'}" if "step" in row else "",
        values={name: values[name] for name in names[:MAX_SHOWN]},
        monitored=describe_monitored(rows, monitor),
        age_s=age_s,
        rate=rates[0] if rates else "",
    )


def find_trainings(runs: pathlib.Path) -> list[Training]:
    """Return the running trainings in a folder of runs, sorted by folder."""
    locked, now = locked_files(), time.time()
    return [read_training(path, now) for path in list_all_attempts(runs) if is_running(path, locked, now)]


def make_table(trainings: list[Training]) -> Table:
    """Return the table of running trainings."""
    heads = ("run", "epoch", "step", "training", "monitored", "last row", "rate")
    table = Table(*heads, title=f"{len(trainings)} running")
    for row in trainings:
        age = f"{row.age_s:.0f} s ago" if row.age_s is not None else "none yet"
        table.add_row(row.key, row.epoch, row.step, describe_values(row.values), row.monitored, age, row.rate)
    return table


def watch(runs: pathlib.Path) -> int:
    """Show running trainings until Ctrl-C; without a terminal, print them once."""
    if not sys.stdout.isatty():
        print_table(make_table(find_trainings(runs)))
        return 0
    with Live(make_table(find_trainings(runs)), console=Console(), auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(make_table(find_trainings(runs)), refresh=True)
