"""The training loop: Keras's `fit`, that can stop at any step and resume with the same bits and the same rows.

Epochs, callbacks, validation and `stop_training` mean what they mean in Keras. `steps` computes, the feed gives the
batches, `recorder` and `checkpoints` write. Each is an argument, so a test can replace it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import keras
import numpy as np

from samebits.core.digest import arrays_digest
from samebits.core.errors import StopRequestedError, TrainingError, first_names
from samebits.core.metrics import Monitor
from samebits.train.callbacks import Callbacks
from samebits.train.checkpoints import Checkpoints, Position, State
from samebits.train.draws import GeneratorWatch
from samebits.train.logs import Logs, numbers
from samebits.train.recorder import Recorder
from samebits.train.resuming import as_bits, begin, skip, state_of
from samebits.train.shards import Exchange
from samebits.train.stages import Stage
from samebits.train.steps import Steps

AFTER_TRAINING = 1  # `part` of a row of the trace that follows the end of an epoch
CALL_S = 0.2  # target duration of a call of several steps; between calls Python checks signals and generators


class Training:
    """One training, from its start or its newest checkpoint to its end.

    Args:
        steps: Computes the steps.
        callbacks: The callbacks.
        recorder: Writes rows and progress, and has the clock.
        checkpoints: Writes and restores checkpoints.
        stage: Its settings: epochs, and how often to log and to save. Callbacks count the epochs of the stage alone.
        watch: Detects draws from global generators.
        start: The first row of the trace: generators, data, operations that run Python code.
        data_seeded: Whether every start loads the same data.
        stop_requested: Called after every call of steps. True stops the training with a checkpoint.
        exchange: Lets several processes agree on the steps of a call and on a stop.

    Attributes:
        values: The metrics of the last epoch, or of the weights that are kept at the end.
        best_epoch: The best epoch by EarlyStopping or by the monitor; known at the end.
        was_skipped: Whether an earlier process trained this stage to its end.
        ended: Its state at that end.
    """

    def __init__(
        self,
        steps: Steps,
        callbacks: Callbacks,
        recorder: Recorder,
        checkpoints: Checkpoints,
        stage: Stage,
        *,
        watch: GeneratorWatch,
        start: dict[str, Any],
        data_seeded: bool,
        stop_requested: Callable[[], bool],
        exchange: Exchange,
    ) -> None:
        self.steps, self.callbacks, self.recorder, self.checkpoints = steps, callbacks, recorder, checkpoints
        self.stage, self.settings, self.trace, self.watch = stage, stage.config.training, stage.config.trace, watch
        self.start, self.data_seeded, self.stop_requested = start, data_seeded, stop_requested
        self.exchange = exchange
        self.feed, self.model = steps.train_feed, steps.model
        self.epochs_before, self.position = stage.epochs_before, Position(stage.epochs_before + 1)
        self.values: dict[str, float] = {}
        self.logs: Logs = {}  # of the last step
        self.steps_done = 0
        self.steps_per_call = 1
        self.was_skipped = False
        self.ended: State | None = None
        self.best_epoch: int | None = None

    def run(self) -> dict[str, int] | None:
        """Train to the end.

        Returns:
            The epoch and step at which the run was resumed, or None.

        Raises:
            StopRequestedError: A stop was requested. The checkpoint is saved.
            DataError: The run would resume with different data.
            TrainingError: The loss or a weight is not finite.
            UncoveredDrawError: A global generator was used.
        """
        if skip(self):
            return None
        resumed_at, position = begin(self), self.position
        while position.epoch <= self.stage.last_epoch and (position.step or not self.model.stop_training):
            self.train_epoch()
            position = self.position
        finish(self)
        return resumed_at

    def train_epoch(self) -> None:
        """Train an epoch from its start or in its middle, evaluate, record and save."""
        if self.position.step == 0:
            self.model.reset_metrics()
            self.callbacks.call("on_epoch_begin", self.epoch_index())
        while self.position.step < self.feed.steps and self.take_steps():
            pass
        self.end_epoch()

    def epoch_index(self) -> int:
        """Return the number of the epoch that callbacks get: counted from 0 in each stage, or from `initial_epoch`."""
        return self.position.epoch - self.epochs_before - 1 + self.stage.initial_epoch

    def take_steps(self) -> bool:
        """Train on the next batches, and record, save and check for a stop as needed. False: the model stops training.

        The result is a pure function of the state before and the batches of the epoch. The number of steps per call
        depends on the duration of the last call, and does not change bits.
        """
        position, recorder = self.position, self.recorder
        wanted = 0 if self.model.stop_training else self.count_next()
        count, stops = self.exchange.agree(wanted, self.stop_requested)
        if stops:
            stop(self)
        if not count:
            return False
        began, at = recorder.clock(), position.step
        if self.callbacks.on_batches:
            self.callbacks.call("on_train_batch_begin", at)
        gradients: Mapping[str, Any] = {}
        with recorder.timed_once("first_step_s"):
            if self.is_watched():
                one, gradients = self.steps.train_one(at)
                results = [one]
            else:
                results = self.steps.train_many(at, count)
        self.steps_per_call = max(1, round(CALL_S * count / max(recorder.clock() - began, 1e-9)))
        for logs in results:
            position.step += 1
            self.steps_done += 1
            check_finite(self, logs, f"in epoch {position.epoch}, step {position.step}")
            recorder.progress.show(position.epoch, position.step, logs)
        self.logs = results[-1]
        if self.callbacks.on_batches:
            self.callbacks.call("on_train_batch_end", at, logs=self.logs)
        self.check_draws()
        self.record_steps(at, gradients)
        return True

    def record_steps(self, at: int, gradients: Mapping[str, Any]) -> None:
        """Record the steps of a call, stop if requested, and save if it is time."""
        position, recorder = self.position, self.recorder
        is_last = position.step == self.feed.steps
        with recorder.timed("record_s"):
            if is_traced(self):
                trace_step(self, at, gradients)
            if position.step % self.settings.log_every == 0 and not is_last:
                recorder.append_metrics(position.epoch, position.step, self.logs)
        if self.exchange.workers == 1 and self.stop_requested():
            stop(self)
        if position.step % self.settings.checkpoint_every == 0 and not is_last:
            self.save()

    def is_watched(self) -> bool:
        """Return whether each step needs its own call: it is traced, or needs that, or a callback sees it."""
        return is_traced(self) or self.steps.one_by_one or self.callbacks.on_batches

    def count_next(self) -> int:
        """Return the number of steps of the next call. It ends at the next record and has batches of one shape."""
        if self.is_watched():
            return 1
        step = self.position.step
        intervals = self.settings.log_every, self.settings.checkpoint_every
        until = (every - step % every for every in intervals)
        return max(1, min(self.steps_per_call, self.feed.steps - step, self.feed.equal_batches(step), *until))

    def end_epoch(self) -> None:
        """Evaluate, record metrics and trace, and save a checkpoint at the start of the next epoch."""
        position, recorder = self.position, self.recorder
        values = self.steps.results(self.logs) | self.evaluate()
        check_finite(self, values, f"after epoch {position.epoch}")
        check_finite_weights(self)
        values = self.values = numbers(self.callbacks.call("on_epoch_end", self.epoch_index(), logs=values))
        self.check_draws()
        check_same_state(self, f"after epoch {position.epoch}")
        with recorder.timed("record_s"):
            recorder.append_metrics(position.epoch, position.step, values)
            trace_epoch(self)
        recorder.progress.end_epoch(position.epoch, values)
        self.position = Position(position.epoch + 1)
        self.feed.start_epoch(self.position.epoch)
        self.save()

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the validation rows, named val_…, and call the hooks of an evaluation."""
        if self.steps.validation_feed is None or not self.stage.evaluates(self.epoch_index()):
            return {}
        with self.recorder.timed("evaluate_s"):
            self.callbacks.call("on_test_begin")
            found = self.steps.evaluate(self.callbacks.call if self.callbacks.on_test_batches else None)
            self.callbacks.call("on_test_end", logs=found)
        return evaluation_names(found)

    def check_draws(self) -> None:
        """Check that the global generators were not used.

        Raises:
            UncoveredDrawError: One was.
        """
        self.watch.check(self.position.epoch, self.position.step)

    def save(self) -> None:
        """Write a checkpoint, after the rows that it counts are on the disk."""
        with self.recorder.timed("record_s"):
            self.checkpoints.save(state_of(self))


