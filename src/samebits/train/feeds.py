"""Gives the batches of a split to a traced function.

A feed decides which rows a step sees: a pure function of (seed, epoch, step). Knows neither models nor files.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from samebits.core.digest import array_digest, arrays_digest
from samebits.core.errors import ConfigError
from samebits.core.seeds import Seeds
from samebits.train.arrays import map_named
from samebits.train.data import Split, named_leaves
from samebits.train.sources import Order


class Feed(Protocol):
    """The batches of one split.

    Attributes:
        signature: What the traced function gets for one step: tf.TensorSpec, possibly nested.
        example: The arrays of the split if they are in memory, else of its first batch.
    """

    signature: Any
    example: Split

    @property
    def steps(self) -> int:
        """The number of batches in the current epoch."""

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 1."""

    def take(self, step: int, count: int | None = None) -> Any:
        """Return the argument of the traced function for the batch after `step` steps.

        With a `count`: the arguments of so many batches of the same shape, stacked.
        """

    def equal_batches(self, step: int) -> int:
        """Return how many batches after `step` steps have the same shape, at least 1."""

    def fetch(self, argument: Any) -> Any:
        """Return the batch, as Keras's `train_step` gets it. Called while the function is traced."""

    def digests(self, step: int) -> dict[str, str]:
        """Return the trace of the batch after `step` steps."""

    def order_digest(self) -> str:
        """Return the digest of the order of the current epoch."""

    def state(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint needs to continue in the middle of an epoch."""

    def restore(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Continue in the middle of an epoch."""

    def labels(self, step: int) -> Any:
        """Return the labels of the batch after `step` steps, which was just taken; None if it has none."""


def pack(split: Split) -> Any:
    """Return (inputs, labels, sample weights) as Keras packs them for `train_step`."""
    return keras.utils.pack_x_y_sample_weight(split.inputs, split.labels, split.sample_weight)


def epoch_order(seeds: Seeds, epoch: int, rows: int) -> np.ndarray:
    """Return the shuffled order of the training rows in an epoch: int64[rows], a pure function of (seed, epoch)."""
    return seeds.rng("data/order", epoch).permutation(rows)


def class_weights(split: Split, weights: Mapping[Any, float] | None) -> Split:
    """Return the split with the weight of each row's class as its sample weight, as Keras's `class_weight` does.

    Args:
        split: The training rows; the labels are class numbers, or one value per class.
        weights: Class number -> weight; classes that it lacks weigh 1. None: nothing changes.

    Raises:
        ConfigError: The split has sample weights, or labels of several outputs.
    """
    if weights is None:
        return split
    if split.sample_weight is not None or not isinstance(split.labels, np.ndarray):
        raise ConfigError(
            "training.class_weight", expected="data with one label array and without sample weights",
            received="sample weights" if split.sample_weight is not None else "labels of several outputs or none",
            fix="remove class_weight, and give sample weights in the data function",
        )  # fmt: skip
    labels = split.labels
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] != 1 else labels[..., 0]
    if labels.ndim > 1:
        raise ConfigError(
            "training.class_weight", expected="one class per row",
            received=f"labels of shape {list(split.labels.shape)}", fix="give sample weights in the data function",
        )  # fmt: skip
    by_class = {int(number): float(weight) for number, weight in weights.items()}
    rows = np.array([by_class.get(int(label), 1.0) for label in np.round(labels).tolist()], np.float32)
    return Split(split.inputs, split.labels, rows)


