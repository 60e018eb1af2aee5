"""Runs a script twice, side by side, under conditions that differ, and reads what the probe recorded.

Each process works in a copy of the current folder, so that the two do not meet in files that the script writes.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from samebits.core.errors import SamebitsError, UsageError
from samebits.core.notebooks import NOTEBOOK, read_code
from samebits.runs.identity import HARNESS
from samebits.runtime.pins import THREAD_VARIABLES

START = (
    "import sys; sys.path.insert(1, {source!r}); import pathlib; from samebits.runtime.probe.process import main; "
    "del sys.path[1]; sys.exit(main(pathlib.Path({trial!r})))"
)
# Of the two processes. Each pair differs in everything that a script should not depend on.
ENVIRONMENTS = (
    {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "2", "TZ": "America/St_Johns", "LC_ALL": "C.UTF-8"},
)
OTHER_HASH_SEEDS = ("31", "47")  # of the second pair
INTRA_OP_THREADS = "4"
PINNED_BY_ENVIRONMENT = {
    "hash": {"PYTHONHASHSEED": "0"},
    "zone": {"TZ": "UTC"},
    "locale": {"LC_ALL": "C.UTF-8"},
    "threads": {"TF_NUM_INTRAOP_THREADS": INTRA_OP_THREADS} | dict.fromkeys(THREAD_VARIABLES, "1"),
}
MAX_FILES = 20_000
MAX_COPIED = 1 << 20  # bytes; larger files become links
LINKED = {".git", ".venv", "venv", "node_modules", "runs", ".cache", "mlruns"}  # folders
MAX_OUTPUT = 3000  # characters of a failed script's output

Start = Callable[[list[str], dict[str, str], pathlib.Path, pathlib.Path, float], int | None]
Row = dict[str, Any]


class ScriptError(SamebitsError):
    """The script failed, or did not end."""


@dataclass(frozen=True)
class Script:
    """The script as a user would run it.

    Attributes:
        path: Its path.
        arguments: Its own arguments.
        folder: The working directory.
        seconds: How long a run may take.
    """

    path: pathlib.Path
    arguments: tuple[str, ...]
    folder: pathlib.Path
    seconds: float

    @property
    def base(self) -> pathlib.Path:
        """The folder to which the names of files in the records are relative."""
        return self.folder if self.path.is_relative_to(self.folder) else self.path.parent

    @property
    def name(self) -> str:
        """The name of the script in the records."""
        return self.path.relative_to(self.base).as_posix()


@dataclass(frozen=True)
class Trial:
    """What one pair of processes changes.

    Attributes:
        pins: The names of the pinned sources.
        changed: File -> its text in this trial.
        environment: Variables of both processes.
        hash_seeds: Two others than the usual ones.
    """

    pins: frozenset[str] = frozenset()
    changed: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    hash_seeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """What one process did.

    Attributes:
        code: Its exit code; None: it did not end in time.
        rows: The digests of what it computed.
        events: The uses of sources of randomness.
        error: Its last error, if there was one.
        output: What it printed.
    """

    code: int | None
    rows: list[Row]
    events: list[Row]
    error: Row
    output: str


def start_process(
    command: list[str], environment: dict[str, str], folder: pathlib.Path, output: pathlib.Path, seconds: float
) -> int | None:
    """Run a command, and return its exit code; None: it did not end in time and was killed."""
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # and the processes that the script started
        process.wait()


class Trials:
    """Runs trials of one script, each at most once.

    Args:
        script: The script.
        start: Runs a command; see `start_process`.
        say: Gets a line about each trial.

    Attributes:
        in_place: Whether the processes work in the script's own folder.
    """

    def __init__(
        self, script: Script, start: Start = start_process, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.script, self.start, self.say = script, start, say
        self.in_place = script.base != script.folder or count_files(script.folder) > MAX_FILES
        # The probe reads no notebook, so that it imports little before the script does.
        self._texts = {script.name: read_code(script.path)[0]} if script.path.suffix == NOTEBOOK else {}
        self._done: dict[frozenset[str], tuple[Record, Record]] = {}

    def run(self, trial: Trial) -> tuple[Record, Record]:
        """Return the records of the two processes of a trial."""
        known = not trial.changed and not trial.environment and not trial.hash_seeds
        if known and trial.pins in self._done:
            return self._done[trial.pins]
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="samebits-check-") as name:
            folder = pathlib.Path(name)
            with ThreadPoolExecutor(1 if self.in_place else 2) as pool:
                first, second = pool.map(lambda number: self._process(trial, number, folder), (0, 1))
        self.say(f"{describe(trial)}: {time.monotonic() - began:.1f} s")
        if known:
            self._done[trial.pins] = first, second
        return first, second

    def _process(self, trial: Trial, number: int, folder: pathlib.Path) -> Record:
        """Run one of the two processes, in its own copy of the folder."""
        place = self.script.folder
        if not self.in_place:
            place = folder / f"run{number + 1}"
            copy_folder(self.script.folder, place)
        path = place / self.script.path.relative_to(self.script.folder) if not self.in_place else self.script.path
        cores = sorted(os.sched_getaffinity(0))
        record, output, options = (folder / f"{kind}{number}" for kind in ("record", "output", "options"))
        folders = [place, self.script.folder, *([path.parent] if self.in_place else [])]
        options.write_text(
            json.dumps({
                "cores": cores[:1] if number == 0 else cores[:2], "second": number == 1, "pins": sorted(trial.pins),
                "folders": list(map(str, folders)), "changed": self._texts | dict(trial.changed), "record": str(record),
                "script": str(path), "arguments": list(self.script.arguments),
            })
        )  # fmt: skip
        environment = dict(os.environ) | ENVIRONMENTS[number] | dict(trial.environment)
        if trial.hash_seeds:
            environment["PYTHONHASHSEED"] = trial.hash_seeds[number]
        for pin in trial.pins & PINNED_BY_ENVIRONMENT.keys():
            environment |= PINNED_BY_ENVIRONMENT[pin]
        code = START.format(source=str(HARNESS.parent), trial=str(options))
        ended = self.start([sys.executable, "-c", code], environment, place, output, self.script.seconds)
        return read_record(record, ended, output.read_text(encoding="utf-8", errors="replace"))


def describe(trial: Trial) -> str:
    """Return a trial in words, for the progress."""
    if trial.changed or trial.environment:
        return "two runs of the changed script"
    return f"two runs with {', '.join(sorted(trial.pins))} fixed" if trial.pins else "two runs"


def read_record(path: pathlib.Path, code: int | None, output: str) -> Record:
    """Return the record of a process."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a process that was killed
            rows.append(json.loads(line))
    return Record(
        code,
        [row for row in rows if "digest" in row and "row" in row],
        [row for row in rows if "event" in row],
        next((row for row in rows if "error" in row), {}),
        output,
    )


