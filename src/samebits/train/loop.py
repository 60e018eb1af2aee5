"""The training loop: decides when to train, evaluate, record and save.

A run that stops at any step resumes from its newest checkpoint, and ends with the same bits and the same rows. `steps`
computes, `data` chooses the rows, `recorder` and `checkpoints` write. Each is an argument, so a test can replace it.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from samebits.core.config import TraceConfig, TrainingConfig
from samebits.core.digest import float_bits
from samebits.core.errors import StopRequestedError
from samebits.runs.folder import TRACE
from samebits.train.checkpoints import Checkpoints, Position, State
from samebits.train.data import Batches, check_same_data
from samebits.train.draws import GeneratorWatch
from samebits.train.recorder import Recorder
from samebits.train.steps import EpochMetrics, StepResult, Steps, check_finite

logger = logging.getLogger(__name__)

CALL_S = 0.2  # target duration of a call of several steps; between calls Python checks signals and generators


class Training:
    """One training, from its start or its newest checkpoint to its last epoch.

    Args:
        steps: Computes the steps.
        batches: Chooses the rows of each step.
        recorder: Writes rows and progress, and has the clock.
        checkpoints: Writes and restores checkpoints.
        settings: Epochs, and how often to log and to save.
        trace: The detail of the trace.
        watch: Detects draws from global generators.
        start: The first row of the trace: generators, data, operations that run Python code.
        data_seeded: Whether every start loads the same data.
        stop_requested: Called after every call of steps. True stops the training with a checkpoint.
    """

    def __init__(
        self,
        steps: Steps,
        batches: Batches,
        recorder: Recorder,
        checkpoints: Checkpoints,
        settings: TrainingConfig,
        *,
        trace: TraceConfig,
        watch: GeneratorWatch,
        start: dict[str, Any],
        data_seeded: bool,
        stop_requested: Callable[[], bool],
    ) -> None:
        self.steps, self.batches, self.recorder, self.checkpoints = steps, batches, recorder, checkpoints
        self.settings, self.trace, self.watch = settings, trace, watch
        self.start, self.data_seeded, self.stop_requested = start, data_seeded, stop_requested
        self.position, self.metrics = Position(), EpochMetrics()
        self.logits: np.ndarray | None = None  # of the last evaluation
        self.steps_per_call = 1

    def run(self) -> dict[str, int] | None:
        """Train to the end.

        Returns:
            The epoch and step at which the run was resumed, or None.

        Raises:
            StopRequestedError: A stop was requested. The checkpoint is saved.
            DataError: The run would resume with different data.
            TrainingError: The loss is not finite.
            UncoveredDrawError: A global generator was used.
        """
        resumed_at = self.begin()
        while self.position.epoch <= self.settings.epochs:
            while self.position.step < self.batches.steps:
                self.take_steps()
            self.end_epoch()
        return resumed_at

    def begin(self) -> dict[str, int] | None:
        """Start, or resume from the newest checkpoint. Returns its epoch and step, or None."""
        written, data, recorder = self.recorder.read(), self.start["data"], self.recorder
        first = written[TRACE][0].get("data") if written[TRACE] else None
        if first != data and not self.data_seeded:
            if written[TRACE]:
                logger.warning("the run restarts: its data is unseeded and differs from its first start")
            self.checkpoints.remove()
        state = self.checkpoints.restore({kind: len(rows) for kind, rows in written.items()})
        if state is None:
            recorder.keep({})
            with recorder.timed("record_s"):
                recorder.append_trace({"epoch": 0}, self.start, self.steps.weight_digests())
            return None
        check_same_data(first or {}, data)
        recorder.keep(state.rows)
        self.position, self.metrics = state.position, EpochMetrics.from_state(state.metrics)
        self.batches.order = state.order
        epoch, step = state.position.epoch, state.position.step
        recorder.progress.start_at(epoch, step)
        recorder.progress.say(f"resumes after epoch {epoch}, step {step} of {self.batches.steps}")
        return {"epoch": epoch, "step": step}

    def take_steps(self) -> None:
        """Train on the next batches, and record, save and check for a stop as needed.

        The result is a pure function of the state before and the order of the epoch. The number of steps per call
        depends on the duration of the last call, and does not change bits.
        """
        position, recorder = self.position, self.recorder
        count, began = self.count_next(), recorder.clock()
        rows = self.batches.rows(position.step, count)
        with recorder.timed_once("first_step_s"):
            results = [self.steps.train_one(rows)] if self.is_watched() else self.steps.train_many(rows, count)
        self.steps_per_call = max(1, round(CALL_S * count / max(recorder.clock() - began, 1e-9)))
        for result in results:
            position.step += 1
            self.metrics.add(result)
            check_finite(result.loss, f"loss in epoch {position.epoch}, step {position.step}")
            recorder.progress.show(position.epoch, position.step, self.metrics.values())
        self.watch.check(position.epoch, position.step)
        is_last = position.step == self.batches.steps
        with recorder.timed("record_s"):
            if self.is_traced():
                self.record_step(rows, results[0])
            if position.step % self.settings.log_every == 0 and not is_last:
                recorder.append_metrics(position.epoch, position.step, self.metrics.values())
        if self.stop_requested():
            self.save()
            raise StopRequestedError
        if position.step % self.settings.checkpoint_every == 0 and not is_last:
            self.save()

    def is_traced(self) -> bool:
        """Return whether the trace records the steps of this epoch."""
        return self.trace.level != "epoch" and self.trace.epoch in (0, self.position.epoch)

    def is_watched(self) -> bool:
        """Return whether each step needs its own call, because it is traced or runs Python code."""
        return self.is_traced() or bool(self.steps.opaque)

    def count_next(self) -> int:
        """Return the number of steps of the next call. It ends at the next record and has only full batches."""
        if self.is_watched():
            return 1
        step = self.position.step
        intervals = self.settings.log_every, self.settings.checkpoint_every
        until = (every - step % every for every in intervals)
        return max(1, min(self.steps_per_call, self.batches.steps - step, self.batches.full_batches_left(step), *until))

    def record_step(self, rows: np.ndarray, result: StepResult) -> None:
        """Append one step to the trace, in the order of events."""
        evidence: dict[str, Any] = {**self.batches.digests(rows), "loss": float_bits(result.loss)}
        if self.trace.level == "stage":
            evidence["gradients"] = self.steps.gradient_digests(result.gradients)
        place = {"epoch": self.position.epoch, "step": self.position.step}
        self.recorder.append_trace(place, evidence, self.steps.weight_digests())

    def end_epoch(self) -> None:
        """Evaluate, record metrics and trace, and save a checkpoint at the start of the next epoch."""
        position, recorder = self.position, self.recorder
        with recorder.timed("evaluate_s"):
            validation, self.logits = self.steps.evaluate()
        check_finite(validation["loss"], f"validation loss after epoch {position.epoch}")
        self.watch.check(position.epoch, position.step)
        values = self.metrics.values() | {f"val_{name}": value for name, value in validation.items()}
        with recorder.timed("record_s"):
            recorder.append_metrics(position.epoch, position.step, values)
            evidence = {
                "order": self.batches.order_digest(),
                "bits": {name: float_bits(value) for name, value in values.items()},
                "optimizer": self.steps.optimizer_digest(),
            }
            recorder.append_trace({"epoch": position.epoch}, evidence, self.steps.weight_digests())
        recorder.progress.end_epoch(position.epoch, values)
        self.position, self.metrics = Position(position.epoch + 1), EpochMetrics()
        self.batches.start_epoch(self.position.epoch)
        self.save()

    def save(self) -> None:
        """Write a checkpoint, after the rows that it counts are on the disk."""
        with self.recorder.timed("record_s"):
            self.recorder.sync()
            state = State(self.position, self.metrics.state(), self.batches.order, self.recorder.counts)
            self.checkpoints.save(state)
