"""Batches of data that is not in memory: row sources, Keras's PyDataset and tf.data pipelines.

Each kind gives the tasks of an epoch, in order. A task makes one batch. `streams` runs them ahead of the training.
Imports TensorFlow only when a pipeline is used.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from samebits.core.digest import json_digest
from samebits.core.errors import ConfigError, DataError
from samebits.runs.predictions import named_arrays
from samebits.train.arrays import PARTS
from samebits.train.parts import part_bounds

Task = Callable[[], Any]  # returns inputs, (inputs,), (inputs, labels) or (inputs, labels, sample weights)
Shape = tuple[int | None, ...]
Order = Callable[[int, int], np.ndarray]  # (epoch, count of rows or batches) -> int64[count]
INFINITE, UNKNOWN = -1, -2  # the cardinality of a tf.data.Dataset
FORMS = (
    "Split(inputs, labels), an object with __len__() and batch(rows, rng), a keras.utils.PyDataset, "
    "or a function make(seed, epoch) that returns a tf.data.Dataset"
)


class RowSource(Protocol):
    """Rows that are read or made when a batch needs them: a file larger than memory, a folder of images.

    An attribute `workers` above 1 lets so many threads call `batch` at the same time. A method `digest()` that returns
    text makes a changed content a difference of the data.
    """

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
        """Return (inputs, labels) or (inputs, labels, sample weights) of some rows.

        Args:
            rows: int64[batch].
            rng: The generator of this batch, for augmentation. All draws must come from it.
        """


class Iterated:
    """A tf.data.Dataset or a generator that a script gave to `fit`. It is iterated as it is."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def digest(self) -> str:
        """Return its type: what it gives is only known when it is iterated."""
        return type(self.source).__qualname__


def source_kind(part: Any) -> str:
    """Return the form of a split that is not a `Split`.

    Returns:
        "sequence" (PyDataset), "rows", "pipeline" (a factory) or "iterated".

    Raises:
        ConfigError: It is none of them.
    """
    if isinstance(part, Iterated):
        return "iterated"
    bases = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(part).__mro__}
    if "keras.PyDataset" in bases:
        return "sequence"
    if bases & {"tensorflow.DatasetV2", "tensorflow.DatasetV1", "tensorflow.Dataset"}:
        raise ConfigError(
            "Dataset", expected=FORMS, received="a tf.data.Dataset, which cannot resume in the middle of an epoch",
            fix="return a function instead, def make(seed, epoch): return …, that makes the tf.data.Dataset of one "
            "epoch with .shuffle(…, seed=seed)",
        )  # fmt: skip
    if callable(getattr(part, "batch", None)) and hasattr(part, "__len__"):
        return "rows"
    if callable(part):
        return "pipeline"
    raise ConfigError(
        "Dataset", expected=FORMS, received=type(part).__qualname__, fix="return one of these in the data function"
    )


def source_digest(part: Any) -> str:
    """Return the digest of a source: of its length and of its own `digest()`, if it has these."""
    own = getattr(part, "digest", None)
    length = len(part) if hasattr(part, "__len__") else None
    return json_digest({"length": length, "digest": str(own()) if callable(own) else None})