class ArrayFeed:
    """Batches of arrays in memory. The traced function gets row numbers, and gathers the rows itself.

    Args:
        split: The arrays.
        batch_size: Rows per batch; the last batch may be smaller.
        order: Returns the order of the rows in an epoch; None: as they are.
        max_steps: Maximum batches per epoch; None: all.
    """

    signature = tf.TensorSpec([None], tf.int32)

    def __init__(self, split: Split, batch_size: int, order: Order | None = None, max_steps: int | None = None) -> None:
        self.example, self._size, self._make_order = split, batch_size, order
        self._rows = split.rows
        steps = math.ceil(self._rows / batch_size)
        self.steps = min(steps, max_steps or steps)
        self._tensors = keras.tree.map_structure(
            lambda array: None if array is None else tf.constant(as_floatx(array)), pack(split)
        )
        self.order = np.arange(self._rows)
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the rows for an epoch."""
        if self._make_order is not None:
            self.order = self._make_order(epoch, self._rows)

    def take(self, step: int, count: int | None = None) -> np.ndarray:
        """Return the rows of a batch: int32[batch]; of `count` batches: int32[count, batch]."""
        rows = self.order[step * self._size : (step + (count or 1)) * self._size].astype(np.int32)
        return rows if count is None else rows.reshape(count, -1)

    def equal_batches(self, step: int) -> int:
        """Return how many full batches are left, at least 1."""
        return max(1, min(self._rows // self._size, self.steps) - step)

    def fetch(self, argument: Any) -> Any:
        """Return the rows with these numbers."""
        return keras.tree.map_structure(
            lambda tensor: None if tensor is None else tf.gather(tensor, argument), self._tensors
        )

    def digests(self, step: int) -> dict[str, str]:
        """Return the digests of the row numbers and of their contents."""
        rows = self.order[step * self._size : (step + 1) * self._size]
        contents = {name: array_digest(name, array[rows]) for name, array in named_leaves(self.example).items()}
        return {"order": array_digest("order", rows), "batch": arrays_digest(contents)}

    def order_digest(self) -> str:
        """Return the digest of the order of the current epoch."""
        return array_digest("order", self.order)

    def state(self) -> dict[str, np.ndarray]:
        """Return the order of the current epoch."""
        return {"order": self.order}

    def restore(self, epoch: int, state: dict[str, np.ndarray]) -> None:  # noqa: ARG002  the order has it all
        """Take the order of the checkpoint."""
        self.order = state["order"]

    def labels(self, step: int) -> Any:
        """Return the labels of a batch."""
        rows = self.order[step * self._size : (step + 1) * self._size]
        return map_named(lambda array, _: array[rows], self.example.labels, "labels")


class PartFeed(ArrayFeed):
    """Batches of arrays of which an epoch has a part only: the next epoch continues with the next part, as in Keras.

    Args:
        split: The arrays.
        batch_size: Rows per batch.
        order: Returns the order of the rows in a pass over all rows; None: as they are.
        steps: Batches of an epoch. The last part of a pass may have fewer.
        first_epoch: The number of the first epoch.
    """

    def __init__(self, split: Split, batch_size: int, order: Order | None, steps: int, first_epoch: int) -> None:
        self._per_epoch, self._first = steps, first_epoch
        self._pass: tuple[int, np.ndarray] = (-1, np.arange(split.rows))
        super().__init__(split, batch_size, order, steps)

    def start_epoch(self, epoch: int) -> None:
        """Select the part of an epoch, and shuffle the rows if it is the first of a pass."""
        rows, part_rows = self.example.rows, self._per_epoch * self._size
        number, part = divmod(max(epoch - self._first, 0), math.ceil(rows / part_rows))
        if self._make_order is not None and number != self._pass[0]:
            self._pass = (number, self._make_order(self._first + number, rows))
        self._select(self._pass[1][part * part_rows : (part + 1) * part_rows])

    def _select(self, order: np.ndarray) -> None:
        self.order, self._rows = order, len(order)
        self.steps = math.ceil(len(order) / self._size)

    def restore(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Take the order of the checkpoint."""
        self.start_epoch(epoch)
        self._select(state["order"])


def as_floatx(array: np.ndarray) -> np.ndarray:
    """Return an array as Keras's `fit` would give it to the model: every float type becomes `keras.config.floatx()`."""
    if array.dtype.kind in "SUO" or not keras.backend.is_float_dtype(array.dtype.name):
        return array
    return array.astype(keras.config.floatx(), copy=False)