def finish(training: Training) -> None:
    """Do what Keras does at the end of `fit`, and if this changes the weights, find the metrics of the new ones."""
    best = training.callbacks.best_epoch(Monitor(training.settings.monitor, training.settings.monitor_mode))
    training.best_epoch = None if best is None else training.epochs_before + best
    before = arrays_digest(training.steps.weight_digests())
    optimizer = training.model.optimizer
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer.finalize_variable_values(training.model.trainable_weights)
    training.callbacks.call("on_train_end", logs=training.values)
    check_same_state(training, "at the end")
    after = arrays_digest(training.steps.weight_digests())
    if after == before:
        return
    kept = training.recorder.metrics_of(after, training.epochs_before)
    training.values = {**training.values, **evaluation_names(training.steps.evaluate())} if kept is None else kept
    place, evidence = {"epoch": training.position.epoch - 1, "part": AFTER_TRAINING}, {"bits": as_bits(training.values)}
    with training.recorder.timed("record_s"):
        training.recorder.append_trace(place, evidence, training.steps.weight_digests())


def check_same_state(training: Training, when: str) -> None:
    """Check that all processes of a training have the same weights, optimizer and `stop_training`.

    Raises:
        TrainingError: They differ.
    """
    if training.exchange.workers > 1:
        state = {
            "weights": arrays_digest(training.steps.weight_digests()),
            "optimizer state": training.steps.optimizer_digest(),
            "stop_training": str(training.model.stop_training),
        }
        training.exchange.check_same({f"{name} {when}": value for name, value in state.items()})


