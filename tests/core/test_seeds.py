"""Seed points: independent streams, errors, and values that never change silently."""

import copy
import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from samebits.compose import compose
from samebits.core.config import SeedConfig
from samebits.core.errors import SeedError
from samebits.core.seeds import (
    POINT_SEED_END,
    ROOT_SEED_END,
    PointSeed,
    SeedPoint,
    Seeds,
    derive_seed,
    describe_consumer,
    flatten_points,
    make_rng,
    resolve_points,
)

TREE: dict[str, Any] = {
    "python": {"hash": None},
    "data": {"order": None, "split": None},
    "model": {"conv": {"kernel": None}},
}
# Constants of all versions: if one of these tests fails, fix the code, not the number.
FROZEN_SEEDS = {
    (0, "data/order"): 1375921080,
    (0, "python/hash"): 266707042,
    (1, "data/order"): 2072568513,
    (56, "data/order"): 1582750375,
    (56, "data/load"): 940418773,
    (56, "data/split"): 954014806,
    (56, "python/hash"): 1551676350,
    (56, "model/embedding_dropout/dropout"): 1612415353,
    (56, "model/lstm/recurrent"): 22581752,
    (57, "model/lstm/recurrent"): 2036691462,
    (2**31, "numpy/global"): 1064753300,
    (2**32 - 1, "python/hash"): 664253,
}
FROZEN_STREAMS: dict[tuple[int, str, tuple[int, ...]], str] = {
    (0, "data/split", ()): "56acb3c43bdc19e7c80f1ef58287c4d6",
    (56, "data/split", ()): "34ffae3563b3599cb8c59f3e1bef125a",
    (56, "data/order", (1,)): "9e3831700fdea7e07ea877f0ae34c609",
    (56, "data/order", (2,)): "323a46189dc36bf3e0f2762f7e732ac9",
}


def compose_points(*overrides: str) -> dict[str, SeedPoint]:
    """Return the resolved points of a composed configuration."""
    seed = compose(ROOT, list(overrides)).seed
    return resolve_points(seed.root, seed.policy, seed.points)


points_of = functools.cache(compose_points)  # a tenth of a second each


def stream(points: dict[str, SeedPoint], name: str) -> bytes:
    """Return the start of the stream of one point."""
    return Seeds(points).rng(name).bytes(32)


def streams(points: dict[str, SeedPoint]) -> dict[str, bytes]:
    """Return the start of the stream of every point."""
    return {name: stream(points, name) for name in points}


def listed_points() -> dict[str, str]:
    """Return every point that conf/ lists, with an option of the group model that lists it."""
    models = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
    return {name: model for model in reversed(models) for name in points_of(f"model={model}")}


LISTED = listed_points()
every_point = pytest.mark.parametrize("point", sorted(LISTED))


@every_point
def test_same_root_gives_the_same_stream(point: str) -> None:
    """Composing the configuration twice gives each point the same stream."""
    first, second = (make(f"model={LISTED[point]}", "seed.root=57") for make in (points_of, compose_points))

    assert stream(first, point) == stream(second, point)
    assert first[point].value == second[point].value


@every_point
def test_another_root_gives_another_stream(point: str) -> None:
    """The roots 56 and 57 give each point different seeds and streams."""
    first, second = (points_of(f"model={LISTED[point]}", f"seed.root={root}") for root in (56, 57))

    assert stream(first, point) != stream(second, point)
    assert first[point].value != second[point].value


@every_point
def test_a_point_set_alone_moves_only_itself(point: str) -> None:
    """Setting one point on the command line changes its stream and no other."""
    model = f"model={LISTED[point]}"
    before = streams(points_of(model))
    after = streams(points_of(model, f"seed.points.{point.replace('/', '.')}=57"))

    assert [point] == [name for name in before if before[name] != after[name]]
    assert list(before) == list(after)


def test_every_point_of_the_design_is_listed() -> None:
    """The list for the three-way tests has all points of the harness and the model."""
    harness = {"python/hash", "python/random", "numpy/global", "tensorflow/global"}
    data = {f"data/{name}" for name in ("load", "split", "folds", "oversample", "bootstrap", "order")}
    model = {"embedding/embeddings", "embedding_dropout/dropout", "conv/kernel", "lstm/kernel", "lstm/recurrent"}

    assert set() == (harness | data | {f"model/{name}" for name in model} | {"model/output/kernel"}) - set(LISTED)


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_a_fresh_process_derives_the_same_seeds(hash_seed: str, tmp_path: pathlib.Path) -> None:
    """Seeds depend neither on PYTHONHASHSEED nor on the working directory."""
    code = (
        "import json, sys; from samebits.core.seeds import *; names = json.loads(sys.argv[1]);"
        "print(json.dumps({n: [derive_seed(56, n), make_rng(56, n, 3).bytes(8).hex()] for n in names}))"
    )
    command = [sys.executable, "-c", code, json.dumps(sorted(LISTED))]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    expected = {name: [derive_seed(56, name), make_rng(56, name, 3).bytes(8).hex()] for name in sorted(LISTED)}

    assert expected == json.loads(done.stdout)


