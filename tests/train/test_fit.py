"""`fit` of a script, taken over: the same weights and the same History as Keras's own, and stages that resume."""

import contextlib
import itertools
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import in_process
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from samebits.core.config import Config, RuntimeConfig, SeedConfig, TrainingConfig
from samebits.core.errors import DataError, TrainingError
from samebits.core.seeds import Seeds, make_rng
from samebits.runs.folder import read_rows
from samebits.train.fit import Fit, Fits, FitStoppedError, take_over
from samebits.train.network import Network
from samebits.train.steps import Steps, path_digests

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15
ROWS = 30
X = make_rng(1, "x").standard_normal((ROWS, 6)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.float32)
IN_ORDER = {"batch_size": 8, "shuffle": False, "verbose": 0}


class NoSeeding:
    """Leaves generators alone: the models of these tests have literal seeds."""

    def place_all(self, model: keras.Model) -> None:
        """Do nothing."""


class Halt(in_process.Stop):
    """Requests a stop at one of the checks of the loop, and ends no process."""

    def end_at_once(self) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def make_fits(attempt: pathlib.Path, stop: int = 0) -> Fits:
    """Return the taken-over calls of a start of a run, which stops at one of the checks of the loop."""
    attempt.mkdir(exist_ok=True)
    training = TrainingConfig(checkpoint_every=1)
    config = Config(seed=SeedConfig(points=in_process.POINTS), training=training, runtime=RuntimeConfig("machine"))
    halt: Any = Halt(stop)
    seeding: Any = NoSeeding()
    return Fits(config, Seeds.of(config.seed), attempt, halt, seeding)


def build(metrics: tuple[str, ...] = ("accuracy",), inputs: int = 1) -> keras.Model:
    """Return a compiled model with dropout, with literal seeds."""
    keras.backend.clear_session()
    layers = [keras.Input((6,), name=f"in{number}") for number in range(inputs)]
    hidden = layers[0] if inputs == 1 else keras.layers.Add()(layers)
    hidden = keras.layers.Dense(8, "relu", kernel_initializer=keras.initializers.GlorotUniform(1))(hidden)
    hidden = keras.layers.Dropout(0.2, seed=2)(hidden)
    output = keras.layers.Dense(1, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(3))(hidden)
    model = keras.Model(layers, output)
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=list(metrics))
    return model


def outcome(model: keras.Model, history: Any) -> tuple[Any, ...]:
    """Return what a script can see after `fit`."""
    assert history is model.history
    optimizer = path_digests(model.optimizer.variables)
    return path_digests(model.weights), optimizer, history.history, history.epoch, bool(model.stop_training)


class Batches(keras.utils.PyDataset):
    """The rows in batches of eight."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(8 * index, 8 * index + 8)
        return X[rows], Y[rows]


def pipeline(rows: int = ROWS) -> tf.data.Dataset:
    """Return the rows in batches of eight, shuffled anew in each epoch within a buffer of some rows."""
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(rows, seed=4).batch(8)


def generator() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of the rows, of several lengths, without end."""
    for start in itertools.cycle(range(20)):
        yield X[start : start + 5 + start % 2], Y[start : start + 5 + start % 2]


def early() -> dict[str, Any]:
    """Return callbacks that stop, restore the best weights and change the learning rate."""
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True, min_delta=0.05)
    return {"callbacks": [stop, keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=1)], "epochs": 9}