def is_traced(training: Training) -> bool:
    """Return whether the trace records the steps of this epoch."""
    return training.trace.level != "epoch" and training.trace.epoch in (0, training.position.epoch)


def stop(training: Training) -> NoReturn:
    """Stop, at the same step as the other processes, with a checkpoint; the start of an epoch has one already.

    Raises:
        StopRequestedError: Always.
    """
    if training.position.step:
        training.save()
    raise StopRequestedError


def trace_step(training: Training, at: int, gradients: Mapping[str, Any]) -> None:
    """Append one step to the trace, in the order of events."""
    evidence: dict[str, Any] = {**training.feed.digests(at), "loss": as_bits(training.logs)}
    if training.trace.level == "stage":
        evidence |= training.steps.gradient_digests(gradients)
    place = {"epoch": training.position.epoch, "step": training.position.step}
    training.recorder.append_trace(place, evidence, training.steps.weight_digests())


def trace_epoch(training: Training) -> None:
    """Append the end of an epoch to the trace."""
    evidence = {
        "order": training.feed.order_digest(),
        "bits": as_bits(training.values),
        "optimizer": training.steps.optimizer_digest(),
    }
    training.recorder.append_trace({"epoch": training.position.epoch}, evidence, training.steps.weight_digests())


def evaluation_names(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of the validation rows with their names in the record."""
    return {f"val_{name}": value for name, value in values.items()}


def is_strict(training: Training) -> bool:
    """Return whether a value that is not finite is an error, and not the business of the script or of a callback."""
    return training.stage.strict and not training.callbacks.has(keras.callbacks.TerminateOnNaN)


def check_finite(training: Training, values: Mapping[str, float], where: str) -> None:
    """Check that every loss is finite, unless the stage is not strict or the user has a callback for that.

    Raises:
        TrainingError: One is not. The message has its name and the step.
    """
    if not is_strict(training):
        return
    for name, value in values.items():
        if name.endswith("loss") and not math.isfinite(value):
            raise TrainingError(
                f"the {name.replace('val_', 'validation ')} is not finite {where}.",
                expected="a finite loss",
                received=value,
                fix="lower the learning rate, or check the data for invalid values.",
            )


def check_finite_weights(training: Training) -> None:
    """Check that every trained weight is finite at the end of an epoch.

    The loss need not show it: a layer can hide it, and oneDNN's fused ReLU gives 0 for a value that is not a number.

    Raises:
        TrainingError: One is not. The message has its path.
    """
    if not is_strict(training):
        return
    weights = [weight.path for weight in training.model.trainable_weights if not np.isfinite(weight.numpy()).all()]
    if weights:
        raise TrainingError(
            f"weights are not finite after epoch {training.position.epoch}: {first_names(weights)}.",
            expected="finite weights",
            received="infinite values, or values that are not numbers",
            fix="lower the learning rate, or check the data for invalid values.",
        )
