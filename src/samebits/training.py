"""The training loop, readable from top to bottom: order, step, metrics, trace, checkpoint.

A run that stops at any step goes on from its newest checkpoint and ends with the same bits and the same rows. Knows
nothing of processes, seeds of the environment or trackers.
"""

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from samebits import layers
from samebits.checkpoints import Checkpoints, Position
from samebits.config import TraceConfig, TrainingConfig
from samebits.data import Dataset, Split, epoch_order
from samebits.digest import array_digest, arrays_digest, float_bits
from samebits.draws import GeneratorWatch, check_graph_draws, opaque_operations
from samebits.errors import ConfigError, StopRequestedError, TrainingError
from samebits.optimizers import Adam
from samebits.progress import TrainingProgress
from samebits.record import METRICS, TRACE, append_row, keep_rows, read_rows
from samebits.runtime import first_draws
from samebits.seeds import Seeds

EVALUATION_BATCH_SIZE = 500  # a constant of the recipe: the bits depend on it
LOSSES: dict[str, tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]] = {
    "binary_crossentropy": (layers.binary_crossentropy_from_logits, layers.count_correct_binary),
}
OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {"adam": Adam}


TrainStep = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor, list[Any]]]


def weight_digests(model: keras.Model) -> dict[str, str]:
    """Return the digest of each weight, by its path (seed generators are no weights)."""
    return {variable.path: array_digest(variable.path, variable.numpy()) for variable in model.weights}


def optimizer_digest(optimizer: keras.optimizers.Optimizer) -> str:
    """Return one digest of the optimiser's state."""
    return arrays_digest({v.path: array_digest(v.path, v.numpy()) for v in optimizer.variables})


def make_train_step(model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: str, train: Split) -> TrainStep:
    """Return the traced function of one step.

    The gradients are always among its results, so that a detailed trace runs the very same graph.

    Returns:
        A function from int32[batch] row numbers to (mean loss float32[], correct int32[], gradients by weight).

    Raises:
        UncoveredDrawError: The step draws from a stateful generator.
    """
    inputs, labels = tf.constant(train.inputs), tf.constant(train.labels, tf.float32)
    row_losses, count_correct = LOSSES[loss]
    optimizer.build(model.trainable_variables)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], jit_compile=False)
    def train_step(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[Any]]:
        batch, truth = tf.gather(inputs, rows), tf.gather(labels, rows)
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            mean_loss = tf.add_n([tf.reduce_mean(row_losses(truth, logits)), *model.losses])
        gradients = tape.gradient(mean_loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return mean_loss, count_correct(truth, logits), gradients

    traced: Any = train_step
    check_graph_draws(traced.get_concrete_function())
    return cast("TrainStep", train_step)  # tf.function is untyped


def make_evaluation(model: keras.Model, loss: str, split: Split) -> Callable[[], tuple[float, float]]:
    """Return a function that gives (mean loss, accuracy) over a split; the sum of losses is rounded once."""
    inputs, labels = tf.constant(split.inputs), tf.constant(split.labels, tf.float32)
    row_losses, count_correct = LOSSES[loss]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], jit_compile=False)
    def evaluate_batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        truth = tf.gather(labels, rows)
        logits = model(tf.gather(inputs, rows), training=False)
        return row_losses(truth, logits), count_correct(truth, logits)

    def evaluate() -> tuple[float, float]:
        rows = np.arange(len(split.labels), dtype=np.int32)
        losses: list[float] = []
        correct = 0
        for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
            batch_losses, batch_correct = evaluate_batch(rows[start : start + EVALUATION_BATCH_SIZE])
            losses += batch_losses.numpy().tolist()
            correct += int(batch_correct)
        return math.fsum(losses) / len(rows), correct / len(rows)

    return evaluate


def check_batch_size(training: TrainingConfig, rows: int) -> None:
    """Refuse a batch that is larger than the training data.

    Raises:
        ConfigError: With the number of rows.
    """
    if training.batch_size > rows:
        raise ConfigError(
            "training.batch_size",
            expected=f"1 to {rows}, the training rows",
            received=training.batch_size,
            fix="choose a smaller batch_size",
        )