Call = Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
CALLS: dict[str, Call] = {
    "arrays": lambda: ((X, Y), {"epochs": 2}),
    "defaults": lambda: ((X, Y), {"batch_size": None}),
    "a batch larger than the data": lambda: ((X, Y), {"batch_size": 64, "epochs": 2}),
    "a frame and a series": lambda: ((pd.DataFrame(X), pd.Series(Y)), {"epochs": 2}),
    "sample weights": lambda: ((X, Y), {"sample_weight": np.arange(ROWS) / ROWS}),
    "class weights": lambda: ((X, Y), {"class_weight": {0: 0.3, 1: 2.0}}),
    "the end as validation": lambda: ((X, Y), {"validation_split": 0.3, "epochs": 3, "validation_freq": 2}),
    "some validations": lambda: ((X, Y), {"validation_data": (X, Y), "epochs": 3, "validation_freq": [1, 3]}),
    "part of the validation": lambda: (
        (X, Y),
        {"validation_data": (X, Y), "validation_steps": 2, "validation_batch_size": 7},
    ),
    "weighted validation": lambda: ((X, Y), {"validation_data": (X, Y, np.arange(ROWS) / ROWS)}),
    "a later epoch": lambda: ((X, Y), {"initial_epoch": 3, "epochs": 5}),
    "some steps": lambda: ((X, Y), {"steps_per_epoch": 3, "epochs": 3}),
    "steps without a size": lambda: ((X, Y), {"steps_per_epoch": 5, "epochs": 2, "batch_size": None}),
    "callbacks": lambda: ((X, Y), {"validation_split": 0.3, **early()}),
    "one callback": lambda: ((X, Y), {"callbacks": keras.callbacks.TerminateOnNaN()}),
    "a data set": lambda: ((Batches(),), {"epochs": 2, "validation_data": Batches()}),
}  # fmt: skip


MAIN = ("a frame and a series", "the end as validation", "a later epoch", "some steps", "callbacks", "a data set")
# A data set whose iterator has a state, and a generator: Keras iterates them once more if a metric is not built.
ITERATED: dict[str, Call] = {
    "a tf.data set": lambda: ((pipeline().repeat(2),), {"epochs": 2, "validation_data": pipeline()}),
    "a part of an endless one": lambda: ((pipeline().repeat(),), {"epochs": 3, "steps_per_epoch": 3}),
    # The step in which Keras finds the end has counted, and dropout has drawn for it: so a further epoch differs.
    "one of unknown length": lambda: ((pipeline().filter(lambda *_: True),), {"class_weight": {1: 2.0}}),
    "a generator": lambda: ((generator(),), {"epochs": 2, "steps_per_epoch": 3}),
}

ENDED = pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:Your `PyDataset` class should")


def same_as_keras(attempt: pathlib.Path, call: Call, *, warm: bool = False, counted: bool = True) -> None:
    """Check that weights, optimizer, History, epochs and stop_training are those of Keras's own fit."""
    outcomes = []
    for manager in (contextlib.nullcontext(), take_over(make_fits(attempt))):
        model = build()
        if warm:
            model.evaluate(X[:8], Y[:8], verbose=0)
        arguments, options = call()
        with manager:
            outcomes.append(outcome(model, model.fit(*arguments, **IN_ORDER | options)))
    if not counted:
        for _, optimizer, *_ in outcomes:
            del optimizer["adam/iteration"]

    assert outcomes[0] == outcomes[1]


@ENDED
@pytest.mark.parametrize(
    "name", [name if name in MAIN else pytest.param(name, marks=pytest.mark.full) for name in CALLS]
)
def test_a_call_trains_as_keras_does(tmp_path: pathlib.Path, name: str) -> None:
    """Each form of the data and each argument."""
    same_as_keras(tmp_path / "run", CALLS[name])


@ENDED
@pytest.mark.parametrize("name", ITERATED)
def test_what_can_only_be_iterated_trains_as_keras_does(tmp_path: pathlib.Path, name: str) -> None:
    """A tf.data.Dataset of known, unknown and endless length, and a generator."""
    same_as_keras(tmp_path / "run", ITERATED[name], warm=True, counted=name != "one of unknown length")


def test_several_inputs_and_two_calls_train_as_keras_does(tmp_path: pathlib.Path) -> None:
    """Inputs by name or in a list, and a second call that goes on."""

    def train(model: keras.Model) -> tuple[Any, ...]:
        model.fit({"in0": X, "in1": X}, Y, epochs=2, **IN_ORDER)
        return outcome(model, model.fit([X, X], Y, epochs=2, **IN_ORDER))

    expected = train(build(inputs=2))
    with take_over(make_fits(tmp_path / "run")):
        assert expected == train(build(inputs=2))