class Batches(Protocol):
    """The batches of one split, epoch by epoch.

    Attributes:
        steps: Number of batches in the current epoch.
        workers: Number of threads that may run tasks at the same time.
        order: The order of the current epoch; None: as it is.
        shapes: The shape of each array of a batch by name, with None where it varies, as far as it is known.
    """

    steps: int
    workers: int
    order: np.ndarray | None
    shapes: Mapping[str, Shape]

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 1. Epoch 0 is an evaluation."""

    def tasks(self, step: int) -> Iterator[Task]:
        """Yield the tasks of the current epoch, beginning after `step` steps."""

    def place(self, step: int) -> np.ndarray:
        """Return what the batch after `step` steps is made of, for the trace: its rows, or its number."""


@dataclass
class Pieces:
    """A batch in parts: the rows of each, and what the source gave for them; None: another process reads it."""

    parts: list[tuple[int, Any]]


class RowBatches:
    """Batches of a row source.

    Args:
        source: The row source.
        size: Rows per batch; the last batch may be smaller.
        order: Returns the order of the rows in an epoch; None: as they are.
        rng: Returns the generator of a batch, given epoch and step, and the number of the part if there are several.
        shards: Number of parts of a batch; each is read on its own.
        own: The parts that are read; None: all.
    """

    shapes: Mapping[str, Shape] = {}

    def __init__(
        self, source: Any, size: int, order: Order | None, rng: Callable[..., np.random.Generator], shards: int = 1,
        own: range | None = None,
    ) -> None:  # fmt: skip
        self._source, self._size, self._make_order, self._rng = source, size, order, rng
        self._shards, self._own = shards, range(shards) if own is None else own
        self.workers = int(getattr(source, "workers", 1))
        self.steps = math.ceil(len(source) / size)
        self.order: np.ndarray | None = None
        self._epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the rows for an epoch."""
        self._epoch = epoch
        self.order = None if self._make_order is None else self._make_order(epoch, len(self._source))

    def tasks(self, step: int) -> Iterator[Task]:
        """Yield a call of the source for each batch."""
        for number in range(step, self.steps):
            yield partial(self._read, self._epoch, number, self.place(number))

    def _read(self, epoch: int, number: int, rows: np.ndarray) -> Any:
        if self._shards == 1:
            return self._source.batch(rows, self._rng(epoch, number))
        pieces: list[tuple[int, Any]] = []
        for part in range(self._shards):
            first, end = part_bounds(len(rows), self._shards, part)
            is_read = part in self._own and end > first
            value = self._source.batch(rows[first:end], self._rng(epoch, number, part)) if is_read else None
            pieces.append((end - first, value))
        if all(value is None for _, value in pieces):  # no row of a small batch is for this process
            pieces[-1] = (pieces[-1][0], self._source.batch(rows[-1:], self._rng(epoch, number, self._shards)))
        return Pieces(pieces)

    def place(self, step: int) -> np.ndarray:
        """Return the rows of a batch."""
        first, end = step * self._size, min((step + 1) * self._size, len(self._source))
        return np.arange(first, end) if self.order is None else self.order[first:end].astype(np.int64)


class SequenceBatches:
    """Batches of a keras.utils.PyDataset, in the order of their numbers or shuffled.

    `on_epoch_begin` and `on_epoch_end` are called for each epoch of the training in order, after a resume as well. An
    evaluation does not call them.

    Raises:
        ConfigError: The data set is infinite.
    """

    shapes: Mapping[str, Shape] = {}

    def __init__(self, dataset: Any, order: Order | None) -> None:
        self._dataset, self._make_order = dataset, order
        self.workers = max(1, int(getattr(dataset, "workers", 1)))
        self.order: np.ndarray | None = None
        self._begun = 0
        self.steps = self._count()

    def _count(self) -> int:
        count = self._dataset.num_batches
        if count is None:
            raise ConfigError(
                "Dataset", expected="a PyDataset with a number of batches", received="an infinite one",
                fix="define __len__ in the class",
            )  # fmt: skip
        return int(count)

    def start_epoch(self, epoch: int) -> None:
        """Call the hooks of the epochs up to this one, and shuffle its batches."""
        while self._begun < epoch:
            if self._begun:
                self._dataset.on_epoch_end()
            self._dataset.on_epoch_begin()
            self._begun += 1
        self.steps = self._count()
        self.order = None if self._make_order is None else self._make_order(epoch, self.steps)

    def tasks(self, step: int) -> Iterator[Task]:
        """Yield a call of `__getitem__` for each batch."""
        for number in range(step, self.steps):
            yield partial(self._dataset.__getitem__, int(self.place(number)[0]))

    def place(self, step: int) -> np.ndarray:
        """Return the number of a batch."""
        return np.array([step]) if self.order is None else self.order[step : step + 1].astype(np.int64)


