"""The configuration: all of conf/ composes, wrong values raise clear errors, and the name of a run covers its bits."""

import copy
import importlib
import inspect
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT

from samebits.compose import compose, list_options
from samebits.core.config import HARNESS_DATA_KEYS, Config, TrainingConfig, from_dict, named_code, split_target, to_dict
from samebits.core.config_rules import check
from samebits.core.digest import json_digest
from samebits.core.errors import ConfigError, SeedError
from samebits.core.files import write_yaml
from samebits.runs.folder import read_yaml
from samebits.runs.identity import identity
from samebits.studies.folds import one_fold, wants_every_fold

CONF = ROOT / "conf"
OPTIONS = sorted(f"{group}={option}" for group, options in list_options(ROOT).items() for option in options)
GROUPS = {"data", "experiment", "model", "runtime", "seed", "tracker", "training"}
WITHOUT_EFFECT = (
    "confirm", "package", "paths.", "resume", "script.code", "script.folder", "script.path", "trace.", "tracker.",
    "training.checkpoint_every", "training.log_every", "training.worker",
)  # fmt: skip


def compose_and_check(*overrides: str) -> Config:
    """Return a composed and checked configuration. One that means every fold gets fold 0."""
    config = compose(ROOT, list(overrides))
    check(one_fold(config, 0).config() if wants_every_fold(config) else config)
    return config


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def replace(tree: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return a copy of a tree with one leaf replaced."""
    changed = copy.deepcopy(tree)
    *owners, key = name.split(".")
    branch = changed
    for owner in owners:
        branch = branch[owner]
    branch[key] = value
    return changed


def read_yaml_of_conf(option: str) -> dict[str, Any]:
    """Return the contents of a file in conf/."""
    tree: dict[str, Any] = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    return tree


def move(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {str: f"{value}x", list: ["x"], dict: {"x": None}, type(None): 7}[type(value)]


# --- composition ---


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str) -> None:
    """Each file in conf/ gives a configuration that passes every check, alone and with the small experiment."""
    compose_and_check(option)
    if not option.startswith("experiment="):
        compose_and_check("experiment=smoke", option)


def test_every_group_of_conf_is_composed() -> None:
    """The list of options above covers every folder of conf/ and the groups of the harness."""
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}  # a launcher is no part of a run

    assert folders | {"runtime", "seed"} == {option.partition("=")[0] for option in OPTIONS}
    assert GROUPS == folders | {"runtime", "seed"}


def test_every_experiment_says_what_it_claims() -> None:
    """Each experiment file starts with its claim, its cost and its command."""
    for path in CONF.glob("experiment/*.yaml"):
        comments = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))

        assert [] == [word for word in ("Claim: ", "Cost: ", "Command: ") if word not in comments]


def test_the_schema_and_conf_agree_on_defaults() -> None:
    """The schema and conf/ have the same default values, but for those that the example's model sets."""
    composed, schema = compose_and_check(), Config()
    for key in read_yaml_of_conf("model/cnn_lstm")["training"]:
        setattr(composed.training, key, getattr(schema.training, key))

    for part in ("training", "runtime", "trace", "paths"):
        assert getattr(schema, part) == getattr(composed, part)
    assert (56, "derived") == (schema.seed.root, schema.seed.policy)
    assert (56, "derived") == (composed.seed.root, composed.seed.policy)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("data=")])
def test_every_data_option_fits_its_function(option: str) -> None:
    """The function of each data option accepts the keys of the option, without those of the harness."""
    target, arguments = split_target(compose_and_check(option).data)
    module, _, name = target.rpartition(".")

    assert inspect.signature(getattr(importlib.import_module(module), name)).bind(None, **arguments)
    assert set() == {"_target_", *HARNESS_DATA_KEYS} & set(arguments)