X_NOW = X.copy()


def freeze(model: keras.Model) -> None:
    """Freeze a layer, and compile again."""
    model.layers[1].trainable = False
    model.compile("sgd", "mse")


def double_data(_model: keras.Model) -> None:
    """Change the arrays in place."""
    X_NOW[:] *= 2


# What a script does between two calls.
BETWEEN: dict[str, Callable[[keras.Model], object]] = {
    "nothing": lambda _: None,
    "the learning rate": lambda model: model.optimizer.learning_rate.assign(0.3),
    "the weights": lambda model: model.layers[-1].bias.assign([2.0]),
    "evaluate and predict": lambda model: (model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)),
    "compile": lambda model: model.compile("sgd", "mse"),
    "a frozen layer, compiled": freeze,
    "the data": double_data,
}
TRACED_ANEW = ("compile", "a frozen layer, compiled", "the data")


FAST_BETWEEN = ("nothing", "the learning rate", "compile", "the data")


@pytest.mark.parametrize(
    "name", [name if name in FAST_BETWEEN else pytest.param(name, marks=pytest.mark.full) for name in BETWEEN]
)
def test_a_further_call_trains_as_keras_does(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A call in a loop uses the trace of the call before, unless the model was compiled or the data changed."""
    traces = []

    def trace(fit: Fit, *options: Any) -> Steps:
        traces.append(fit)
        return Network.trace(fit, *options)

    monkeypatch.setattr(Fit, "trace", trace)

    def train() -> tuple[Any, ...]:
        X_NOW[:] = X
        model = build()
        for number in range(3):
            if number == 1:
                BETWEEN[name](model)
            history = model.fit(X_NOW, Y, validation_split=0.2, **IN_ORDER)
        return outcome(model, history)

    expected = train()
    with take_over(make_fits(tmp_path / "run")):
        assert expected == train()
    assert 1 + (name in TRACED_ANEW) == len(traces)
    assert "changed without a new compile" not in caplog.text


def test_a_trace_with_large_data_is_not_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a copy of them, which is freed at the end of the call."""
    monkeypatch.setattr("samebits.train.fit.MAX_KEPT", X.nbytes + Y.nbytes - 1)
    fits = make_fits(tmp_path / "run")
    with take_over(fits):
        build().fit(X, Y, **IN_ORDER)
        assert fits.traces.last is None
        build().fit(X[1:], Y[1:], **IN_ORDER)
        assert fits.traces.last is not None


class Scaled(keras.layers.Layer):
    """Multiplies by a number in a list, by an array, and by what a text chooses."""

    def __init__(self) -> None:
        super().__init__(name="scaled")
        self.factors, self.mask, self.mode = [1.0], np.ones(8, np.float32), "double"

    def call(self, inputs: Any) -> Any:
        """Return the product."""
        return inputs * self.factors[0] * self.mask * (2.0 if self.mode == "double" else 3.0)


def build_nested() -> keras.Model:
    """Return a model with two models in it, whose layers have the same names, and a layer of its own kind."""
    keras.backend.clear_session()

    def part(number: int, inputs: int) -> keras.Model:
        dense = keras.layers.Dense(
            8, "relu", kernel_initializer=keras.initializers.GlorotUniform(number), name="hidden",
            kernel_regularizer=keras.regularizers.L2(0.01),
        )  # fmt: skip
        return keras.Sequential([keras.Input((inputs,)), dense], name=f"part{number}")

    model = keras.Sequential(
        [
            part(1, 6),
            part(2, 8),
            Scaled(),
            keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(3)),
        ]
    )
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.9)), "mse")
    return model


