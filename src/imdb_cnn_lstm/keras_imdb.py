"""Loads Keras's imdb.npz (25,000 + 25,000 reviews) as word indices, from a path, Keras's cache or a download."""

import contextlib
import http.client
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

from .encode import INDEX_FROM, check_arguments, check_file, encode_reviews, take_rows

KERAS_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz"
DOWNLOAD_TIMEOUT_S = 20


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"redirected to {newurl.partition(':')[0]}, not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, path: pathlib.Path, sha256: str, fix: str) -> pathlib.Path:
    """Download a file over https to a temporary name, check its SHA-256, and then rename it.

    Raises:
        DataError: There is no network, a redirect does not use https, or the SHA-256 is wrong.
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
            f"download of {path.name}", expected=f"a reachable {url}", received=" ".join(str(error).split()), fix=fix
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def locate_keras_file(path: str | None) -> pathlib.Path:
    """Return the checked path of imdb.npz: `path`, Keras's cache, or a download into Keras's cache."""
    fix = (
        "set data.path=… to a copy of Keras's imdb.npz, or put it into ~/.keras/datasets, "
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
    """Read Keras's imdb.npz. Its reviews are pickled lists, which Keras's restricted unpickler reads safely.

    `keras.datasets.imdb.load_data` cannot be used, because it reads only from Keras's cache (Keras 3.15).

    Returns:
        words: int32[all words], the rank of each word; offsets: int64[reviews + 1], where each review starts;
        labels: int32[reviews], 1 = positive; train_rows: int64[], how many of the first reviews are for training.
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
    """Return Keras's 25,000 + 25,000 reviews as in the article: the test set is the validation data.

    Args:
        context: Seeds and cache. Uses data/load as the seed of `load_data`. There is no random split.
        num_words: As in `keras.datasets.imdb.load_data`.
        skip_top: As in `load_data`.
        sequence_length: How many words of each review to keep, the last ones (`pad_sequences`).
        path: Path of imdb.npz; None: Keras's cache or a download.

    Returns:
        inputs int32[rows, sequence_length], labels int32[rows], 1 = positive.

    Raises:
        DataError: The file is not available or has another SHA-256.
    """
    check_arguments(num_words=num_words, skip_top=skip_top, sequence_length=sequence_length)
    source = locate_keras_file(path)
    corpus = context.cached("imdb_keras", {"sha256": KERAS_SHA256}, lambda: read_keras_file(source))
    words, rows = corpus["words"], int(corpus["train_rows"])
    # The words in this file are ranks. One generator shuffles both halves, as in load_data.
    ranks = np.arange(int(words.max()) + 1) + INDEX_FROM
    seed = context.seed("data/load")
    rng = np.random.RandomState(seed)  # as in load_data
    train, validation = np.arange(rows), np.arange(rows, len(corpus["labels"]))
    rng.shuffle(train)
    rng.shuffle(validation)
    context.mark_unused("data/split", because="data=imdb_keras has its own validation set")
    train = context.resample(train, corpus["labels"])
    inputs = encode_reviews(corpus, ranks, num_words=num_words, skip_top=skip_top, sequence_length=sequence_length)
    return take_rows(inputs, corpus["labels"], train, validation)
