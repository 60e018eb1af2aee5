"""Writes the record of a training: rows of metrics and trace, progress, and timings.

Gets only numbers and digests, and does not use TensorFlow. Looks up `files.append_row` at each call, so a test can
inject a fault there.
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from samebits.core import files
from samebits.core.digest import arrays_digest
from samebits.core.errors import RecordError
from samebits.core.terminal import TrainingProgress
from samebits.runs.folder import METRICS, TRACE, keep_rows, read_rows

# Timed separately from the steps: the first step, the evaluations, writing the record.
PHASES = ("first_step_s", "evaluate_s", "record_s")


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values that JSON can hold."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Recorder:
    """Writes the record of one training.

    Args:
        attempt: The run's folder for metrics and trace.
        progress: Shows the progress to the user.
        clock: Returns seconds. A test can pass its own.

    Attributes:
        counts: How many rows each file has. Saved in checkpoints.
    """

    def __init__(
        self, attempt: pathlib.Path, progress: TrainingProgress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress, self.clock = progress, clock
        self.counts = {METRICS: 0, TRACE: 0}
        self._paths = {kind: attempt / kind for kind in self.counts}
        self._began = clock()
        self._spent = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the duration of the block to a phase. Blocks must not be nested, or time would count twice."""
        began = self.clock()
        yield
        self._spent[phase] += self.clock() - began

    def timed_once(self, phase: str) -> contextlib.AbstractContextManager[None]:
        """Add the duration of the block to a phase, but only the first time."""
        return contextlib.nullcontext() if self._spent[phase] else self.timed(phase)

    def phases(self) -> dict[str, float]:
        """Return the seconds per phase until now. `steps_s` is the time of all steps after the first call."""
        return {**self._spent, "steps_s": self.clock() - self._began - sum(self._spent.values())}

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows in the files."""
        return {kind: read_rows(path) for kind, path in self._paths.items()}

    def metrics_of(self, weights: str, epochs_before: int) -> dict[str, float] | None:
        """Return the metrics of the last epoch that ended with these weights, or None.

        Args:
            weights: The digest of all weights.
            epochs_before: Epochs of earlier stages, which do not count.
        """
        written = self.read()
        ends = [row for row in written[TRACE] if "step" not in row and row["epoch"] > epochs_before]
        epochs = [row["epoch"] for row in ends if row["weights"] == weights]
        if not epochs:
            return None
        row = [row for row in written[METRICS] if row["epoch"] == epochs[-1]][-1]
        return {name: value for name, value in row.items() if name not in ("epoch", "step")}

    def keep(self, counts: Mapping[str, int]) -> None:
        """Cut the files to this many rows, for a run that resumes from a checkpoint."""
        self.counts = {kind: counts.get(kind, 0) for kind in self._paths}
        for kind, path in self._paths.items():
            keep_rows(path, self.counts[kind])

    def append(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row to metrics or trace."""
        files.append_row(self._paths[kind], row)
        self.counts[kind] += 1

    def append_metrics(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of the epoch so far, without those that are not finite."""
        self.append(METRICS, {"epoch": epoch, "step": step, **finite(values)})

    def append_trace(
        self, place: Mapping[str, int], evidence: Mapping[str, Any], tensors: dict[str, str], weights: str | None = None
    ) -> None:
        """Append a row of the trace.

        Args:
            place: The epoch, and the step if the row is about a step.
            evidence: The stages of the row, as digests and exact bits.
            tensors: The digest of each weight afterwards.
            weights: One digest of all weights; None: computed from `tensors`.
        """
        self.append(TRACE, {**place, **evidence, "weights": weights or arrays_digest(tensors), "tensors": tensors})

    def sync(self) -> None:
        """Flush all rows to the disk."""
        for path in self._paths.values():
            files.sync_file(path)

    def read_complete_trace(self) -> list[dict[str, Any]]:
        """Check that no row was lost during the run, and return the trace.

        Raises:
            RecordError: Another process changed or removed a file during the run.
        """
        written = self.read()
        for kind, rows in written.items():
            if len(rows) != self.counts[kind]:
                raise RecordError(
                    f"{self._paths[kind]} was changed by another process during the run.",
                    expected=f"{self.counts[kind]} rows",
                    received=len(rows),
                    fix="run the same command again with resume=never.",
                )
        return written[TRACE]
