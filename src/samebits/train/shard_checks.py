"""Checks by numbers, before a training whose batches are split into parts, that a split changes nothing but rounding.

The first batch is evaluated whole and in parts, with the model's `test_step`: without dropout, and with the moving
statistics of BatchNormalization, so that only the loss can make a difference.
"""

import logging
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.errors import first_line
from samebits.train.feeds import Feed
from samebits.train.parts import part_bounds
from samebits.train.shards import ONE_PART, SEED, SUM, PartScope, States, reductions, refuse, tensors_of

logger = logging.getLogger(__name__)

TOLERANCE, SMALLEST = 1e-4, 1e-6  # relative and absolute; sums of float32 in another order differ by less
UNCHECKED = "training.shards: nobody checked that the loss of a batch is the mean of its parts' losses: %s"


class Evaluation:
    """`test_step` as a pure function: rows of a batch and the metrics before -> logs and the metrics after.

    Args:
        model: The compiled model, after a first trace.
        feed: The training batches.
        states: How its states are combined.
        variables: All variables of the training.

    Attributes:
        draws: Whether it draws random numbers.
    """

    def __init__(self, model: keras.Model, feed: Feed, states: States, variables: list[Any]) -> None:
        self.metrics = [variable for variable in variables if states.kind(variable) == SUM]
        self.draws = False
        starts = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self.metrics]

        @tf.function(input_signature=[feed.signature, tf.TensorSpec([], tf.float32), starts], autograph=False)
        def evaluate(argument: Any, factor: Any, before: list[Any]) -> Any:
            scope = PartScope(list(zip(self.metrics, before, strict=True)))
            scope.factor = factor
            with reductions(), scope:
                logs = tensors_of(model.test_step(feed.fetch(argument)))
            self.draws = any(states.kind(variable) == SEED for variable in scope.updated.values())
            return logs, [scope.get_current_value(variable) for variable in self.metrics]

        self.call = evaluate

    def __call__(self, argument: Any, rows: int, before: list[Any] | None = None) -> tuple[dict[str, Any], list[Any]]:
        """Return the logs and the metrics after a part of a batch with so many rows."""
        own = len(keras.tree.flatten(argument)[0])
        if before is None:
            before = [tf.zeros(variable.shape, variable.dtype) for variable in self.metrics]
        logs, after = self.call(argument, tf.constant(rows / own, tf.float32), before)
        return {name: value.numpy() for name, value in logs.items()}, after


def check_split(model: keras.Model, feed: Feed, states: States, variables: list[Any], count: int) -> None:
    """Check that the loss of a batch is the mean of its parts' losses, and that the metrics of parts can be added.

    Args:
        model: The compiled model, after a first trace.
        feed: The training batches.
        states: How states are combined.
        variables: All variables of the training.
        count: Number of parts.

    Raises:
        ConfigError: One is not. The message has the metric, or both losses.
    """
    argument = feed.take(0)
    rows = len(keras.tree.flatten(argument)[0])
    evaluate = Evaluation(model, feed, states, variables)
    try:
        whole, after = evaluate(argument, rows)
    except (ValueError, TypeError, KeyError, NotImplementedError, tf.errors.OpError) as error:
        logger.warning(UNCHECKED, f"test_step cannot be used: {first_line(error)}")
        return
    check_additive(evaluate, argument, rows, after)
    if evaluate.draws:
        logger.warning(UNCHECKED, "test_step draws random numbers")
        return
    parts = []
    for number in range(count):
        first, end = part_bounds(rows, count, number)
        if end > first:
            part = keras.tree.map_structure(lambda leaf: leaf[first:end], argument)  # noqa: B023  called at once
            logs, kept = evaluate(part, rows)
            parts.append(((end - first) / rows, logs, kept))
    if "loss" in whole:
        check_loss(float(whole["loss"]), sum(share * float(logs["loss"]) for share, logs, _ in parts), len(parts))
    else:
        logger.warning(UNCHECKED, "test_step logs no loss")
    for place, variable in enumerate(evaluate.metrics):
        added = sum(kept[place].numpy().astype(np.float64) for _, _, kept in parts)
        if not np.allclose(added, after[place].numpy(), rtol=TOLERANCE, atol=SMALLEST, equal_nan=True):
            refuse_metric(variable)


def check_loss(whole: float, split: float, parts: int) -> None:
    """Check that the loss of a batch is that of its parts.

    Raises:
        ConfigError: It is not.
    """
    if not np.isclose(split, whole, rtol=TOLERANCE, atol=SMALLEST, equal_nan=True):
        refuse(
            "the loss of a batch is not the mean of its parts' losses: it compares the rows of a batch with each other",
            f"a loss of {whole:.6g} for the first batch, and {split:.6g} for its {parts} parts",
            fix=f"use {ONE_PART}",
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


def check_additive(evaluate: Evaluation, argument: Any, rows: int, once: list[Any]) -> None:
    """Check that each metric adds up: the same batch a second time doubles what it has kept.

    Raises:
        ConfigError: One does not. The message has its name.
    """
    twice = evaluate(argument, rows, once)[1]
    for variable, first, second in zip(evaluate.metrics, once, twice, strict=True):
        if not np.allclose(2 * first.numpy(), second.numpy(), rtol=TOLERANCE, atol=0, equal_nan=True):
            refuse_metric(variable)