@pytest.mark.parametrize(("root", "point"), FROZEN_SEEDS)
def test_derived_seeds_are_frozen(root: int, point: str) -> None:
    """A root and a name give the same seed in every version of this project and of its libraries."""
    assert FROZEN_SEEDS[root, point] == derive_seed(root, point)


@pytest.mark.parametrize(("seed", "point", "index"), FROZEN_STREAMS)
def test_streams_are_frozen(seed: int, point: str, index: tuple[int, ...]) -> None:
    """A seed, a name and an index give the same numbers in every version of this project and of its libraries."""
    assert FROZEN_STREAMS[seed, point, index] == make_rng(seed, point, *index).bytes(16).hex()


def test_no_two_points_or_roots_share_a_seed() -> None:
    """Over all points and 200 roots no two seeds are equal, and each is below Keras's modulus."""
    seeds = [derive_seed(root, point) for root in range(200) for point in LISTED]

    assert len(seeds) == len(set(seeds))
    assert all(0 <= seed < POINT_SEED_END for seed in seeds)


def test_seed_zero_is_a_seed() -> None:
    """The root 0 seeds every point, with the same seeds each time, unlike the roots 1 and 56."""
    zero, one, default = (points_of(f"seed.root={root}") for root in (0, 1, 56))

    assert {"derived"} == {point.source for point in zero.values()}
    assert streams(zero) == streams(compose_points("seed.root=0"))
    assert all(streams(zero)[name] not in (streams(one)[name], streams(default)[name]) for name in zero)


def test_a_point_set_to_zero_is_set() -> None:
    """A point set to 0 has the seed 0: it is neither derived nor unseeded."""
    point = points_of("seed.points.data.order=0")["data/order"]

    assert SeedPoint("data/order", 0, "set") == point
    assert Seeds({"data/order": point}).is_seeded("data/order")
    assert Seeds({"data/order": point}).take("data/order") == 0
    assert make_rng(0, "data/order").bytes(16) == make_rng(0, "data/order").bytes(16)
    assert make_rng(0, "data/order").bytes(16) != make_rng(1, "data/order").bytes(16)


@pytest.mark.parametrize("root", [0, 1, ROOT_SEED_END - 1])
def test_the_ends_of_the_root_range_are_seeds(root: int) -> None:
    """The smallest and the largest root are accepted."""
    assert 0 <= derive_seed(root, "data/order") < POINT_SEED_END


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (True, "True (bool)"),
        (False, "False (bool)"),
        (56.0, "56.0 (float)"),
        ("56", "'56' (str)"),
        (None, "None (NoneType)"),
        ([56], "[56] (list)"),
        (-1, "-1 (int)"),
        (ROOT_SEED_END, "4294967296 (int)"),
        (np.int64(56), "np.int64(56) (int64)"),
    ],
)
def test_a_root_that_is_no_seed_is_refused(value: Any, received: str) -> None:
    """A root that is not an int from 0 to 2**32 - 1, or is a bool, is an error with the received value."""
    expected = (
        f"seed.root: expected an integer from 0 to 4294967295, received {received}; "
        "fix: use a whole number in that range, e.g. seed.root=56"
    )

    for refuse in (lambda: derive_seed(value, "data/order"), lambda: resolve_points(value, "derived", TREE)):
        with pytest.raises(SeedError) as caught:
            refuse()

        assert expected == str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (True, "True (bool)"),
        (False, "False (bool)"),
        (57.0, "57.0 (float)"),
        ("57", "'57' (str)"),
        ("", "'' (str)"),
        (-1, "-1 (int)"),
        (POINT_SEED_END, "2147483646 (int)"),
    ],
)
@pytest.mark.parametrize("policy", ["derived", "unseeded"])
def test_a_point_that_is_no_seed_is_refused_by_name(policy: str, value: Any, received: str) -> None:
    """A point value that is not an int from 0 to 2**31 - 3 is an error with the key for the command line."""
    with pytest.raises(SeedError) as caught:
        resolve_points(56, policy, {"data": {"order": value}})

    expected = (
        f"seed.points.data.order: expected an integer from 0 to 2147483645, received {received}; "
        "fix: use a whole number in that range, e.g. seed.points.data.order=56"
    )

    assert expected == str(caught.value)


