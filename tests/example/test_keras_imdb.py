"""Keras's own imdb.npz: encoded as Keras encodes it, from a path, Keras's cache or a download."""

import hashlib
import http.server
import importlib
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE
from train.test_data import make_context, make_seeds

from samebits.core.errors import DataError
from samebits.core.seeds import make_rng
from samebits.train.data import Dataset

keras_imdb = importlib.import_module(f"{PACKAGE}.keras_imdb")
load_keras_reviews: Callable[..., Dataset] = keras_imdb.load_keras_reviews
LIMITS: dict[str, Any] = {"num_words": 60, "skip_top": 10, "sequence_length": 8}


# --- the file ---


def make_keras_file(path: pathlib.Path, rows: int = 40) -> pathlib.Path:
    """Write a small imdb.npz in Keras's format: object arrays of lists of ranks, and labels; with an empty review."""
    rng = make_rng(3, "imdb.npz")

    def reviews() -> np.ndarray:
        found = np.empty(rows, object)
        for row in range(rows):
            found[row] = rng.integers(1, 90, row % 15).tolist()
        return found

    labels = [rng.permutation(np.arange(rows) % 2) for _ in range(2)]
    np.savez(path, x_train=reviews(), y_train=labels[0], x_test=reviews(), y_test=labels[1])
    return path


@pytest.fixture
def keras_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return a small imdb.npz that this package and Keras accept as the real one."""
    path = make_keras_file(tmp_path / "imdb.npz")
    monkeypatch.setattr(keras_imdb, "KERAS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def load_with_keras(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seed: int, num_words: int, skip_top: int, sequence_length: int
) -> list[np.ndarray]:
    """Return the result of Keras's load_data and pad_sequences on a file."""
    import keras

    monkeypatch.setattr("keras.src.datasets.imdb.get_file", lambda **_: str(path))
    train, test = keras.datasets.imdb.load_data(num_words=num_words, skip_top=skip_top, seed=seed)
    arrays = []
    for inputs, labels in (train, test):
        arrays += [keras.utils.pad_sequences(inputs, maxlen=sequence_length), np.asarray(labels, np.int32)]
    return arrays


def arrays_of(dataset: Dataset) -> list[np.ndarray]:
    """Return the four arrays of a data set."""
    return [dataset.train.inputs, dataset.train.labels, dataset.validation.inputs, dataset.validation.labels]


@pytest.mark.parametrize("seed", [0, 113, 2**31 - 3])
@pytest.mark.parametrize(
    ("num_words", "skip_top", "sequence_length"),
    [(60, 10, 8), (60, 0, 8), (60, 1, 8), (60, 2, 15), (60, 4, 14), (93, 0, 20), (1000, 50, 1), (1, 0, 8), (5, 60, 3)],
)
def test_keras_reviews_are_what_keras_makes_of_them(
    keras_file: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    num_words: int,
    skip_top: int,
    sequence_length: int,
    seed: int,
) -> None:
    """Order, limits, start mark, truncation and padding equal those of load_data(seed=) and pad_sequences."""
    context = make_context(tmp_path / "cache", make_seeds(load=seed))
    limits = {"num_words": num_words, "skip_top": skip_top, "sequence_length": sequence_length}
    dataset = load_keras_reviews(context, path=str(keras_file), **limits)
    expected = load_with_keras(keras_file, monkeypatch, seed, **limits)

    for wanted, array in zip(expected, arrays_of(dataset), strict=True):
        assert (wanted.dtype, wanted.tolist()) == (array.dtype, array.tolist())


