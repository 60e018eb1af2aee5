"""Shows progress: a bar with rate and time left on a terminal, plain lines elsewhere. Both are logged."""

import logging
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.table import Table
from rich.text import Text

logger = logging.getLogger("samebits.core.terminal")
LINES_PER_EPOCH = 5
MAX_ON_BAR = 4  # metrics; the lines have all
WIDTH_ELSEWHERE = 160  # characters


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal. Outside a terminal it is wide enough for digests."""
    Console(width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE).print(table)


def shown_path(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Return a path relative to the project if it is inside it, else unchanged."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def describe_value(value: float | None, sign: str = "") -> str:
    """Return a metric's value with four decimals, or four digits where these show too little. None: there is none.

    Args:
        value: The value.
        sign: "+": with a sign, for a difference.
    """
    if value is None:
        return "-"
    fits = value == 0 or 0.01 <= abs(value) < 100_000  # noqa: PLR2004
    return format(value, f"{sign}.4{'f' if fits else 'g'}")


def describe_values(values: Mapping[str, float], separator: str = "  ") -> str:
    """Return metrics as readable text."""
    return separator.join(f"{name} {describe_value(value)}" for name, value in values.items())


class _RateColumn(ProgressColumn):
    def render(self, task: ProgressTask) -> Text:
        return Text(f"{task.speed or 0:.0f} steps/s")


class TrainingProgress:
    """Shows the steps of one training.

    Args:
        epochs: Number of epochs.
        steps: Steps per epoch.
        quiet: Whether to show nothing, and only log it.
    """

    def __init__(self, epochs: int, steps: int, *, quiet: bool = False) -> None:
        self._epochs, self._steps, self._quiet = epochs, steps, quiet
        self._line_every = max(1, steps // LINES_PER_EPOCH)
        self._began, self._began_at = time.monotonic(), 0
        self._bar: Progress | None = None
        if sys.stdout.isatty() and not quiet:
            columns = (BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
            self._bar = Progress(TextColumn("{task.description}"), *columns, console=Console(), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("training", total=epochs * steps)

    def start_at(self, epoch: int, step: int) -> None:
        """Set the start of a resumed training: `step` steps of `epoch` are already done."""
        self._began, self._began_at = time.monotonic(), (epoch - 1) * self._steps + step

    def show(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Show that `step` steps of `epoch` (counted from 1) are done, with the metrics of the epoch so far."""
        done = (epoch - 1) * self._steps + step
        if self._bar is not None:
            shown = dict(list(values.items())[:MAX_ON_BAR])
            text = f"epoch {epoch}/{self._epochs}  {describe_values(shown)}"
            self._bar.update(self._task, completed=done, description=text)
        if step % self._line_every == 0 and step < self._steps:
            elapsed_s = max(time.monotonic() - self._began, 1e-9)
            rate = (done - self._began_at) / elapsed_s
            left_s = (self._epochs * self._steps - done) / max(rate, 1e-9)
            line = f"epoch {epoch}/{self._epochs}  step {step}/{self._steps}  {describe_values(values)}"
            self.say(f"{line}  {rate:.0f} steps/s  {left_s:.0f} s left", on_terminal=False)

    def end_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Print the metrics of an epoch."""
        self.say(f"epoch {epoch}/{self._epochs}  {describe_values(values)}")

    def say(self, text: str, *, on_terminal: bool = True) -> None:
        """Print a line, above the bar if there is one, and log it."""
        logger.info("%s", text)
        if self._quiet:
            return
        if self._bar is None:
            print(text, flush=True)
        elif on_terminal:
            self._bar.console.print(text, highlight=False)

    def notice(self, text: str) -> None:
        """Print a line also if nothing else is shown, and log it."""
        logger.info("%s", text)
        print(text, flush=True) if self._bar is None else self._bar.console.print(text, highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


class RunsProgress:
    """Shows the runs of a study: a bar with the time left on a terminal, one line per finished run elsewhere.

    Args:
        runs: Number of runs to do.
    """

    def __init__(self, runs: int) -> None:
        self._runs, self._done, self._began = runs, 0, time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(TextColumn("{task.description}"), *columns, console=Console(), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("runs", total=self._runs)
        return self

    def show(self, text: str) -> None:
        """Show that one more run has ended."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            self._bar.console.print(text, highlight=False, markup=False)
            return
        left_s = (time.monotonic() - self._began) / self._done * (self._runs - self._done)
        print(f"[{self._done}/{self._runs}] {text}  {left_s:.0f} s left", flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