def test_the_model_has_the_sizes_of_the_data() -> None:
    """The vocabulary size and sequence length of the model follow those of the data."""
    config = compose_and_check("data.num_words=123", "data.sequence_length=45")

    assert (123, 45) == (config.model["num_words"], config.model["sequence_length"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epoch=3", "epoch"),
        ("+training.epoch=3", "epoch"),
        ("trainer.epochs=3", "trainer"),
        ("+trainer=default", "trainer"),
        ("model=lstm", "model/lstm"),
        ("experiment=nothing", "experiment/nothing"),
        ("training.epochs=many", "training.epochs=many"),
        ("training.epochs=1.5", "training.epochs=1.5"),
        ("training.epochs=true", "training.epochs=true"),
        ("training.epochs=null", "training.epochs=null"),
        ("training.learning_rate=fast", "training.learning_rate=fast"),
        ("runtime.op_determinism=perhaps", "runtime.op_determinism=perhaps"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(override: str, words: str) -> None:
    """An unknown key, an unknown option or a wrong type is a one-line error with its name, with exit code 2."""
    with pytest.raises(ConfigError) as caught:
        compose_and_check(override)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


# --- ranges ---

AT_LEAST_1 = "an integer of at least 1"
TIMEOUT = "a number of seconds, 0 or more"
FOLDS = "0 (no folds) or an integer of at least 2"
RATE = "a number above 0, or null"
NAMED = "a short name, package.module.name, {class: package.module.name, argument: value} or null"
CALLBACKS = "a list of package.module.name or {class: package.module.name, …}"
CLASS_WEIGHT = "a mapping from class numbers to weights, or null"
PORTABLE_PINS = "instruction_set=AVX2, intra_op_threads=1 and arithmetic_rewrites=false under portable"
PROMISES = "portable or machine or article or free"
REFUSED: list[tuple[list[str], str, str, str]] = [
    (["name=a/b"], "name", "letters, digits, - and _", "'a/b'"),
    (["name=.."], "name", "letters, digits, - and _", "'..'"),
    (["name="], "name", "letters, digits, - and _", "''"),
    (["training.epochs=0"], "training.epochs", AT_LEAST_1, "0"),
    (["training.epochs=-1"], "training.epochs", AT_LEAST_1, "-1"),
    (["training.batch_size=0"], "training.batch_size", AT_LEAST_1, "0"),
    (["training.checkpoint_every=0"], "training.checkpoint_every", AT_LEAST_1, "0"),
    (["training.log_every=0"], "training.log_every", AT_LEAST_1, "0"),
    (["training.steps_per_epoch=0"], "training.steps_per_epoch", f"{AT_LEAST_1}, or null for all samples", "0"),
    (["training.validation_batch_size=0"], "training.validation_batch_size", f"{AT_LEAST_1}, or null", "0"),
    (["training.learning_rate=0"], "training.learning_rate", RATE, "0.0"),
    (["training.learning_rate=-1"], "training.learning_rate", RATE, "-1.0"),
    (["training.learning_rate=nan"], "training.learning_rate", RATE, "nan"),
    (["training.learning_rate=inf"], "training.learning_rate", RATE, "inf"),
    (["training.loss=.mse"], "training.loss", NAMED, "'.mse'"),
    (["training.loss={class: 3}"], "training.loss", NAMED, "{'class': 3}"),
    (["training.optimizer=.sgd"], "training.optimizer", NAMED, "'.sgd'"),
    (["training.optimizer=[sgd]"], "training.optimizer", NAMED, "['sgd']"),
    (["training.callbacks=[{patience: 3}]"], "training.callbacks", CALLBACKS, "[{'patience': 3}]"),
    (["training.callbacks=[null]"], "training.callbacks", CALLBACKS, "[None]"),
    (["training.class_weight={a: 1}"], "training.class_weight", CLASS_WEIGHT, "{'a': 1}"),
    (["training.class_weight={0: -1}"], "training.class_weight", CLASS_WEIGHT, "{0: -1}"),
    (["training.class_weight=[1, 2]"], "training.class_weight", CLASS_WEIGHT, "[1, 2]"),
    (["training.monitor="], "training.monitor", "the name of a metric, e.g. val_loss", "''"),
    (["training.monitor_mode=up"], "training.monitor_mode", "min or max, or null: the metric's name decides", "'up'"),
    (["trace.level=all"], "trace.level", "epoch or step or stage", "'all'"),
    (["trace.epoch=-1"], "trace.epoch", "an epoch from 1, or 0 for all", "-1"),
    (["runtime.promise=fast"], "runtime.promise", PROMISES, "'fast'"),
    (["runtime.intra_op_threads=0"], "runtime.intra_op_threads", "1 to 1024, or null", "0"),
    (["runtime.intra_op_threads=1025"], "runtime.intra_op_threads", "1 to 1024, or null", "1025"),
    (["runtime.inter_op_threads=0"], "runtime.inter_op_threads", "1 to 1024, or null", "0"),
    (["runtime.instruction_set=AVX512"], "runtime.instruction_set", "AVX2 or null", "'AVX512'"),
    (["tracker.name=wandb"], "tracker.name", "comet or none", "'wandb'"),
    (["tracker.mode=live"], "tracker.mode", "auto, online or offline", "'live'"),
    (["tracker.finish_timeout_s=-1"], "tracker.finish_timeout_s", TIMEOUT, "-1.0"),
    (["tracker.finish_timeout_s=nan"], "tracker.finish_timeout_s", TIMEOUT, "nan"),
    (["tracker.finish_timeout_s=inf"], "tracker.finish_timeout_s", TIMEOUT, "inf"),
    (["data._target_=load_reviews"], "data._target_", "package.module.function", "'load_reviews'"),
    (["model._target_=null"], "model._target_", "package.module.function", "None"),
    (["~model._target_"], "model._target_", "package.module.function", "None"),
    (["data.validation_size=0"], "data.validation_size", AT_LEAST_1, "0"),
    (["data.validation_size=0.2"], "data.validation_size", AT_LEAST_1, "0.2"),
    (["data.validation_size=true"], "data.validation_size", AT_LEAST_1, "True"),
    (["data.validation_size=null"], "data.validation_size", AT_LEAST_1, "None"),
    (["data.folds=1"], "data.folds", FOLDS, "1"),
    (["data.folds=-1"], "data.folds", FOLDS, "-1"),
    (["data.folds=true"], "data.folds", FOLDS, "True"),
    (["data.folds=many"], "data.folds", FOLDS, "'many'"),
    (["data.folds=5", "data.fold=5"], "data.fold", "0 to data.folds - 1", "5"),
    (["data.folds=5", "data.fold=-1"], "data.fold", "0 to data.folds - 1", "-1"),
    (["data.fold=1"], "data.fold", "0 to data.folds - 1", "1"),
    (["data.fold=false"], "data.fold", "0 to data.folds - 1", "False"),
    (["data.oversample=1"], "data.oversample", "true or false", "1"),
    (["data.bootstrap=null"], "data.bootstrap", "true or false", "None"),
]


@pytest.mark.parametrize(("overrides", "key", "expected", "received"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_value_out_of_range_is_refused(overrides: list[str], key: str, expected: str, received: str) -> None:
    """The one-line error has the key, the allowed values, the value and how to set it. The exit code is 2."""
    with pytest.raises(ConfigError) as caught:
        compose_and_check(*overrides)

    fix = f"choose an allowed value, e.g. {key}=… on the command line"

    assert f"{key}: expected {expected}, received {received}; fix: {fix}" == str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=1", "training.batch_size=1", "training.checkpoint_every=1", "training.log_every=1"],
        ["training.learning_rate=1e-30", "training.steps_per_epoch=1", "training.validation_batch_size=1"],
        ["training.loss=null", "training.optimizer=null", "training.learning_rate=null", "training.metrics=null"],
        ["training.loss={a: mse, b: {class: keras.losses.Huber, delta: 2.0}}", "training.class_weight={0: 0, 1: 2.5}"],
        ["training.callbacks=[keras.callbacks.TerminateOnNaN, {class: a.b, patience: 3}]", "training.keep_best=true"],
        ["runtime=machine", "runtime.intra_op_threads=1024", "runtime.inter_op_threads=1"],
        ["runtime=free", "runtime.intra_op_threads=null", "runtime.inter_op_threads=null"],
        ["tracker.finish_timeout_s=0", "tracker.mode=offline"],
        ["data.folds=2", "data.fold=1", "data.validation_size=1", "data.oversample=true", "data.bootstrap=true"],
        ["seed.root=0"],
        ["seed.root=4294967295"],
        ["name=a-b_9"],
    ],
)
def test_the_ends_of_every_range_are_accepted(overrides: list[str]) -> None:
    """The smallest and the largest allowed values pass."""
    compose_and_check(*overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["runtime.op_determinism=false"], "fixed threads and op_determinism under portable"),
        (["runtime.intra_op_threads=null"], "fixed threads and op_determinism under portable"),
        (["runtime=machine", "runtime.op_determinism=false"], "fixed threads and op_determinism under machine"),
        (["runtime=machine", "runtime.intra_op_threads=null"], "fixed threads and op_determinism under machine"),
        (["runtime.instruction_set=null"], PORTABLE_PINS),
        (["runtime.arithmetic_rewrites=true"], PORTABLE_PINS),
        (["runtime.intra_op_threads=4"], PORTABLE_PINS),
    ],
)
def test_a_promise_keeps_its_pins(overrides: list[str], expected: str) -> None:
    """A promise without one of its fixed settings is an error."""
    with pytest.raises(ConfigError) as caught:
        compose_and_check(*overrides)

    assert ("runtime", expected) == (caught.value.what, caught.value.expected)


def test_the_seeds_are_checked_too() -> None:
    """A seed out of range is an error before anything is written."""
    with pytest.raises(SeedError, match=r"^seed\.points\.data\.order: expected"):
        compose_and_check("seed.points.data.order=-1")


# --- identity ---


def test_the_identity_is_all_but_what_changes_no_bits() -> None:
    """Every key changes the name of a run, except tracker, trace, folders, resume, confirm and two step intervals."""
    config = compose_and_check("training.steps_per_epoch=9", "tracker=comet")
    tree = to_dict(config)
    before = json_digest(identity(config))
    others = {name: move(value) for name, value in flatten(tree)} | dict.fromkeys(
        ("tracker.workspace", "tracker.group", "training.monitor_mode", "training.init_from"), "x"
    )
    moved = {name: json_digest(identity(from_dict(replace(tree, name, other)))) for name, other in others.items()}

    assert len(moved) > 60
    assert [name for name in moved if name.startswith(WITHOUT_EFFECT)] == [n for n in moved if moved[n] == before]
    assert {"name", "seed.root", "seed.points.data.order", "data.num_words", "training.batch_size"} < set(moved)


def test_a_key_more_or_less_is_another_identity() -> None:
    """An added or removed argument of a user's function changes the identity."""
    tree = to_dict(compose_and_check())
    trees = [tree, replace(tree, "data.extra", None), replace(tree, "model.extra", None), copy.deepcopy(tree)]
    del trees[3]["data"]["num_words"]

    assert len({json_digest(identity(from_dict(each))) for each in trees}) == 4


def test_the_identity_leaves_the_configuration_as_it_is() -> None:
    """Computing the identity does not change the configuration, and the identity is plain JSON data."""
    config = compose_and_check()
    before = copy.deepcopy(to_dict(config))
    identity(config)

    assert before == to_dict(config)
    assert json_digest(identity(config)) == json_digest(identity(compose_and_check()))


def test_zero_null_and_false_are_three_identities() -> None:
    """A point set to 0 gives another run than a derived point."""
    digests = {
        json_digest(identity(compose_and_check(*overrides)))
        for overrides in ([], ["seed.points.data.order=0"], ["seed.points.data.order=1"], ["seed.policy=unseeded"])
    }

    assert len(digests) == 4


# --- plain data ---


@pytest.mark.parametrize("option", OPTIONS)
def test_a_configuration_comes_back_from_plain_data(option: str, tmp_path: pathlib.Path) -> None:
    """from_dict inverts to_dict, also through config.yaml, so the training process gets the composed configuration."""
    config = compose_and_check(option, "training.learning_rate=1e-05", "tracker.tags=[a,'1']")
    write_yaml(tmp_path / "config.yaml", to_dict(config))
    again = from_dict(read_yaml(tmp_path / "config.yaml"))

    assert config == from_dict(to_dict(config))
    assert config == again
    assert repr(config) == repr(again)


@pytest.mark.parametrize("name", ["extra", "training.extra", "seed.extra", "runtime.extra", "trace.extra"])
def test_a_key_of_another_version_is_refused(name: str) -> None:
    """An unknown key in config.yaml of a run is a one-line error without a traceback."""
    with pytest.raises(ConfigError) as caught:
        from_dict(replace(to_dict(Config()), name, 1))

    assert caught.value.what == "config.yaml of a run"
    assert "'extra'" in str(caught.value.received)


def test_own_code_that_the_training_names_is_found() -> None:
    """Classes and functions of the user, at any depth, but no other strings: the name of a run covers their code."""
    rate = {"class": "my.rates.Rate"}
    callbacks = [
        "my.callbacks.Own",
        {"class": "keras.callbacks.CSVLogger", "filename": "log.csv"},
        {"class": "keras.callbacks.LearningRateScheduler", "schedule": {"function": "my.rates.halve"}},
    ]
    training = TrainingConfig(
        loss={"a": "my.losses.one", "b": "mse"},
        optimizer={"class": "keras.optimizers.Adam", "learning_rate": rate},
        metrics=["accuracy", {"class": "my.metrics.Gain"}],
        callbacks=callbacks,
        stages=[{"name": "a"}, {"name": "b", "data": {"_target_": "other.load", "rows": 3}, "loss": "other.loss"}],
    )
    config = Config(data={"_target_": "my.data.load"}, model={"_target_": "my.model.build"}, training=training)

    assert {
        "data._target_": "my.data.load",
        "model._target_": "my.model.build",
        "training.loss.a": "my.losses.one",
        "training.optimizer.learning_rate.class": "my.rates.Rate",
        "training.metrics[1].class": "my.metrics.Gain",
        "training.callbacks[0]": "my.callbacks.Own",
        "training.callbacks[2].schedule.function": "my.rates.halve",
        "training.stages[1].data._target_": "other.load",
        "training.stages[1].loss": "other.loss",
    } == named_code(config)


def test_the_harness_keys_are_not_the_users() -> None:
    """A user's function gets only its own arguments, in order."""
    tree = {"_target_": "a.b", "rows": 3, "fold": 1, "folds": 2, "oversample": True, "path": None, "bootstrap": False}

    assert ("a.b", {"rows": 3, "path": None}) == split_target(tree)