def test_load_data_has_the_seed_of_its_point(
    keras_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """load_data uses the seed of data/load, derived or set. Another root shuffles both halves differently."""
    found = []
    for root in (56, 57):
        seeds = make_seeds(root)
        dataset = load_keras_reviews(make_context(tmp_path / "cache", seeds), path=str(keras_file), **LIMITS)
        seed = seeds.take("data/load")
        assert seed is not None
        expected = load_with_keras(keras_file, monkeypatch, seed, **LIMITS)

        assert [array.tolist() for array in expected] == [array.tolist() for array in arrays_of(dataset)]
        found.append(dataset.digests())

    assert all(found[0][name] != found[1][name] for name in found[0])


def test_keras_reviews_need_no_split(keras_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The test half is the validation data, so data/split and data/folds are unused. Both halves keep their rows."""
    seeds = make_seeds()
    dataset = load_keras_reviews(make_context(tmp_path / "cache", seeds), path=str(keras_file), **LIMITS)
    resting = {row["point"] for row in seeds.table() if row["rests"]}

    assert {"data/split", "data/folds", "data/oversample", "data/bootstrap"} == resting
    assert np.bincount(dataset.train.labels).tolist() == [20, 20]
    assert np.bincount(dataset.validation.labels).tolist() == [20, 20]


def test_keras_reviews_can_be_resampled(keras_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A bootstrap draws only from the training half, and does not change the other."""

    def load(**options: Any) -> Dataset:
        context = make_context(tmp_path / "cache", **options)
        return load_keras_reviews(context, path=str(keras_file), **LIMITS)

    plain, bag = load(), load(bootstrap=True)
    rows, drawn = (
        {(*row, label) for row, label in zip(d.train.inputs.tolist(), d.train.labels.tolist(), strict=True)}
        for d in (plain, bag)
    )

    assert drawn < rows
    assert plain.digests()["validation/inputs"] == bag.digests()["validation/inputs"]


def test_unseeded_keras_reviews_come_in_another_order_each_time(
    keras_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Without a seed for data/load every order is different, with and without cache."""
    seeds = [make_seeds(policy="unseeded") for _ in range(2)]
    digests = {
        load_keras_reviews(make_context(tmp_path / "cache", each), path=str(keras_file), **LIMITS).digest()
        for each in seeds
    }

    assert len(digests) == 2


def test_another_imdb_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A file with another SHA-256 than Keras's is an error before it is parsed, with the digest and a fix."""
    path = make_keras_file(tmp_path / "imdb.npz")

    with pytest.raises(DataError) as caught:
        load_keras_reviews(make_context(tmp_path), path=str(path), **LIMITS)

    assert f"data file {path}" == caught.value.what
    assert caught.value.expected == "SHA-256 69664113be75…"
    assert (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}… of {path.stat().st_size} bytes" == caught.value.received
    )
    assert "data=imdb_reviews" in caught.value.fix


def test_a_missing_imdb_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A missing file is an error with exit code 2."""
    with pytest.raises(DataError, match=r"expected a readable file, received No such file or directory") as caught:
        load_keras_reviews(make_context(tmp_path), path=str(tmp_path / "gone.npz"), **LIMITS)

    assert caught.value.exit_code == 2


def test_keras_cache_is_used(keras_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in Keras's cache is found without a path, and is checked too."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "datasets").mkdir(parents=True)
    cached = tmp_path / "home" / "datasets" / "imdb.npz"
    keras_file.rename(cached)

    assert cached == keras_imdb.locate_keras_file(None)

    cached.write_bytes(b"another")

    with pytest.raises(DataError, match="data=imdb_reviews"):
        keras_imdb.locate_keras_file(None)


# --- download ---


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable proxies for this machine's own ports."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(no_proxy: None) -> Iterator[str]:
    """Yield the address of a server: /file has the bytes abc, /cut is too short, /there redirects to http."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/garbage":
                self.wfile.write(b"garbage\r\n\r\n")
                return
            headers = {"/there": ("Location", f"{address}/file"), "/cut": ("Content-Length", "9")}
            self.send_response(302 if self.path == "/there" else 200)
            self.send_header(*headers.get(self.path, ("Content-Length", "3")))
            self.end_headers()
            self.wfile.write(b"abc")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=[0.01])
        thread.start()
        yield address
        running.shutdown()
        thread.join()


ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_download_without_network_says_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, no_proxy: None
) -> None:
    """Without a network the error has three fixes, and no partial file stays."""
    monkeypatch.setattr(keras_imdb, "KERAS_URL", "https://127.0.0.1:9/imdb.npz")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))

    with pytest.raises(DataError) as caught:
        load_keras_reviews(make_context(tmp_path), **LIMITS)

    expected = (
        "download of imdb.npz: expected a reachable https://127.0.0.1:9/imdb.npz, "
        "received <urlopen error [Errno 111] Connection refused>; "
        "fix: set data.path=… to a copy of Keras's imdb.npz, or put it into ~/.keras/datasets, "
        "or use data=imdb_reviews, which needs no download"
    )

    assert expected == str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_download_arrives_whole(server: str, tmp_path: pathlib.Path) -> None:
    """A correct download creates its folder and the file, and nothing else stays."""
    path = tmp_path / "datasets" / "file"

    assert path == keras_imdb.download(f"{server}/file", path, ABC_SHA256, "fix")
    assert path.read_bytes() == b"abc"
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("page", ["file", "cut", "garbage"])
def test_a_download_of_other_bytes_is_refused(server: str, tmp_path: pathlib.Path, page: str) -> None:
    """A download with another SHA-256, a truncated one or an invalid response never becomes the file."""
    with pytest.raises(DataError, match=r"fix: another way$"):
        keras_imdb.download(f"{server}/{page}", tmp_path / "file", "0" * 64, "another way")

    assert list(tmp_path.iterdir()) == []


def test_a_redirect_without_tls_is_refused(server: str, tmp_path: pathlib.Path) -> None:
    """A redirect to http is an error, even if it leads to the right bytes."""
    with pytest.raises(DataError, match="redirected to http, not https"):
        keras_imdb.download(f"{server}/there", tmp_path / "file", ABC_SHA256, "fix")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_data_error(server: str, tmp_path: pathlib.Path) -> None:
    """If Keras's folder cannot be created, the error has the reason and alternatives."""
    (tmp_path / "home").touch()

    with pytest.raises(DataError, match=r"received \[Errno 20\] Not a directory: .*; fix: another way"):
        keras_imdb.download(f"{server}/file", tmp_path / "home" / "datasets" / "file", ABC_SHA256, "another way")
