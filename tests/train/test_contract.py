"""What a model function may return: compiled or not, with which state. Everything else is refused by name."""

import json
import pathlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from in_process import Small

from samebits.core.errors import ConfigError, TrainingError
from samebits.core.files import read_arrays
from samebits.core.seeds import make_rng
from samebits.runs.folder import TRACE, read_rows
from samebits.train.data import Dataset, Split
from samebits.train.weights import load_weights
from samebits.train.worker import find_function

ROWS = 16
INPUTS = make_rng(1, "inputs").standard_normal((ROWS, 3)).astype(np.float32)
DATA = Dataset(Split(INPUTS, (INPUTS.sum(1, keepdims=True) > 0).astype(np.float32)))
SETTINGS: dict[str, Any] = {"loss": "mean_squared_error", "optimizer": "sgd", "epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def dense(units: int, **options: Any) -> keras.layers.Layer:
    """Return a seeded dense layer."""
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=1), **options)


def network(*layers: keras.layers.Layer) -> keras.Sequential:
    """Return a model with these layers before its output."""
    return keras.Sequential([keras.Input((3,)), *layers, dense(1, name="out")])


def compiled(*layers: keras.layers.Layer) -> keras.Sequential:
    """Return a compiled model."""
    model = network(*layers)
    model.compile("sgd", "mse")
    return model


# --- the parameters of a model function ---


def build() -> str:
    """Return what it got: nothing."""
    return "nothing"


def build_from(dataset: str, *, units: int = 1) -> str:
    """Return what it got: the data."""
    return f"{dataset} {units}"


def build_with_seed(seed: str, dataset: str) -> str:
    """Return what it got: both."""
    return f"{seed} {dataset}"


def build_in_another_order(dataset: str, seed: str) -> str:
    """Return what it got: both."""
    return f"{seed} {dataset}"


def build_by_keyword(*, dataset: str, seed: str) -> str:
    """Return what it got: both."""
    return f"{seed} {dataset}"


def find(function: Callable[..., str], **keys: Any) -> Callable[[Any], Any]:
    """Return what the worker finds for a function of this file."""
    return find_function("model", {"_target_": f"{__name__}.{function.__name__}", **keys}, {"dataset": "rows"})


def test_a_function_without_a_parameter_for_the_seed_does_not_get_it() -> None:
    """The seed, the data, both or nothing: a function gets what it has parameters for. Other keys are an error."""
    assert "nothing" == find(build)("seed")
    assert "rows 2" == find(build_from, units=2)("seed")
    for function in (build_with_seed, build_in_another_order, build_by_keyword):
        assert "seed rows" == find(function)("seed")
    with pytest.raises(ConfigError, match=r"no keys: the function has no parameters, received got an unexpected keyw"):
        find(build, units=2)
    with pytest.raises(ConfigError, match=r"expected the keys model.units, received got an unexpected keyword"):
        find(build_from, layers=2)


# --- compiled, or compiled by the settings ---


@pytest.mark.parametrize(
    "given", [{"loss": "mse"}, {"optimizer": "adam"}, {"metrics": ["mae"]}, {"learning_rate": 0.1}]
)
def test_a_compiled_model_and_settings_are_an_error(given: dict[str, Any]) -> None:
    """Nobody could say which of both trains."""
    with pytest.raises(
        ConfigError, match=r"training\.\w+: expected null, because the model function returns a compiled"
    ):
        Small(compiled, DATA, epochs=1, batch_size=4, **given)


@pytest.mark.parametrize(
    ("given", "missing"), [({}, "optimizer"), ({"optimizer": "sgd"}, "loss"), ({"loss": "mse"}, "optimizer")]
)
def test_a_model_without_loss_or_optimizer_is_an_error(given: dict[str, Any], missing: str) -> None:
    """The error names the key."""
    with pytest.raises(ConfigError, match=rf"training\.{missing}: expected a name, because the model has no {missing}"):
        Small(network, DATA, epochs=1, batch_size=4, **given)


def test_a_compiled_model_without_a_loss_is_an_error() -> None:
    """It has neither a loss nor one of its layers."""

    def build() -> keras.Model:
        model = network()
        model.compile("sgd")
        return model

    with pytest.raises(ConfigError, match=r"training\.loss: expected a name, because the model has no loss of its own"):
        Small(build, DATA, epochs=1, batch_size=4)


