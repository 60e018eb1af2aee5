"""Data: splits, resampling, shuffling, batches and cache. Each has its own seed point."""

import functools
import importlib
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from processes import start_at_once

from samebits.core import files
from samebits.core.digest import array_digest
from samebits.core.errors import ConfigError, DataError, SeedError
from samebits.core.seeds import Seeds, make_rng, resolve_points
from samebits.train.data import DataContext, Dataset, Split
from samebits.train.feeds import epoch_order
from samebits.train.splitting import class_numbers, oversample, stratified_split

DATA_POINTS = ("load", "split", "folds", "oversample", "bootstrap", "order")


def make_seeds(root: int = 56, policy: str = "derived", **points: Any) -> Seeds:
    """Return the seed points of the data, some of them set."""
    return Seeds(resolve_points(root, policy, {"data": {name: points.get(name) for name in DATA_POINTS}}))


def make_context(cache: pathlib.Path, seeds: Seeds | None = None, **options: Any) -> DataContext:
    """Return a context, by default with 60 validation rows."""
    return DataContext(seeds or make_seeds(), {"validation_size": 60, **options}, cache)


def make_labels(*counts: int) -> np.ndarray:
    """Return shuffled labels with these class sizes."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return make_rng(1, "labels").permutation(labels)


# --- split ---


@pytest.mark.parametrize("counts", [(500, 500), (900, 100), (997, 3), (333, 333, 334), (1000,), (1, 999)])
@pytest.mark.parametrize("validation_size", [1, 7, 100, 500, 999])
def test_a_split_keeps_every_labels_share(counts: tuple[int, ...], validation_size: int) -> None:
    """The parts are disjoint, cover all rows, have the exact size, and are stratified to within one row."""
    labels = make_labels(*counts)
    train, validation = stratified_split(labels, validation_size, make_rng(56, "data/split"))

    assert validation_size == len(validation)
    assert list(range(1000)) == sorted([*train, *validation])
    for label, count in enumerate(counts):
        assert abs((labels[validation] == label).sum() - count * validation_size / 1000) < 1


def test_both_parts_of_a_split_are_in_random_order() -> None:
    """Neither part is sorted by row or label, and each row is equally likely in a part."""
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
    """A validation part with no rows or all rows is an error with the range."""
    with pytest.raises(ConfigError) as caught:
        stratified_split(make_labels(1000), validation_size, make_rng(56, "data/split"))

    expected = (
        f"data.validation_size: expected 1 to 999 (1000 samples in total), received {validation_size}; "
        "fix: choose fewer validation samples"
    )

    assert expected == str(caught.value)


# --- other labels ---


def test_labels_with_one_column_split_like_plain_ones(tmp_path: pathlib.Path) -> None:
    """Labels of shape [rows, 1], a list and strings are split like the same numbers, with the same bits."""
    labels = make_labels(200, 100)
    whole = make_context(tmp_path).split(labels)

    for same in (labels.reshape(-1, 1), labels.tolist(), labels.astype(float), np.array(["a", "b"])[labels]):
        for expected, found in zip(whole, make_context(tmp_path).split(same), strict=True):
            assert expected.tolist() == found.tolist()


@pytest.mark.parametrize("options", [{}, {"folds": 5}])
@pytest.mark.parametrize("kind", ["regression", "unique", "pixels"])
def test_labels_that_are_no_classes_are_split_at_random(
    kind: str, options: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """Other seeds give other validation rows of the exact size, and every row is on one side."""
    numbers = make_rng(1, "labels").permutation(300)
    labels = {"regression": numbers / 7, "unique": numbers, "pixels": np.zeros((300, 4, 4), np.int32)}[kind]
    train, validation = make_context(tmp_path, **options).split(labels)
    moved = make_context(tmp_path, make_seeds(57), **options).split(labels)[1]

    assert 60 == len(validation)
    assert list(range(300)) == sorted([*train, *validation])
    assert set(validation) != set(moved)


def test_each_combination_of_labels_is_a_class(tmp_path: pathlib.Path) -> None:
    """Labels of several tags keep the share of each combination, to within one row."""
    first, second = make_labels(150, 150), make_rng(3, "tags").integers(0, 2, 300)
    tags = np.stack([first, second], 1)
    _, validation = make_context(tmp_path).split(tags)

    assert 60 == len(validation)
    for tag in itertools.product((0, 1), (0, 1)):
        share = (tags == tag).all(1)
        assert abs(share[validation].sum() - share.sum() / 5) < 1


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 3, 5, 5], [0, 0, 1, 1]),
        (["a", "b", "a", "a"], [0, 1, 0, 0]),
        ([[1], [1], [0], [0]], [1, 1, 0, 0]),
        ([[0, 1], [0, 1], [1, 0], [1, 0]], [0, 0, 1, 1]),
        ([0.0, 1.0, 1.0, 0.0], [0, 1, 1, 0]),
        ([0.5, 1.0, 1.0, 0.5], None),
        ([1.0, np.nan, 1.0, 1.0], None),
        ([1, 2, 3, 3], None),
        ([7, 7, 7, 7], [0, 0, 0, 0]),
    ],
)
def test_what_labels_are_classes(labels: list[Any], classes: list[int] | None) -> None:
    """Fractions, missing numbers and mostly different values are no classes."""
    found = class_numbers(np.array(labels))

    assert classes == (None if found is None else found.tolist())


def test_oversampling_needs_classes(tmp_path: pathlib.Path) -> None:
    """Oversampling of a regression is an error."""
    with pytest.raises(ConfigError, match=r"data.oversample: expected labels that are classes"):
        make_context(tmp_path, oversample=True).split(np.arange(300) / 7)


# --- groups and time ---


@pytest.mark.parametrize("sizes", [[3] * 100, [1] * 300, [100, 100, 100], [150, 80, 40, 20, 10], [299, 1]])
def test_no_group_is_on_both_sides(sizes: list[int], tmp_path: pathlib.Path) -> None:
    """Each group is on one side, both sides have rows, and the size is near where the groups allow it."""
    groups = make_rng(4, "groups").permutation(np.repeat(np.array([f"patient {i}" for i in range(len(sizes))]), sizes))
    found = [make_context(tmp_path, make_seeds(root)).split(make_labels(150, 150), groups=groups) for root in range(20)]
    for train, validation in found:
        assert list(range(300)) == sorted([*train, *validation])
        assert not set(groups[train]) & set(groups[validation])
        assert len(train)
        assert len(validation)
        if max(sizes) <= 3:
            assert 60 == len(validation)

    if len(sizes) > 3:
        assert len({tuple(sorted(validation)) for _, validation in found}) > 1


def test_folds_of_groups_validate_on_every_row_once(tmp_path: pathlib.Path) -> None:
    """Each group is a validation group in one fold, with sizes that are near, and another seed gives other folds."""
    groups = np.repeat(np.arange(30), 10)
    labels = make_labels(150, 150)
    folds = [make_context(tmp_path, folds=5, fold=fold).split(labels, groups=groups) for fold in range(5)]
    other = make_context(tmp_path, make_seeds(57), folds=5, fold=0).split(labels, groups=groups)[1]

    for train, validation in folds:
        assert not set(groups[train]) & set(groups[validation])
        assert 60 == len(validation)
    assert list(range(300)) == sorted(row for _, validation in folds for row in validation)
    assert set(other) != set(folds[0][1])


def test_a_split_by_time_validates_on_the_last_rows(tmp_path: pathlib.Path) -> None:
    """The validation rows are the last ones, in order. No seed is used, and setting one is an error."""
    time, seeds = make_rng(5, "time").permutation(300), make_seeds()
    days = np.datetime64("2026-01-01") + time
    train, validation = make_context(tmp_path, seeds).split(make_labels(150, 150), time=days)

    assert list(range(240, 300)) == time[validation].tolist()
    assert list(range(240)) == time[train].tolist()
    assert {"split", "folds"} < {row["point"].removeprefix("data/") for row in seeds.table() if row["rests"]}


def test_folds_by_time_train_on_the_past(tmp_path: pathlib.Path) -> None:
    """Each fold trains on all rows before its validation rows."""
    time, labels = make_rng(5, "time").permutation(300), make_labels(150, 150)
    for fold in range(4):
        train, validation = make_context(tmp_path, folds=4, fold=fold).split(labels, time=time)

        assert time[train].tolist() == list(range(len(train)))
        assert time[validation].tolist() == list(range(len(train), len(train) + 60))


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        ({}, {"groups": np.zeros(300)}, "at least two groups"),
        ({}, {"groups": np.arange(299)}, "groups of context.split: expected 300 values"),
        ({}, {"groups": np.arange(300), "time": np.arange(300)}, "groups or time, received both"),
        ({"folds": 31}, {"groups": np.repeat(np.arange(30), 10)}, "at most 30, the number of groups"),
        ({"validation_size": 300}, {"time": np.arange(300)}, "data.validation_size: expected 1 to 299"),
        ({"validation_size": 300}, {"groups": np.arange(300)}, "data.validation_size: expected 1 to 299"),
        ({"folds": 300}, {"time": np.arange(300)}, "at most 299, the number of samples less one"),
    ],
)
def test_impossible_splits_are_refused(
    options: dict[str, Any], keys: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    """The error has the cause."""
    with pytest.raises((ConfigError, DataError), match=message):
        make_context(tmp_path, **options).split(make_labels(150, 150), **keys)


# --- folds ---


@pytest.mark.parametrize(("rows", "folds"), [(100, 2), (100, 5), (103, 10), (12, 12), (13, 13)])
def test_folds_validate_on_every_row_once(rows: int, folds: int, tmp_path: pathlib.Path) -> None:
    """Each row is a validation row in one fold and a training row in all others, also with leave-one-out."""
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
    """Another seed of data/folds gives other folds, another seed of data/split does not."""
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
    """Ten rows in classes of four and six allow up to six folds, or ten."""
    with pytest.raises(ConfigError) as caught:
        make_context(tmp_path, folds=folds).split(make_labels(4, 6))

    expected = (
        "data.folds: expected at most 6, the size of the largest class, or 10 for leave-one-out, "
        f"received {folds}; fix: choose fewer folds"
    )

    assert expected == str(caught.value)


# --- resampling ---


@pytest.mark.parametrize("counts", [(90, 10), (10, 90), (50, 30, 20), (99, 1), (50, 50)])
def test_oversampling_balances_with_copies(counts: tuple[int, ...]) -> None:
    """All training rows stay in order, only copies of smaller classes are added, and all classes have equal size."""
    labels = make_labels(*counts)
    train = make_rng(2, "train").permutation(100)[: len(labels)]
    rows = oversample(train, labels, make_rng(56, "data/oversample"))
    copies = rows[len(train) :]

    assert train.tolist() == rows[: len(train)].tolist()
    assert set(copies) <= set(train)
    assert [max(counts)] * len(counts) == np.bincount(labels[rows]).tolist()
    assert int(np.argmax(counts)) not in labels[copies]


def test_oversampling_draws_from_the_training_rows_alone(tmp_path: pathlib.Path) -> None:
    """After a split, no copy is a validation row, and the validation rows do not change."""
    labels = make_labels(250, 50)
    plain_train, plain_validation = make_context(tmp_path).split(labels)
    train, validation = make_context(tmp_path, oversample=True).split(labels)

    assert plain_validation.tolist() == validation.tolist()
    assert plain_train.tolist() == train[: len(plain_train)].tolist()
    assert set(plain_train) == set(train)
    assert np.bincount(labels[train]).tolist() == [200, 200]


def leaked(train: np.ndarray, validation: np.ndarray) -> int:
    """Return how many validation rows are also training rows."""
    return int(np.isin(validation, train).sum())


@pytest.mark.parametrize("options", [{}, {"folds": 5}, {"folds": 300}], ids=["split", "folds", "leave one out"])
def test_oversampling_never_leaks_a_validation_row(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """With many seeds, no validation row is a training row, all others are, and the classes are balanced."""
    for root in range(100):
        labels = make_rng(root, "labels").permutation(make_labels(270, 30))
        fold = {"fold": root % options["folds"]} if options else {}
        context = make_context(tmp_path, make_seeds(root), oversample=True, **options, **fold)
        train, validation = context.split(labels)

        assert 0 == leaked(train, validation)
        assert set(range(300)) - set(validation.tolist()) == set(train.tolist())
        assert (labels[train] == 0).sum() == (labels[train] == 1).sum()


def test_oversampling_before_the_split_is_caught(tmp_path: pathlib.Path) -> None:
    """Negative control: copies before the split fail the check above with every seed."""
    labels = make_labels(270, 30)
    for root in range(100):
        seeds = make_seeds(root)
        rows = oversample(np.arange(300), labels, seeds.rng("data/oversample"))
        train, validation = make_context(tmp_path, seeds).split(labels[rows])

        assert leaked(rows[train], rows[validation]) > 0


def test_oversampling_draws_every_row_of_the_small_class() -> None:
    """Copies are drawn from the whole class, with replacement."""
    labels = make_labels(900, 10)
    copies = oversample(np.arange(910), labels, make_rng(56, "data/oversample"))[910:]

    assert set(np.flatnonzero(labels == 1)) == set(copies)


@pytest.mark.parametrize("options", [{"folds": 0}, {"folds": 5}])
def test_a_bootstrap_draws_from_the_training_rows_alone(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """A bootstrap sample has as many rows as the training part, and about 63 % of its rows."""
    labels = make_labels(250, 50)
    plain_train, plain_validation = make_context(tmp_path, **options).split(labels)
    train, validation = make_context(tmp_path, bootstrap=True, **options).split(labels)

    assert plain_validation.tolist() == validation.tolist()
    assert len(plain_train) == len(train)
    assert set(train) <= set(plain_train)
    assert 0.5 < len(set(train)) / len(train) < 0.75


# --- one point per draw ---


def load_toy(cache: pathlib.Path, options: Mapping[str, Any], **points: Any) -> dict[str, str]:
    """Return the digests of 300 numbers shuffled by data/load, 240 of them in one class."""
    context = make_context(cache, make_seeds(**points), **options)
    labels = make_labels(240, 60)
    train, validation = context.split(labels)
    rows = context.rng("data/load").permutation(300)
    return Dataset(Split(rows[train], labels[train]), Split(rows[validation], labels[validation])).digests()


DRAWS: dict[str, tuple[dict[str, Any], bool]] = {
    "load": ({}, True),
    "split": ({}, True),
    "folds": ({"folds": 5}, True),
    "oversample": ({"oversample": True}, False),
    "bootstrap": ({"bootstrap": True}, False),
}


@pytest.mark.parametrize("point", DRAWS)
def test_each_data_point_moves_what_it_draws(point: str, tmp_path: pathlib.Path) -> None:
    """Another seed of a used point changes the training rows. Another seed of an unused point does not."""
    options, moves_validation = DRAWS[point]
    before, moved = load_toy(tmp_path, options), load_toy(tmp_path, options, **{point: 1})
    idle = {"order", *DRAWS} - {"load", point} - ({"split"} if point != "folds" else set())

    assert before == load_toy(tmp_path, options)
    assert before["train/inputs"] != moved["train/inputs"]
    assert moves_validation == (before["validation/inputs"] != moved["validation/inputs"])
    for other in sorted(idle):
        assert before == load_toy(tmp_path, options, **{other: 1})


def test_data_with_a_validation_set_need_one_declaration(tmp_path: pathlib.Path) -> None:
    """Without a split only data/split is declared. Features that are off need no declaration, those that are on do."""
    seeds = make_seeds()
    make_context(tmp_path, seeds).mark_unused("data/split", because="the data have a validation set")
    for point in ("data/load", "data/order"):
        seeds.take(point)
    seeds.check_consumed()

    with pytest.raises(ConfigError, match=r"^data.folds: expected 0, received 5"):
        make_context(tmp_path, folds=5).mark_unused("data/split", because="the data have a validation set")

    seeds = make_seeds()
    make_context(tmp_path, seeds, oversample=True).mark_unused("data/split", because="the data have a validation set")
    for point in ("data/load", "data/order"):
        seeds.take(point)
    advice = r'fix: use it in the data function, or declare it: context.mark_unused\("data/oversample", because="…"\)$'
    with pytest.raises(SeedError, match=rf"^seed point data/oversample: .*{advice}"):
        seeds.check_consumed()


def test_points_without_a_use_are_marked_unused(tmp_path: pathlib.Path) -> None:
    """The split marks unused points, and setting one of them is an error with the reason."""
    for options, unused in (
        ({}, {"folds", "oversample", "bootstrap"}),
        ({"folds": 5, "oversample": True}, {"split", "bootstrap"}),
    ):
        seeds = make_seeds()
        make_context(tmp_path, seeds, **options).split(make_labels(100, 100))
        marked = {row["point"].removeprefix("data/") for row in seeds.table() if row["rests"]}

        assert unused == marked

    seeds = make_seeds(folds=3)
    make_context(tmp_path, seeds).split(make_labels(100, 100))
    seeds.take("data/load")

    with pytest.raises(SeedError, match=r"^seed point data/folds: .*received none: data.folds is 0"):
        seeds.check_consumed()


# --- order ---


def test_the_order_of_an_epoch_is_a_pure_function() -> None:
    """The order of epoch 3 depends only on the seed, not on earlier draws or the process."""
    seeds = make_seeds()
    for epoch in (1, 2):
        epoch_order(seeds, epoch, 1000)

    assert epoch_order(seeds, 3, 1000).tobytes() == epoch_order(make_seeds(), 3, 1000).tobytes()


def test_every_epoch_has_an_order_of_its_own() -> None:
    """Each epoch has every row once, in a different order. Another seed gives other orders."""
    orders = [epoch_order(make_seeds(), epoch, 1000) for epoch in range(1, 21)]
    others = [epoch_order(make_seeds(order=1), epoch, 1000) for epoch in range(1, 21)]

    assert all(list(range(1000)) == sorted(order) for order in orders)
    assert len({order.tobytes() for order in [*orders, *others]}) == 40


def test_the_order_is_frozen() -> None:
    """Seed 56 gives these orders of ten rows for epochs 1 and 2 in every version."""
    orders = [epoch_order(make_seeds(), epoch, 10).tolist() for epoch in (1, 2)]

    assert orders == [[7, 1, 5, 0, 6, 3, 2, 8, 9, 4], [1, 6, 2, 9, 7, 8, 0, 4, 5, 3]]


def test_unseeded_orders_differ() -> None:
    """Without a seed every order of an epoch is different."""
    seeds = make_seeds(policy="unseeded")

    assert epoch_order(seeds, 1, 1000).tobytes() != epoch_order(seeds, 1, 1000).tobytes()


# --- data set ---


def test_every_array_counts_in_the_data_digest() -> None:
    """One changed number or label in either part, or swapped parts, change the digest. The arrays have names."""
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


@pytest.mark.parametrize(
    ("given", "dtype", "shape"),
    [
        ([1, 2, 3], np.int64, (3,)),
        ([[1.5, 2], [3, 4]], np.float64, (2, 2)),
        (["a", "bcd"], "<U3", (2,)),
        ((True, False), np.bool_, (2,)),
        (np.array([1, 2.5, 3], object), np.float64, (3,)),
        (pd.Series([1, 2]), np.int64, (2, 1)),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}), np.float64, (2, 2)),
        (pd.Series(["x", "y"]), object, (2, 1)),
    ],
)
def test_what_keras_takes_becomes_an_array(given: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Lists, objects, tensors and pandas become arrays once; a Series is a column, as in Keras."""
    inputs = Split(given).inputs

    assert (np.dtype(dtype), shape) == (inputs.dtype, inputs.shape)


