"""Splits, folds, oversampling, batch order and the cache of encoded arrays, for any data set.

A user's data function gets a `DataContext` and returns a `Dataset`; it never draws by itself. Knows no file format.
"""

import inspect
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from samebits.core import files
from samebits.core.config import HARNESS_DATA_KEYS, TrainingConfig
from samebits.core.digest import array_digest, arrays_digest, bytes_digest, changed_names, json_digest
from samebits.core.errors import ConfigError, DataError, RecordError
from samebits.core.seeds import Seeds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rows of one kind.

    Attributes:
        inputs: Any dtype [rows, ...]; what the model takes.
        labels: int32[rows].
    """

    inputs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """What a data function returns: the rows to train on and the rows to validate on."""

    train: Split
    validation: Split

    def digests(self) -> dict[str, str]:
        """Return the digest of each array, by name."""
        arrays = {
            "train/inputs": self.train.inputs,
            "train/labels": self.train.labels,
            "validation/inputs": self.validation.inputs,
            "validation/labels": self.validation.labels,
        }
        return {name: array_digest(name, array) for name, array in arrays.items()}

    def digest(self) -> str:
        """Return one digest of all arrays."""
        return arrays_digest(self.digests())


class DataContext:
    """What the harness gives to a data function: seeds, the split, resampling and a cache.

    Args:
        seeds: The run's seed points.
        options: The configuration's `data`; the keys of `config.HARNESS_DATA_KEYS` are used here.
        cache: Folder of encoded arrays; made when first needed.
    """

    def __init__(self, seeds: Seeds, options: Mapping[str, Any], cache: pathlib.Path) -> None:
        self._seeds = seeds
        self._options = {key: options.get(key, default) for key, default in HARNESS_DATA_KEYS.items()}
        self._cache = cache

    def seed(self, point: str) -> int | None:
        """Return the seed of a point such as "data/load" (None: unseeded)."""
        return self._seeds.take(point)

    def rng(self, point: str) -> np.random.Generator:
        """Return the NumPy generator of a point such as "data/load"."""
        return self._seeds.rng(point)

    def mark_unused(self, point: str, *, because: str) -> None:
        """Declare that this data set has no use for a point; it is then an error to set it.

        Raises:
            ConfigError: Folds are wanted of a data set that has none.
        """
        if point == "data/folds" and self._options["folds"]:
            raise ConfigError(
                "data.folds", expected="0", received=self._options["folds"], fix=f"leave it out: {because}"
            )
        self._seeds.mark_unused(point, because=because)

    def cached(
        self, name: str, key: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return arrays from the cache, or make and keep them.

        A damaged file is made again; a cache that cannot be written costs time, not the run.

        Args:
            name: Start of the file's name, e.g. "imdb_reviews".
            key: Everything that decides the arrays: digest of the source file and arguments. The source code of
                `make`'s module is added.
            make: Computes the arrays; must not draw random numbers.
        """
        code = bytes_digest(pathlib.Path(inspect.getfile(make)).read_bytes())
        path = self._cache / f"{name}-{json_digest({**key, 'code': code})[:16]}.arrays"
        if path.exists():
            try:
                return files.read_arrays(path)
            except RecordError as error:
                logger.warning("the cache is made again: %s", error.what)
        arrays = make()
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            files.write_arrays(path, arrays)
        except (OSError, RecordError) as error:
            logger.warning("the encoded data are not kept for the next run: %s", str(error).replace("\n", " "))
        return arrays

    def split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and the rows to validate on, stratified by label.

        With `folds`, validation is fold number `fold`. Oversampling and bootstrap then act on the training rows alone.

        Args:
            labels: int[rows].

        Returns:
            (int64[train rows], int64[validation rows]), in random order.

        Raises:
            ConfigError: More validation rows than there are rows, or more folds than rows of any class.
        """
        folds = self._options["folds"]
        if folds:
            self._seeds.mark_unused("data/split", because="data.folds is on: folds take the place of the split")
            train, validation = self._fold(labels, folds)
        else:
            self._seeds.mark_unused("data/folds", because="data.folds is 0")
            train, validation = stratified_split(
                labels, self._options["validation_size"], self._seeds.rng("data/split")
            )
        return self.resample(train, labels), validation

    def _fold(self, labels: np.ndarray, folds: int) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.model_selection import KFold, StratifiedKFold  # noqa: PLC0415  slow to import

        rows = len(labels)
        most = int(np.unique(labels, return_counts=True)[1].max())
        if folds != rows and folds > most:
            raise ConfigError(
                "data.folds",
                expected=f"at most {most}, the rows of the largest class, or {rows} to leave one out",
                received=folds,
                fix="choose fewer folds",
            )
        order = self._seeds.rng("data/folds").permutation(rows)
        # Shuffled here, by the point's own generator; scikit-learn only cuts. As many folds as rows: leave one out.
        splitter = KFold(folds) if folds == rows else StratifiedKFold(folds)
        parts = list(splitter.split(order, labels[order]))
        train, validation = parts[self._options["fold"]]
        return order[train], order[validation]

    def resample(self, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the training rows after oversampling and bootstrap, where the configuration asks for them."""
        if self._options["oversample"]:
            train = oversample(train, labels, self._seeds.rng("data/oversample"))
        else:
            self._seeds.mark_unused("data/oversample", because="data.oversample is false")
        if self._options["bootstrap"]:
            train = train[self._seeds.rng("data/bootstrap").integers(0, len(train), len(train))]
        else:
            self._seeds.mark_unused("data/bootstrap", because="data.bootstrap is false")
        return train


