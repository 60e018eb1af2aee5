"""Computes a training: loss, metrics, and the traced functions of a step and of an evaluation.

Does not know the order of rows, epochs or files. `loop` decides when to take a step, `data` chooses the rows, and
`recorder` writes the results.
"""

import functools
import importlib
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import keras
import numpy as np
import tensorflow as tf

from samebits.core.config import TrainingConfig
from samebits.core.digest import array_digest, arrays_digest, float_bits
from samebits.core.errors import ConfigError, TrainingError
from samebits.core.short_names import LOSSES, OPTIMIZERS
from samebits.portable import graph_check
from samebits.train.data import Dataset, Split
from samebits.train.draws import check_graph_draws, graph_nodes, opaque_operations

logger = logging.getLogger(__name__)

EVALUATION_BATCH_SIZE = 250  # constant, because bits depend on it

RowLosses = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
TrainStep = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor, list[Any]]]
TrainSteps = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor]]
EvaluationStep = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


# --- losses and optimizers by name ---


def find_named(key: str, name: str, short_names: Mapping[str, str]) -> Any:
    """Return a loss or an optimizer by its short name or package.module.name.

    Raises:
        ConfigError: There is none with this name.
    """
    module, _, attribute = short_names.get(name, name).rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            key,
            expected=", ".join(short_names) + " or package.module.name",
            received=f"{name} ({error})",
            fix="fix the typo",
        ) from error


def find_loss(name: str) -> RowLosses:
    """Return a function that computes the loss of each row from labels[rows] and the model's logits.

    Args:
        name: A short name, or package.module.name of a function (labels, outputs) or of a Keras loss class. It gets
            from_logits=True if it has that parameter.
    """
    named: Any = find_named("training.loss", name, LOSSES)
    options: dict[str, Any] = {"from_logits": True} if "from_logits" in inspect.signature(named).parameters else {}
    is_class = inspect.isclass(named)
    function: RowLosses = named(reduction=None, **options) if is_class else functools.partial(named, **options)

    def row_losses(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        with tf.name_scope(graph_check.LOSS_SCOPE):
            return function(labels[:, None] if outputs.shape[-1] == 1 else labels, outputs)

    return row_losses


def make_optimizer(settings: TrainingConfig) -> keras.optimizers.Optimizer:
    """Return the optimizer of the settings, with its learning rate."""
    return find_named("training.optimizer", settings.optimizer, OPTIMIZERS)(learning_rate=settings.learning_rate)


# --- metrics ---


@dataclass(frozen=True)
class StepResult:
    """The result of a step: number of rows, mean loss, number of correct rows, and possibly the gradients."""

    rows: int
    loss: float
    correct: int
    gradients: Sequence[Any] = ()


@dataclass
class EpochMetrics:
    """The sums of all metrics over the steps of an epoch so far. Only this class defines the metrics."""

    loss_sum: float = 0.0
    correct: int = 0
    rows: int = 0

    def add(self, result: StepResult) -> None:
        """Add one step."""
        self.rows += result.rows
        self.loss_sum += result.loss * result.rows
        self.correct += result.correct

    def values(self) -> dict[str, float]:
        """Return each metric of the epoch so far, by name."""
        return {"loss": self.loss_sum / self.rows, "accuracy": self.correct / self.rows}

    def state(self) -> dict[str, Any]:
        """Return the exact sums as plain data, for a checkpoint."""
        return {"loss_sum": float_bits(self.loss_sum), "correct": self.correct, "rows": self.rows}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the sums from the result of `state`."""
        return cls(float.fromhex(state["loss_sum"]), state["correct"], state["rows"])


def count_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return how many rows are classified correctly: int32[].

    A single output is the logit of class 1. Several outputs are one logit per class.
    """
    if logits.shape[-1] == 1:
        predicted = tf.cast(tf.reshape(logits, [-1]) > 0.0, labels.dtype)
    else:
        predicted = tf.cast(tf.argmax(logits, -1), labels.dtype)
    return tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.int32))


def check_finite(loss: float, which: str) -> None:
    """Check that a loss is finite.

    Raises:
        TrainingError: It is not.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"the {which} is not finite.",
            expected="a finite loss",
            received=loss,
            fix="lower training.learning_rate, or check the data for invalid values.",
        )


# --- traced functions ---


def make_train_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, row_losses: RowLosses, train: Split
) -> TrainStep:
    """Return the traced function of one step.

    It always returns the gradients, and is never inlined into a caller. So a detailed trace and `make_train_steps` run
    exactly the same graph.

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
    """Return a traced function that takes several steps in one call.

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
    """Return the traced function that evaluates one batch.

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


