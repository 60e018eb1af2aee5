"""The training loop, readable from top to bottom: order, step, metrics, trace, checkpoint.

A run that stops at any step goes on from its newest checkpoint and ends with the same bits and the same rows. Knows
nothing of processes, seeds of the environment or trackers.
"""

import contextlib
import functools
import importlib
import inspect
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from samebits.core.config import TraceConfig, TrainingConfig
from samebits.core.digest import array_digest, arrays_digest, changed_names, float_bits
from samebits.core.errors import ConfigError, DataError, RecordError, StopRequestedError, TrainingError
from samebits.core.files import append_row, storage_error, sync_file
from samebits.core.seeds import Seeds
from samebits.core.terminal import TrainingProgress
from samebits.portable import graph_check, losses
from samebits.portable.optimizers import Adagrad, Adam, RMSprop
from samebits.runs.folder import METRICS, TRACE, keep_rows, read_rows
from samebits.runs.predictions import write_predictions
from samebits.runtime.pins import first_draws
from samebits.train.checkpoints import Checkpoints, Position
from samebits.train.data import Dataset, Split, epoch_order
from samebits.train.draws import GeneratorWatch, check_graph_draws, graph_nodes, opaque_operations

logger = logging.getLogger(__name__)

EVALUATION_BATCH_SIZE = 250  # a constant of the recipe: the bits depend on it
CALL_S = 0.2  # about so long goes on without a look at the clock, at signals, at Python's generators
# What is timed apart from the steps: tracing both functions, the first step, the evaluations, what is written.
PHASES = ("prepare_s", "first_step_s", "evaluate_s", "record_s")
LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "binary_crossentropy": losses.binary_crossentropy,
    "sparse_categorical_crossentropy": losses.sparse_categorical_crossentropy,
}
OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "adagrad": Adagrad,
    "adam": Adam,
    "rmsprop": RMSprop,
    "sgd": keras.optimizers.SGD,
}


RowLosses = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
TrainStep = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor, list[Any]]]
TrainSteps = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor]]
EvaluationStep = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def find_named(key: str, name: str, known: Mapping[str, Any]) -> Any:
    """Return a loss or an optimiser by its short name or by package.module.name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            key,
            expected=", ".join(known) + " or package.module.name",
            received=f"{name} ({error})",
            fix="mend the name",
        ) from error


def find_loss(name: str) -> RowLosses:
    """Return the loss of each row, from labels[rows] and the model's outputs, which are logits.

    Args:
        name: A short name, or package.module.name of a function (labels, outputs), or of a Keras loss class; either
            is told from_logits=True if it takes that.
    """
    found: Any = find_named("training.loss", name, LOSSES)
    options: dict[str, Any] = {"from_logits": True} if "from_logits" in inspect.signature(found).parameters else {}
    is_class = inspect.isclass(found)
    function: RowLosses = found(reduction=None, **options) if is_class else functools.partial(found, **options)

    def row_losses(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        with tf.name_scope(graph_check.LOSS_SCOPE):
            return function(labels[:, None] if outputs.shape[-1] == 1 else labels, outputs)

    return row_losses


def count_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return how many rows are classified rightly: int32[].

    One output is the logit of class 1, several are a logit for each class.
    """
    if logits.shape[-1] == 1:
        predicted = tf.cast(tf.reshape(logits, [-1]) > 0.0, labels.dtype)
    else:
        predicted = tf.cast(tf.argmax(logits, -1), labels.dtype)
    return tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.int32))


def weight_digests(model: keras.Model) -> dict[str, str]:
    """Return the digest of each weight, by its path (seed generators are no weights)."""
    return {variable.path: array_digest(variable.path, variable.numpy()) for variable in model.weights}


def optimizer_digest(optimizer: keras.optimizers.Optimizer) -> str:
    """Return one digest of the optimiser's state."""
    return arrays_digest({v.path: array_digest(v.path, v.numpy()) for v in optimizer.variables})


def make_train_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, row_losses: RowLosses, train: Split
) -> TrainStep:
    """Return the traced function of one step.

    The gradients are always among its results and it is never taken apart into a caller, so that a detailed trace and
    `make_train_steps` run the very same graph.

    Returns:
        A function from int32[batch] row numbers to (mean loss float32[], correct int32[], gradients by weight).
    """
    inputs, labels = tf.constant(train.inputs), tf.constant(train.labels, tf.float32)
    optimizer.build(model.trainable_variables)

    whole = {"_noinline": True}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], jit_compile=False, experimental_attributes=whole)
    def train_step(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[Any]]:
        batch, truth = tf.gather(inputs, rows), tf.gather(labels, rows)
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            mean_loss = tf.add_n([tf.reduce_mean(row_losses(truth, logits)), *model.losses])
        gradients = tape.gradient(mean_loss, [variable.value for variable in model.trainable_variables])
        with tf.name_scope(graph_check.OPTIMIZER_SCOPE):
            optimizer.apply(gradients, model.trainable_variables)
        return mean_loss, count_correct(truth, logits), gradients

    return cast("TrainStep", train_step)  # tf.function is untyped


