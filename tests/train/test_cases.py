"""Trainings that are easy to write wrong: each trains as Keras's `fit` does, or is refused with the cause."""

import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from in_process import Small

from samebits.core.errors import ConfigError, TrainingError, UncoveredDrawError, first_line
from samebits.core.seeds import make_rng
from samebits.train.data import Dataset, Split

ROWS = 16
INPUTS = make_rng(1, "inputs").standard_normal((ROWS, 6)).astype(np.float32)
SIGNS = (INPUTS.sum(1) > 0).astype(np.float32)
CLASSES = (np.arange(ROWS) % 3).astype(np.int32)
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]
IMAGES, MASKS = INPUTS[:, :4].reshape(-1, 2, 2, 1), (INPUTS[:, :4].reshape(-1, 2, 2) > 0).astype(np.int32)
SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 8, "shuffle": False, "validation_batch_size": 8}

Build = Callable[[], keras.Model]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*received `from_logits=True`:UserWarning"),  # of Keras, about the same
    pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def dense(units: int, name: str = "out", **options: Any) -> keras.layers.Layer:
    """Return a seeded dense layer."""
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=1), name=name, **options)


def compiled(
    *layers: keras.layers.Layer, loss: Any = "mse", shape: tuple[int, ...] = (6,), **options: Any
) -> keras.Model:
    """Return a compiled model of some layers."""
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss, **options)
    return model


def check(build: Build, labels: Any = SIGNS, weights: Any = None, inputs: Any = INPUTS, **settings: Any) -> Small:
    """Prepare a training, which is where wrong ones are refused."""
    return Small(build, Dataset(Split(inputs, labels, weights)), **SETTINGS | settings)


def refuse(build: Build, message: str, *arguments: Any, **settings: Any) -> None:
    """Check that a training is refused with a message."""
    with pytest.raises(ConfigError, match=message):
        check(build, *arguments, **settings)


# --- logits and probabilities ---


def binary(*, from_logits: bool = True) -> keras.losses.Loss:
    """Return the loss of one probability or logit."""
    return keras.losses.BinaryCrossentropy(from_logits=from_logits)


def sparse(**options: Any) -> keras.losses.Loss:
    """Return the loss of class numbers, from logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


class Own(keras.Model):
    """A class whose call() ends with a function."""

    def __init__(self, loss: Any, last: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__()
        self.out, self.last = dense(1), last
        self.compile("sgd", loss)

    def call(self, inputs: Any) -> Any:
        """Return the output."""
        return self.last(self.out(inputs))


class OwnLoss(Own):
    """Returns probabilities, but trains by the logits."""

    def compute_loss(self, x: Any = None, y: Any = None, *_: Any, **__: Any) -> Any:
        """Return the loss of the logits."""
        return keras.ops.mean(self.loss(y, self.out(x)))


def nested() -> keras.Model:
    """Return a model whose last layer is a model."""
    return compiled(keras.Sequential([keras.Input((6,)), dense(1, activation="sigmoid")]), loss=binary())


def operation() -> keras.Model:
    """Return a model that ends with an operation."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.ops.sigmoid(dense(1)(inputs)))
    model.compile("sgd", binary())
    return model


def two_outputs(loss: Any, form: type = dict) -> keras.Model:
    """Return a model with the outputs `sign` (a probability) and `digit` (logits)."""
    inputs = keras.Input((6,))
    outputs = {"sign": dense(1, "sign", activation="sigmoid")(inputs), "digit": dense(3, "digit")(inputs)}
    model = keras.Model(inputs, outputs if form is dict else [*outputs.values()])
    model.compile("sgd", loss)
    return model