# What changes, and the name of it in the message.
CHANGES: dict[str, Callable[[keras.Model], object]] = {
    "hidden.trainable": lambda model: setattr(model.layers[0].layers[0], "trainable", False),
    "the list of trained variables": lambda model: setattr(model.layers[1].layers[0].kernel, "trainable", False),
    "L2.l2": lambda model: setattr(model.layers[0].layers[0].kernel_regularizer, "l2", 1.0),
    "ExponentialDecay.initial_learning_rate": lambda model: setattr(
        model.optimizer._learning_rate, "initial_learning_rate", 0.5
    ),
    "scaled.factors": lambda model: model.layers[2].factors.append(model.layers[2].factors.pop() * 2),
    "scaled.mask": lambda model: model.layers[2].mask.fill(0.5),
    "scaled.mode": lambda model: setattr(model.layers[2], "mode", "triple"),
}  # fmt: skip


FAST_CHANGES = ("hidden.trainable", "L2.l2", "scaled.mask")


@pytest.mark.parametrize(
    "name", [name if name in FAST_CHANGES else pytest.param(name, marks=pytest.mark.full) for name in CHANGES]
)
@pytest.mark.parametrize("data", [1, pytest.param(2, marks=pytest.mark.full)])
def test_what_changed_without_compile_counts(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str, data: int
) -> None:
    """It counts from the next call on, as in a run that keeps no trace. The user is told once, also with other data."""
    weights = []
    for number, (is_changed, limit) in enumerate([(True, 1 << 30), (True, -1), (False, 1 << 30)]):
        monkeypatch.setattr("samebits.train.fit.MAX_KEPT", limit)
        with take_over(make_fits(tmp_path / str(number))):
            model = build_nested()
            model.fit(X, Y, **IN_ORDER)
            if is_changed:
                CHANGES[name](model)
            model.fit(X * data, Y, **IN_ORDER)
            weights.append(path_digests(model.weights))

    assert weights[0] == weights[1] != weights[2]
    assert 1 == caplog.text.count("changed without a new compile")
    assert f"fit 2: {name} changed without a new compile" in caplog.text


def test_what_only_a_compile_can_change_does_not_count_before_it(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A layer that is not frozen any more trains after the next compile, as in Keras; a message says so."""

    def train() -> list[dict[str, str]]:
        model, seen = build_nested(), []
        model.layers[0].trainable = False
        model.compile("sgd", "mse")
        for number in range(4):
            if number == 2:
                model.layers[0].trainable = True
            if number == 3:
                model.compile("sgd", "mse")
            model.fit(X, Y, **IN_ORDER)
            seen.append(path_digests(model.weights))
        return seen

    expected = train()
    with take_over(make_fits(tmp_path / "run")):
        assert expected == train()
    frozen = next(path for path in expected[0] if path.endswith("hidden/kernel"))
    assert expected[0][frozen] == expected[2][frozen] != expected[3][frozen]
    assert "fit 3: hidden.trainable, input_layer.trainable, part1.trainable changed without a new comp" in caplog.text
    assert "does not count until there is one" in caplog.text
    assert "begins anew" not in caplog.text


def test_class_weights_that_changed_in_place_count(tmp_path: pathlib.Path) -> None:
    """The dictionary is the user's, and is read at each call."""

    def train() -> tuple[Any, ...]:
        model, weights = build(), {0: 1.0, 1: 1.0}
        model.fit(X, Y, class_weight=weights, **IN_ORDER)
        weights[1] = 20.0
        return outcome(model, model.fit(X, Y, class_weight=weights, **IN_ORDER))

    expected = train()
    with take_over(make_fits(tmp_path / "run")):
        assert expected == train()


def test_a_compile_with_the_same_optimizer_is_seen(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model with a loss of its own, compiled again with the same optimizer, has no message."""

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.scale = keras.layers.Dense(1), 1.0

        def call(self, inputs: Any) -> Any:
            """Return the outputs."""
            return self.dense(inputs) * self.scale

        def compute_loss(self, _x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **_more: Any) -> Any:
            """Return the mean square."""
            return keras.ops.mean(keras.ops.square(y_pred[:, 0] - y))

    model, optimizer = Own(), keras.optimizers.SGD(0.1)
    with take_over(make_fits(tmp_path / "run")):
        for scale in (1.0, 2.0):
            model.scale = scale
            model.compile(optimizer=optimizer)
            model.fit(X, Y, **IN_ORDER)

    assert "without a new compile" not in caplog.text


def test_a_call_in_which_a_callback_changed_the_model_begins_anew(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A restored call would not have the change, which counts from the next call on."""

    def train(fits: Fits) -> dict[str, str]:
        with take_over(fits):
            model = build()
            dropout = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dropout))
            change = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: setattr(dropout, "rate", 0.5))
            model.fit(X, Y, epochs=2, callbacks=[change], **IN_ORDER)
            model.fit(X, Y, epochs=2, **IN_ORDER)
            return path_digests(model.weights)

    expected = train(make_fits(tmp_path / "whole"))
    with pytest.raises(FitStoppedError):
        train(make_fits(tmp_path / "stopped", 8 + 3))

    assert expected == train(make_fits(tmp_path / "stopped"))
    assert (
        "fit 1 begins anew after a kill, and so do later calls of fit: a callback changed dropout.rate" in caplog.text
    )