@pytest.mark.parametrize("override", ["seed.root=true", "seed.root='56'", "seed.root=5.6e1", "seed.root=-1"])
def test_a_root_of_another_type_is_not_converted_on_the_way(override: str) -> None:
    """true, '56', 5.6e1 and -1 on the command line are not converted, and are errors."""
    with pytest.raises(SeedError, match=r"^seed\.root: expected an integer from 0 to 4294967295, received "):
        points_of(override)


def test_the_largest_point_seed_is_a_seed() -> None:
    """2**31 - 3 is accepted for a point."""
    points = resolve_points(56, "derived", {"data": {"order": POINT_SEED_END - 1}})

    assert points["data/order"].value == POINT_SEED_END - 1


def test_derived_seeds_every_point() -> None:
    """Under the policy derived every null becomes a seed derived from the name."""
    points = points_of("seed=all")

    assert {name: SeedPoint(name, derive_seed(56, name), "derived") for name in points} == points


def test_data_only_seeds_the_data_and_nothing_else() -> None:
    """Under data_only the points below data/ are derived, and all others are unseeded."""
    points, derived = points_of("seed=data_only"), points_of("seed=all")
    expected = {n: derived[n] if n.startswith("data/") else SeedPoint(n, None, "unseeded") for n in derived}

    assert expected == points
    assert {name for name in points if name.startswith("data/")} == {
        n for n, p in points.items() if p.value is not None
    }
    assert 7 == len([name for name in points if name.startswith("data/")])


def test_data_only_means_the_points_below_data() -> None:
    """Under data_only a point whose name only starts with the letters "data" is unseeded."""
    points = resolve_points(56, "data_only", {"data": {"order": None}, "dataset": {"order": None}, "database": None})

    assert {"data/order"} == {name for name, point in points.items() if point.value is not None}


def test_root_everywhere_gives_every_point_the_root() -> None:
    """Under the policy of the article each seed is the root."""
    points = points_of("seed=article", "seed.root=0")

    assert {name: SeedPoint(name, 0, "root") for name in points} == points


def test_unseeded_seeds_nothing() -> None:
    """Under the policy unseeded no point has a seed."""
    points = points_of("seed=none")

    assert {name: SeedPoint(name, None, "unseeded") for name in points} == points


@pytest.mark.parametrize("option", ["all", "data_only", "article", "none"])
@pytest.mark.parametrize("point", ["data/order", "model/conv/kernel"])
def test_a_point_is_set_alone_under_every_policy(option: str, point: str) -> None:
    """The value of a point overrides the policy, and the other points stay unchanged."""
    before = points_of(f"seed={option}")
    after = points_of(f"seed={option}", f"seed.points.{point.replace('/', '.')}=7")

    assert before | {point: SeedPoint(point, 7, "set")} == after


def test_an_unknown_policy_is_refused() -> None:
    """An unknown policy is an error with the list of policies."""
    with pytest.raises(SeedError) as caught:
        points_of("seed.policy=fixed")

    expected = (
        "seed.policy: expected derived or data_only or root_everywhere or unseeded, "
        "received 'fixed'; fix: choose one of them"
    )

    assert expected == str(caught.value)


def test_root_everywhere_refuses_a_root_that_is_no_point_seed() -> None:
    """A root that is too large for Keras cannot be the seed of every point, although it is a valid root."""
    assert resolve_points(POINT_SEED_END, "derived", TREE)["data/order"].source == "derived"

    with pytest.raises(SeedError) as caught:
        resolve_points(POINT_SEED_END, "root_everywhere", TREE)

    assert str(caught.value).startswith(
        "seed.root: expected an integer from 0 to 2147483645, received 2147483646 (int)"
    )


def test_adding_a_point_moves_no_other() -> None:
    """New points, before and after the others, leave every other seed unchanged."""
    tree = {"a": None, **TREE, "data": {"augment": None, **TREE["data"]}, "z": {"z": None}}
    before, after = resolve_points(56, "derived", TREE), resolve_points(56, "derived", tree)

    assert {"a", "data/augment", "z/z"} == set(after) - set(before)
    assert before == {name: after[name] for name in before}


def test_renaming_a_point_moves_no_other() -> None:
    """A renamed point has another seed, and every other seed is unchanged."""
    tree = {**TREE, "model": {"convolution": {"kernel": None}}}
    before, after = resolve_points(56, "derived", TREE), resolve_points(56, "derived", tree)

    assert before["model/conv/kernel"].value != after["model/convolution/kernel"].value
    assert [before[name] for name in before if "conv" not in name] == [after[n] for n in after if "conv" not in n]


