"""A random forest on bags of words: a second model of the reviews, whose algorithm itself draws random numbers."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from samebits import DataContext, Dataset, Split
from samebits.core.errors import ConfigError

from .synthetic import make_synthetic_reviews

MOST_OF_A_WORD = 255
ROWS_AT_ONCE = 1000  # bounds the memory of counting


def count_words(inputs: np.ndarray, num_words: int) -> np.ndarray:
    """Return how often each word is in each review, at most 255: uint8[reviews, num_words].

    Args:
        inputs: int32[reviews, sequence_length], 0 = padding, which is not counted.
        num_words: Indices are below it.
    """
    counts = np.zeros((len(inputs), num_words), np.uint8)
    for start in range(0, len(inputs), ROWS_AT_ONCE):
        part = inputs[start : start + ROWS_AT_ONCE]
        places = part + num_words * np.arange(len(part))[:, None]
        found = np.bincount(places.ravel(), minlength=len(part) * num_words).reshape(len(part), num_words)
        counts[start : start + len(part)] = np.minimum(found, MOST_OF_A_WORD)
    counts[:, 0] = 0
    return counts


def as_counts(load: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Return a data function that gives the words of another as counts; it takes the same arguments."""

    @functools.wraps(load)
    def load_counts(context: DataContext, **arguments: Any) -> Dataset:
        dataset, num_words = load(context, **arguments), arguments["num_words"]
        return Dataset(
            *(Split(count_words(part.inputs, num_words), part.labels) for part in (dataset.train, dataset.validation))
        )

    return load_counts


make_synthetic_counts = as_counts(make_synthetic_reviews)


def build_forest(
    seed: Callable[[str], int | None], *, trees: int, max_depth: int | None, min_samples_leaf: int
) -> RandomForestClassifier:
    """Return the forest, not yet fitted.

    Args:
        seed: Returns the seed of a point, here seed("algorithm/forest").
        trees: How many.
        max_depth: Of a tree; None: no limit.
        min_samples_leaf: Rows that a leaf has at least.

    Raises:
        ConfigError: An argument is out of range.
    """
    for name, value in {"trees": trees, "max_depth": max_depth, "min_samples_leaf": min_samples_leaf}.items():
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_count and not (name == "max_depth" and value is None):
            expected = "an integer of at least 1" + (", or null" if name == "max_depth" else "")
            raise ConfigError(f"model.{name}", expected=expected, received=repr(value), fix="choose such a value")
    return RandomForestClassifier(
        n_estimators=trees,
        max_depth=max_depth,
        min_samples_leaf=min_samples_leaf,
        random_state=seed("algorithm/forest"),
    )