def evaluate(step: EvaluationStep, rows_count: int) -> tuple[dict[str, float], np.ndarray]:
    """Return (loss and accuracy, logits) over all rows of a split. The sum of losses is exact and rounded once."""
    rows = np.arange(rows_count, dtype=np.int32)
    collected: list[float] = []
    logits: list[np.ndarray] = []
    correct = 0
    for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
        batch_losses, batch_correct, batch_logits = step(rows[start : start + EVALUATION_BATCH_SIZE])
        collected += batch_losses.numpy().tolist()
        correct += int(batch_correct)
        logits.append(batch_logits.numpy())
    return {"loss": math.fsum(collected) / len(rows), "accuracy": correct / len(rows)}, np.concatenate(logits)


class Steps:
    """Trains and evaluates the model, and returns digests of its state.

    Args:
        model: The built model, which outputs logits.
        dataset: Training and validation rows.
        settings: Loss, optimizer and learning rate.
        promise: The runtime level. Under "portable", anything that is not portable raises an error.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        opaque: "type in layer" of each operation that runs Python code.
        unmeasured: Types of operations that are not among the tested operations.

    Raises:
        NotPortableError: Something is not portable, under "portable".
        UncoveredDrawError: The step uses a stateful generator.
    """

    def __init__(self, model: keras.Model, dataset: Dataset, settings: TrainingConfig, promise: str) -> None:
        self.model, self.optimizer = model, make_optimizer(settings)
        row_losses = find_loss(settings.loss)
        self._train_step = make_train_step(model, self.optimizer, row_losses, dataset.train)
        self._train_steps = make_train_steps(self._train_step)
        self._evaluation_step = make_evaluation_step(model, row_losses, dataset.validation)
        self._evaluation_rows = len(dataset.validation.labels)
        nodes = self._check_draws()
        self.opaque = opaque_operations(nodes)
        evaluation: Any = self._evaluation_step
        nodes += graph_nodes(evaluation.get_concrete_function())
        self.unmeasured = graph_check.unmeasured_operations(nodes)
        if promise == "portable":
            self._check_portable(nodes, settings)

    def _check_draws(self) -> list[Any]:
        """Check that the step uses no stateful generator. Return the nodes of its graph."""
        traced: Any = self._train_step
        step = traced.get_concrete_function()
        nodes = graph_nodes(step)
        check_graph_draws(step, nodes)
        return nodes

    def _check_portable(self, nodes: list[Any], settings: TrainingConfig) -> None:
        operations = graph_check.inexact_operations(nodes, self.model, settings.loss, settings.optimizer)
        graph_check.check_portable(operations)
        if self.unmeasured:
            logger.warning("portable was never tested with these operations: %s", ", ".join(self.unmeasured))

    def train_one(self, rows: np.ndarray) -> StepResult:
        """Take one step on these rows, int[batch]. The result has the gradients."""
        loss, correct, gradients = self._train_step(rows.astype(np.int32))
        return StepResult(len(rows), float(loss), int(correct), gradients)

    def train_many(self, rows: np.ndarray, count: int) -> list[StepResult]:
        """Take several steps of equal size in one call, with the same bits as one by one. Returns no gradients."""
        losses, corrects = self._train_steps(rows.astype(np.int32).reshape(count, -1))
        pairs = zip(losses.numpy().tolist(), corrects.numpy().tolist(), strict=True)
        return [StepResult(len(rows) // count, loss, correct) for loss, correct in pairs]

    def evaluate(self) -> tuple[dict[str, float], np.ndarray]:
        """Return (metrics, logits) of the validation rows."""
        return evaluate(self._evaluation_step, self._evaluation_rows)

    def weight_digests(self) -> dict[str, str]:
        """Return the digest of each weight by its path, without seed generators."""
        return {variable.path: array_digest(variable.path, variable.numpy()) for variable in self.model.weights}

    def optimizer_digest(self) -> str:
        """Return one digest of the optimizer state."""
        return arrays_digest({v.path: array_digest(v.path, v.numpy()) for v in self.optimizer.variables})

    def gradient_digests(self, gradients: Sequence[Any]) -> dict[str, str]:
        """Return the digest of each gradient by the path of its weight."""
        pairs = zip(self.model.trainable_variables, gradients, strict=True)
        return {v.path: array_digest(v.path, tf.convert_to_tensor(g).numpy()) for v, g in pairs}
