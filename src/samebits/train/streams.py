"""The batches of a source as a feed: checks them, and reads them ahead of the training."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.config import TrainingConfig
from samebits.core.digest import array_digest, arrays_digest, changed_names
from samebits.core.errors import DataError
from samebits.core.seeds import POINT_SEED_END, Seeds
from samebits.runtime.pins import global_generator_states
from samebits.train.arrays import PARTS, convert, is_text, map_named
from samebits.train.checks_of_data import fixed_batch_size, model_inputs
from samebits.train.data import Split, named_leaves
from samebits.train.feeds import ArrayFeed, Feed, as_floatx, class_weights, epoch_order, pack
from samebits.train.iterators import IteratorFeed
from samebits.train.python_state import generators_of, states_of
from samebits.train.read_ahead import InTurn, ReadAhead
from samebits.train.sources import (
    Batches,
    Pieces,
    PipelineBatches,
    RowBatches,
    SequenceBatches,
    Shape,
    Task,
    source_kind,
)

EVALUATION = 0  # the epoch of all evaluations
EVALUATION_BATCH_SIZE = 250  # if the user sets none; constant, because bits depend on it


class StreamFeed:
    """The batches of a source. The traced function gets their arrays.

    Args:
        name: The name of the split, for messages.
        batches: The batches of the source.
        max_steps: Maximum batches per epoch; None: all.
        weights: Class number -> weight, or None.
        inputs: The shapes of the model's inputs by name, with None where they vary.
        is_training: Whether these are the training batches. Otherwise each pass has the same batches.
        is_seeded: Whether each start has the same batches.
        is_order_seeded: Whether each start has the same order, so that a checkpoint need not hold it.
        source: The source, whose own generators must not be drawn from.
        on_draw: Gets the error of a source that draws otherwise, or keeps a state between batches, instead of the
            caller. The batches of a source that does so from the start are read one by one when they are needed.

    Attributes:
        example: The first batch.
        reads_ahead: Whether batches are read before they are needed.

    Raises:
        DataError: There is no batch, or reading one twice gives other arrays.
    """

    def __init__(
        self, name: str, batches: Batches, *, max_steps: int | None, weights: Mapping[Any, float] | None,
        inputs: Mapping[str, Shape], is_training: bool,
        is_seeded: bool, is_order_seeded: bool, source: Any = None,
        on_draw: Callable[[DataError], None] | None = None,
    ) -> None:  # fmt: skip
        self._on_draw, self.reads_ahead = on_draw, False
        self._generators = generators_of(source)
        self._states = states_of(self._generators)
        self._name, self._batches, self._max_steps, self._weights = name, batches, max_steps, weights
        self._is_training, self._is_seeded, self._is_order_seeded = is_training, is_seeded, is_order_seeded
        self._ahead: ReadAhead | InTurn | None = None
        self._shapes: dict[str, Shape] = {}
        self.start_epoch(1)
        if self.steps < 1:
            raise DataError(f"the {name} data", expected="at least one batch", received="none", fix="check the source")
        before = global_generator_states()
        self._draws = False
        self.example = self.last = self._check_twice()
        self._shapes = self._find_shapes(inputs)
        self.close()
        self.reads_ahead = not self._draws and (on_draw is None or before == global_generator_states())
        specs = [map_named(self._spec, getattr(self.example, part), part) for part in PARTS]
        self.signature = keras.utils.pack_x_y_sample_weight(*specs)

    def _check_twice(self) -> Split:
        """Return the first batch, after it was read twice."""
        first = self._read(0)
        self.start_epoch(1)
        before, now = digests_of(first), digests_of(self._read(0))
        changed = changed_names(before, now)
        if changed and self._is_seeded:
            self._refuse(DataError(
                f"the {self._name} data", expected="the same arrays whenever a batch is read",
                received=f"other {', '.join(changed)} when the first batch is read again",
                fix="draw only from the rng or the seed that the source gets, or from "
                "context.rng('data/augment', epoch, batch), and keep no state between batches",
            ))  # fmt: skip
        return first

    def _refuse(self, error: DataError) -> None:
        """Raise an error about draws, or give it to who takes it.

        Raises:
            DataError: Nobody does.
        """
        if self._on_draw is None:
            raise error
        self._draws = True
        self._on_draw(error)

    def _find_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the shape of each array in all batches: None for the rows, and where sizes vary.

        As in Keras, sizes vary where the first two batches differ, and where the dataset or the model says so.
        """
        known: list[Mapping[str, Shape]] = [{name: leaf.shape for name, leaf in named_leaves(self.example).items()}]
        if self.steps > 1:
            known.append({name: leaf.shape for name, leaf in named_leaves(self._read(1)).items()})
        known += [self._batches.shapes, inputs]
        merged: dict[str, Shape] = {}
        for name, shape in known[0].items():
            others = [other[name] for other in known[1:] if len(other.get(name, ())) == len(shape)]
            sizes = zip(shape, *others, strict=True)
            merged[name] = (None, *(size[0] if len(set(size)) == 1 else None for size in list(sizes)[1:]))
        return merged

    def _spec(self, leaf: np.ndarray, name: str) -> tf.TensorSpec:
        return tf.TensorSpec(self._shapes[name], tf.string if is_text(leaf) else tf.as_dtype(leaf.dtype))

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch: shuffle, make the pipeline."""
        self.close()
        self._epoch, self._next = epoch if self._is_training else EVALUATION, 0
        self._batches.start_epoch(self._epoch)
        if isinstance(self._batches, SequenceBatches):  # its hooks may draw: they are called for every epoch, in order
            self._states = states_of(self._generators)
        self.steps = min(self._batches.steps, self._max_steps or self._batches.steps)

    def _at(self, step: int) -> ReadAhead | InTurn:
        """Return the reader whose next batch is the one after `step` steps."""
        if self._ahead is None or self._next != step:
            self.close()
            tasks = itertools.islice(self._batches.tasks(step), max(0, self.steps - step))
            numbered = (partial(self._make, task, number) for number, task in enumerate(tasks, step))
            self._ahead = ReadAhead(numbered, self._batches.workers) if self.reads_ahead else InTurn(numbered)
            self._next = step
        return self._ahead

    def _make(self, task: Task, step: int) -> Split:
        """Return a batch as Keras's `fit` would give it to the model. Runs in a thread.

        Raises:
            DataError: It has other shapes than the first batches.
        """
        made = task()
        batch = joined(made) if isinstance(made, Pieces) else as_split(made)
        batch = class_weights(batch, self._weights)
        for name, leaf in named_leaves(batch).items() if self._shapes else ():
            expected = self._shapes.get(name)
            if expected is None or len(expected) != leaf.ndim or any(
                size not in (None, found) for size, found in zip(expected, leaf.shape, strict=True)
            ):  # fmt: skip
                raise DataError(
                    f"the {self._name} data, batch {step + 1} of epoch {self._epoch}",
                    expected=f"{name} of shape {expected}, as in the first batches", received=leaf.shape,
                    fix="give all batches the same shapes, or declare Input((None, …)) in the model",
                )  # fmt: skip
        return batch

    def _read(self, step: int) -> Split:
        batch = self._at(step).take()
        self._next = step + 1
        changed = changed_names(self._states, states_of(self._generators)) if self._is_seeded else []
        if changed:
            self._states = states_of(self._generators)
            self._refuse(DataError(
                f"the {self._name} data, batch {step + 1} of epoch {self._epoch}",
                expected="draws only from the rng or the seed that the source gets",
                received=f"a draw from {', '.join(changed)}, whose state no checkpoint holds",
                fix="use that rng, or context.rng('data/augment', epoch, batch)",
            ))  # fmt: skip
        return batch

    def take(self, step: int, count: int | None = None) -> Any:
        """Return the arrays of a batch; of `count` batches: stacked."""
        batches = [self._read(step + number) for number in range(count or 1)]
        self.last = batches[-1]
        if count is None:
            return pack(self.last)
        return keras.tree.map_structure(lambda *arrays: np.stack(arrays), *map(pack, batches))

    def equal_batches(self, step: int) -> int:
        """Return how many batches of the same shape are read already, at least 1."""
        return self._at(step).ready()

    def fetch(self, argument: Any) -> Any:
        """Return the arrays."""
        return argument

    def digests(self, step: int) -> dict[str, str]:
        """Return the digests of the place and of the contents of the batch that was taken last."""
        return {
            "order": array_digest("order", self._batches.place(step)),
            "batch": arrays_digest(digests_of(self.last)),
        }

    def labels(self, step: int) -> Any:  # noqa: ARG002  the last one is kept
        """Return the labels of the batch that was taken last."""
        return self.last.labels

    def order_digest(self) -> str:
        """Return the digest of the order of the current epoch."""
        order = np.array([self.steps]) if self._batches.order is None else self._batches.order
        return array_digest("order", order)

    def state(self) -> dict[str, np.ndarray]:
        """Return the order of the current epoch if nothing else knows it."""
        order = self._batches.order
        return {} if order is None or self._is_order_seeded else {"order": order}

    def restore(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Start the epoch, with the order of the checkpoint if it has one."""
        self.start_epoch(epoch)
        self._batches.order = state.get("order", self._batches.order)

    def close(self) -> None:
        """End the threads."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None


def as_split(value: Any) -> Split:
    """Return what a source gave for a batch as arrays with the types that the model gets."""
    return Split(
        *(
            map_named(lambda array, _: as_floatx(array), convert(part, name), name)
            for part, name in zip(keras.utils.unpack_x_y_sample_weight(value), PARTS, strict=True)
        )
    )


def joined(pieces: Pieces) -> Split:
    """Return the batch of some pieces. Rows that another process reads are zero or empty here."""
    splits = [(rows, None if value is None else as_split(value)) for rows, value in pieces.parts]
    example = next(split for _, split in splits if split is not None)

    def of_part(rows: int, split: Split | None, part: str) -> Any:
        if split is not None and rows:
            return getattr(split, part)
        return map_named(
            lambda array, _: np.full((rows, *array.shape[1:]), "" if is_text(array) else 0, array.dtype),
            getattr(example, part), part,
        )  # fmt: skip

    def join(part: str) -> Any:
        if getattr(example, part) is None:
            return None
        values = [of_part(rows, split, part) for rows, split in splits]
        try:
            return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *values)
        except ValueError as error:
            raise DataError(
                "the training data", expected="the same shapes in all parts of a batch", received=str(error),
                fix="use training.shards=1, or give all rows the same shape, e.g. pad them to a fixed length",
            ) from error  # fmt: skip

    return Split(*map(join, PARTS))


def digests_of(batch: Split) -> dict[str, str]:
    """Return the digest of each array of a batch."""
    return {name: array_digest(name, leaf) for name, leaf in named_leaves(batch).items()}


def make_feed(
    part: Any,
    name: str,
    seeds: Seeds,
    settings: TrainingConfig,
    model: keras.Model,
    *,
    is_training: bool = False,
    max_steps: int | None = None,
    on_draw: Callable[[DataError], None] | None = None,
    own: range | None = None,
) -> Feed:
    """Return the batches of a split: shuffled for training if the settings say so, else in order.

    Args:
        part: The split.
        name: Its name, for messages.
        seeds: Uses data/order and data/augment.
        settings: Batch sizes, class weights and steps per epoch.
        model: The model, which may take a fixed number of rows.
        is_training: Whether it is the training split.
        max_steps: Maximum batches of an evaluation; None: all.
        on_draw: See `StreamFeed`.
        own: The parts of a training batch that a row source reads; None: all.
    """
    size = settings.batch_size if is_training else evaluation_batch_size(model, settings)
    max_steps = settings.steps_per_epoch if is_training else max_steps
    weights = settings.class_weight if is_training else None
    order = partial(epoch_order, seeds) if is_training and settings.shuffle else None
    if isinstance(part, Split):
        return ArrayFeed(class_weights(part, weights), size, order, max_steps)
    kind = source_kind(part)
    if kind == "iterated":
        return IteratorFeed(name, part, max_steps, weights)
    if kind == "rows":
        shards, parts = (settings.shards, own) if is_training else (1, None)
        batches: Batches = RowBatches(part, size, order, partial(seeds.rng, "data/augment"), shards, parts)
    elif kind == "sequence":
        batches = SequenceBatches(part, order)
    else:
        batches = PipelineBatches(
            part, lambda epoch: int(seeds.rng("data/augment", epoch).integers(POINT_SEED_END)), max_steps
        )
    return StreamFeed(
        name, batches, max_steps=max_steps, weights=weights, is_training=is_training,
        inputs={name: tuple(tensor.shape) for name, tensor in model_inputs(model).items()},
        is_seeded=seeds.all_seeded("data/"), is_order_seeded=seeds.is_seeded("data/order"), source=part,
        on_draw=on_draw,
    )  # fmt: skip


def evaluation_batch_size(model: keras.Model, settings: TrainingConfig) -> int:
    """Return the number of rows per batch when a model is evaluated or predicts."""
    return settings.validation_batch_size or fixed_batch_size(model) or EVALUATION_BATCH_SIZE
