"""What a user's data function gets and returns: a `DataContext`, a `Dataset`.

It must draw random numbers only from the context. Does not know file formats or batches.
"""

import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from samebits.core import files
from samebits.core.config import HARNESS_DATA_KEYS
from samebits.core.digest import array_digest, arrays_digest, json_digest
from samebits.core.errors import ConfigError, DataError, RecordError
from samebits.core.seeds import Seeds
from samebits.runs.predictions import named_arrays
from samebits.train import splitting
from samebits.train.arrays import PARTS, as_array, convert
from samebits.train.cache_keys import captured_values, maker_code
from samebits.train.sources import source_digest, source_kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Inputs, labels and sample weights of some rows.

    Each is an array with one entry per row, or a dict, tuple or list of such arrays. What Keras takes becomes a NumPy
    array: a list of numbers, a tensor, a DataFrame. A pandas Series becomes [rows, 1].

    Attributes:
        inputs: The input of the model: any dtype [rows, ...].
        labels: What the loss compares the outputs with; None: nothing.
        sample_weight: float[rows]; None: all rows weigh the same.

    Raises:
        DataError: A part is no array, or the parts have different numbers of rows.
    """

    inputs: Any
    labels: Any = None
    sample_weight: Any = None

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, convert(getattr(self, part), part))
        rows = {name: len(leaf) for name, leaf in named_leaves(self).items()}
        if len(set(rows.values())) != 1 or 0 in rows.values():
            raise DataError(
                "Split", expected="arrays with the same number of rows, at least 1",
                received=", ".join(f"{name}: {count}" for name, count in rows.items()) or "no array",
                fix="select the same rows of each array",
            )  # fmt: skip

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(named_leaves(self).values())))


def named_leaves(split: Split) -> dict[str, np.ndarray]:
    """Return the arrays of a split by name: "inputs", or "inputs/age" of a dict, "inputs/0" of a tuple."""
    return {name: leaf for part in PARTS for name, leaf in named_arrays(getattr(split, part), part).items()}


@dataclass(frozen=True)
class Dataset:
    """The return value of a data function: training rows, and possibly validation and test rows.

    Each is a `Split`, or a source of batches: an object with `__len__()` and `batch(rows, rng)` (`sources.RowSource`),
    a keras.utils.PyDataset, or a function `make(seed, epoch)` that returns the tf.data.Dataset of one epoch.

    Raises:
        ConfigError: A part is something else.
    """

    train: Any
    validation: Any = None
    test: Any = None

    def __post_init__(self) -> None:
        for part in self.splits().values():
            if not isinstance(part, Split):
                source_kind(part)

    def splits(self) -> dict[str, Any]:
        """Return the splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def digests(self) -> dict[str, str]:
        """Return the digest of each array, by name. Of a source, only the length and its own `digest()` are known."""
        digests: dict[str, str] = {}
        for name, part in self.splits().items():
            if isinstance(part, Split):
                arrays = {f"{name}/{leaf}": array for leaf, array in named_leaves(part).items()}
                digests |= {leaf: array_digest(leaf, array) for leaf, array in arrays.items()}
            else:
                digests[f"{name}/source"] = source_digest(part)
        return digests

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
        for key in ("folds", "oversample", "bootstrap"):
            if not self._options[key]:
                seeds.mark_unused(f"data/{key}", because=f"data.{key} is {json.dumps(self._options[key])}")

    def seed(self, point: str) -> int | None:
        """Return the seed of a point such as "data/load" (None: unseeded)."""
        return self._seeds.take(point)

    def rng(self, point: str, *index: int) -> np.random.Generator:
        """Return the NumPy generator of a point such as "data/load".

        Args:
            point: The point.
            index: Numbers that select one stream of the point, e.g. epoch and batch for "data/augment".
        """
        return self._seeds.rng(point, *index)

    def rest(self, *_: str) -> None:
        """Refuse the name that version 0.1 had for `mark_unused`.

        Raises:
            ConfigError: Always; it says what to write.
        """
        raise ConfigError(
            "context.rest", expected="the name since version 0.2", received="the name of version 0.1",
            fix="write context.mark_unused(point, because=reason)",
        )  # fmt: skip

    def mark_unused(self, *points: str, because: str) -> None:
        """Declare that this data set does not use some points. Setting one of them is then an error.

        Raises:
            ConfigError: The data are not split, but the configuration asks for folds.
        """
        folds = self._options["folds"]
        if folds and {"data/split", "data/folds"} & set(points):
            raise ConfigError("data.folds", expected="0", received=folds, fix=f"remove it: {because}")
        for point in points:
            self._seeds.mark_unused(point, because=because)

    def cached(
        self, name: str, key: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return arrays from the cache, or compute and save them.

        A damaged file is rebuilt. If the cache is not writable, the run continues with a warning.

        Args:
            name: Start of the file's name, e.g. "imdb_reviews".
            key: Everything that decides the arrays, e.g. the digest of the source file and all arguments. Added are
                the values that `make` uses (see `cache_keys.captured_values`), and the code of its package and of what
                that imports from src/.
            make: Computes the arrays; must not draw random numbers.
        """
        everything = {**key, "code": maker_code(make), "arguments": captured_values(make)}
        path = self._cache / f"{name}-{json_digest(everything)[:16]}.arrays"
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

    def split(self, labels: Any, groups: Any = None, time: Any = None) -> splitting.Rows:
        """Return training and validation rows.

        Labels that are classes are stratified, other labels are split at random; see `splitting.class_numbers`. With
        `groups`, all rows of a group are on one side. With `time`, the validation rows are the last ones. With
        `data.folds`, the validation rows are fold number `fold`. Oversampling and bootstrap change only the training
        rows.

        Args:
            labels: One label, or an array of labels, per row.
            groups: The group of each row, e.g. a patient; None: each row is its own.
            time: Sorts the rows; None: they have no order.

        Returns:
            (int64[train rows], int64[validation rows]), in random order, or by time.

        Raises:
            ConfigError: There are too few rows for `validation_size`, or too few for `folds`.
            DataError: `groups` or `time` have another number of rows, or both are given.
        """
        labels = as_array(labels, "the labels of context.split")
        groups, time = self._keys(len(labels), groups=groups, time=time)
        folds, fold, size = (self._options[key] for key in ("folds", "fold", "validation_size"))
        if time is not None:
            for point in ("data/split", "data/folds"):
                self._seeds.mark_unused(point, because="the split is by time")
            rows = splitting.time_fold(time, folds, fold) if folds else splitting.time_split(time, size)
            return self.resample(rows[0], labels), rows[1]
        if folds:
            self._seeds.mark_unused("data/split", because="data.folds replaces the split")
        rng, classes = self._seeds.rng("data/folds" if folds else "data/split"), splitting.class_numbers(labels)
        if folds:
            rows = splitting.make_fold(len(labels), folds, fold, rng, classes, groups)
        elif groups is not None:
            rows = splitting.group_split(groups, size, rng)
        elif classes is None:
            rows = splitting.random_split(len(labels), size, rng)
        else:
            rows = splitting.stratified_split(classes, size, rng)
        return self.resample(rows[0], labels), rows[1]

    @staticmethod
    def _keys(rows: int, **keys: Any) -> list[np.ndarray | None]:
        """Return `groups` and `time` as arrays.

        Raises:
            DataError: They have another number of rows, or both are given.
        """
        arrays = {name: np.asarray(key).reshape(-1) for name, key in keys.items() if key is not None}
        if len(arrays) == len(keys):
            raise DataError("context.split", expected="groups or time", received="both", fix="choose one")
        for name, array in arrays.items():
            if len(array) != rows:
                raise DataError(
                    f"{name} of context.split", expected=f"{rows} values, one per row", received=len(array),
                    fix="pass one value per row",
                )  # fmt: skip
        return [arrays.get(name) for name in keys]

    def resample(self, train: np.ndarray, labels: Any) -> np.ndarray:
        """Return the training rows after oversampling and bootstrap, if the configuration enables them."""
        if self._options["oversample"]:
            train = splitting.oversample(train, labels, self._seeds.rng("data/oversample"))
        if self._options["bootstrap"]:
            train = train[self._seeds.rng("data/bootstrap").integers(0, len(train), len(train))]
        return train
