"""Checks by numbers, before a training whose batches are split into parts, that a split changes nothing but rounding.

The first rows are computed whole and in parts, by the model's own `train_step`, without its update. The same numbers
for every row take the place of random numbers, and moving statistics that of a batch's, because a split may change
those. The weights are moved a little, so that a layer that starts at zero takes part.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.errors import ConfigError, first_line, first_names
from samebits.portable.optimizers import dense_gradient
from samebits.train.constant_draws import GOLDEN_RATIO, constant_draws
from samebits.train.draws import graph_nodes
from samebits.train.feeds import Feed
from samebits.train.parts import own_parts, part_bounds
from samebits.train.replaced import replaced
from samebits.train.shards import ONE_PART, SUM, Part, PartScope, ShardedStep, depends, refuse

logger = logging.getLogger(__name__)

TOLERANCE, HALF_TOLERANCE, SMALLEST = 1e-4, 3e-2, 1e-6  # relative, and in half precision; absolute
NOTED = 1e-2  # a gradient below this share of the largest one is compared with this share
MOST_ROWS = 64  # at least two for each part
NUDGE = 0.05  # how far weights are moved, of their size and of 0.1
RANDOM_OPS = (
    "StatelessRandom", "StatelessTruncated", "StatelessMultinomial", "StatelessParameterized", "StatelessShuffle",
    "RandomIndexShuffle",
)  # fmt: skip
UNCHECKED = (
    "training.shards: nobody checked that the gradient of a batch is the mean of its parts' gradients, because %s"
)
HALF = "training.shards: the parts of a batch differ from the whole by more than the usual rounding of 16 bits: %s"


@dataclass
class Computed:
    """What a step computes for some rows: gradients of weights, metrics, and other numbers that it logs."""

    gradients: list[tf.Tensor]
    metrics: list[tf.Tensor]
    logs: dict[str, tf.Tensor]

    def is_finite(self) -> bool:
        """Return whether all gradients are finite."""
        return all(bool(tf.reduce_all(tf.math.is_finite(gradient))) for gradient in self.gradients)


class Probe:
    """A step without its update, as a pure function: rows of a batch and the metrics before -> what it computes.

    Args:
        step: The step.
        feed: The training batches.

    Attributes:
        metrics: The variables of metrics.
        trained: The paths of the weights of the gradients.
        draws: The operations that still draw random numbers.
    """

    def __init__(self, step: ShardedStep, feed: Feed) -> None:
        self.metrics = step.states.of_kind(SUM)
        self.trained: list[str] = []
        starts = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self.metrics]
        # Without the scale of the loss in half precision, with which the first gradients may be infinite.
        scales = [each.dynamic_scale for each in step.optimizers if hasattr(each, "dynamic_scale")]

        @tf.function(input_signature=[feed.signature, tf.TensorSpec([], tf.float32), starts], autograph=False)
        def compute(argument: Any, factor: Any, before: list[Any]) -> Any:
            unscaled = [(scale, tf.ones_like(tf.convert_to_tensor(scale.value))) for scale in scales]
            scope = PartScope([*zip(self.metrics, before, strict=True), *unscaled])
            scope.factor = factor
            with step.recording(), constant_draws(), moving_statistics():
                part = step.trace_rows(feed.fetch(argument), scope)
                logs = mean_logs(part, set(step.results))
            pairs = [pair for pair in zip(part.gradients, part.trainable, strict=True) if pair[0] is not None]
            self.trained = [weight.path for _, weight in pairs]
            after = [tf.convert_to_tensor(scope.get_current_value(variable)) for variable in self.metrics]
            return [dense_gradient(gradient, weight) for gradient, weight in pairs], after, logs

        self.call = compute
        nodes = graph_nodes(compute.get_concrete_function())
        self.draws = sorted({node.op for node in nodes if node.op.startswith(RANDOM_OPS)})

    def __call__(self, argument: Any, rows: int, before: list[Any] | None = None) -> Computed:
        """Return what the step computes for a part of a batch with so many rows."""
        own = count_rows(argument)
        if before is None:
            before = [tf.zeros(variable.shape, variable.dtype) for variable in self.metrics]
        return Computed(*self.call(argument, tf.constant(rows / own, tf.float32), before))


def mean_logs(part: Part, results: set[int]) -> dict[str, tf.Tensor]:
    """Return the logs of a part whose mean is logged for the batch; not those that come from the result of a metric."""
    return {name: value for name, value in part.logs.items() if not depends(value, results)}


def count_rows(argument: Any) -> int:
    """Return the rows of an argument of the feed."""
    return len(keras.tree.flatten(argument)[0])


def rows_of(argument: Any, first: int, end: int) -> Any:
    """Return some rows of an argument of the feed."""
    return keras.tree.map_structure(lambda leaf: leaf[first:end], argument)


def checked_rows(step: ShardedStep, argument: Any) -> Any:
    """Return the first rows of a batch that this process has: a source gives it those of its parts alone."""
    own = own_parts(step.count, step.exchange.workers, step.exchange.rank)
    rows = count_rows(argument)
    first, end = part_bounds(rows, step.count, own.start)[0], part_bounds(rows, step.count, own.stop - 1)[1]
    return rows_of(argument, first, min(end, first + max(MOST_ROWS, 2 * step.count)))


@contextmanager
def moving_statistics() -> Iterator[None]:
    """Let BatchNormalization use its moving statistics while a step is traced."""

    def moments(normalization: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
        del mask
        moving = normalization.moving_mean, normalization.moving_variance
        mean, variance = (keras.ops.cast(each, inputs.dtype) for each in moving)
        return mean, variance

    with replaced([keras.layers.BatchNormalization], "_moments", lambda *_: moments):
        yield


@contextmanager
def moved_weights(model: keras.Model) -> Iterator[None]:
    """Move each trained weight a little while the block runs, by numbers that depend on its shape alone."""
    before = [(weight, np.array(weight)) for weight in model.trainable_weights]
    try:
        for weight, array in before:
            size = np.sqrt(np.mean(np.square(array.astype(np.float64)))) if array.size else 0.0
            steps = (np.arange(1, array.size + 1) * GOLDEN_RATIO % 1.0 - 0.5).reshape(array.shape)
            weight.assign((array + NUDGE * (size + 0.1) * 2 * steps).astype(array.dtype))
        yield
    finally:
        for weight, array in before:
            weight.assign(array)


def check_split(step: ShardedStep, feed: Feed) -> None:
    """Check that gradients and logged numbers of a batch are the means of its parts', and that its metrics add up.

    Args:
        step: The step that splits batches.
        feed: The training batches.

    Raises:
        ConfigError: One is not. The message has its name and both values.
    """
    argument = checked_rows(step, feed.take(0))
    if not count_rows(argument):
        return
    compute = Probe(step, feed)
    with moved_weights(step.model):
        compare(step, compute, argument)


def compare(step: ShardedStep, compute: Probe, argument: Any) -> None:
    """Compare rows with their parts; see `check_split`."""
    rows = count_rows(argument)
    whole = compute(argument, rows)
    check_additive(compute, argument, rows, whole.metrics)
    if compute.draws:
        logger.warning(UNCHECKED, f"the step draws random numbers with {first_names(compute.draws)}")
        return
    split = Total(whole)
    for number in range(step.count):
        first, end = part_bounds(rows, step.count, number)
        if end > first:
            split.add(compute(rows_of(argument, first, end), rows), (end - first) / rows)
    if not (whole.is_finite() and split.is_finite):
        logger.warning(UNCHECKED, "it is not finite for the first batch and constant random numbers")
        return
    if not has_half_precision(step.model):
        check_total(compute, whole, split, TOLERANCE)
        return
    try:
        check_total(compute, whole, split, HALF_TOLERANCE)
    except ConfigError as error:
        logger.warning(HALF, first_line(error))


class Total:
    """The sum of what the parts of a batch compute, weighted by their rows, and how large the summands are."""

    def __init__(self, whole: Computed) -> None:
        self.count, self.is_finite = 0, True
        self.gradients = [tf.zeros_like(gradient) for gradient in whole.gradients]
        self.norms = [0.0] * len(whole.gradients)
        self.logs = {name: np.zeros(value.shape) for name, value in whole.logs.items()}
        self.largest_logs = dict.fromkeys(whole.logs, 0.0)
        self.metrics = [np.zeros(value.shape) for value in whole.metrics]
        self.largest_metrics = [0.0] * len(whole.metrics)

    def add(self, part: Computed, share: float) -> None:
        """Add a part that has a share of the rows."""
        self.count += 1
        self.is_finite = self.is_finite and part.is_finite()
        for place, gradient in enumerate(part.gradients):
            self.gradients[place] += gradient * tf.cast(share, gradient.dtype)
            self.norms[place] = max(self.norms[place], norm(gradient))
        for name, value in part.logs.items():
            number = value.numpy().astype(np.float64)
            self.logs[name] = self.logs[name] + share * number
            self.largest_logs[name] = max(self.largest_logs[name], float(np.abs(number).max(initial=0.0)))
        for place, value in enumerate(part.metrics):
            number = value.numpy().astype(np.float64)
            self.metrics[place] = self.metrics[place] + number
            self.largest_metrics[place] = max(self.largest_metrics[place], float(np.abs(number).max(initial=0.0)))


def norm(tensor: tf.Tensor) -> float:
    """Return the Euclidean norm."""
    return float(tf.norm(tf.cast(tensor, tf.float32)))


def has_half_precision(model: keras.Model) -> bool:
    """Return whether a layer computes with 16 bits."""
    return any("16" in layer.compute_dtype for layer in model._flatten_layers())  # noqa: SLF001  no public name (Keras 3.15)


def check_total(compute: Probe, whole: Computed, split: Total, tolerance: float) -> None:
    """Check that the sum of the parts is the whole, up to rounding. Parts may nearly cancel, so their size counts.

    Raises:
        ConfigError: It is not.
    """
    most = max(map(norm, whole.gradients), default=0.0)
    for name, gradient, added, largest in zip(
        compute.trained, whole.gradients, split.gradients, split.norms, strict=True
    ):
        if norm(gradient - added) > tolerance * max(NOTED * most, largest) + SMALLEST:
            refuse(
                "the gradient of a batch is the mean of its parts' gradients",
                f"a gradient of {name} with norm {norm(gradient):.6g} for the first rows, "
                f"and {norm(added):.6g} for their {split.count} parts: the loss or a layer compares the rows with each "
                "other, or the loss is a sum over them",
                fix=f"use {ONE_PART}, or a loss that is a mean over rows",
            )
    for name, value in whole.logs.items():
        check_log(name, value.numpy(), split.logs[name], tolerance, split.largest_logs[name])
    for variable, value, added, size in zip(
        compute.metrics, whole.metrics, split.metrics, split.largest_metrics, strict=True
    ):
        if not np.allclose(added, value.numpy(), rtol=tolerance, atol=SMALLEST + tolerance * size, equal_nan=True):
            refuse_metric(variable)


def check_log(name: str, whole: np.ndarray, split: np.ndarray, tolerance: float, size: float) -> None:
    """Check that a logged number, or an array, of a batch is the mean of those of its parts.

    Raises:
        ConfigError: It is not. The message has the numbers that differ most.
    """
    if not np.allclose(split, whole, rtol=tolerance, atol=SMALLEST + tolerance * size, equal_nan=True):
        place = np.unravel_index(np.argmax(np.abs(np.nan_to_num(whole - split))), whole.shape)
        refuse(
            "a logged number is the mean of the parts",
            f"{name} of {whole[place]:.6g} for the first rows, and {split[place]:.6g} as the mean of their parts",
            fix=f"use {ONE_PART}, or a metric that adds up, or do not log it",
        )


def refuse_metric(variable: Any) -> None:
    """Refuse a metric that cannot be added.

    Raises:
        ConfigError: Always.
    """
    refuse(
        "the metrics of the parts of a batch are added up", f"{variable.path}, which is no sum over rows",
        fix=f"use {ONE_PART}, or remove the metric; a callback can compute it after each epoch",
    )  # fmt: skip


def check_additive(compute: Probe, argument: Any, rows: int, once: Sequence[Any]) -> None:
    """Check that each metric adds up: the same batch a second time doubles what it has kept.

    Raises:
        ConfigError: One does not. The message has its name.
    """
    twice = compute(argument, rows, list(once)).metrics
    for variable, first, second in zip(compute.metrics, once, twice, strict=True):
        if not np.allclose(2 * first.numpy(), second.numpy(), rtol=TOLERANCE, atol=0, equal_nan=True):
            refuse_metric(variable)
