"""Shows the running trainings. Only reads their folders and takes no lock, so it does not affect them."""

import json
import os
import pathlib
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from samebits.core.errors import SamebitsError
from samebits.core.terminal import print_table
from samebits.runs.folder import CONFIG, LOCK, LOG, METRICS, is_finished, list_all_attempts, read_yaml
from samebits.studies.read_runs import run_key

REFRESH_S = 1.0
TAIL_BYTES = 8192
LOCKS = pathlib.Path("/proc/locks")
RECENT_S = 60.0  # without a visible lock, a run with a row younger than this counts as running


@dataclass(frozen=True)
class Training:
    """The newest records of a running training; None or "": not recorded yet."""

    key: str
    epoch: str
    step: str
    loss: float | None
    accuracy: float | None
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


def last_row(path: pathlib.Path) -> dict[str, Any]:
    """Return the last complete row of metrics; empty if there is none."""
    for line in reversed(tail(path)):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return {}


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
    row, log = last_row(attempt / METRICS), "\n".join(tail(attempt / LOG))
    epochs: Any = "?"
    try:
        epochs = read_yaml(attempt / CONFIG)["training"]["epochs"]
        age_s = now - (attempt / METRICS).stat().st_mtime
    except (SamebitsError, OSError, KeyError, TypeError):
        age_s = None
    steps = re.findall(r"step \d+/(\d+)", log)[-1:]
    rates = re.findall(r"(\d+ steps/s)", log)[-1:]
    loss, accuracy = (row.get(name) if isinstance(row.get(name), float) else None for name in ("loss", "accuracy"))
    return Training(
        key=run_key(attempt),
        epoch=f"{row['epoch']}/{epochs}" if "epoch" in row else "",
        step=f"{row['step']}/{steps[0] if steps else '?'}" if "step" in row else "",
        loss=loss,
        accuracy=accuracy,
        age_s=age_s,
        rate=rates[0] if rates else "",
    )


def find_trainings(runs: pathlib.Path) -> list[Training]:
    """Return the running trainings in a folder of runs, sorted by folder."""
    locked, now = locked_files(), time.time()
    return [read_training(path, now) for path in list_all_attempts(runs) if is_running(path, locked, now)]


def make_table(trainings: list[Training]) -> Table:
    """Return the table of running trainings."""
    table = Table("run", "epoch", "step", "loss", "accuracy", "last row", "rate", title=f"{len(trainings)} running")

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    for row in trainings:
        age = f"{number(row.age_s, '.0f')} s ago" if row.age_s is not None else "none yet"
        table.add_row(
            row.key,
            row.epoch,
            row.step,
            number(row.loss, ".4f"),
            number(row.accuracy, ".4f"),
            age,
            row.rate,
        )
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
