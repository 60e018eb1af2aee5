"""Shared by the data functions: checks arguments and files, encodes words as indices or counts.

Words are encoded as in Keras's IMDB data: 0 = padding, 1 = start, 2 = out of vocabulary, 4 = the most frequent word.
Indices below `skip_top`, and indices of `num_words` and above, become 2.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from samebits import DataContext, Dataset, Split
from samebits.core.errors import DataError

START, OUT_OF_VOCABULARY, INDEX_FROM = 1, 2, 3  # the index of a word is its rank (from 1) plus INDEX_FROM
MAX_COUNT = 255  # of one word in one review
ROWS_PER_PART = 1000  # limits the memory for counting


def check_arguments(**values: int) -> None:
    """Check that each value is an integer of at least 1 (skip_top: 0).

    Raises:
        DataError: A value is not. The message has the argument.
    """
    for name, value in values.items():
        low = 0 if name == "skip_top" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise DataError(
                f"data.{name}",
                expected=f"an integer of at least {low}",
                received=repr(value),
                fix="choose an allowed value",
            )


def check_share(positive_share: float) -> None:
    """Check that a share of positive rows is above 0 and at most 0.5.

    Raises:
        DataError: It is not. The message has the range.
    """
    is_number = isinstance(positive_share, int | float) and not isinstance(positive_share, bool)
    if not is_number or not 0 < positive_share <= 0.5:  # noqa: PLR2004
        fix = "choose a share in that range"
        raise DataError("data.positive_share", expected="above 0 and at most 0.5", received=positive_share, fix=fix)


def take_rows(inputs: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray) -> Dataset:
    """Return the data set with these training and validation rows."""
    return Dataset(Split(inputs[train], labels[train]), Split(inputs[validation], labels[validation]))


def check_file(path: pathlib.Path, sha256: str, fix: str) -> pathlib.Path:
    """Return the path if the file has this SHA-256.

    Raises:
        DataError: The file is missing, unreadable or has another SHA-256.
    """
    try:
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
            size_bytes = stream.tell()
    except OSError as error:
        raise DataError(f"data file {path}", expected="a readable file", received=error.strerror, fix=fix) from error
    if actual != sha256:
        received = f"{actual[:12]}… of {size_bytes} bytes"
        raise DataError(f"data file {path}", expected=f"SHA-256 {sha256[:12]}…", received=received, fix=fix)
    return path


def encode_reviews(
    corpus: dict[str, np.ndarray], ranks: np.ndarray, *, num_words: int, skip_top: int, sequence_length: int
) -> np.ndarray:
    """Return the last `sequence_length` word indices of each review: int32[reviews, sequence_length], 0 = padding.

    As in Keras's `load_data`, `skip_top` also applies to the start mark: with skip_top=50 it becomes 2.
    """

    def limit(indices: np.ndarray) -> np.ndarray:
        return np.where((indices >= skip_top) & (indices < num_words) & (indices > 0), indices, OUT_OF_VOCABULARY)

    tokens = limit(ranks)[corpus["words"]]
    start = int(limit(np.array(START)))
    ends, lengths = corpus["offsets"][1:], np.diff(corpus["offsets"])
    encoded = np.zeros((len(lengths), sequence_length), np.int32)
    for back in range(sequence_length):
        column = encoded[:, sequence_length - 1 - back]
        inside = back < lengths
        column[inside] = tokens[ends[inside] - 1 - back]
        column[back == lengths] = start
    return encoded


def count_words(inputs: np.ndarray, num_words: int) -> np.ndarray:
    """Return how often each word is in each review, at most 255: uint8[reviews, num_words].

    Args:
        inputs: int32[reviews, sequence_length], 0 = padding, which is not counted.
        num_words: Size of the vocabulary. All indices are below it.
    """
    counts = np.zeros((len(inputs), num_words), np.uint8)
    for start in range(0, len(inputs), ROWS_PER_PART):
        part = inputs[start : start + ROWS_PER_PART]
        places = part + num_words * np.arange(len(part))[:, None]
        found = np.bincount(places.ravel(), minlength=len(part) * num_words).reshape(len(part), num_words)
        counts[start : start + len(part)] = np.minimum(found, MAX_COUNT)
    counts[:, 0] = 0
    return counts


def as_counts(load: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Return a data function that returns word counts instead of word indices. It has the same arguments."""

    @functools.wraps(load)
    def load_counts(context: DataContext, **arguments: Any) -> Dataset:
        dataset, num_words = load(context, **arguments), arguments["num_words"]
        parts = dataset.splits().items()
        return Dataset(**{name: Split(count_words(part.inputs, num_words), part.labels) for name, part in parts})

    return load_counts
