"""Synthetic reviews, small and learnable, for smoke runs and tests."""

import numpy as np

from samebits import DataContext, Dataset
from samebits.core.errors import DataError

from .encode import INDEX_FROM, as_counts, check_arguments, check_share, take_rows


def make_synthetic_reviews(
    context: DataContext, *, rows: int, num_words: int, sequence_length: int, positive_share: float = 0.5
) -> Dataset:
    """Return small random reviews, learnable because a third of the words come from the label's half of the vocabulary.

    Args:
        context: Seeds and split. Uses data/load and data/split (or data/folds).
        rows: Number of reviews.
        num_words: Words are 4 to num_words - 1.
        sequence_length: Words per review.
        positive_share: Share of reviews with label 1, above 0 and at most 0.5. Below 0.5 the data is imbalanced.

    Returns:
        inputs int32[rows, sequence_length], labels int32[rows].
    """
    check_arguments(rows=rows, num_words=num_words, sequence_length=sequence_length)
    low, half = INDEX_FROM + 1, (num_words - INDEX_FROM - 1) // 2
    if half < 1:
        raise DataError("data.num_words", expected="at least 6", received=num_words, fix="choose more words")
    check_share(positive_share)
    rng = context.rng("data/load")
    labels = rng.permutation(np.arange(rows, dtype=np.int32) % 2)
    labels[np.flatnonzero(labels)[round(rows * positive_share) :]] = 0
    anywhere = rng.integers(low, low + 2 * half, (rows, sequence_length), dtype=np.int32)
    own_half = rng.integers(0, half, (rows, sequence_length), dtype=np.int32) + low + half * labels[:, None]
    inputs = np.where(rng.integers(0, 3, (rows, sequence_length)) == 0, own_half, anywhere)
    train, validation = context.split(labels)
    return take_rows(inputs.astype(np.int32), labels, train, validation)


make_synthetic_counts = as_counts(make_synthetic_reviews)