class PipelineBatches:
    """Batches of a tf.data.Dataset that a function makes anew for each epoch.

    Args:
        make: Returns the dataset, given a seed and the epoch.
        seed: Returns the seed of an epoch.
        max_steps: Maximum batches per epoch; None: all.

    Raises:
        ConfigError: The function returns something else, or an infinite dataset without `max_steps`.
    """

    workers = 1
    order: np.ndarray | None = None
    shapes: Mapping[str, Shape]

    def __init__(self, make: Callable[[int, int], Any], seed: Callable[[int], int], max_steps: int | None) -> None:
        self._make, self._seed = make, seed
        self._dataset = self._open(0)
        self.shapes = self._static_shapes()
        count = int(self._dataset.cardinality())
        if count == INFINITE and max_steps is None:
            raise ConfigError(
                "training.steps_per_epoch", expected="the number of batches per epoch", received="null",
                fix="set it, because the tf.data.Dataset is infinite; end that of an evaluation with .take(batches)",
            )  # fmt: skip
        self._is_counted = count == UNKNOWN and max_steps is None
        if self._is_counted:
            count = sum(1 for _ in self._dataset)
        self.steps = count if count >= 0 else int(max_steps or 0)

    def _open(self, epoch: int) -> Any:
        """Return the dataset of an epoch."""
        import tensorflow as tf  # noqa: PLC0415  only for data that needs it

        dataset = self._make(self._seed(epoch), epoch)
        if not isinstance(dataset, tf.data.Dataset):
            raise ConfigError(
                "Dataset", expected="a function that returns a tf.data.Dataset", fix="return one",
                received=f"a function that returns {type(dataset).__qualname__}",
            )  # fmt: skip
        options = tf.data.Options()
        options.deterministic = True
        return dataset.with_options(options)

    def _static_shapes(self) -> dict[str, Shape]:
        """Return the shapes of the dataset's elements.

        Raises:
            ConfigError: Elements are ragged or sparse.
        """
        import keras  # noqa: PLC0415
        import tensorflow as tf  # noqa: PLC0415

        parts = keras.utils.unpack_x_y_sample_weight(self._dataset.element_spec)
        shapes: dict[str, Shape] = {}
        for part, specs in zip(PARTS, parts, strict=True):
            for name, spec in named_arrays(specs, part).items():
                if not isinstance(spec, tf.TensorSpec):
                    raise ConfigError(
                        "Dataset", expected="a tf.data.Dataset of dense tensors",
                        received=f"{name}: {type(spec).__name__}",
                        fix="convert them, e.g. dataset.map(lambda x, y: (x.to_tensor(), y))",
                    )  # fmt: skip
                if spec.shape.rank is not None:
                    shapes[name] = tuple(spec.shape)
        return shapes

    def start_epoch(self, epoch: int) -> None:
        """Make the dataset of an epoch."""
        self._dataset = self._open(epoch)

    def tasks(self, step: int) -> Iterator[Task]:
        """Yield a read of the next element for each batch. The first `step` elements are made and dropped."""
        elements = iter(self._dataset.skip(step))
        for number in range(step, self.steps):
            yield partial(self._read, elements, number)

    def _read(self, elements: Iterator[Any], number: int) -> Any:
        missing = object()
        element = next(elements, missing)
        is_longer = self._is_counted and number == self.steps - 1 and next(elements, missing) is not missing
        if element is missing or is_longer:
            raise DataError(
                "the tf.data.Dataset of an epoch", expected=f"{self.steps} batches",
                received="more" if is_longer else number,
                fix="make as many batches in each epoch, or set training.steps_per_epoch",
            )  # fmt: skip
        return element

    def place(self, step: int) -> np.ndarray:
        """Return the number of a batch."""
        return np.array([step])
