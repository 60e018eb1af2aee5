"""The batches of a tf.data.Dataset or a generator of a script as a feed: in the order in which it gives them.

Nobody knows the position of such an iterator, so a training that uses one cannot resume in its middle.
"""

import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.digest import array_digest, arrays_digest, json_digest
from samebits.core.errors import DataError
from samebits.train.arrays import PARTS, convert, is_text, map_named
from samebits.train.data import Split, named_leaves
from samebits.train.feeds import class_weights, pack
from samebits.train.sources import Iterated, Shape

UNKNOWN = sys.maxsize  # the number of batches until the iterator has ended
PEEKED = 2  # batches from which Keras finds the shapes of a generator's arrays


class IteratorFeed:
    """The batches of a data set or a generator. The traced function gets their arrays.

    An epoch ends after `max_steps` batches, and the next one goes on from there; or at the end of the iterator, and the
    next one begins again. A generator that has ended gives its first two batches again. All this is as in Keras.

    Args:
        name: The name of the split, for messages.
        source: The tf.data.Dataset or the generator.
        max_steps: Maximum batches per epoch; None: all.
        weights: Class number -> weight, or None.

    Attributes:
        example: The first batch.

    Raises:
        DataError: There is no batch, or one holds something else than dense arrays.
    """

    def __init__(self, name: str, source: Iterated, max_steps: int | None, weights: Mapping[Any, float] | None) -> None:
        self._name, self._source, self._max_steps, self._weights = name, source.source, max_steps, weights
        self._first: list[Any] = []
        if isinstance(self._source, types.GeneratorType):
            self._first = list(itertools.islice(self._source, PEEKED))
        self._is_counted = not self._first and int(self._source.cardinality()) >= 0
        self._iterator: Iterator[Any] | None = None
        self._ahead: list[Split] = []  # the next batch, if it is read
        self._taken = 0
        self._contents: dict[str, str] = {}  # digests of the batches of this epoch
        self._look()
        if not self._ahead:
            raise DataError(f"the {name} data", expected="at least one batch", received="none", fix="check the source")
        self.example = self.last = self._ahead[0]
        specs = [map_named(self._spec, getattr(self.example, part), part) for part in PARTS]
        self.signature = keras.utils.pack_x_y_sample_weight(*specs)

    @property
    def steps(self) -> int:
        """The number of batches in the current epoch; `UNKNOWN` until its last batch is known."""
        if self._max_steps is not None and self._taken >= self._max_steps:
            return self._taken
        self._look()
        return (self._max_steps or UNKNOWN) if self._ahead else self._taken

    def _look(self) -> None:
        """Read the next batch, unless it is read or there is none."""
        if self._iterator is None:
            self._iterator = itertools.chain(self._first, self._source) if self._first else iter(self._source)
        if not self._ahead:
            self._ahead = [self._split(each) for each in itertools.islice(self._iterator, 1)]

    def _split(self, element: Any) -> Split:
        parts = keras.utils.unpack_x_y_sample_weight(element)
        arrays = [map_named(_dense, part, name) for part, name in zip(parts, PARTS, strict=True)]
        return class_weights(
            Split(*(convert(part, name) for part, name in zip(arrays, PARTS, strict=True))), self._weights
        )

    def _spec(self, leaf: np.ndarray, name: str) -> tf.TensorSpec:
        dtype = tf.string if is_text(leaf) else tf.as_dtype(leaf.dtype)
        return tf.TensorSpec(self._shapes().get(name, (None, *leaf.shape[1:])), dtype)

    def _shapes(self) -> dict[str, Shape]:
        """Return the shapes that all batches have, as far as they are known, by name."""
        if not self._first:
            parts = keras.utils.unpack_x_y_sample_weight(self._source.element_spec)
            named = [item for part, key in zip(parts, PARTS, strict=True) for item in _named(part, key).items()]
            return {name: spec.shape for name, spec in named}
        leaves = [named_leaves(self._split(each)) for each in self._first]
        return {
            name: (None, *(size if all(other[name].shape[at] == size for other in leaves) else None
                           for at, size in enumerate(leaf.shape[1:], 1)))
            for name, leaf in leaves[0].items()
        }  # fmt: skip

    def start_epoch(self, epoch: int) -> None:  # noqa: ARG002  the iterator knows no epoch
        """Go on with the next part, or begin again."""
        if self._taken and self._max_steps is not None:
            self._look()
        if self._taken and (self._max_steps is None or not self._ahead):
            self._iterator, self._ahead = None, []
            if self._max_steps is None and self._is_counted:
                iter(self._source)  # Keras makes one that it does not use, which changes the next shuffle
        self._taken, self._contents = 0, {}

    def take(self, step: int, count: int | None = None) -> Any:  # noqa: ARG002  one after another
        """Return the arrays of the next batch, with a `count` (of 1) stacked."""
        self._look()
        self.last, self._ahead = self._ahead.pop(), []
        self._taken += 1
        digests = {name: array_digest(name, leaf) for name, leaf in named_leaves(self.last).items()}
        self._contents[f"{self._taken}"] = arrays_digest(digests)
        batch = pack(self.last)
        return batch if count is None else keras.tree.map_structure(lambda array: array[None], batch)

    def equal_batches(self, step: int) -> int:  # noqa: ARG002
        """Return 1: the next batch may have another shape."""
        return 1

    def fetch(self, argument: Any) -> Any:
        """Return the arrays."""
        return argument

    def digests(self, step: int) -> dict[str, str]:
        """Return the digests of the number and of the contents of the batch that was taken last."""
        return {"order": array_digest("order", np.array([step])), "batch": self._contents[f"{self._taken}"]}

    def order_digest(self) -> str:
        """Return the digest of the contents of all batches of the epoch."""
        return json_digest(self._contents)

    def state(self) -> dict[str, np.ndarray]:
        """Return nothing: no checkpoint can hold the position."""
        return {}

    def restore(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Refuse: there is no checkpoint.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError

    def labels(self, step: int) -> Any:  # noqa: ARG002
        """Return the labels of the batch that was taken last."""
        return self.last.labels


def _dense(leaf: Any, name: str) -> Any:
    if isinstance(leaf, tf.RaggedTensor | tf.SparseTensor) or not (hasattr(leaf, "__array__") or np.isscalar(leaf)):
        raise DataError(
            name, expected="dense arrays", received=type(leaf).__name__,
            fix="convert them, e.g. dataset.map(lambda x, y: (x.to_tensor(), y))",
        )  # fmt: skip
    return np.asarray(leaf)


def _named(part: Any, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    map_named(lambda leaf, name: found.__setitem__(name, leaf), part, key)
    return found