def test_a_structure_keeps_its_form_and_its_arrays() -> None:
    """Dicts, tuples and lists of arrays stay what they are, and an array is not copied."""
    array = np.arange(3)
    split = Split({"a": array, "b": (array, [1, 2, 3])}, [array, array])

    assert split.inputs["a"] is array
    assert split.inputs["b"][1].tolist() == [1, 2, 3]
    assert isinstance(split.labels, list)
    assert 3 == split.rows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Split(np.ones(3), np.ones(4)), "inputs: 3, labels: 4"),
        (lambda: Split({"a": np.ones(3), "b": np.ones(2)}), "inputs/a: 3, inputs/b: 2"),
        (lambda: Split(np.ones((0, 2))), "inputs: 0"),
        (lambda: Split(None), "received no array"),
        (lambda: Split([[1, 2], [3]]), "inputs: .*lists of unequal lengths"),
        (lambda: Split(5), "inputs: .*received int"),
        (lambda: Split(np.array([{}, []], object)), r"Python objects \(dict, list\)"),
        (lambda: Split(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})), r"Python objects \(str\).*dict\(frame\)"),
        (lambda: Split({"day": np.array(["2026-01-01"], "datetime64[D]")}), "inputs/day: .*dates"),
        (lambda: Split(scipy.sparse.eye(3).tocsr()), r"csr_matrix.*toarray"),
    ],
)
def test_what_is_no_array_is_refused(make: Callable[[], Split], message: str) -> None:
    """The error names the part and the cause."""
    with pytest.raises(DataError, match=message):
        make()


