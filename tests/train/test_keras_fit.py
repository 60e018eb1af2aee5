"""What a user wrote is what is trained: the same bits as Keras's own `compile` and `fit`, in this process."""

import pathlib
from collections.abc import Iterator
from typing import Any

import in_process
import keras
import pytest
from in_process import Small
from keras_cases import CASES, CONFIGURED, Case, split, unbuilt_layers

from samebits.train.data import Split
from samebits.train.steps import path_digests

STEPS, EPOCHS = 4, 3  # batches of eight; the last one is smaller
MIDDLE = STEPS + 2
FIT = {"epochs": EPOCHS, "batch_size": 8, "shuffle": False, "validation_batch_size": 7}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def fit(case: Case) -> tuple[keras.Model, dict[str, Any]]:
    """Train with Keras's own `fit`. Returns the model and the history."""
    keras.backend.clear_session(free_memory=False)
    model, data = case.build(), case.data()
    options = {name: value for name, value in (FIT | dict(case.settings)).items() if name not in CONFIGURED}
    train, validation = data.train, data.validation
    if validation is not None:
        parts = (validation.inputs, validation.labels, validation.sample_weight)
        options["validation_data"] = parts if parts[2] is not None else parts[:2]
    if options.get("steps_per_epoch"):  # Keras continues with the next batch in the next epoch
        rows = slice(options.pop("steps_per_epoch") * options["batch_size"])
        train = Split(train.inputs[rows], train.labels[rows])
    history = model.fit(
        train.inputs, train.labels, sample_weight=train.sample_weight, callbacks=case.callbacks(), verbose=0, **options
    )
    return model, history.history


FAST = ("compiled", "GAN")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.full) for name in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_as_fit(name: str, tmp_path: pathlib.Path) -> None:
    """Same weights, optimizers and history as Keras's `fit`; stopped in mid-epoch and resumed, the same again."""
    case = CASES[name]
    model, history = fit(case)
    small = Small(case.plain or case.build, case.data(), **FIT | dict(case.settings))
    ours = small.train(tmp_path / "whole", callbacks=case.callbacks)

    assert path_digests(model.weights) == ours["weights"]
    assert in_process.values_of(model) == ours["variables"]
    assert history == ours["history"]

    if small.network.steps.train_feed.steps == STEPS:
        small.stop(tmp_path / "stopped", MIDDLE, callbacks=case.callbacks)
        resumed = small.train(tmp_path / "stopped", callbacks=case.callbacks)

        assert {"epoch": 2, "step": 2} == resumed["resumed_at"]
        assert ours == resumed | {"resumed_at": None}


@pytest.mark.full
def test_another_training_is_seen(tmp_path: pathlib.Path) -> None:
    """Negative control: another order, batch or number of steps gives other weights than `fit`."""
    model, _ = fit(Case(unbuilt_layers))
    changes: list[dict[str, Any]] = [{"shuffle": True}, {"batch_size": 7}, {"steps_per_epoch": 3}]
    for number, change in enumerate(changes):
        ours = Small(unbuilt_layers, split(), **FIT | change).train(tmp_path / str(number))

        assert path_digests(model.weights) != ours["weights"], change