def test_an_unlisted_point_is_refused_by_name() -> None:
    """Using an unlisted point is an error with its name and where to list it."""
    seeds = Seeds.of(SeedConfig(56, "derived", TREE))

    with pytest.raises(SeedError) as caught:
        seeds.take("data/ordr")

    expected = (
        "seed point data/ordr (data: ordr): expected a listed seed point, received a point that the configuration "
        "does not list; fix: list data.ordr as null under seed.points in the file of its data, in conf/data/"
    )

    assert expected == str(caught.value)


@pytest.mark.parametrize(
    ("policy", "value", "source"),
    [
        ("derived", derive_seed(56, "model/lstm/kernel"), "derived"), ("root_everywhere", 56, "root"),
        ("data_only", None, "unseeded"), ("unseeded", None, "unseeded"),
    ],
)  # fmt: skip
def test_a_point_of_a_model_need_not_be_listed(policy: str, value: int | None, source: str) -> None:
    """An unlisted point below model/ gets its seed by the policy when it is used, and is then in the table."""
    seeds = Seeds.of(SeedConfig(56, policy, TREE))
    before = [row["point"] for row in seeds.table()]

    assert SeedPoint("model/lstm/kernel", value, source) == seeds.find("model/lstm/kernel")
    assert before == [row["point"] for row in seeds.table()]
    assert value == seeds.take("model/lstm/kernel", "weight net/lstm/kernel")
    row = {"point": "model/lstm/kernel", "value": value, "source": source, "consumer": "weight net/lstm/kernel"}
    assert row | {"consumed": True, "rests": ""} == seeds.table()[-1]


def test_an_integer_in_the_code_is_in_the_table() -> None:
    """A literal seed has a row of its own, and a point of the same name that the user sets is an error."""
    seeds = Seeds.of(SeedConfig(56, "derived", {"model": {"conv": {"kernel": 5}}}))
    seeds.note_literal("model/conv/kernel", 42, "weight conv/kernel")

    assert ("literal", 42, "weight conv/kernel") == tuple(
        seeds.table()[-1][key] for key in ("source", "value", "consumer")
    )
    with pytest.raises(SeedError, match="received none: the code has the seed 42"):
        seeds.check_consumed()


def test_a_seed_of_a_model_knows_its_point() -> None:
    """The integer that a model function gets knows its point, also in a copy. Unseeded, it is None."""
    seed: Any = Seeds.of(SeedConfig(56, "derived")).for_model()("a/kernel")

    assert isinstance(seed, PointSeed)
    for each in (seed, copy.deepcopy(seed), pickle.loads(pickle.dumps(seed))):  # noqa: S301
        assert (derive_seed(56, "model/a/kernel"), "model/a/kernel") == (each, each.point)
    assert Seeds.of(SeedConfig(56, "unseeded")).for_model()("a/kernel") is None


def test_a_model_takes_points_below_model() -> None:
    """seed("conv/kernel") in a model function is the point model/conv/kernel."""
    seeds = Seeds(resolve_points(56, "derived", TREE))

    assert derive_seed(56, "model/conv/kernel") == seeds.for_model()("conv/kernel")


def test_an_unconsumed_point_is_refused_by_name() -> None:
    """An unused listed point is an error with its name. A used one is not."""
    seeds = Seeds(resolve_points(56, "derived", TREE))
    for name in ("python/hash", "data/order", "data/split"):
        seeds.take(name)

    with pytest.raises(SeedError) as caught:
        seeds.check_consumed()

    expected = (
        "seed point model/conv/kernel: expected code that uses it, received none: nothing in this run uses it; "
        "fix: remove it from seed.points, or use the listed name in the layer or function"
    )

    assert expected == str(caught.value)

    seeds.rng("model/conv/kernel")
    seeds.check_consumed()


def test_an_unseeded_point_must_be_consumed_too() -> None:
    """Under the policy unseeded an unused point is an error too."""
    seeds = Seeds(resolve_points(56, "unseeded", {"data": {"order": None}}))

    with pytest.raises(SeedError, match=r"^seed point data/order: expected code that uses it"):
        seeds.check_consumed()


def test_an_unused_point_needs_no_consumer() -> None:
    """A point that is marked unused is no error if the user did not set it."""
    seeds = Seeds(resolve_points(56, "derived", {"data": {"folds": None}}))
    seeds.mark_unused("data/folds", because="data.folds is 0")
    seeds.check_consumed()

    assert [(r["point"], r["consumed"], r["rests"]) for r in seeds.table()] == [
        ("data/folds", False, "data.folds is 0")
    ]