def check_finite(loss: float, which: str) -> None:
    """Refuse a loss that is infinite or not a number.

    Raises:
        TrainingError: Names the loss.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"the {which} is not finite.",
            expected="a finite loss",
            received=loss,
            fix="lower training.learning_rate, or look for invalid values in the data.",
        )


class Training:
    """One training, from its beginning or its newest checkpoint to its last epoch.

    Args:
        model: The built model; outputs logits.
        dataset: Training and validation rows.
        settings: Epochs, batch size, loss, optimiser.
        seeds: Consumes data/order.
        attempt: The run's folder for metrics, trace and checkpoints.
        trace: How finely the trace records.
        stop_requested: Asked after every step; True ends the training with a checkpoint.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Dataset,
        settings: TrainingConfig,
        seeds: Seeds,
        attempt: pathlib.Path,
        trace: TraceConfig,
        stop_requested: Callable[[], bool],
    ) -> None:
        self.model, self.dataset, self.settings, self.seeds = model, dataset, settings, seeds
        self.rows = len(dataset.train.labels)
        steps = math.ceil(self.rows / settings.batch_size)
        self.steps = min(steps, settings.steps_per_epoch or steps)
        self.optimizer = OPTIMIZERS[settings.optimizer](learning_rate=settings.learning_rate)
        self.train_step = make_train_step(model, self.optimizer, settings.loss, dataset.train)
        self.evaluate = make_evaluation(model, settings.loss, dataset.validation)
        self.checkpoints = Checkpoints(attempt, model, self.optimizer)
        self.watch = GeneratorWatch(seeds)
        self.paths = {METRICS: attempt / METRICS, TRACE: attempt / TRACE}
        self.counts = {METRICS: 0, TRACE: 0}
        self.position = Position()
        self.order = epoch_order(seeds, 1, self.rows)
        self.progress = TrainingProgress(settings.epochs, self.steps)
        self.trace = trace
        self.generators = first_draws()
        traced: Any = self.train_step
        self.opaque = opaque_operations(traced.get_concrete_function())
        self.stop_requested = stop_requested
        self.parent = os.getppid()

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The last epoch's metrics, the digests of weights and optimiser, and where it was resumed.

        Raises:
            StopRequestedError: It was asked to stop, after the checkpoint.
            TrainingError: The loss is not finite.
            UncoveredDrawError: Something draws without a seed point.
        """
        try:
            resumed_at = self.begin()
            while self.position.epoch <= self.settings.epochs:
                while self.position.step < self.steps:
                    self.step()
                self.end_epoch()
        finally:
            self.progress.close()
        last = read_rows(self.paths[TRACE])[-1]
        return {
            "metrics": {name: float.fromhex(bits) for name, bits in last["bits"].items()},
            "weights_digest": last["weights"],
            "optimizer_digest": last["optimizer"],
            "steps": self.steps * self.settings.epochs,
            "resumed_at": resumed_at,
        }

    def record(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row to metrics or trace; a checkpoint remembers how many there were."""
        append_row(self.paths[kind], row)
        self.counts[kind] += 1

    def save(self) -> None:
        """Write a checkpoint of everything."""
        self.checkpoints.save(self.position, self.order, self.counts)

    def begin(self) -> dict[str, int] | None:
        """Start, or go on from the newest checkpoint; returns where (None: at the beginning)."""
        restored = self.checkpoints.restore()
        if restored is not None:
            self.position, self.order, self.counts = restored
        for kind, path in self.paths.items():
            keep_rows(path, self.counts[kind])
        self.progress.start_at(self.position.epoch, self.position.step)
        if restored is not None:
            self.progress.say(f"goes on after epoch {self.position.epoch}, step {self.position.step} of {self.steps}")
            return {"epoch": self.position.epoch, "step": self.position.step}
        tensors = weight_digests(self.model)
        data = self.dataset.digests()
        start: dict[str, Any] = {"epoch": 0, "generators": self.generators, "data": data}
        start["opaque"] = self.opaque
        self.record(TRACE, {**start, "weights": arrays_digest(tensors), "tensors": tensors})
        return None

    def step(self) -> None:
        """Train on one batch: a pure function of the state before it and the epoch's order."""
        settings, position = self.settings, self.position
        batch = self.order[position.step * settings.batch_size : (position.step + 1) * settings.batch_size]
        loss, correct, gradients = self.train_step(batch.astype(np.int32))
        position.add(len(batch), float(loss), int(correct))
        check_finite(float(loss), f"loss in epoch {position.epoch}, step {position.step}")
        self.watch.check(position.epoch, position.step)
        self.trace_step(batch, float(loss), gradients)
        self.progress.show(position.epoch, position.step, position.loss, position.accuracy)
        is_last = position.step == self.steps
        if position.step % settings.log_every == 0 and not is_last:
            place = {"epoch": position.epoch, "step": position.step}
            self.record(METRICS, {**place, "loss": position.loss, "accuracy": position.accuracy})
        if self.stop_requested() or os.getppid() != self.parent:
            self.save()
            raise StopRequestedError
        if position.step % settings.checkpoint_every == 0 and not is_last:
            self.save()

    def trace_step(self, batch: np.ndarray, loss: float, gradients: list[Any]) -> None:
        """Record one step in the order in which it happened, where the trace asks for it."""
        level, epoch = self.trace.level, self.trace.epoch
        if level == "epoch" or epoch not in (0, self.position.epoch):
            return
        split = self.dataset.train
        row: dict[str, Any] = {
            "epoch": self.position.epoch,
            "step": self.position.step,
            "order": array_digest("order", batch),
            "batch": array_digest("batch", split.inputs[batch]) + array_digest("labels", split.labels[batch]),
            "loss": float_bits(loss),
        }
        if level == "stage":
            pairs = zip(self.model.trainable_variables, gradients, strict=True)
            row["gradients"] = {v.path: array_digest(v.path, tf.convert_to_tensor(g).numpy()) for v, g in pairs}
        tensors = weight_digests(self.model)
        self.record(TRACE, {**row, "weights": arrays_digest(tensors), "tensors": tensors})

    def end_epoch(self) -> None:
        """Evaluate, record metrics and trace, and save the beginning of the next epoch."""
        position = self.position
        val_loss, val_accuracy = self.evaluate()
        check_finite(val_loss, f"validation loss after epoch {position.epoch}")
        self.watch.check(position.epoch, position.step)
        measured = {
            "loss": position.loss,
            "accuracy": position.accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }
        self.record(METRICS, {"epoch": position.epoch, "step": self.steps, **measured})
        tensors = weight_digests(self.model)
        row = {
            "epoch": position.epoch,
            "order": array_digest("order", self.order),
            "bits": {name: float_bits(value) for name, value in measured.items()},
            "weights": arrays_digest(tensors),
            "optimizer": optimizer_digest(self.optimizer),
            "tensors": tensors,
        }
        self.record(TRACE, row)
        text = "  ".join(f"{name} {value:.4f}" for name, value in measured.items())
        self.progress.say(f"epoch {position.epoch}/{self.settings.epochs}  {text}")
        self.position = Position(epoch=position.epoch + 1)
        self.order = epoch_order(self.seeds, self.position.epoch, self.rows)
        self.save()