class OwnCompile(keras.Model):
    """Has a compile() of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.out = dense(1)

    def call(self, inputs: Any) -> Any:
        """Return the output."""
        return self.out(inputs)

    def compile(self, first: Any, second: Any) -> None:
        """Keep two optimizers."""
        super().compile()
        self.first, self.second = first, second


def test_a_class_with_its_own_compile_is_compiled_by_its_function() -> None:
    """The settings cannot compile it."""
    with pytest.raises(ConfigError, match=r"expected a compiled model, because compile\(\) of this class has its own"):
        Small(OwnCompile, DATA, **SETTINGS)


def test_steps_without_a_graph_are_an_error() -> None:
    """A model that asks for them would get something else."""

    def build() -> keras.Model:
        model = network()
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    with pytest.raises(ConfigError, match="received run_eagerly=True; fix: remove run_eagerly"):
        Small(build, DATA, epochs=1, batch_size=4)


# --- activation and loss ---


@pytest.mark.parametrize(
    ("activation", "from_logits", "advice"),
    [
        ("sigmoid", True, "with from_logits=False"),
        ("softmax", True, "with from_logits=False"),
        (None, False, "activation='sigmoid'"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Keras, about a softmax of one output
@pytest.mark.parametrize("built", [True, False])
def test_an_activation_that_the_loss_does_not_expect_is_an_error(
    activation: str | None, from_logits: bool, advice: str, built: bool
) -> None:
    """A probability would be read as a logit, or a logit as a probability. Also of a model without keras.Input."""

    def build() -> keras.Model:
        return keras.Sequential([*([keras.Input((3,))] if built else []), dense(1, activation=activation, name="out")])

    loss = {"class": "keras.losses.BinaryCrossentropy", "from_logits": from_logits}
    with pytest.raises(ConfigError, match="layer out: expected") as error:
        Small(build, DATA, **SETTINGS | {"loss": loss})

    assert advice in error.value.fix


def test_an_activation_of_its_own_layer_is_seen() -> None:
    """Softmax as a layer is an activation, too."""
    with pytest.raises(ConfigError, match="received activation softmax"):
        Small(
            lambda: keras.Sequential([keras.Input((3,)), dense(2), keras.layers.Softmax()]),
            Dataset(Split(INPUTS, np.zeros(ROWS, np.int32))),
            **SETTINGS | {"loss": "sparse_categorical_crossentropy"},
        )


# --- state that no checkpoint would hold ---


class Counting(keras.layers.Layer):
    """Counts its calls in a tf.Variable, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__(name=way.replace(" ", "_"))
        self.way, self.seen = way, tf.Variable(1.0, trainable=False, name="seen")

    def call(self, inputs: Any) -> Any:
        """Return the inputs, scaled by the count."""
        if self.way == "in a function":
            return tf.function(self.count)(inputs)
        if self.way == "in a loop":
            return tf.while_loop(lambda number, _: number < 2, lambda n, x: (n + 1, self.count(x)), [0, inputs])[1]
        if self.way == "in a condition":
            return tf.cond(tf.reduce_sum(inputs) > 0, lambda: self.count(inputs), lambda: inputs)
        if self.way == "in a switch":
            return tf.switch_case(tf.constant(0), [lambda: self.count(inputs), lambda: inputs])
        return self.count(inputs)

    def count(self, inputs: Any) -> Any:
        """Count."""
        self.seen.assign_add(1.0)
        return inputs * self.seen


class Reading(Counting):
    """Only reads its variable."""

    def count(self, inputs: Any) -> Any:
        """Do not count."""
        return inputs * self.seen


WAYS = ("plain", "in a function", "in a loop", "in a condition", "in a switch")


@pytest.mark.parametrize("way", WAYS)
def test_a_variable_that_keras_does_not_know_is_an_error(way: str) -> None:
    """A tf.Variable that the step writes would be lost at a stop."""
    with pytest.raises(TrainingError, match=r"changes state that Keras does not know: seen \(shape \(\)\)") as error:
        Small(lambda: network(Counting(way)), DATA, **SETTINGS)

    assert "self.add_weight" in error.value.fix


def test_a_variable_that_is_only_read_is_allowed(tmp_path: pathlib.Path) -> None:
    """In whatever way it is read."""
    small = Small(lambda: network(*(Reading(way) for way in WAYS)), DATA, **SETTINGS)

    assert small.train(tmp_path / "run")["weights"]