def test_a_recorded_run_says_what_uses_each_point() -> None:
    """The table of a configuration takes consumers, points of the model and reasons from a run with other seeds."""
    points = {"data": {"order": None, "folds": None}}
    recorded = Seeds.of(SeedConfig(57, "derived", points))
    recorded.take("data/order")
    recorded.take("model/net/dense/kernel", "weight net/dense/kernel")
    recorded.mark_unused("data/folds", because="data.folds is 0")
    seeds = Seeds.of(SeedConfig(56, "derived", points))

    assert [
        ("data/order", derive_seed(56, "data/order"), "batches of each epoch", ""),
        ("data/folds", derive_seed(56, "data/folds"), "K-fold and leave-one-out splits", "data.folds is 0"),
        ("model/net/dense/kernel", derive_seed(56, "model/net/dense/kernel"), "weight net/dense/kernel", ""),
    ] == [(r["point"], r["value"], r["consumer"], r["rests"]) for r in seeds.table_with(recorded.table())]


def test_an_unused_point_set_on_purpose_is_refused() -> None:
    """Setting a point that is marked unused is an error with the reason."""
    seeds = Seeds(resolve_points(56, "derived", {"data": {"folds": 0}}))
    seeds.mark_unused("data/folds", because="data.folds is 0")

    with pytest.raises(SeedError) as caught:
        seeds.check_consumed()

    expected = (
        "seed point data/folds: expected code that uses it, received none: data.folds is 0; "
        "fix: remove it from seed.points, or use the listed name in the layer or function"
    )

    assert expected == str(caught.value)


def test_every_index_has_a_stream_of_its_own() -> None:
    """The streams of the epochs of a point differ from each other and from the stream without an index."""
    drawn = [
        make_rng(56, "data/order", *index).bytes(16) for index in [(), *((i,) for i in range(100)), (0, 1), (1, 0)]
    ]

    assert len(drawn) == len(set(drawn))


def test_an_index_needs_no_history() -> None:
    """The stream of epoch 7 does not depend on the use of other epochs before."""
    alone = make_rng(56, "data/order", 7).bytes(16)
    seeds = Seeds(resolve_points(56, "derived", {"data": {"order": 56}}))
    after_others = [seeds.rng("data/order", epoch).bytes(16) for epoch in range(1, 8)][-1]

    assert alone == after_others


def test_two_points_with_one_seed_have_two_streams() -> None:
    """Two points with the same seed have different streams, also under the policy of the article."""
    points = points_of("seed=article")
    drawn = list(streams(points).values())

    assert len(drawn) == len(set(drawn))


def test_unseeded_draws_differ() -> None:
    """An unseeded point gives different numbers each time."""
    seeds = Seeds(resolve_points(56, "unseeded", {"data": {"order": None}}))
    drawn = [seeds.rng("data/order", 1).bytes(16) for _ in range(3)] + [make_rng(None, "data/order").bytes(16)]

    assert len(drawn) == len(set(drawn))
    assert seeds.take("data/order") is None
    assert not seeds.is_seeded("data/order")


def test_the_table_tells_each_point_once() -> None:
    """The table has one row per point with value, source, consumer and whether it was used."""
    seeds = Seeds(resolve_points(56, "derived", {"data": {"order": 57, "split": None}}))
    seeds.take("data/order")
    expected = [
        {
            "point": "data/order",
            "value": 57,
            "source": "set",
            "consumer": "batches of each epoch",
            "consumed": True,
            "rests": "",
        },
        {
            "point": "data/split",
            "value": derive_seed(56, "data/split"),
            "source": "derived",
            "consumer": "training and validation split",
            "consumed": False,
            "rests": "",
        },
    ]

    assert expected == seeds.table()


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("python/hash", "PYTHONHASHSEED of the training process"),
        ("model/lstm/recurrent", "layer lstm: recurrent"),
        ("model/encoder/conv/kernel", "layer encoder/conv: kernel"),
        ("algorithm/forest", "bootstrap samples and features of a random forest"),
        ("algorithm/annealing", "algorithm: annealing"),
    ],
)
def test_a_consumer_is_described_in_words(point: str, words: str) -> None:
    """Every kind of point has a description of what uses it."""
    assert words == describe_consumer(point)


def test_points_are_paths_of_the_tree() -> None:
    """A nested mapping of points becomes paths in the same order, including zero and null."""
    tree = {"b": {"y": 0, "x": {"z": None}}, "a": 5}

    assert list(flatten_points(tree)) == [("b/y", 0), ("b/x/z", None), ("a", 5)]