def stratified_split(
    labels: np.ndarray, validation_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows so that every label keeps its share in both parts.

    Args:
        labels: int[rows].
        validation_size: Rows of the validation part, exactly.
        rng: The generator of the point `data/split`.

    Returns:
        (int64[train rows], int64[validation rows]).

    Raises:
        ConfigError: `validation_size` leaves no row to train on.
    """
    rows = len(labels)
    if not 0 < validation_size < rows:
        raise ConfigError(
            "data.validation_size",
            expected=f"1 to {rows - 1} ({rows} rows in all)",
            received=validation_size,
            fix="choose fewer validation rows",
        )
    order = rng.permutation(rows)
    by_label = order[np.argsort(labels[order], kind="stable")]
    # Every k-th row of the rows sorted by label: each label's share is right to within one row.
    position = (np.arange(validation_size) * rows) // validation_size
    is_validation = np.zeros(rows, dtype=bool)
    is_validation[by_label[position]] = True
    return order[~is_validation[order]], order[is_validation[order]]


def oversample(train: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the training rows with random copies of each smaller class added, until all classes are as large.

    Args:
        train: int64[train rows].
        labels: int[rows] of all rows.
        rng: The generator of the point `data/oversample`.
    """
    classes, counts = np.unique(labels[train], return_counts=True)
    extra = []
    for label, count in zip(classes, counts, strict=True):
        members = train[labels[train] == label]
        extra.append(members[rng.integers(0, count, counts.max() - count)])
    return np.concatenate([train, *extra])


def epoch_order(seeds: Seeds, epoch: int, rows: int) -> np.ndarray:
    """Return the order of the training rows in one epoch: int64[rows], a pure function of (seed, epoch)."""
    return seeds.rng("data/order", epoch).permutation(rows)


def check_same_data(first: dict[str, str], now: dict[str, str]) -> None:
    """Refuse to resume with other data than the run began with: a data function may read a file that has changed.

    Args:
        first: Array name -> digest, of the run's first row of the trace.
        now: The same of this process.

    Raises:
        DataError: Names the arrays that differ.
    """
    changed = changed_names(first, now)
    if changed:
        raise DataError(
            "the data of a resumed run",
            expected="the arrays that it began with",
            received=f"others as {', '.join(changed)}",
            fix="bring back the file that the data function reads, or begin anew with resume=never",
        )


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


class Batches:
    """Which training rows each step takes: a pure function of (seed, epoch, step).

    Args:
        split: The training rows.
        seeds: Consumes data/order.
        settings: The size of a batch, and where an epoch is cut short.

    Attributes:
        steps: Steps per epoch.
        order: int64[rows], the order of the epoch that was started last; part of a checkpoint.
    """

    def __init__(self, split: Split, seeds: Seeds, settings: TrainingConfig) -> None:
        self._split, self._seeds, self._size = split, seeds, settings.batch_size
        steps = math.ceil(len(split.labels) / self._size)
        self.steps = min(steps, settings.steps_per_epoch or steps)
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Put the rows in the order of an epoch, from 1."""
        self.order = epoch_order(self._seeds, epoch, len(self._split.labels))

    def rows(self, step: int, count: int = 1) -> np.ndarray:
        """Return the rows of the next `count` steps after `step` steps: int64[rows], the last batch may be smaller."""
        return self.order[step * self._size : (step + count) * self._size]

    def whole_left(self, step: int) -> int:
        """Return how many batches of full size are left after `step` steps."""
        return len(self.order) // self._size - step

    def digests(self, rows: np.ndarray) -> dict[str, str]:
        """Return the evidence of one step: the digests of its rows' numbers and of their contents."""
        contents = array_digest("batch", self._split.inputs[rows]) + array_digest("labels", self._split.labels[rows])
        return {"order": array_digest("order", rows), "batch": contents}

    def order_digest(self) -> str:
        """Return the digest of the epoch's order."""
        return array_digest("order", self.order)