def test_a_class_with_its_own_fit_is_taken_over(tmp_path: pathlib.Path) -> None:
    """A `fit` that calls super().fit trains as a stage, and keras.Model has its own `fit` again afterwards."""

    class Own(keras.Sequential):
        def fit(self, *arguments: Any, **options: Any) -> Any:
            """Train for one epoch."""
            return super().fit(*arguments, epochs=1, **options)

    model = Own([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    fits, before = make_fits(tmp_path / "run"), keras.Model.fit
    with take_over(fits):
        model.fit(X, Y, **IN_ORDER)

    assert ["fit 1"] == [stage.name for stage in fits.stages]
    assert before is keras.Model.fit


def script(fits: Fits) -> list[Any]:
    """Run what a script does: two models, three calls of `fit`, one shuffled."""
    with take_over(fits):
        first = build()
        seen = [
            outcome(first, first.fit(X, Y, batch_size=8, epochs=3, verbose=0, validation_split=0.3, **early_three()))
        ]
        second = build(metrics=())
        seen.append(outcome(second, second.fit(X, Y, epochs=2, batch_size=8, verbose=0)))
        seen.append(outcome(first, first.fit(X, Y, epochs=2, **IN_ORDER)))
    return seen


def early_three() -> dict[str, Any]:
    """Return callbacks with state."""
    return {"callbacks": early()["callbacks"]}


@pytest.mark.parametrize("at", [5, 14, *(pytest.param(at, marks=pytest.mark.full) for at in (2, 19))])
def test_a_script_that_was_stopped_resumes_to_the_same_end(tmp_path: pathlib.Path, at: int) -> None:
    """Finished calls are restored, with their History, and the stopped one goes on: in any call, at any step."""
    whole = make_fits(tmp_path / "whole")
    expected = script(whole)
    with pytest.raises(FitStoppedError):
        script(make_fits(tmp_path / "stopped", at))
    again = make_fits(tmp_path / "stopped")

    assert expected == script(again)
    assert any(found["resumed_at"] for found in again.outcomes)
    for name in ("trace.jsonl", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_a_finished_call_is_not_trained_again(tmp_path: pathlib.Path) -> None:
    """After a stop in the second call only its own steps and those of the third remain; without its file, all do."""
    whole, steps = make_fits(tmp_path / "whole"), {}
    script(whole)
    for name in ("with its end", "without its end"):
        with pytest.raises(FitStoppedError):
            script(make_fits(tmp_path / name, 11))
        (end,) = (tmp_path / name).glob("stage-*.arrays")
        if name == "without its end":
            end.unlink()
        fits: Any = make_fits(tmp_path / name)
        script(fits)
        steps[name] = fits.stop.looks

    total: Any = whole
    assert total.stop.looks - 11 == steps["with its end"]
    assert total.stop.looks == steps["without its end"]


@pytest.mark.parametrize("changed", ["data", "weights"])
def test_a_script_that_does_not_repeat_itself_is_found(tmp_path: pathlib.Path, changed: str) -> None:
    """Other data or other weights before `fit` than at the first start stop a resume, with their names."""

    def once(x: np.ndarray, stop: int, value: float) -> None:
        model = build()
        model.layers[-1].bias.assign([value])
        with take_over(make_fits(tmp_path / "run", stop)):
            model.fit(x, Y, epochs=2, **IN_ORDER)

    with pytest.raises(FitStoppedError):
        once(X, 3, 0.0)
    error, named = {"data": (DataError, "train/inputs"), "weights": (TrainingError, "dense_1/bias")}[changed]

    with pytest.raises(error, match=named):
        once(X + (changed == "data"), 0, float(changed == "weights"))


class Unsavable(keras.callbacks.Callback):
    """Has an attribute that no checkpoint can hold, and draws from a global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.drawn = threading.Lock(), [0.0]

    def on_epoch_end(self, *_: Any) -> None:
        """Draw."""
        self.drawn.append(np.random.rand())  # noqa: NPY002  the global generator is the point


@pytest.mark.parametrize("kind", ["pipeline", "callback"])
def test_a_call_that_cannot_resume_begins_anew_and_says_why(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """It is trained again, with all later calls, to the same bits; an earlier call is restored."""

    def train(fits: Fits) -> list[Any]:
        np.random.seed(3)  # noqa: NPY002
        with take_over(fits):
            model = build()
            seen = [outcome(model, model.fit(X, Y, epochs=2, **IN_ORDER))]
            data, extra = ((pipeline(),), {}) if kind == "pipeline" else ((X, Y), {"callbacks": [Unsavable()]})
            seen.append(outcome(model, model.fit(*data, epochs=2, **IN_ORDER | extra)))
            return [*seen, outcome(model, model.fit(X, Y, epochs=2, **IN_ORDER)), np.random.rand()]  # noqa: NPY002

    whole: Any = make_fits(tmp_path / "whole")
    expected = train(whole)
    with pytest.raises(FitStoppedError):
        train(make_fits(tmp_path / "stopped", 8 + 8 + 3))
    again: Any = make_fits(tmp_path / "stopped")

    assert expected == train(again)
    assert whole.stop.looks - 8 == again.stop.looks
    named = {"pipeline": "nobody knows the position of its train data", "callback": "callback Unsavable has lock"}[kind]
    assert f"fit 2 begins anew after a kill, and so do later calls of fit: {named}" in caplog.text
    assert (tmp_path / "whole" / "trace.jsonl").read_bytes() == (tmp_path / "stopped" / "trace.jsonl").read_bytes()


class Drawing(keras.utils.PyDataset):
    """Noisy rows, from a generator of its own or from the global one."""

    def __init__(self, rng: Any) -> None:
        super().__init__()
        self.rng = rng

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(8 * index, 8 * index + 8)
        return X[rows] + self.rng.normal(size=X[rows].shape).astype(np.float32), Y[rows]


class Stateful(keras.Model):
    """Does in its step what no checkpoint can hold."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner, self.calls = kind, keras.layers.Dense(1, kernel_initializer="zeros"), 0
        self.counter = tf.Variable(0.0, trainable=kind == "a trainable tf.Variable")

    def call(self, x: Any) -> Any:
        """Return the outputs."""
        if self.kind == "a stateful draw":
            x += tf.random.normal(tf.shape(x))
        elif self.kind == "a tf.Variable":
            self.counter.assign_add(1.0)
        elif self.kind == "Python code":
            x = tf.ensure_shape(tf.numpy_function(lambda each: each * np.float32(2), [x], tf.float32), (None, 6))
        elif self.kind == "a Python number":
            self.calls += 1
            x *= float(self.calls)
        return self.inner(x + self.counter)


STATES = {
    "a stateful draw": "draws random numbers without a seed point",
    "a tf.Variable": "changes state that Keras does not know",
    "Python code": "runs Python code",
    "a Python number": "depends on Python state that changes while it is traced",
    "a trainable tf.Variable": "Keras does not train",
    "an own generator": "a draw from Drawing.rng",
    "the global generator": "other inputs when the first batch is read again",
}


@pytest.mark.parametrize("kind", STATES)
def test_state_that_a_project_may_not_have_is_a_named_reason(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The script trains, to the same bits in two runs and after a stop; the reason is named, and the line of a step."""

    def train(fits: Fits) -> Any:
        keras.backend.clear_session()
        np.random.seed(3)  # noqa: NPY002
        tf.random.set_seed(4)
        model: Any = Stateful(kind)
        model.compile("sgd", "mse")
        own = {"an own generator": make_rng(5, "rng"), "the global generator": np.random}.get(kind)
        data = (Drawing(own),) if own else (X, Y)
        with take_over(fits):
            return outcome(model, model.fit(*data, epochs=2, **IN_ORDER))

    def fits(name: str, stop: int = 0) -> Fits:
        made = make_fits(tmp_path / name, stop)
        made.config.script.path = __file__
        return made

    whole = fits("whole")
    expected = train(whole)
    with pytest.raises(FitStoppedError):
        train(fits("stopped", 3))
    again = fits("stopped")

    assert expected == train(again)
    is_harmless = kind == "a trainable tf.Variable"
    assert is_harmless == bool(again.outcomes[0]["resumed_at"])
    assert is_harmless == (again.outcomes[0]["begins_anew"] == "")
    assert STATES[kind] in caplog.text
    assert (kind in ("a stateful draw", "a tf.Variable", "Python code")) == ("test_fit.py, line" in caplog.text)


class Endless(Drawing):
    """The batches again and again."""

    @property
    def num_batches(self) -> None:
        """Return that there is no number of batches."""


LEFT: dict[str, tuple[dict[str, Any], str]] = {
    "a step that is not traced": ({}, "run_eagerly=True"),
    "batches in a shuffled order": ({"shuffle": "batch"}, 'shuffle="batch"'),
    "a data set without an end": ({"steps_per_epoch": 3}, "data of the type Endless"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_keras_trains_what_cannot_be_taken_over(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The weights are those of Keras's own `fit`. The call is a stage of the record, and the reason is named."""
    options, named = LEFT[kind]
    seen = []
    fits = make_fits(tmp_path / "run")
    for manager in (contextlib.nullcontext(), take_over(fits)):
        keras.utils.set_random_seed(1)
        model = build(metrics=())
        model.compile("sgd", "mse", run_eagerly=kind == "a step that is not traced")
        data = (Endless(make_rng(5, "rng")),) if kind == "a data set without an end" else (X, Y)
        with manager:
            history = model.fit(*data, epochs=2, **IN_ORDER | options)
        seen.append((path_digests(model.weights), history.history))

    assert seen[0] == seen[1]
    assert named in fits.outcomes[0]["begins_anew"]
    assert "fit 1 is trained by Keras's own fit. It begins anew after a kill" in caplog.text
    rows = read_rows(tmp_path / "run" / "trace.jsonl")
    assert [fits.outcomes[0]["weights_digest"]] == [row["weights"] for row in rows]
    assert seen[0][1]["loss"] == [row["loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]


def test_odd_labels_are_told(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """Labels that Keras changes without a word are a warning, and so is a training outside of `fit`."""
    model = build(metrics=())
    with take_over(make_fits(tmp_path / "run")):
        model.fit(X, Y + 1, **IN_ORDER)
        model.train_on_batch(X, Y)

    assert "fit 1: train/labels: expected 0 to 1, because the loss is binary_crossentropy, received 1.0 to 2.0" in (
        caplog.text
    )
    assert "trains outside of fit" in caplog.text


def test_an_error_that_the_script_catches_stays(tmp_path: pathlib.Path) -> None:
    """A call that cannot resume fails the run, also in `try: … except Exception`."""
    with take_over(make_fits(tmp_path / "run", 2)), pytest.raises(FitStoppedError):
        build().fit(X, Y, **IN_ORDER)
    fits = make_fits(tmp_path / "run")
    with take_over(fits), contextlib.suppress(Exception):
        build().fit(X + 1, Y, **IN_ORDER)

    assert isinstance(fits.error, DataError)