# --- cache ---

CACHED = """
import pathlib, sys
import numpy
from samebits.train.data import DataContext
from samebits.core.seeds import Seeds

def make():
    return {"words": numpy.arange(2_000_000)}

print("ready", flush=True)
sys.stdin.readline()
context = DataContext(Seeds({}), {}, pathlib.Path(sys.argv[1]))
for number in range(5):
    assert context.cached("words", {"number": number}, make)["words"].sum() == 1999999000000
"""


Calls = Iterator[int]


@pytest.fixture
def calls() -> Calls:
    """Return what counts how often the tests below compute arrays. Its count is no value that the cache's key has."""
    return itertools.count()


@pytest.fixture
def make(calls: Calls) -> Callable[[], dict[str, np.ndarray]]:
    """Return a function that computes arrays and counts the call."""

    def make() -> dict[str, np.ndarray]:
        next(calls)
        return {"words": np.arange(5, dtype=np.int32)}

    return make


Make = Callable[[], dict[str, np.ndarray]]


def test_the_cache_makes_arrays_once(tmp_path: pathlib.Path, make: Make, calls: Calls) -> None:
    """The second call, also from another context, reads the same bits and computes nothing."""
    first = make_context(tmp_path / "cache").cached("words", {"a": 1}, make)
    second = make_context(tmp_path / "cache").cached("words", {"a": 1}, make)

    assert 1 == next(calls)
    assert (first["words"].dtype, first["words"].tobytes()) == (second["words"].dtype, second["words"].tobytes())