class Scale(keras.layers.Layer):
    """Scales with a factor that it holds in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__(name="scale")
        factor = keras.Variable(1.0) if way == "keras.Variable" else tf.Variable(1.0, trainable=way != "constant")
        self.held = {"list": [factor], "dict": {"a": [factor]}}.get(way, factor)

    def call(self, inputs: Any) -> Any:
        """Return the inputs, scaled."""
        return inputs * tf.nest.flatten(self.held)[0]


@pytest.mark.parametrize("way", ["attribute", "list", "dict"])
def test_a_variable_that_keras_would_not_train_is_an_error(way: str) -> None:
    """Keras's fit leaves it as it is, without a word."""
    with pytest.raises(TrainingError, match=r"does not train Variable \(shape \(\)\) of layer scale"):
        Small(lambda: network(Scale(way)), DATA, **SETTINGS)


@pytest.mark.parametrize("way", ["constant", "keras.Variable"])
def test_a_constant_and_a_variable_of_keras_are_allowed(way: str) -> None:
    """The first is not to be trained, the second is trained."""
    assert Small(lambda: network(Scale(way)), DATA, **SETTINGS)


class Hidden(keras.layers.Layer):
    """Draws, measures or looks up with an object that Keras does not see."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        kinds: dict[str, Callable[[], Any]] = {
            "generator": lambda: keras.random.SeedGenerator(3),
            "metric": keras.metrics.Mean,
            "weight": lambda: keras.Variable(0.0, name="hidden"),
            "table": lambda: tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0),
        }
        self.kind, self.held = kind, SimpleNamespace(it=kinds[kind]())

    def call(self, inputs: Any) -> Any:
        """Return the inputs, moved by the object."""
        held = self.held.it
        if self.kind == "generator":
            return inputs + keras.random.normal((3,), seed=held)
        if self.kind == "metric":
            held.update_state(inputs)
            return inputs + held.result()
        if self.kind == "weight":
            held.assign(held + 1.0)
            return inputs + held
        keys = tf.constant([1], tf.int64)
        held.insert(keys, held.lookup(keys) + 1.0)
        return inputs + keras.ops.reshape(held.lookup(keys), (1,))


@pytest.mark.parametrize(
    ("kind", "named"),
    [("generator", "seed_generator_state"), ("metric", "total"), ("weight", "hidden"), ("table", "LookupTableInsert")],
)
def test_an_object_that_keras_does_not_see_is_an_error(kind: str, named: str) -> None:
    """A generator, a metric, a weight or a table of a plain object."""
    with pytest.raises(TrainingError, match=f"changes state that Keras does not know: .*{named}"):
        Small(lambda: network(Hidden(kind)), DATA, **SETTINGS)


class Jitter(keras.layers.Layer):
    """Adds noise from NumPy's generator."""

    def __init__(self) -> None:
        super().__init__(name="jitter")
        self.rng = np.random.default_rng(7)

    def call(self, inputs: Any) -> Any:
        """Return the inputs and the noise."""
        noisy = tf.numpy_function(
            lambda x: (x + self.rng.normal(size=x.shape)).astype(np.float32), [inputs], tf.float32
        )
        return keras.ops.reshape(noisy, (-1, 3))


def test_python_in_the_step_is_an_error(tmp_path: pathlib.Path) -> None:
    """Its generators are in no checkpoint, unless the user says that it has no state."""
    with pytest.raises(TrainingError, match=r"the step runs Python code: PyFunc in .*jitter"):
        Small(lambda: network(Jitter()), DATA, **SETTINGS)

    small = Small(lambda: network(Jitter()), DATA, **SETTINGS, allow_python_operations=True)

    assert small.train(tmp_path / "run")["weights"]


def test_logs_that_are_no_dict_are_an_error() -> None:
    """A step that returns the loss alone is named, as in Keras."""

    class Model(OwnCompile):
        def train_step(self, data: Any) -> Any:
            return keras.ops.mean(data[0])

    def build() -> keras.Model:
        model = Model()
        model.compile(None, None)
        return model

    with pytest.raises(TrainingError, match="a step returns no logs"):
        Small(build, DATA, epochs=1, batch_size=4)


# --- what needs nothing special ---


class Frozen(keras.layers.Layer):
    """Stops the gradient."""

    def call(self, inputs: Any) -> Any:
        """Return the inputs."""
        return keras.ops.stop_gradient(inputs)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_a_weight_without_gradient_has_none_in_the_trace(tmp_path: pathlib.Path) -> None:
    """Of the weights before a stopped gradient, the trace by stage has no gradient."""
    small = Small(lambda: network(dense(4, name="body"), Frozen()), DATA, **SETTINGS, level="stage")
    small.train(tmp_path / "run")
    gradients = next(row["gradients"] for row in read_rows(tmp_path / "run" / TRACE) if "gradients" in row)

    assert {"bias", "kernel"} == {path.rpartition("/")[2] for path in gradients}
    assert all("/out/" in path for path in gradients)


