"""What the reviews' data functions share: checks of arguments and files, words as indices, words as counts.

Words are encoded as Keras's IMDB data are: 0 = padding, 1 = start, 2 = out of vocabulary, the most frequent word
is 4, and what is below `skip_top` or not below `num_words` becomes 2.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from samebits import DataContext, Dataset, Split
from samebits.core.errors import DataError

START, OUT_OF_VOCABULARY, INDEX_FROM = 1, 2, 3  # the index of a word is its rank, from 1, and INDEX_FROM
MAX_COUNT = 255  # of one word in one review
ROWS_PER_PART = 1000  # bounds the memory of counting


def check_arguments(**values: int) -> None:
    """Refuse counts that make no encoding: each must be an integer of at least 1 (skip_top: 0).

    Raises:
        DataError: Names the argument.
    """
    for name, value in values.items():
        low = 0 if name == "skip_top" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise DataError(
                f"data.{name}",
                expected=f"an integer of at least {low}",
                received=repr(value),
                fix="choose such a value",
            )


def check_share(positive_share: float) -> None:
    """Refuse a share of positive rows that is not above 0 and up to a half.

    Raises:
        DataError: With the range.
    """
    is_number = isinstance(positive_share, int | float) and not isinstance(positive_share, bool)
    if not is_number or not 0 < positive_share <= 0.5:  # noqa: PLR2004
        fix = "choose such a share"
        raise DataError("data.positive_share", expected="above 0 and up to 0.5", received=positive_share, fix=fix)


def take_rows(inputs: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray) -> Dataset:
    """Return the data set of two lists of rows."""
    return Dataset(Split(inputs[train], labels[train]), Split(inputs[validation], labels[validation]))


def check_file(path: pathlib.Path, sha256: str, fix: str) -> pathlib.Path:
    """Return the path if the file's content has this SHA-256.

    Raises:
        DataError: The file is missing, unreadable, cut short or another one.
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
    """Return the reviews as the last `sequence_length` word indices: int32[reviews, sequence_length], 0 = padding.

    As in Keras's `load_data`, the start mark is itself subject to `skip_top`: with skip_top=50 it becomes 2.
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
        num_words: Indices are below it.
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
    """Return a data function that gives the words of another as counts; it takes the same arguments."""

    @functools.wraps(load)
    def load_counts(context: DataContext, **arguments: Any) -> Dataset:
        dataset, num_words = load(context, **arguments), arguments["num_words"]
        return Dataset(
            *(Split(count_words(part.inputs, num_words), part.labels) for part in (dataset.train, dataset.validation))
        )

    return load_counts