def test_another_key_is_another_entry(tmp_path: pathlib.Path, make: Make, calls: Calls) -> None:
    """Every value in the key, and the name, selects the entry."""
    context = make_context(tmp_path)
    for name, key in (("words", {"a": 1}), ("words", {"a": 2}), ("words", {"b": 1}), ("other", {"a": 1})):
        context.cached(name, key, make)

    assert 4 == next(calls)
    assert len(list(tmp_path.iterdir())) == 4


def test_other_code_is_another_entry(tmp_path: pathlib.Path) -> None:
    """A changed module is a new entry, so arrays of old code are not used."""
    module = tmp_path / "encoder.py"
    found = []
    for number in (1, 2, 1):
        module.write_text(f"import numpy\ndef make():\n    return {{'words': numpy.array([{number}])}}\n")
        names: dict[str, Any] = {}
        exec(compile(module.read_text(), str(module), "exec"), names)  # noqa: S102  an edited module, without the caches of import
        found.append(make_context(tmp_path / "cache").cached("words", {}, names["make"])["words"].tolist())

    assert found == [[1], [2], [1]]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_code_of_helpers_selects_the_entry(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed module of the package, or of a package beside it that is imported, is a new entry; others are not."""
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    for place, code in {
        "mine/__init__.py": "from mine.helper import scaled\nimport other\ndef make():\n    return {'a': scaled()}\n",
        "mine/helper.py": "import numpy\ndef scaled():\n    return numpy.arange(3)\n",
        "other/__init__.py": "",
        "unused/__init__.py": "",
    }.items():
        (tmp_path / "src" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / place).write_text(code)
    make = importlib.import_module("mine").make
    counts = []
    for place in ("mine/helper.py", "other/__init__.py", "unused/__init__.py"):
        make_context(tmp_path / "cache").cached("words", {}, make)
        with (tmp_path / "src" / place).open("a") as stream:
            stream.write("# changed\n")
        make_context(tmp_path / "cache").cached("words", {}, make)
        counts.append(len(list((tmp_path / "cache").iterdir())))

    assert [2, 3, 3] == counts


def test_captured_values_select_the_entry(tmp_path: pathlib.Path) -> None:
    """Another number that the function captures, has as default or gets by partial, is a new entry."""

    def outer(number: int) -> Any:
        return lambda: {"words": np.array([number])}

    def given(number: Any, scale: float = 1.0) -> dict[str, np.ndarray]:
        return {"words": np.array([number * scale])}

    makers = [outer(1), outer(2), functools.partial(given, 1), functools.partial(given, 2)]
    makers += [functools.partial(given, 1, scale=2.0), functools.partial(given, np.array([1]))]
    for make in [*makers, outer(1)]:
        make_context(tmp_path).cached("words", {}, make)

    assert len(makers) == len(list(tmp_path.iterdir()))


class Encoder:
    """Encodes by a number, as a method or as a function."""

    def __init__(self, number: Any) -> None:
        self.number, self.itself = number, self

    def encode(self) -> dict[str, np.ndarray]:
        """Return an array that depends on the number."""
        return {"words": np.array([int(self.number)])}

    __call__ = encode


def of_closure(value: Any) -> Any:
    """Return a function that uses a value of this one."""
    return lambda: {"words": np.array([len(repr(value))])}


def of_decorator(value: Any) -> Any:
    """Return a decorated function, whose inner one has a value."""
    inner = of_closure(value)
    return functools.wraps(inner)(lambda: inner())  # noqa: PLW0108  a decorator


def of_keyword(value: Any) -> Any:
    """Return a function with a default that only a keyword sets."""

    def make(*, scale: Any = value) -> dict[str, np.ndarray]:
        return {"words": np.array([int(scale)])}

    return make


WAYS: dict[str, Any] = {
    "a method": lambda value: Encoder(value).encode,
    "a callable object": Encoder,
    "an object in a closure": lambda value: of_closure(Encoder(value)),
    "a function in a closure": lambda value: of_closure(of_closure(value)),
    "a partial in a closure": lambda value: of_closure(functools.partial(max, value)),
    "a decorator": of_decorator,
    "functools.cache": lambda value: functools.cache(of_closure(value)),
    "a keyword": of_keyword,
    "a set": lambda value: of_closure({value, "a"}),
    "bytes": lambda value: of_closure(bytes([value])),
    "a NumPy number": lambda value: of_closure(np.float32(value)),
    "a path": lambda value: of_closure(pathlib.Path(str(value))),
    "an array of objects": lambda value: of_closure(np.array([str(value), "b"], object)),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_function_uses_selects_the_entry(way: str, tmp_path: pathlib.Path) -> None:
    """Another value is a new entry, however the function gets it; the same value is not."""
    for value in (1, 2, 1):
        make_context(tmp_path).cached("words", {}, WAYS[way](value))

    assert 2 == len(list(tmp_path.iterdir()))


def test_a_function_of_python_can_be_cached(tmp_path: pathlib.Path) -> None:
    """It has no file with code."""
    make_context(tmp_path).cached("words", {}, functools.partial(dict, words=np.zeros(1)))

    assert 1 == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cache_file_is_made_again(
    tmp_path: pathlib.Path, make: Make, calls: Calls, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """A damaged or truncated file gives a warning and is rebuilt, and the next call reads it."""
    context = make_context(tmp_path)
    context.cached("words", {}, make)
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    damaged = {"flip": bytes([*whole[:-1], whole[-1] ^ 1]), "cut": bytes(whole[:-1]), "empty": b""}[damage]
    path.write_bytes(damaged)

    with caplog.at_level(logging.WARNING):
        assert context.cached("words", {}, make)["words"].tolist() == [0, 1, 2, 3, 4]

    assert caplog.messages == [f"the cache file is rebuilt: {path} is damaged."]
    assert context.cached("words", {}, make)["words"].tolist() == [0, 1, 2, 3, 4]
    assert 2 == next(calls)
    assert bytes(whole) == path.read_bytes()


def test_a_cache_that_cannot_be_written_costs_only_a_warning(
    tmp_path: pathlib.Path, make: Make, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    """If a file has the name of the cache folder, arrays are computed each time with a warning."""
    (tmp_path / "cache").touch()
    context = make_context(tmp_path / "cache")

    with caplog.at_level(logging.WARNING):
        arrays = [context.cached("words", {}, make)["words"].tolist() for _ in range(2)]

    assert arrays == [[0, 1, 2, 3, 4]] * 2
    assert 2 == next(calls)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("the encoded data could not be cached: ")


def test_a_full_disk_costs_the_cache_only_a_warning(
    tmp_path: pathlib.Path, make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays that do not fit on the disk are still used, and no incomplete file stays."""

    def full(path: pathlib.Path, _arrays: dict[str, np.ndarray]) -> None:
        files.write_file(path, lambda _stream: pathlib.Path("/dev/full").write_bytes(b"x"))

    monkeypatch.setattr("samebits.core.files.write_arrays", full)

    with caplog.at_level(logging.WARNING):
        assert make_context(tmp_path).cached("words", {}, make)["words"].tolist() == [0, 1, 2, 3, 4]

    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_two_processes_share_a_cache(tmp_path: pathlib.Path) -> None:
    """Two processes that compute the same entries at the same time get and leave whole entries."""
    script, cache = tmp_path / "script.py", tmp_path / "cache"
    script.write_text(CACHED)  # a cache's name depends on the file of its function
    children = start_at_once("import runpy, sys; runpy.run_path(sys.argv[2])", 2, cache, script)

    assert [child.communicate(timeout=60)[1] for child in children] == ["", ""]
    assert [child.returncode for child in children] == [0, 0]
    assert len(list(cache.iterdir())) == 5
    assert all(len(files.read_arrays(path)["words"]) == 2_000_000 for path in cache.iterdir())


def test_the_name_of_version_0_1_says_the_new_one(tmp_path: pathlib.Path) -> None:
    """The error of a data function that calls `context.rest` says what to write."""
    context = make_context(tmp_path)
    with pytest.raises(ConfigError, match=r"write context\.mark_unused"):
        context.rest("data/load", "the files have a fixed order")