class Block(keras.layers.Layer):
    """Takes an argument that Keras cannot save."""

    def __init__(self, seed: Callable[[str], int], **options: Any) -> None:
        super().__init__(**options)
        self.drop = keras.layers.Dropout(0.2, seed=seed("drop"))

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the inputs without some."""
        return self.drop(inputs, training=training)


def test_a_model_that_keras_cannot_save_ends_with_its_weights(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This is known before the first step. The weights are in weights.arrays, and a start from them works."""
    from samebits.train.weights import load_weights

    small = Small(lambda: network(Block(len), dense(2)), DATA, **SETTINGS)

    assert "Keras cannot save this model, so the run saves its weights only, as weights.arrays: " in caplog.text

    small.train(tmp_path / "run")
    small.network.save_model()
    model = small.network.model
    saved = read_arrays(tmp_path / "run" / "weights.arrays")
    before = [array.tobytes() for array in model.get_weights()]
    model.set_weights([0 * array for array in model.get_weights()])
    load_weights(model, tmp_path / "run" / "weights.arrays")

    assert [array.tobytes() for array in saved.values()] == before
    assert before == [array.tobytes() for array in model.get_weights()]


class FailsLate(Block):
    """Looks as if Keras could save it."""

    def get_config(self) -> dict[str, Any]:
        """Return a configuration."""
        return {**super(Block, self).get_config(), "seed": None}

    def save_own_variables(self, store: Any) -> None:  # noqa: ARG002
        """Fail."""
        raise RuntimeError("no variables")


def test_a_model_whose_saving_fails_at_the_end_keeps_its_weights(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training of days does not end without weights."""
    small = Small(lambda: network(FailsLate(len)), DATA, **SETTINGS)

    assert "cannot save" not in caplog.text

    small.train(tmp_path / "run")
    small.network.save_model()

    assert "cannot save this model, so the run saves its weights only, as weights.arrays: no variables" in caplog.text
    assert {"weights.arrays"} == {
        path.name for path in (tmp_path / "run").glob("*") if "eights" in path.name or "model" in path.name
    }


def test_a_metric_of_several_numbers_has_one_name_for_each(tmp_path: pathlib.Path) -> None:
    """F1Score of three classes is in the history and in the rows of metrics by class."""
    labels = np.eye(3, dtype=np.float32)[np.arange(ROWS) % 3]
    small = Small(
        lambda: keras.Sequential([keras.Input((3,)), dense(3, activation="softmax")]), Dataset(Split(INPUTS, labels)),
        **SETTINGS | {"loss": {"class": "keras.losses.CategoricalCrossentropy", "from_logits": False}},
        metrics=[{"class": "keras.metrics.F1Score"}],
    )  # fmt: skip
    found = small.train(tmp_path / "run")
    row = json.loads(found["metrics"].splitlines()[-1])

    assert {"loss", "f1_score_0", "f1_score_1", "f1_score_2"} == found["values"].keys()
    assert found["values"] == {name: value for name, value in row.items() if name not in ("epoch", "step")}


def classifier(learning_rate: float, metric: str) -> keras.Model:
    """Return a compiled model that has evaluated some rows."""
    model = network(keras.layers.Dense(1, activation="sigmoid"))
    model.compile(keras.optimizers.Adam(learning_rate), "binary_crossentropy", metrics=[metric])
    model.optimizer.build(model.trainable_variables)
    model.evaluate(INPUTS, DATA.train.labels, verbose=0)
    return model


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15
def test_loaded_weights_leave_optimizer_and_metrics_alone(tmp_path: pathlib.Path) -> None:
    """A .keras file also has another run's learning rate, moments and metrics, which may be of other classes."""
    trained, fresh = classifier(0.5, "accuracy"), classifier(0.001, "auc")
    trained.train_on_batch(INPUTS, DATA.train.labels)
    trained.save(tmp_path / "trained.keras")
    before = [variable.numpy() for variable in fresh.optimizer.variables]
    load_weights(fresh, tmp_path / "trained.keras")
    after = [variable.numpy() for variable in fresh.optimizer.variables]

    assert [each.tobytes() for each in trained.get_weights()] == [each.tobytes() for each in fresh.get_weights()]
    assert [each.tobytes() for each in before] == [each.tobytes() for each in after]