BOTH = {"sign": SIGNS, "digit": CLASSES}
GOOD = {"sign": "binary_crossentropy", "digit": sparse()}
flatten = keras.layers.Flatten
AS_LOGITS, AS_PROBABILITIES = "loss would read its probabilities as logits", "loss would read logits as probabilities"
DISAGREE: dict[str, tuple[Build, str, Any]] = {
    "an activation layer": (
        lambda: compiled(dense(1), keras.layers.Activation("sigmoid"), loss=binary()), AS_LOGITS, SIGNS,
    ),
    "before a reshape": (lambda: compiled(dense(1, activation="sigmoid"), flatten(), loss=binary()), AS_LOGITS, SIGNS),
    "a Lambda": (
        lambda: compiled(dense(1), keras.layers.Lambda(keras.ops.sigmoid), loss=binary()), "layer lambda.*" + AS_LOGITS,
        SIGNS,
    ),
    "a function": (lambda: compiled(dense(1, activation=tf.sigmoid), loss=binary()), AS_LOGITS, SIGNS),
    "in a model in a model": (nested, "layer out.*" + AS_LOGITS, SIGNS),
    "an operation": (operation, AS_LOGITS, SIGNS),
    "in call()": (lambda: Own(binary(), keras.ops.sigmoid), AS_LOGITS, SIGNS),
    "no activation": (lambda: compiled(dense(1), loss="binary_crossentropy"), AS_PROBABILITIES, SIGNS),
    "no activation in call()": (lambda: Own("binary_crossentropy"), AS_PROBABILITIES, SIGNS),
    "no bias": (
        lambda: compiled(dense(1, use_bias=False), flatten(), loss="binary_crossentropy"), AS_PROBABILITIES, SIGNS,
    ),
    "before dropout": (
        lambda: compiled(dense(1), keras.layers.Dropout(0.1, seed=1), loss="binary_crossentropy"), AS_PROBABILITIES,
        SIGNS,
    ),
    "a relu": (
        lambda: compiled(dense(3, activation="relu"), loss="sparse_categorical_crossentropy"), "activation relu",
        CLASSES,
    ),
    "softmax of one": (
        lambda: compiled(dense(1, activation="softmax"), loss="binary_crossentropy"), "which is always 1", SIGNS,
    ),
    "one of two outputs": (lambda: two_outputs(GOOD | {"sign": binary()}), "layer sign.*" + AS_LOGITS, BOTH),
    "the other of two": (
        lambda: two_outputs(GOOD | {"digit": "sparse_categorical_crossentropy"}), "layer digit.*" + AS_PROBABILITIES,
        BOTH,
    ),
    "a list of losses": (
        lambda: two_outputs([binary(), sparse()], list), "layer sign.*" + AS_LOGITS, [SIGNS, CLASSES],
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", DISAGREE)
def test_logits_and_probabilities_are_told_apart(place: str) -> None:
    """Wherever the last activation is, a loss that reads something else is refused."""
    build, message, labels = DISAGREE[place]
    refuse(build, message, labels)


AGREE: dict[str, tuple[Build, Any]] = {
    "logits": (lambda: compiled(dense(1), keras.layers.Activation("linear"), loss=binary()), SIGNS),
    "probabilities": (lambda: Own("binary_crossentropy", keras.ops.sigmoid), SIGNS),
    "log of softmax": (lambda: compiled(dense(3, activation="log_softmax"), loss=sparse()), CLASSES),
    "hard sigmoid": (lambda: compiled(dense(1, activation="hard_sigmoid"), loss="binary_crossentropy"), SIGNS),
    "a mean of probabilities": (
        lambda: Own("binary_crossentropy", lambda z: (keras.ops.sigmoid(z) + keras.ops.sigmoid(2 * z)) / 2), SIGNS,
    ),
    "two outputs": (lambda: two_outputs(GOOD), BOTH),
    "a loss of its own": (lambda: OwnLoss(binary(), keras.ops.sigmoid), SIGNS[:, None]),
}  # fmt: skip


@pytest.mark.parametrize("kind", AGREE)
def test_what_fits_its_loss_is_accepted(kind: str) -> None:
    """Also an output whose kind nobody can know, and a class that computes its loss itself."""
    build, labels = AGREE[kind]
    check(build, labels)


# --- layers that keep a state from batch to batch ---


class Recurrent(keras.Model):
    """A class with a stateful layer, built by its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.out = stateful(), dense(1)
        self.compile("sgd", "mse")

    def call(self, inputs: Any) -> Any:
        """Return the output."""
        return self.out(self.recurrent(inputs))


def stateful() -> keras.layers.Layer:
    """Return a seeded layer that keeps its state."""
    glorot = keras.initializers.GlorotUniform
    return keras.layers.GRU(3, stateful=True, kernel_initializer=glorot(seed=2), recurrent_initializer=glorot(seed=3))


def sequential() -> keras.Model:
    """Return a Sequential without keras.Input."""
    model = keras.Sequential([stateful(), dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("build", [pytest.param(each, marks=pytest.mark.full) for each in (Recurrent, sequential)])
def test_a_stateful_layer_that_the_first_batch_builds_is_trained_as_keras_does(
    build: Build, tmp_path: pathlib.Path
) -> None:
    """The state has the size of the batches, also without keras.Input. Validation rows use the same size."""
    rows = Split(INPUTS.reshape(-1, 3, 2), SIGNS)
    ours = Small(build, Dataset(rows, rows), **SETTINGS | {"validation_batch_size": None}).train(tmp_path / "run")

    assert fit(build, rows, validation_data=(rows.inputs, rows.labels), validation_batch_size=8) == ours["history"]


@pytest.mark.parametrize("settings", [{"batch_size": 12}, {"validation_batch_size": 16}])
def test_a_stateful_layer_gets_no_other_batch(settings: dict[str, int]) -> None:
    """Another size, or a smaller last batch, is refused by name."""
    rows = Split(INPUTS.reshape(-1, 3, 2), SIGNS)
    with pytest.raises(ConfigError, match=r"the train data: expected a multiple of 12 rows|validation_batch_size: exp"):
        Small(Recurrent, Dataset(rows, rows), **SETTINGS | settings)


# --- state that Keras does not know ---


class Holder:
    """A plain object with a number."""

    number = 0


class Counting(keras.layers.Layer):
    """Adds a number from Python, which runs when the layer is traced."""

    number = 0

    def __init__(self, take: Callable[["Counting"], float]) -> None:
        super().__init__()
        self.take, self.holder, self.rng = take, Holder(), np.random.default_rng(3)
        self.endless = itertools.cycle([1.0, 2.0, 3.0, 4.0, 5.0])

    def call(self, inputs: Any) -> Any:
        """Return the sum of the input and the number."""
        return inputs + float(self.take(self))


class CountingLoss(keras.losses.Loss):
    """Counts how often it is traced."""

    number = 0

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per row."""
        self.number += 1
        return keras.ops.mean(keras.ops.square(y_true - y_pred), -1) * float(self.number)


class Decaying(keras.optimizers.schedules.LearningRateSchedule):
    """Counts how often it is traced."""

    number = 0

    def __call__(self, step: Any) -> Any:
        """Return the learning rate."""
        self.number += 1
        return 0.1 / self.number + 0.0 * keras.ops.cast(step, "float32")


def count(owner: Any) -> int:
    """Return how often this was called for an object or class."""
    owner.number += 1
    return int(owner.number)


def closure() -> keras.layers.Layer:
    """Return a layer whose function counts in its outer function."""
    number = 0

    def shifted(inputs: Any) -> Any:
        nonlocal number
        number += 1
        return inputs + float(number)

    return keras.layers.Lambda(shifted)


PYTHON_STATE: dict[str, tuple[Build, str]] = {
    "a counter": (lambda: compiled(dense(1), Counting(count)), "counting.number"),
    "a counter of the class": (lambda: compiled(dense(1), Counting(lambda _: count(Counting))), "counting.number"),
    "a counter of an object": (lambda: compiled(dense(1), Counting(lambda layer: count(layer.holder))), "holder"),
    "a NumPy generator": (lambda: compiled(dense(1), Counting(lambda layer: layer.rng.normal())), "counting.rng"),
    "an iterator": (lambda: compiled(dense(1), Counting(lambda layer: next(layer.endless))), "counting.endless"),
    "a counter of a function": (lambda: compiled(dense(1), closure()), "number of closure"),
    "a counter of a loss": (lambda: compiled(dense(1), loss=CountingLoss()), "counting_loss.number"),
}


@pytest.mark.parametrize("kind", [name if number < 2 else pytest.param(name, marks=pytest.mark.full)
                                  for number, name in enumerate(PYTHON_STATE)])  # fmt: skip
def test_a_step_that_depends_on_python_state_is_refused(kind: str) -> None:
    """Python runs when a step is traced, so the bits would depend on how often that is."""
    build, name = PYTHON_STATE[kind]
    with pytest.raises(TrainingError, match=f"depends on Python state that changes while it is traced: .*{name}"):
        check(build, SIGNS[:, None])


@pytest.mark.full
def test_a_learning_rate_that_depends_on_python_state_is_refused() -> None:
    """Also what an optimizer calls is traced."""
    model = compiled(dense(1))
    model.compile(keras.optimizers.SGD(Decaying()), "mse")
    with pytest.raises(TrainingError, match="Python state that changes while it is traced: Decaying"):
        check(lambda: model)


def test_python_state_that_changes_nothing_is_accepted() -> None:
    """A counter that no operation reads may count."""
    check(lambda: compiled(dense(1), Counting(lambda layer: 0 * count(layer))))


class Reading(keras.layers.Layer):
    """Adds a value that is read from somewhere."""

    def __init__(self, read: Callable[[], Any]) -> None:
        super().__init__()
        self.read = read

    def call(self, inputs: Any) -> Any:
        """Return the sum."""
        return inputs + keras.ops.cast(self.read(), "float32")


def from_iterator() -> keras.Model:
    """Return a model that reads an iterator of a tf.data.Dataset."""
    numbers = iter(tf.data.Dataset.range(100))
    return compiled(dense(1), Reading(lambda: next(numbers)))


def from_sampler() -> keras.Model:
    """Return a model that samples classes, as a sampled softmax does."""
    ones = tf.ones([1, 1], tf.int64)
    sample = tf.random.uniform_candidate_sampler
    return compiled(dense(1), Reading(lambda: sample(ones, 1, 1, True, 9, seed=1).sampled_candidates))


@pytest.mark.parametrize(
    ("build", "message"), [(from_iterator, "IteratorGetNext"), (from_sampler, "UniformCandidateSampler draws random")]
)
def test_state_of_operations_is_refused(build: Build, message: str) -> None:
    """An iterator and a sampler have a place that no checkpoint holds."""
    with pytest.raises((TrainingError, UncoveredDrawError), match=message):
        check(build, SIGNS[:, None])


class Annealed(keras.Model):
    """Has a factor that a callback sets at each epoch, and a metric that its `metrics` leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.factor = dense(1), tf.Variable(0.0, trainable=False)
        self.tracked, self.left_out = keras.metrics.Mean(name="tracked"), keras.metrics.Mean(name="left_out")
        self.compile("sgd", "mse")

    @property
    def metrics(self) -> list[Any]:
        """Return what Keras resets at each epoch."""
        return [self.tracked]

    def call(self, inputs: Any) -> Any:
        """Return the output."""
        return self.out(inputs) * (1.0 + self.factor)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take a step of Keras's, and return the metrics."""
        logs: dict[str, Any] = super().train_step(data)
        self.tracked.update_state(self.factor)
        self.left_out.update_state(self.factor)
        return logs | {"tracked": self.tracked.result(), "left_out": self.left_out.result()}


class Annealing(keras.callbacks.Callback):
    """Sets the factor."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set it."""
        del logs
        self.model.factor.assign(0.3 * (epoch + 1))


def test_a_variable_that_a_callback_changes_is_saved(tmp_path: pathlib.Path) -> None:
    """A process that resumes makes a tf.Variable of the model anew, so the checkpoint has its value."""
    data = Dataset(Split(INPUTS, SIGNS))
    small = Small(Annealed, data, **SETTINGS | {"epochs": 2})
    whole = small.train(tmp_path / "whole", callbacks=lambda: [Annealing()])
    small.stop(tmp_path / "run", 3, callbacks=lambda: [Annealing()])
    small.network.model.factor.assign(0.0)
    resumed = small.train(tmp_path / "run", callbacks=lambda: [Annealing()])

    assert {"epoch": 2, "step": 1} == resumed["resumed_at"]
    assert whole == resumed | {"resumed_at": None}


class OwnFit(keras.Sequential):
    """Replaces Keras's loop."""

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """Train once."""
        return super().fit(*arguments, **options | {"epochs": 1})


def own_fit() -> keras.Model:
    """Return a model with its own loop."""
    model = OwnFit([keras.Input((6,)), dense(1)])
    model.compile("sgd", "mse")
    return model


def test_a_model_with_its_own_fit_is_refused() -> None:
    """Nothing here calls it."""
    refuse(own_fit, r"OwnFit\.fit: expected Keras's method")


# --- shapes of labels, losses, metrics and weights ---


class ScalarLoss(keras.losses.Loss):
    """Does not give the labels the shape of the outputs, as Keras does for functions."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the mean over all rows."""
        return keras.ops.mean(keras.ops.square(y_true - y_pred))


def is_right(labels: Any, outputs: Any) -> Any:
    """Return whether each row is right; a metric."""
    return keras.ops.cast(keras.ops.equal(labels, outputs > 0), "float32")


def squared(labels: Any, outputs: Any) -> Any:
    """Return one value per label."""
    return keras.ops.square(labels - outputs)


def pixels(loss: Any) -> keras.Model:
    """Return a model of two classes per pixel."""
    kernel = keras.initializers.GlorotUniform(seed=1)
    return compiled(keras.layers.Conv2D(2, 3, padding="same", kernel_initializer=kernel), loss=loss, shape=(2, 2, 1))


GENERALIZED = keras.losses.CategoricalGeneralizedCrossEntropy


def regions(classes: int, **options: Any) -> keras.Model:
    """Return a model of regions of images."""
    kernel = keras.initializers.GlorotUniform(seed=1)
    layer = keras.layers.Conv2D(classes, 3, padding="same", kernel_initializer=kernel, activation="sigmoid")
    return compiled(layer, loss=keras.losses.Dice(**options), shape=(2, 2, 1))


def same_class(labels: Any, outputs: Any) -> Any:
    """Return a contrastive loss: it compares rows with rows, and classes with classes."""
    labels = keras.ops.reshape(labels, (-1,))
    same = keras.ops.cast(keras.ops.equal(keras.ops.expand_dims(labels, 1), labels), "float32")
    return keras.ops.mean(keras.ops.square(keras.ops.matmul(outputs, keras.ops.transpose(outputs)) - same), -1)


def sequences() -> keras.Model:
    """Return a model with the loss of sequences without alignment."""
    return compiled(keras.layers.Reshape((3, 2)), dense(5), loss=keras.losses.CTC())


def classifier() -> keras.Model:
    """Return a model of three classes."""
    return compiled(dense(3), loss=sparse(), metrics=["accuracy"])


ROW_WEIGHTS = SIGNS + 0.5
WRONG: dict[str, tuple[Build, Any, Any, str]] = {
    "a Loss that compares all with all": (
        lambda: compiled(dense(1), loss=ScalarLoss()), SIGNS, None, "loss scalar_loss.*each row with each label",
    ),
    "the same in a class": (lambda: Own(ScalarLoss()), SIGNS, None, "loss scalar_loss.*each row with each label"),
    "a metric that compares all with all": (
        lambda: compiled(dense(1), metrics=[is_right]), SIGNS, None, "metric is_right.*each row with each label",
    ),
    "a loss that returns nothing": (
        lambda: compiled(dense(1), loss=lambda *_: None), SIGNS, None, "expected a tensor, received NoneType",
    ),
    "a loss that returns two": (
        lambda: compiled(dense(1), loss=lambda y, z: (y, z)), SIGNS, None, "expected a tensor, received tuple",
    ),
    "weights of rows, values of labels": (
        lambda: compiled(dense(3), loss=squared), ONE_HOT, ROW_WEIGHTS, r"the rows have weights \[rows\], received sha",
    ),
    "weights of rows, values of pixels": (
        lambda: pixels(sparse()), MASKS, ROW_WEIGHTS, r"loss sparse_categorical_crossentropy.*shape \[rows, 2, 2\]",
    ),
    "no labels": (lambda: compiled(dense(1)), None, None, "train/labels: expected labels.*received none"),
    "no labels for a class": (lambda: Own(sparse()), CLASSES, None, "whole numbers 0 to 0"),
    "a label of two is missing": (
        lambda: two_outputs(GOOD), {"sign": SIGNS}, None, "labels/digit: expected labels, which the loss sparse",
    ),
    "one label for two outputs": (
        lambda: two_outputs("mse"), SIGNS, None, "labels/digit: expected labels, which the loss mse",
    ),
    "one wrong of two": (lambda: two_outputs(GOOD), BOTH | {"digit": CLASSES + 1}, None, "labels/digit.*1 to 3"),
    "three labels for one output of a class": (lambda: Own("mse"), ONE_HOT, None, "it would be broadcast"),
    "pixels of three classes": (lambda: regions(3), MASKS[..., None], None, "the loss dice compares them.*broadcast"),
    "pixels up to 255": (lambda: regions(1), MASKS * 255, None, "expected 0 to 1, because the loss is dice"),
    "one-hot for class numbers": (lambda: compiled(dense(3, activation="softmax"), loss=GENERALIZED()), ONE_HOT, None,
                                  r"expected shape \[rows\], the number of one of 3 classes"),
    "too many class numbers": (lambda: compiled(dense(2, activation="softmax"), loss=GENERALIZED()), CLASSES, None,
                               "whole numbers 0 to 1"),
    "classes for a hinge": (lambda: compiled(dense(1), loss="hinge"), CLASSES, None, "expected -1 to 1, .*hinge"),
    "negative counts": (lambda: compiled(dense(1), loss="poisson"), SIGNS - 1, None, "expected 0 to inf, .*poisson"),
    "negative logarithms": (lambda: compiled(dense(1), loss="msle"), SIGNS - 1, None, "expected 0 to inf"),
    "no distribution": (lambda: compiled(dense(3, activation="softmax"), loss="kl_divergence"), ONE_HOT * 2, None,
                        "expected 0 to 1, .*kl_divergence"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*Model doesn't support `loss=None`:UserWarning")
@pytest.mark.parametrize("cause", WRONG)
def test_shapes_that_do_not_fit_are_refused(cause: str) -> None:
    """The error names the loss, the metric or the labels."""
    build, labels, weights, message = WRONG[cause]
    refuse(build, message, labels, weights, inputs=IMAGES if "pixels" in cause else INPUTS)


METRICS: tuple[Any, ...] = (  # those that Keras names alike have another name
    "accuracy", "acc", "AUC", keras.metrics.BinaryAccuracy, keras.metrics.Precision, keras.metrics.Recall,
    lambda: keras.metrics.BinaryAccuracy(name="accuracy_at_0", threshold=0.0),
    lambda: keras.metrics.AUC(name="area", from_logits=True),
    lambda: keras.metrics.Precision(name="precision_at_0", thresholds=0),
)  # fmt: skip
ADVICE = [
    "AUC(from_logits=True)", *["BinaryAccuracy(threshold=0.0)"] * 3, "Precision(thresholds=0.0)",
    "Recall(thresholds=0.0)",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["functional", "own class", "probabilities", "weighted"])
def test_a_metric_of_probabilities_of_logits_is_a_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Keras computes it, with a threshold of 0.5 for logits. A metric of logits has no warning."""
    with caplog.at_level(logging.WARNING):
        check(lambda: with_metrics(kind, [each if isinstance(each, str) else each() for each in METRICS]), SIGNS)

    warned = [text.rpartition("keras.metrics.")[2] for text in caplog.messages if "reads probabilities" in text]
    assert ([] if kind == "probabilities" else ADVICE) == sorted(warned)


def with_metrics(kind: str, metrics: list[Any]) -> keras.Model:
    """Return a compiled model of one logit or probability with metrics."""
    if kind == "own class":
        model: keras.Model = Own(binary())
        model.compile("sgd", binary(), metrics=metrics)
        return model
    is_logit = kind != "probabilities"
    options: dict[str, Any] = {"weighted_metrics" if kind == "weighted" else "metrics": metrics}
    layer = dense(1) if is_logit else dense(1, activation="sigmoid")
    return compiled(layer, loss=binary(from_logits=is_logit), **options)


def fit(build: Build, split: Split, **options: Any) -> dict[str, list[float]]:
    """Train with Keras's own `fit`. Returns the history."""
    keras.backend.clear_session(free_memory=False)
    history = build().fit(
        split.inputs, split.labels, sample_weight=split.sample_weight, batch_size=8, shuffle=False, verbose=0, **options
    )
    return dict(history.history)


RIGHT: dict[str, tuple[Build, Any, Any]] = {
    "class numbers [rows, 1]": (classifier, CLASSES[:, None], None),
    "class numbers [rows] as bytes, one left out": (
        lambda: compiled(dense(2), loss=sparse(ignore_class=2)), CLASSES.astype(np.uint8), None,
    ),
    "pixels one-hot": (lambda: pixels(keras.losses.CategoricalCrossentropy(from_logits=True)), np.eye(2)[MASKS], None),
    "weights of pixels [H, W]": (lambda: pixels(sparse()), MASKS, MASKS + 0.5),
    "weights of images, pixels [H, W, 1]": (lambda: pixels(sparse()), MASKS[..., None], ROW_WEIGHTS[:, None, None]),
    "weights [rows, 1]": (lambda: compiled(dense(1), loss=squared), SIGNS, ROW_WEIGHTS[:, None]),
    "several tags, booleans": (
        lambda: compiled(dense(3), loss=binary(), metrics=["accuracy"]), np.stack([SIGNS > 0] * 3, 1), None,
    ),
    "a scalar Loss and a metric of equal shapes": (
        lambda: compiled(dense(1), loss=ScalarLoss(), metrics=[is_right]), SIGNS[:, None], None,
    ),
    "two outputs, a list": (
        lambda: two_outputs(["binary_crossentropy", sparse()], list), [SIGNS, CLASSES], None,
    ),
    "two outputs by name, a list of outputs": (lambda: two_outputs(GOOD, list), BOTH, None),
    "a loss for one of two outputs": (lambda: two_outputs({"sign": "mse"}), {"sign": SIGNS}, None),
    "pixels of regions": (lambda: regions(1), MASKS, None),
    "weights of images, regions": (lambda: regions(1, axis=(1, 2, 3)), MASKS[..., None], ROW_WEIGHTS),
    "weights of sequences": (sequences, np.tile([1, 2], (ROWS, 1)), ROW_WEIGHTS),
    "pairs of rows": (lambda: compiled(dense(3), loss=same_class), CLASSES, None),
    "class numbers, generalized": (lambda: compiled(dense(3, activation="softmax"), loss=GENERALIZED()), CLASSES, None),
    "weights for two outputs": (lambda: two_outputs(GOOD), BOTH, {"sign": ROW_WEIGHTS, "digit": SIGNS}),
}  # fmt: skip


@pytest.mark.parametrize("kind", [name if number < 2 else pytest.param(name, marks=pytest.mark.full)
                                  for number, name in enumerate(RIGHT)])  # fmt: skip
def test_what_keras_trains_is_trained_as_keras_does(kind: str, tmp_path: pathlib.Path) -> None:
    """The history of losses and metrics is the one of `fit`."""
    build, labels, weights = RIGHT[kind]
    split = Split(IMAGES if "pixels" in kind or "images" in kind else INPUTS, labels, weights)
    ours = Small(build, Dataset(split), **SETTINGS).train(tmp_path / "run")

    assert fit(build, split) == ours["history"]


def test_weights_that_are_text_are_refused() -> None:
    """The error names the array."""
    refuse(lambda: compiled(dense(1)), "train/sample_weight: expected numbers", SIGNS, np.full(ROWS, "a"))


def test_class_weights_need_one_class_per_row() -> None:
    """A mask has many classes per row."""
    refuse(lambda: pixels(sparse()), "class_weight: expected one class per row", MASKS, inputs=IMAGES,
           class_weight={0: 1.0, 1: 5.0})  # fmt: skip


def test_the_message_of_a_key_error_is_readable() -> None:
    """Python quotes it, with the line ends and colours that Keras puts in."""
    error = KeyError(
        "Exception encountered when calling FromDict.call().\n\n\x1b[1mage\x1b[0m\n\nArguments received by"
    )

    assert "age" == first_line(error)