def make_train_steps(train_step: TrainStep) -> TrainSteps:
    """Return a function that takes several steps without Python between them.

    Returns:
        A function from int32[steps, batch] row numbers to (mean losses float32[steps], correct int32[steps]).
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], jit_compile=False)
    def train_steps(batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.shape(batches)[0]
        losses, corrects = tf.TensorArray(tf.float32, count), tf.TensorArray(tf.int32, count)
        for number in tf.range(count):
            loss, correct, _ = train_step(batches[number])
            losses, corrects = losses.write(number, loss), corrects.write(number, correct)
        return losses.stack(), corrects.stack()

    return cast("TrainSteps", train_steps)  # tf.function is untyped


def make_evaluation_step(model: keras.Model, row_losses: RowLosses, split: Split) -> EvaluationStep:
    """Return the traced function of one batch's evaluation.

    Returns:
        A function from int32[batch] row numbers to (losses float32[batch], correct int32[], logits).
    """
    inputs, labels = tf.constant(split.inputs), tf.constant(split.labels, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], jit_compile=False)
    def evaluate_batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        truth = tf.gather(labels, rows)
        logits = model(tf.gather(inputs, rows), training=False)
        return row_losses(truth, logits), count_correct(truth, logits), logits

    return cast("EvaluationStep", evaluate_batch)  # tf.function is untyped


def evaluate(step: EvaluationStep, rows_count: int) -> tuple[float, float, np.ndarray]:
    """Return (mean loss, accuracy, logits) over a split of so many rows; the sum of losses is rounded once."""
    rows = np.arange(rows_count, dtype=np.int32)
    collected: list[float] = []
    logits: list[np.ndarray] = []
    correct = 0
    for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
        batch_losses, batch_correct, batch_logits = step(rows[start : start + EVALUATION_BATCH_SIZE])
        collected += batch_losses.numpy().tolist()
        correct += int(batch_correct)
        logits.append(batch_logits.numpy())
    return math.fsum(collected) / len(rows), correct / len(rows), np.concatenate(logits)


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


def check_same_data(began_with: dict[str, str], data: dict[str, str]) -> None:
    """Refuse to go on with other data than a run began with: a data function may read a file that has changed since.

    Args:
        began_with: Array name -> digest, of the run's first row of the trace.
        data: The same of this process.

    Raises:
        DataError: Names the arrays that differ.
    """
    changed = changed_names(began_with, data)
    if changed:
        raise DataError(
            "the data of a run that goes on",
            expected="the arrays that it began with",
            received=f"others as {', '.join(changed)}",
            fix="bring back the file that the data function reads, or begin anew with resume=never",
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
        promise: The runtime level; under "portable" whatever is not portable is refused.
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
        promise: str,
        stop_requested: Callable[[], bool],
    ) -> None:
        self.began = time.monotonic()
        self.spent = dict.fromkeys(PHASES, 0.0)
        self.model, self.dataset, self.settings, self.seeds = model, dataset, settings, seeds
        self.rows = len(dataset.train.labels)
        steps = math.ceil(self.rows / settings.batch_size)
        self.steps = min(steps, settings.steps_per_epoch or steps)
        optimizer = find_named("training.optimizer", settings.optimizer, OPTIMIZERS)
        self.optimizer = optimizer(learning_rate=settings.learning_rate)
        row_losses = find_loss(settings.loss)
        self.train_step = make_train_step(model, self.optimizer, row_losses, dataset.train)
        self.train_steps = make_train_steps(self.train_step)
        self.steps_a_call = 1
        self.evaluation_step = make_evaluation_step(model, row_losses, dataset.validation)
        self.attempt = attempt
        self.checkpoints = Checkpoints(attempt, model, self.optimizer)
        self.watch = GeneratorWatch(seeds)
        self.paths = {METRICS: attempt / METRICS, TRACE: attempt / TRACE}
        self.counts = {METRICS: 0, TRACE: 0}
        self.position = Position()
        self.logits: np.ndarray | None = None  # of the last evaluation
        self.order = epoch_order(seeds, 1, self.rows)
        self.progress = TrainingProgress(settings.epochs, self.steps)
        self.trace = trace
        self.generators = first_draws()
        self.opaque, self.unmeasured = self.inspect_graphs(promise)
        self.stop_requested = stop_requested
        self.spent["prepare_s"] = time.monotonic() - self.began

    def inspect_graphs(self, promise: str) -> tuple[list[str], list[str]]:
        """Look at the model and at both traced functions before anything is trained.

        Returns:
            The operations that run Python code, and the types of operations that were never measured.

        Raises:
            NotPortableError: Something is not portable, under that promise.
            UncoveredDrawError: The step draws from a stateful generator.
        """
        traced: Any = self.train_step
        step = traced.get_concrete_function()
        nodes = graph_nodes(step)
        check_graph_draws(step, nodes)
        traced = self.evaluation_step
        everything = [*nodes, *graph_nodes(traced.get_concrete_function())]
        unmeasured = graph_check.unmeasured_operations(everything)
        if promise == "portable":
            names = self.settings.loss, self.settings.optimizer
            operations = graph_check.inexact_operations(everything, self.model, *names)
            graph_check.check_portable([*graph_check.inexact_initializers(self.model), *operations])
            if unmeasured:
                logger.warning("portable was never measured for these operations: %s", ", ".join(unmeasured))
        return opaque_operations(nodes), unmeasured

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The last epoch's metrics, the digests of weights and optimiser, and where it was resumed.

        Raises:
            StopRequestedError: It was asked to stop, after the checkpoint.
            DataError: It would go on with other data.
            TrainingError: The loss is not finite.
            UncoveredDrawError: A global generator moved.
        """
        try:
            resumed_at = self.begin()
            while self.position.epoch <= self.settings.epochs:
                while self.position.step < self.steps:
                    self.step()
                self.end_epoch()
        finally:
            self.progress.close()
        last = self.check_rows()[-1]
        return {
            "metrics": {name: float.fromhex(bits) for name, bits in last["bits"].items()},
            "weights_digest": last["weights"],
            "optimizer_digest": last["optimizer"],
            "predictions_digest": self.write_predictions(),
            "steps": self.steps * self.settings.epochs,
            "resumed_at": resumed_at,
            "unmeasured_operations": self.unmeasured,
            "phases": self.phases(),
        }

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count what the block takes as a part of a phase."""
        began = time.monotonic()
        yield
        self.spent[phase] += time.monotonic() - began

    def phases(self) -> dict[str, float]:
        """Return where the seconds of this start went; `steps_s` is the steps after the first."""
        return {**self.spent, "steps_s": time.monotonic() - self.began - sum(self.spent.values())}

    def write_predictions(self) -> str:
        """Write what the model says of the validation rows, and return its digest."""
        validation = self.dataset.validation
        if self.logits is None:  # the run was killed after its last epoch
            self.logits = evaluate(self.evaluation_step, len(validation.labels))[2]
        return write_predictions(self.attempt, {"labels": validation.labels, "logits": self.logits})

    def save_model(self) -> None:
        """Write the model in Keras's format, under a temporary name first.

        Raises:
            RecordError: The disk is full or the folder is gone.
        """
        path, partial = self.attempt / "model.keras", self.attempt / ".partial.keras"
        try:
            self.model.save(partial)
            partial.replace(path)
        except OSError as error:
            raise storage_error(path, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def check_rows(self) -> list[dict[str, Any]]:
        """Return the trace, after a look that no row of this run was lost while it was trained.

        Raises:
            RecordError: A file was cut or removed under the run.
        """
        rows = {kind: read_rows(path) for kind, path in self.paths.items()}
        for kind, found in rows.items():
            if len(found) != self.counts[kind]:
                raise RecordError(
                    f"{self.paths[kind]} was changed by somebody else while the run was writing it.",
                    expected=f"{self.counts[kind]} rows",
                    received=len(found),
                    fix="give the same command again with resume=never.",
                )
        return rows[TRACE]

    def record(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row to metrics or trace; a checkpoint remembers how many there were."""
        with self.timed("record_s"):
            append_row(self.paths[kind], row)
        self.counts[kind] += 1

    def save(self) -> None:
        """Write a checkpoint of everything, once the rows that it counts are on the disk."""
        with self.timed("record_s"):
            for path in self.paths.values():
                sync_file(path)
            self.checkpoints.save(self.position, self.order, self.counts)

    def begin(self) -> dict[str, int] | None:
        """Start, or go on from the newest checkpoint; returns where (None: at the beginning)."""
        data = self.dataset.digests()
        written = {kind: read_rows(path) for kind, path in self.paths.items()}
        began_with = written[TRACE][0].get("data") if written[TRACE] else None
        if began_with != data and not self.seeds.all_seeded("data/"):
            if written[TRACE]:
                logger.warning("the run begins anew: its data are unseeded, and were drawn otherwise this time")
            self.checkpoints.remove()
        restored = self.checkpoints.restore({kind: len(rows) for kind, rows in written.items()})
        if restored is not None:
            check_same_data(began_with or {}, data)
            self.position, self.order, self.counts = restored
        for kind, path in self.paths.items():
            keep_rows(path, self.counts[kind])
        self.progress.start_at(self.position.epoch, self.position.step)
        if restored is not None:
            self.progress.say(f"goes on after epoch {self.position.epoch}, step {self.position.step} of {self.steps}")
            return {"epoch": self.position.epoch, "step": self.position.step}
        tensors = weight_digests(self.model)
        start: dict[str, Any] = {"epoch": 0, "generators": self.generators, "data": data}
        start["opaque"] = self.opaque
        self.record(TRACE, {**start, "weights": arrays_digest(tensors), "tensors": tensors})
        return None

    def step(self) -> None:
        """Train on the next batches: a pure function of the state before them and the epoch's order.

        How many go in one call decides no bits; it follows the time that the last call took.
        """
        settings, position = self.settings, self.position
        first, count, began = position.step, self.count_next(), time.monotonic()
        batch = self.order[first * settings.batch_size : (first + count) * settings.batch_size]
        rows = batch.astype(np.int32)
        with self.timed("first_step_s") if not self.spent["first_step_s"] else contextlib.nullcontext():
            if self.is_watched():
                loss, correct, gradients = self.train_step(rows)
                losses, corrects = [float(loss)], [int(correct)]
            else:
                several = self.train_steps(rows.reshape(count, -1))
                losses, corrects = several[0].numpy().tolist(), several[1].numpy().tolist()
        self.steps_a_call = max(1, round(CALL_S * count / (time.monotonic() - began)))
        for loss, correct in zip(losses, corrects, strict=True):
            position.add(len(batch) // count, loss, correct)
            check_finite(loss, f"loss in epoch {position.epoch}, step {position.step}")
            self.progress.show(position.epoch, position.step, position.loss, position.accuracy)
        self.watch.check(position.epoch, position.step)
        if self.is_traced():
            self.trace_step(batch, losses[0], gradients)
        is_last = position.step == self.steps
        if position.step % settings.log_every == 0 and not is_last:
            place = {"epoch": position.epoch, "step": position.step}
            self.record(METRICS, {**place, "loss": position.loss, "accuracy": position.accuracy})
        if self.stop_requested():
            self.save()
            raise StopRequestedError
        if position.step % settings.checkpoint_every == 0 and not is_last:
            self.save()

    def is_traced(self) -> bool:
        """Return whether the trace records the steps of this epoch."""
        return self.trace.level != "epoch" and self.trace.epoch in (0, self.position.epoch)

    def is_watched(self) -> bool:
        """Return whether Python looks at every step, or runs in it."""
        return self.is_traced() or bool(self.opaque)

    def count_next(self) -> int:
        """Return how many steps may go in one call: up to the next record, all of whole batches."""
        if self.is_watched():
            return 1
        step, settings = self.position.step, self.settings
        whole = len(self.order) // settings.batch_size - step
        until = (every - step % every for every in (settings.log_every, settings.checkpoint_every))
        return max(1, min(self.steps_a_call, self.steps - step, whole, *until))

    def trace_step(self, batch: np.ndarray, loss: float, gradients: list[Any]) -> None:
        """Record one step in the order in which it happened."""
        split = self.dataset.train
        with self.timed("record_s"):
            row: dict[str, Any] = {
                "epoch": self.position.epoch,
                "step": self.position.step,
                "order": array_digest("order", batch),
                "batch": array_digest("batch", split.inputs[batch]) + array_digest("labels", split.labels[batch]),
                "loss": float_bits(loss),
            }
            if self.trace.level == "stage":
                pairs = zip(self.model.trainable_variables, gradients, strict=True)
                row["gradients"] = {v.path: array_digest(v.path, tf.convert_to_tensor(g).numpy()) for v, g in pairs}
            tensors = weight_digests(self.model)
        self.record(TRACE, {**row, "weights": arrays_digest(tensors), "tensors": tensors})

    def end_epoch(self) -> None:
        """Evaluate, record metrics and trace, and save the beginning of the next epoch."""
        position = self.position
        with self.timed("evaluate_s"):
            val_loss, val_accuracy, self.logits = evaluate(self.evaluation_step, len(self.dataset.validation.labels))
        check_finite(val_loss, f"validation loss after epoch {position.epoch}")
        self.watch.check(position.epoch, position.step)
        measured = {
            "loss": position.loss,
            "accuracy": position.accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }
        self.record(METRICS, {"epoch": position.epoch, "step": self.steps, **measured})
        with self.timed("record_s"):
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
