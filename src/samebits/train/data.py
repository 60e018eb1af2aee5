"""Splits, folds, oversampling, batch order and the cache of encoded arrays, for any data set.

A user's data function gets a `DataContext` and returns a `Dataset`. It must draw random numbers only from the context.
Does not know file formats.
"""

import inspect
import logging
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
from samebits.runs.predictions import named_arrays

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Inputs, labels and sample weights of some rows.

    Each is an array with one entry per row, or a dict, tuple or list of such arrays.

    Attributes:
        inputs: The input of the model: any dtype [rows, ...].
        labels: What the loss compares the outputs with; None: nothing.
        sample_weight: float[rows]; None: all rows weigh the same.
    """

    inputs: Any
    labels: Any = None
    sample_weight: Any = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(named_leaves(self).values())))


def named_leaves(split: Split) -> dict[str, np.ndarray]:
    """Return the arrays of a split by name: "inputs", or "inputs/age" of a dict, "inputs/0" of a tuple."""
    parts = ("inputs", "labels", "sample_weight")
    return {name: leaf for part in parts for name, leaf in named_arrays(getattr(split, part), part).items()}


@dataclass(frozen=True)
class Dataset:
    """The return value of a data function: training rows, and possibly validation and test rows."""

    train: Split
    validation: Split | None = None
    test: Split | None = None

    def splits(self) -> dict[str, Split]:
        """Return the splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def digests(self) -> dict[str, str]:
        """Return the digest of each array, by name."""
        arrays = {
            f"{name}/{leaf}": array
            for name, split in self.splits().items()
            for leaf, array in named_leaves(split).items()
        }
        return {name: array_digest(name, array) for name, array in arrays.items()}

    def digest(self) -> str:
        """Return one digest of all arrays."""
        return arrays_digest(self.digests())


class DataContext:
    """The first argument of a data function: seeds, the split, resampling and a cache.

    Args:
        seeds: The run's seed points.
        options: `data` of the configuration. The keys in `config.HARNESS_DATA_KEYS` are used here.
        cache: Folder for encoded arrays, created when needed.
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

    def rest(self, *_: str) -> None:
        """Refuse the name that version 0.1 had for `mark_unused`.

        Raises:
            ConfigError: Always; it says what to write.
        """
        raise ConfigError(
            "context.rest", expected="the name since version 0.2", received="the name of version 0.1",
            fix="write context.mark_unused(point, because=reason)",
        )  # fmt: skip

    def mark_unused(self, point: str, *, because: str) -> None:
        """Declare that this data set does not use a point. Setting that point is then an error.

        Raises:
            ConfigError: The point is data/folds, but the configuration asks for folds.
        """
        if point == "data/folds" and self._options["folds"]:
            raise ConfigError("data.folds", expected="0", received=self._options["folds"], fix=f"remove it: {because}")
        self._seeds.mark_unused(point, because=because)

    def cached(
        self, name: str, key: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return arrays from the cache, or compute and save them.

        A damaged file is rebuilt. If the cache is not writable, the run continues with a warning.

        Args:
            name: Start of the file's name, e.g. "imdb_reviews".
            key: Everything that decides the arrays, e.g. the digest of the source file and all arguments. The source
                code of the module of `make` is added.
            make: Computes the arrays; must not draw random numbers.
        """
        code = bytes_digest(pathlib.Path(inspect.getfile(make)).read_bytes())
        path = self._cache / f"{name}-{json_digest({**key, 'code': code})[:16]}.arrays"
        if path.exists():
            try:
                return files.read_arrays(path)
            except RecordError as error:
                logger.warning("the cache file is rebuilt: %s", error.what)
        arrays = make()
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            files.write_arrays(path, arrays)
        except (OSError, RecordError) as error:
            logger.warning("the encoded data could not be cached: %s", str(error).replace("\n", " "))
        return arrays

    def split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return training and validation rows, stratified by label.

        With `folds`, the validation rows are fold number `fold`. Oversampling and bootstrap change only the training
        rows.

        Args:
            labels: int[rows].

        Returns:
            (int64[train rows], int64[validation rows]), in random order.

        Raises:
            ConfigError: There are too few rows for `validation_size`, or too few rows in each class for `folds`.
        """
        folds = self._options["folds"]
        if folds:
            self._seeds.mark_unused("data/split", because="data.folds replaces the split")
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
                expected=f"at most {most}, the size of the largest class, or {rows} for leave-one-out",
                received=folds,
                fix="choose fewer folds",
            )
        order = self._seeds.rng("data/folds").permutation(rows)
        # Shuffled here, with the generator of the point; scikit-learn only cuts. folds == rows means leave-one-out.
        splitter = KFold(folds) if folds == rows else StratifiedKFold(folds)
        parts = list(splitter.split(order, labels[order]))
        train, validation = parts[self._options["fold"]]
        return order[train], order[validation]

    def resample(self, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the training rows after oversampling and bootstrap, if the configuration enables them."""
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
    """Return a stratified split: both parts have the same share of each label.

    Args:
        labels: int[rows].
        validation_size: Exact number of validation rows.
        rng: The generator of the point `data/split`.

    Returns:
        (int64[train rows], int64[validation rows]), in random order.

    Raises:
        ConfigError: `validation_size` leaves no training row.
    """
    rows = len(labels)
    if not 0 < validation_size < rows:
        raise ConfigError(
            "data.validation_size",
            expected=f"1 to {rows - 1} ({rows} samples in total)",
            received=validation_size,
            fix="choose fewer validation samples",
        )
    order = rng.permutation(rows)
    by_label = order[np.argsort(labels[order], kind="stable")]
    # Takes every k-th row of the rows sorted by label, so the share of each label is exact to within one row.
    position = (np.arange(validation_size) * rows) // validation_size
    is_validation = np.zeros(rows, dtype=bool)
    is_validation[by_label[position]] = True
    return order[~is_validation[order]], order[is_validation[order]]


def oversample(train: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the training rows plus random copies of the smaller classes, so that all classes have the same size.

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
    """Return the shuffled order of the training rows in an epoch: int64[rows], a pure function of (seed, epoch)."""
    return seeds.rng("data/order", epoch).permutation(rows)


def check_same_data(first: dict[str, str], now: dict[str, str]) -> None:
    """Check that a resumed run has the same data as at its start, because a data file may have changed.

    Args:
        first: Array name -> digest, from the first row of the trace.
        now: The same for this process.

    Raises:
        DataError: Arrays differ. The message has their names.
    """
    changed = changed_names(first, now)
    if changed:
        raise DataError(
            "the data of a resumed run",
            expected="the same arrays as at its start",
            received=f"different {', '.join(changed)}",
            fix="restore the file that the data function reads, or restart with resume=never",
        )


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
    by_class = {int(number): float(weight) for number, weight in weights.items()}
    rows = np.array([by_class.get(int(label), 1.0) for label in np.round(labels).tolist()], np.float32)
    return Split(split.inputs, split.labels, rows)


def check_batch_size(training: TrainingConfig, rows: int) -> None:
    """Check that the batch is not larger than the training data.

    Raises:
        ConfigError: It is. The message has the number of samples.
    """
    if training.batch_size > rows:
        raise ConfigError(
            "training.batch_size",
            expected=f"1 to {rows}, the number of training samples",
            received=training.batch_size,
            fix="choose a smaller batch_size",
        )
