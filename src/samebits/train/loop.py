"""The training loop, readable from top to bottom: when a step is taken, recorded and saved.

A run that stops at any step resumes from its newest checkpoint and ends with the same bits and the same rows. What is
computed is in `steps`, which rows in `data`, what is written in `recorder` and `checkpoints`: each is a parameter here,
so a test can put its own in place.
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

CALL_S = 0.2  # about so long a call of several steps takes; between calls Python checks signals and generators


class Training:
    """One training, from its beginning or its newest checkpoint to its last epoch.

    Args:
        steps: What is computed.
        batches: Which rows each step takes.
        recorder: Writes rows and progress, and has the clock.
        checkpoints: Writes and restores checkpoints.
        settings: Epochs, and how often to log and to save.
        trace: How finely the trace records.
        watch: Notices draws from global generators.
        start: What the first row of the trace says: generators, data, opaque operations.
        data_seeded: Whether a second start is bound to load the same data.
        stop_requested: Asked after every call of steps; True ends the training with a checkpoint.
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
            Where the run was resumed; None: it began anew.

        Raises:
            StopRequestedError: It was asked to stop, after the checkpoint.
            DataError: It would resume with other data.
            TrainingError: The loss is not finite.
            UncoveredDrawError: A global generator moved.
        """
        resumed_at = self.begin()
        while self.position.epoch <= self.settings.epochs:
            while self.position.step < self.batches.steps:
                self.take_steps()
            self.end_epoch()
        return resumed_at

    def begin(self) -> dict[str, int] | None:
        """Start, or resume from the newest checkpoint; returns where (None: at the beginning)."""
        written, data, recorder = self.recorder.read(), self.start["data"], self.recorder
        first = written[TRACE][0].get("data") if written[TRACE] else None
        if first != data and not self.data_seeded:
            if written[TRACE]:
                logger.warning("the run begins anew: its data are unseeded, and were drawn otherwise this time")
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
        """Train on the next batches: a pure function of the state before them and the epoch's order.

        How many steps go in one call decides no bits; it follows the time that the last call took.
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
        """Return whether Python looks at every step, or runs in it."""
        return self.is_traced() or bool(self.steps.opaque)

    def count_next(self) -> int:
        """Return how many steps the next call takes: up to the next record, all of whole batches."""
        if self.is_watched():
            return 1
        step = self.position.step
        intervals = self.settings.log_every, self.settings.checkpoint_every
        until = (every - step % every for every in intervals)
        return max(1, min(self.steps_per_call, self.batches.steps - step, self.batches.whole_left(step), *until))

    def record_step(self, rows: np.ndarray, result: StepResult) -> None:
        """Append one step to the trace, in the order in which it happened."""
        evidence: dict[str, Any] = {**self.batches.digests(rows), "loss": float_bits(result.loss)}
        if self.trace.level == "stage":
            evidence["gradients"] = self.steps.gradient_digests(result.gradients)
        place = {"epoch": self.position.epoch, "step": self.position.step}
        self.recorder.append_trace(place, evidence, self.steps.weight_digests())

    def end_epoch(self) -> None:
        """Evaluate, record metrics and trace, and save the beginning of the next epoch."""
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
        """Write a checkpoint of everything, once the rows that it counts are on the disk."""
        with self.recorder.timed("record_s"):
            self.recorder.sync()
            state = State(self.position, self.metrics.state(), self.batches.order, self.recorder.counts)
            self.checkpoints.save(state)