def count_files(folder: pathlib.Path) -> int:
    """Return the number of files in a folder, or a number above the limit."""
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LINKED]
        count += len(files)
        if count > MAX_FILES:
            break
    return count


def copy_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a folder. Large files, and folders that are no part of a script's work, become links."""
    target.mkdir()
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        place = target / entry.name
        if entry.is_symlink() or (entry.is_dir() and entry.name in LINKED):
            place.symlink_to(pathlib.Path(entry.path).resolve())
        elif entry.is_dir():
            if entry.name != "__pycache__":
                copy_folder(pathlib.Path(entry.path), place)
        elif entry.is_file():
            if entry.stat().st_size > MAX_COPIED and not entry.name.endswith(".py"):
                place.symlink_to(entry.path)
            else:
                shutil.copy2(entry.path, place)


def check_ended(records: Iterable[Record], script: Script) -> None:
    """Check that both runs of the unchanged script ended.

    Raises:
        UsageError: The script reads input.
        ScriptError: It failed, or did not end in time.
    """
    for number, record in enumerate(records, 1):
        if record.code == 0:
            continue
        if record.error.get("error") == "EOFError":
            raise UsageError(
                script.path.name, expected="a script that reads no input",
                received=f"line {record.error['line']} reads it",
                fix=f"pass the value as an argument: samebits check-script {script.path.name} -- VALUE",
            )  # fmt: skip
        if record.code is None:
            raise ScriptError(
                f"{script.path.name} did not end.", expected=f"its end within {script.seconds:g} s",
                received="still running",
                fix="use fewer rows or epochs, or allow more time: --seconds 3600",
            )  # fmt: skip
        print(record.output[-MAX_OUTPUT:], file=sys.stderr)
        raise ScriptError(
            f"{script.path.name} failed in run {number} of 2.", expected="exit code 0", received=record.code,
            fix="see its output above; " + (
                "all its cells must run, one after the other" if script.path.suffix == NOTEBOOK
                else f"it must run with: python {script.path.name}"
            ),
        )  # fmt: skip
