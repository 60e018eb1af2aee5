"""Checks by numbers, before a training whose batches are split into parts, that a split changes nothing but rounding.

The first batch is computed whole and in parts, by the model's own `train_step`, without its update. A constant takes
the place of each random number, and moving statistics that of a batch's, because a split may change those.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.errors import first_names
from samebits.train.draws import graph_nodes
from samebits.train.feeds import Feed
from samebits.train.parts import part_bounds
from samebits.train.replaced import replaced
from samebits.train.shards import ONE_PART, SUM, Part, PartScope, ShardedStep, depends, refuse

logger = logging.getLogger(__name__)

TOLERANCE, HALF_TOLERANCE, SMALLEST = 1e-4, 3e-2, 1e-6  # relative, and in half precision; absolute
NOTED = 1e-2  # a gradient below this share of all of them is compared with this share
RANDOM_OPS = (
    "StatelessRandom",
    "StatelessTruncated",
    "StatelessMultinomial",
    "StatelessParameterized",
    "RandomShuffle",
)
UNCHECKED = (
    "training.shards: nobody checked that the gradient of a batch is the mean of its parts' gradients, because the "
    "step draws random numbers with %s"
)


@dataclass
class Computed:
    """What a step computes for some rows: gradients and metrics of their variables, and other numbers that it logs."""

    gradients: list[tf.Tensor]
    metrics: list[tf.Tensor]
    logs: dict[str, tf.Tensor]


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

        @tf.function(input_signature=[feed.signature, tf.TensorSpec([], tf.float32), starts], autograph=False)
        def compute(argument: Any, factor: Any, before: list[Any]) -> Any:
            scope = PartScope(list(zip(self.metrics, before, strict=True)))
            scope.factor = factor
            with step.recording(), constant_draws(), moving_statistics():
                part = step.trace_rows(feed.fetch(argument), scope)
                logs = mean_logs(part, set(step.results))
            pairs = [pair for pair in zip(part.gradients, part.trainable, strict=True) if pair[0] is not None]
            self.trained = [weight.path for _, weight in pairs]
            after = [tf.convert_to_tensor(scope.get_current_value(variable)) for variable in self.metrics]
            return [tf.convert_to_tensor(gradient) for gradient, _ in pairs], after, logs

        self.call = compute
        nodes = graph_nodes(compute.get_concrete_function())
        self.draws = sorted({node.op for node in nodes if node.op.startswith(RANDOM_OPS)})

    def __call__(self, argument: Any, rows: int, before: list[Any] | None = None) -> Computed:
        """Return what the step computes for a part of a batch with so many rows."""
        own = len(keras.tree.flatten(argument)[0])
        if before is None:
            before = [tf.zeros(variable.shape, variable.dtype) for variable in self.metrics]
        return Computed(*self.call(argument, tf.constant(rows / own, tf.float32), before))


def mean_logs(part: Part, results: set[int]) -> dict[str, tf.Tensor]:
    """Return the logs of a part whose mean is logged for the batch; not those that come from the result of a metric."""
    return {name: value for name, value in part.logs.items() if not depends(value, results)}


@contextmanager
def constant_draws() -> Iterator[None]:
    """Let a constant take the place of each random number while a step is traced."""

    def full(shape: Any, value: Any, dtype: Any) -> tf.Tensor:
        return tf.broadcast_to(tf.cast(value, dtype), tf.cast(shape, tf.int32))

    def uniform(
        shape: Any, seed: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        del seed
        dtype = tf.as_dtype(dtype)
        if not dtype.is_floating:
            return full(shape, dtype.max if minval is None else minval, dtype)
        return full(shape, (tf.cast(minval, dtype) + tf.cast(1 if maxval is None else maxval, dtype)) / 2, dtype)

    def normal(
        shape: Any, seed: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        del seed, stddev
        return full(shape, mean, dtype)

    def gamma(shape: Any, seed: Any, alpha: Any, beta: Any = None, dtype: Any = tf.float32, **_: Any) -> tf.Tensor:
        del seed
        return full(shape, tf.cast(alpha, dtype) / tf.cast(1 if beta is None else beta, dtype), dtype)

    def binomial(shape: Any, seed: Any, counts: Any, probs: Any, output_dtype: Any = tf.int32, **_: Any) -> tf.Tensor:
        del seed
        return full(shape, tf.floor(tf.cast(counts, tf.float32) * tf.cast(probs, tf.float32)), output_dtype)

    def categorical(logits: Any, num_samples: Any, seed: Any, dtype: Any = tf.int64, **_: Any) -> tf.Tensor:
        del seed
        return tf.zeros([tf.shape(logits)[0], num_samples], dtype)

    def dropout(x: Any, *_: Any, **__: Any) -> Any:
        return x

    constants = {
        "stateless_uniform": uniform, "stateless_normal": normal, "stateless_truncated_normal": normal,
        "stateless_gamma": gamma, "stateless_binomial": binomial, "stateless_categorical": categorical,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, constant in constants.items():
            stack.enter_context(replaced([tf.random], name, lambda *_, constant=constant: constant))
        stack.enter_context(replaced([tf.nn.experimental], "stateless_dropout", lambda *_: dropout))
        yield


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


def check_split(step: ShardedStep, feed: Feed) -> None:
    """Check that gradients and logged numbers of a batch are the means of its parts', and that its metrics add up.

    Args:
        step: The step that splits batches.
        feed: The training batches.

    Raises:
        ConfigError: One is not. The message has its name and both values.
    """
    argument = feed.take(0)
    rows = len(keras.tree.flatten(argument)[0])
    compute = Probe(step, feed)
    whole = compute(argument, rows)
    check_additive(compute, argument, rows, whole.metrics)
    if compute.draws:
        logger.warning(UNCHECKED, first_names(compute.draws))
        return
    shares, parts = [], []
    for number in range(step.count):
        first, end = part_bounds(rows, step.count, number)
        if end > first:
            part = keras.tree.map_structure(lambda leaf: leaf[first:end], argument)  # noqa: B023  called at once
            shares.append((end - first) / rows)
            parts.append(compute(part, rows))
    tolerance = HALF_TOLERANCE if has_half_precision(step.model) else TOLERANCE
    check_gradients(compute.trained, whole, parts, shares, tolerance)
    for name, value in whole.logs.items():
        check_log(name, value.numpy(), mean([part.logs[name] for part in parts], shares), tolerance)
    for place, variable in enumerate(compute.metrics):
        added = sum(part.metrics[place].numpy().astype(np.float64) for part in parts)
        if not np.allclose(added, whole.metrics[place].numpy(), rtol=tolerance, atol=SMALLEST, equal_nan=True):
            refuse_metric(variable)


def has_half_precision(model: keras.Model) -> bool:
    """Return whether a layer computes with 16 bits."""
    return any("16" in layer.compute_dtype for layer in model._flatten_layers())  # noqa: SLF001  no public name (Keras 3.15)


def mean(values: Sequence[tf.Tensor], shares: Sequence[float]) -> np.ndarray:
    """Return the mean of the parts, weighted by their rows."""
    found: np.ndarray = sum(
        share * value.numpy().astype(np.float64) for value, share in zip(values, shares, strict=True)
    )
    return found


def check_gradients(
    names: Sequence[str], whole: Computed, parts: Sequence[Computed], shares: Sequence[float], tolerance: float
) -> None:
    """Check that the gradients of a batch are the means of those of its parts, up to rounding.

    Raises:
        ConfigError: One is not. The message has the weight and both norms.
    """
    norm = np.linalg.norm
    most = max((norm(gradient.numpy()) for gradient in whole.gradients), default=0.0)
    for place, name in enumerate(names):
        own = [part.gradients[place] for part in parts]
        expected, split = whole.gradients[place].numpy(), mean(own, shares)
        # Gradients of parts may nearly cancel, so these are compared with the parts'.
        size = max(NOTED * most, *(norm(gradient.numpy()) for gradient in own))
        difference = norm(np.where(np.isfinite(expected), expected - split, 0.0))
        if not difference <= tolerance * size + SMALLEST:  # also if it is not a number
            refuse(
                "the gradient of a batch is the mean of its parts' gradients",
                f"a gradient of {name} with norm {norm(expected):.6g} for the first batch, and {norm(split):.6g} for "
                f"its {len(parts)} parts: the loss compares the rows of a batch with each other, or is their sum",
                fix=f"use {ONE_PART}, or let train_step take the mean over the rows of a batch",
            )


def check_log(name: str, whole: np.ndarray, split: np.ndarray, tolerance: float) -> None:
    """Check that a logged number of a batch is the mean of those of its parts.

    Raises:
        ConfigError: It is not.
    """
    if not np.allclose(split, whole, rtol=tolerance, atol=SMALLEST, equal_nan=True):
        refuse(
            "a logged number is the mean of the parts",
            f"{name} of {whole:.6g} for the first batch, and {split:.6g} as the mean of its parts",
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


def check_additive(compute: Probe, argument: Any, rows: int, once: list[Any]) -> None:
    """Check that each metric adds up: the same batch a second time doubles what it has kept.

    Raises:
        ConfigError: One does not. The message has its name.
    """
    twice = compute(argument, rows, once).metrics
    for variable, first, second in zip(compute.metrics, once, twice, strict=True):
        if not np.allclose(2 * first.numpy(), second.numpy(), rtol=TOLERANCE, atol=0, equal_nan=True):
            refuse_metric(variable)
