"""Batches that are split into parts have the loss and the gradient of the whole batch, or are refused."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import QUIET, ROOT
from in_process import Small
from keras_cases import CASES, INPUTS, LABELS, ROWS, WEIGHTS, WithOwnLoss, dense, split, with_outputs

from samebits.core.config import TrainingConfig
from samebits.core.errors import ConfigError
from samebits.core.seeds import Seeds, resolve_points
from samebits.portable.layers import Dropout
from samebits.runs.folder import TRACE, read_rows
from samebits.runs.trace_diff import differences
from samebits.train.data import Dataset
from samebits.train.parts import own_parts, part_bounds
from samebits.train.shards import scaled as scale_by_rows
from samebits.train.shards import tree_sum
from samebits.train.streams import make_feed

SEEDS = Seeds(resolve_points(56, "derived", in_process.POINTS))
REFUSED = {
    "GAN": "2 updates",
    "distillation": "uses weights after the update",
}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras 3.15


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def plain_network(*last: keras.layers.Layer) -> keras.Sequential:
    """Return a model without dropout and batch normalization, which no split changes."""
    hidden = dense(8, 1, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))
    return keras.Sequential([keras.Input((6,)), hidden, *(last or [dense(1, 3, activation="sigmoid")])])


def compiled(loss: Any = "binary_crossentropy", **options: Any) -> Callable[[], keras.Model]:
    """Return a function that builds and compiles that model."""

    def build() -> keras.Model:
        model = plain_network()
        metrics = ["accuracy", keras.metrics.AUC(), keras.metrics.F1Score(threshold=0.5)]
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=metrics, weighted_metrics=["mae"], **options)
        return model

    return build


def scaled() -> keras.Model:
    """Return a model whose loss is scaled, as in mixed precision."""
    model = plain_network()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "mse")
    return model


def words() -> keras.Model:
    """Return a model with an embedding, whose gradient is slices."""
    embedding = keras.layers.Embedding(20, 4, embeddings_initializer=keras.initializers.RandomUniform(seed=1))
    model = keras.Sequential([keras.Input((6,), dtype="int32"), embedding, keras.layers.Flatten(), dense(1, 2)])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True), metrics=["mae"])
    return model


def normalized() -> keras.Model:
    """Return a model that normalizes by the statistics of the whole batch."""
    model = plain_network(keras.layers.BatchNormalization(synchronized=True), dense(4, 2), dense(1, 3))
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return model


class WithNumbers(WithOwnLoss):
    """Computes its loss itself, and logs the square of a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.error = plain_network(), keras.metrics.MeanAbsoluteError(name="error")

    def call(self, inputs: Any) -> Any:
        """Return the output."""
        return self.inner(inputs)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return Keras's metrics, the square of one's own, and a number of the batch."""
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        self.error.update_state(y, y_pred)
        return {**found, "squared": self.error.result() ** 2, "mean": keras.ops.mean(y_pred)}


def own_loss() -> keras.Model:
    """Return a compiled model with its own loss."""
    model = WithNumbers()
    model.compile(keras.optimizers.SGD(0.1))
    return model


def texts() -> Dataset:
    """Return numbers of words."""
    found: Dataset = split((np.abs(INPUTS) * 7).astype(np.int32) % 20)
    return found


EQUAL: dict[str, tuple[Callable[[], keras.Model], Callable[[], Dataset]]] = {
    "one output": (compiled(), split),
    "sample weights": (compiled(), lambda: split(weights=WEIGHTS)),
    "sum over the batch": (compiled(keras.losses.BinaryCrossentropy(reduction="sum")), split),
    "several outputs": (
        with_outputs,
        lambda: split({"a": INPUTS[:, :4], "b": INPUTS[:, 4:]}, {"sign": LABELS, "sum": INPUTS.sum(1, keepdims=True)}),
    ),
    "own loss": (own_loss, split),
    "a scaled loss": (scaled, split),
    "slices": (words, texts),
    "synchronized statistics": (normalized, split),
}


def first_steps(name: str, shards: int) -> tuple[list[dict[str, float]], dict[str, np.ndarray], Small]:
    """Return the logs of the steps of an epoch, the gradients of the first one, and the training."""
    build, data = EQUAL[name]
    small = Small(build, data(), loss=None, batch_size=8, shuffle=False, shards=shards)
    logs: list[dict[str, float]] = []
    found: dict[str, np.ndarray] = {}
    for step in range(4):  # of 8, 8, 8 and 6 rows
        one, gradients = small.network.steps.train_one(step)
        logs.append(one)
        found = found or {path: tf.convert_to_tensor(each).numpy() for path, each in gradients.items()}
    return logs, found, small


@pytest.mark.parametrize(("name", "shards"), [*((name, 3) for name in EQUAL), ("slices", 7)])
def test_loss_and_gradient_are_those_of_the_whole_batch_to_rounding(name: str, shards: int) -> None:
    """Gradients, losses, metrics and weights equal those of one part, also for parts of other sizes or without rows."""
    logs, gradients, whole = first_steps(name, 1)
    split_logs, split_gradients, parts = first_steps(name, shards)

    for path, gradient in gradients.items():
        np.testing.assert_allclose(split_gradients[path], gradient, rtol=1e-3, atol=1e-5, err_msg=path)
    for one, other in zip(logs, split_logs, strict=True):
        assert list(one) == list(other)
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-3, atol=1e-4)
    for weight, other in zip(whole.network.model.weights, parts.network.model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), rtol=1e-2, atol=1e-4, err_msg=weight.path)


def test_parts_have_the_gradients_that_are_added() -> None:
    """The gradient of the batch is the sum of those of the parts, so that a difference can be found in one of them."""
    _, found, _ = first_steps("one output", 4)
    whole = [path for path in found if not path.startswith("part ")]

    for path in whole:
        parts = [found[f"part {number}: {path}"] for number in range(1, 5)]
        np.testing.assert_array_equal((parts[0] + parts[1]) + (parts[2] + parts[3]), found[path])


TRAINED = ("compiled", "class weights, float64 arrays", "use_ema", "mixed precision", "VAE", "callbacks")


@pytest.mark.parametrize("name", TRAINED)
def test_every_training_with_one_update_per_step_can_be_split(name: str, tmp_path: pathlib.Path) -> None:
    """It trains, and has the same bits again, stopped in the middle or not."""
    case = CASES[name]
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "validation_batch_size": 7, "shards": 3}
    small = Small(case.plain or case.build, case.data(), **options | dict(case.settings))
    whole = small.train(tmp_path / "whole", callbacks=case.callbacks)
    small.stop(tmp_path / "stopped", 3, callbacks=case.callbacks)
    resumed = small.train(tmp_path / "stopped", callbacks=case.callbacks)

    assert whole["weights"] == resumed["weights"]
    assert whole["optimizer"] == resumed["optimizer"]
    assert whole["metrics"] == resumed["metrics"]
    assert resumed["resumed_at"] is not None


@pytest.mark.parametrize("name", REFUSED)
def test_steps_with_several_updates_are_refused(name: str) -> None:
    """The message has the class and what it does."""
    case = CASES[name]
    with pytest.raises(ConfigError, match=REFUSED[name]):
        Small(case.build, case.data(), shards=2, batch_size=8)


def contrast(labels: Any, outputs: Any) -> Any:
    """Return a loss that compares the rows of a batch with each other."""
    del labels
    return keras.ops.mean(keras.ops.abs(outputs - keras.ops.transpose(outputs)))


class Largest(keras.metrics.Metric):
    """The largest output, which is no sum over rows."""

    def __init__(self) -> None:
        super().__init__(name="largest")
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, _labels: Any, outputs: Any, sample_weight: Any = None) -> None:
        """Keep the largest output."""
        del sample_weight
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(outputs)))

    def result(self) -> Any:
        """Return it."""
        return self.value


class OfLastBatch(Largest):
    """The sum of the outputs of the last batch, which forgets those before."""

    def update_state(self, _labels: Any, outputs: Any, sample_weight: Any = None) -> None:
        """Keep the sum."""
        del sample_weight
        self.value.assign(keras.ops.sum(outputs))


class OfBatches(Largest):
    """The sum of the largest outputs of the batches, which adds up over batches, but not over their rows."""

    def update_state(self, _labels: Any, outputs: Any, sample_weight: Any = None) -> None:
        """Add the largest output."""
        del sample_weight
        self.value.assign_add(keras.ops.max(outputs))


class Masked(keras.losses.Loss):
    """A loss that has a mask."""

    def call(self, labels: Any, outputs: Any) -> Any:
        """Return the error of each row."""
        error = keras.ops.square(labels - outputs)
        keras.src.backend.set_keras_mask(error, labels > 0)
        return error


def with_metric(*metrics: Any) -> Callable[[], keras.Model]:
    """Return a function that builds a model with other metrics."""

    def build() -> keras.Model:
        model = plain_network()
        model.compile("sgd", "mse", metrics=list(metrics))
        return model

    return build


class Squaring(WithNumbers):
    """Logs a number that it computes from the result of a metric, in its own step."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train."""
        inputs, labels = data
        with tf.GradientTape() as tape:
            outputs = self(inputs)
            loss = self.compute_loss(x=inputs, y=labels, y_pred=outputs)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.error.update_state(labels, outputs)
        return {"loss": loss, "squared": self.error.result() ** 2}


def squaring() -> keras.Model:
    """Return a compiled model of that class."""
    model = Squaring()
    model.compile(keras.optimizers.SGD(0.1))
    return model


def without_update() -> keras.Model:
    """Return a model whose step updates nothing."""

    class Idle(WithNumbers):
        def train_step(self, data: Any) -> dict[str, Any]:
            """Return the mean of the inputs."""
            return {"loss": keras.ops.mean(data[0])}

    model = Idle()
    model.compile(keras.optimizers.SGD(0.1))
    return model


class OwnStep(WithNumbers):
    """Has a train_step of its own, with one gradient and one update."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train."""
        loss, gradients = self.gradients_of(*data)
        self.optimizer.apply_gradients(zip(self.changed(gradients), self.trainable_weights, strict=True))
        return self.logs_of(loss, gradients)

    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=inputs, y=labels, y_pred=self(inputs, training=True))
        return loss, tape.gradient(loss, self.trainable_weights)

    def changed(self, gradients: list[Any]) -> list[Any]:
        """Return the gradients that the optimizer gets."""
        return gradients

    def logs_of(self, loss: Any, gradients: list[Any]) -> dict[str, Any]:
        """Return the logs."""
        del gradients
        return {"loss": loss}


class Clipping(OwnStep):
    """Clips the gradients by their norm."""

    def changed(self, gradients: list[Any]) -> list[Any]:
        """Return the clipped gradients."""
        return list(tf.clip_by_global_norm(gradients, 0.1)[0])


class LoggingNorm(OwnStep):
    """Logs the norm of the gradients."""

    def logs_of(self, loss: Any, gradients: list[Any]) -> dict[str, Any]:
        """Return the loss and the norm."""
        return {"loss": loss, "norm": tf.linalg.global_norm(gradients)}


class Counting(OwnStep):
    """Logs a number of type integer."""

    def logs_of(self, loss: Any, gradients: list[Any]) -> dict[str, Any]:
        """Return the loss and the number of gradients."""
        return {"loss": loss, "count": tf.constant(len(gradients))}


class Summing(OwnStep):
    """Has the sum of the losses of a batch as its loss, while its test_step has the mean."""

    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(keras.ops.square(labels - self(inputs, training=True)))
        return loss, tape.gradient(loss, self.trainable_weights)


class LoggingLargest(OwnStep):
    """Logs the largest number of each batch."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train."""
        return {**super().train_step(data), "largest": keras.ops.max(data[0])}


class LoggingSpread(OwnStep):
    """Logs the standard deviation of each input in a batch."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train."""
        return {**super().train_step(data), "spread": keras.ops.std(data[0], axis=0)}


def zero_head() -> keras.Model:
    """Return a model with a contrastive loss, whose outputs are zero at the start."""
    model = keras.Sequential([keras.Input((6,)), dense(8, 1), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile("sgd", contrast)
    return model


class MaskedRows(OwnStep):
    """Reconstructs a part of each row that is chosen at random, divided by its size."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        del labels
        mask = keras.ops.cast(keras.random.uniform(keras.ops.shape(inputs), seed=self.seeds) < 0.5, "float32")
        with tf.GradientTape() as tape:
            errors = mask * keras.ops.square(self(inputs, training=True) - inputs)
            loss = keras.ops.mean(keras.ops.sum(errors, -1) / keras.ops.sum(mask, -1))
        return loss, tape.gradient(loss, self.trainable_weights)


class OnSphere(OwnStep):
    """Adds noise of length 1 to each row."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        noise = keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)
        return super().gradients_of(inputs + keras.ops.normalize(noise, axis=-1), labels)


class TwoViews(OwnStep):
    """Compares two views of each row, which differ by dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = keras.layers.Dropout(0.4, seed=3)

    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        del labels
        with tf.GradientTape() as tape:
            first, second = (self(self.dropout(inputs, training=True)) for _ in range(2))
            loss = keras.ops.mean(keras.ops.sqrt(keras.ops.sum(keras.ops.square(first - second), -1)))
        return loss, tape.gradient(loss, self.trainable_weights)


def with_half(policy: str, size: float) -> Callable[[], keras.Model]:
    """Return a function that builds a model of 16 bits with large errors."""

    def build() -> keras.Model:
        layers = [dense(64, 1, dtype=policy), keras.layers.LayerNormalization(dtype=policy), dense(1, 3)]
        model = keras.Sequential([keras.Input((6,)), keras.layers.Rescaling(size), *layers])
        optimizer = keras.optimizers.SGD(0.01)
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if "float16" in policy else optimizer, "mse")
        return model

    return build


class Drawing(OwnStep):
    """Draws numbers, which are all zero, with a function of TensorFlow that nothing replaces."""

    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        return super().gradients_of(inputs + tf.random.stateless_poisson([1], [1, 2], lam=0.0, dtype="float32"), labels)


class Standardizing(keras.layers.Layer):
    """Divides by the largest value of a batch, in training alone."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Divide."""
        return inputs / keras.ops.max(keras.ops.abs(inputs)) if training else inputs


class Wrapped(OwnStep):
    """Computes its gradients in a tf.function, with a layer that changes a state."""

    def __init__(self) -> None:
        super().__init__()
        self.normalization = keras.layers.BatchNormalization()

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the output for normalized inputs."""
        return self.inner(self.normalization(inputs, training=training))

    @tf.function
    def gradients_of(self, inputs: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=inputs, y=labels, y_pred=self(inputs, training=True))
        return loss, tape.gradient(loss, self.trainable_weights)


class Seen(keras.layers.Layer):
    """Counts the rows that it has seen."""

    def build(self, _shape: Any) -> None:
        """Make the counter."""
        self.rows = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="rows")

    def call(self, inputs: Any) -> Any:
        """Count."""
        self.rows.assign_add(keras.ops.shape(inputs)[0])
        return inputs


def own(kind: type[keras.Model]) -> Callable[[], keras.Model]:
    """Return a function that builds and compiles a model of a class."""

    def build() -> keras.Model:
        model = kind()
        model.compile(keras.optimizers.SGD(0.1))
        return model

    return build


def layered(*layers: keras.layers.Layer) -> keras.Sequential:
    """Return a compiled model of these layers."""
    model = keras.Sequential([keras.Input((6,)), *layers, dense(1, 2)])
    model.compile("sgd", "mse")
    return model


def stateful() -> keras.Model:
    """Return a model with a recurrent layer that keeps its state."""
    lstm = keras.layers.LSTM(2, stateful=True)
    model = keras.Sequential([keras.Input((6,), batch_size=8), keras.layers.Reshape((3, 2)), lstm, dense(1, 2)])
    model.compile("sgd", "mse")
    return model


def normalized_with_a_mask() -> keras.Model:
    """Return a model whose synchronized statistics have a mask."""
    return layered(
        keras.layers.Reshape((3, 2)), keras.layers.Masking(), keras.layers.BatchNormalization(synchronized=True),
        keras.layers.GlobalAveragePooling1D(),
    )  # fmt: skip


WRONG = {
    "rows compared with each other": (compiled(contrast), "compares the rows with each other"),
    "a sum over the batch": (own(Summing), "is a sum over them"),
    "statistics of the batch": (lambda: layered(Standardizing()), "compares the rows with each other"),
    "rows compared by a layer that starts at zero": (zero_head, "compares the rows with each other"),
    "an array of the batch": (own(LoggingSpread), "spread of .*, and .* as the mean of their parts"),
    "a largest number": (own(LoggingLargest), "largest of 1.*, and .* as the mean of their parts"),
    "a metric that is no sum": (with_metric(Largest()), "largest/value"),
    "a metric that forgets": (with_metric(OfLastBatch()), "largest/value"),
    "a metric that is no sum over rows": (with_metric(OfBatches()), "largest/value"),
    "a mask": (compiled(Masked()), "a loss with a mask"),
    "a mean by sample weights": (
        compiled(keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")), "mean_with_sample_weight",
    ),
    "a number from a result": (squaring, "squared from the result of a metric"),
    "no update": (without_update, "with no updates"),
    "clipped gradients": (own(Clipping), "that changes the gradients"),
    "a number from the gradients": (own(LoggingNorm), "computes norm from the gradients"),
    "an integer": (own(Counting), "count of type int32"),
    "a tf.function inside": (own(Wrapped), "a tf.function inside"),
    "a state of integers": (lambda: layered(Seen()), "rows"),
    "a stateful layer": (stateful, "keeps a state for each row"),
    "synchronized statistics with a mask": (normalized_with_a_mask, "a mask for layer"),
    "a trained weight that a layer changes": (
        lambda: layered(keras.layers.SpectralNormalization(dense(4, 1))), "a layer that changes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_a_split_would_change_is_refused(name: str) -> None:
    """Before the first step, with the reason."""
    build, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        Small(build, Dataset(split().train), shards=2, batch_size=8, steps_per_epoch=3)


RIGHT: dict[str, tuple[Callable[[], keras.Model], int, float]] = {  # model, rows of a batch, size of the labels
    "a mask by row": (own(MaskedRows), 8, 1.0),
    "noise of length 1": (own(OnSphere), 8, 1.0),
    "two views of a row": (own(TwoViews), 8, 1.0),
    "a metric that nearly cancels": (with_metric(keras.metrics.R2Score()), ROWS, 1000.0),
    "mixed_bfloat16": (with_half("mixed_bfloat16", 1.0), 24, 1.0),
    "mixed_float16": (with_half("mixed_float16", 100.0), 24, 50.0),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_can_be_split_is_not_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Random masks and noise, sums that nearly cancel, and 16 bits pass the check by numbers, without a warning."""
    build, rows, size = RIGHT[name]
    labels = INPUTS.sum(1, keepdims=True) - INPUTS[:ROWS].sum(1).mean()
    Small(build, Dataset(split(INPUTS, labels * np.float32(size)).train), shards=3, batch_size=rows)

    assert not caplog.records


def test_a_step_of_ones_own_is_split() -> None:
    """The class of the refused steps trains where it changes nothing."""
    first = [Small(own(OwnStep), split(), shards=shards, batch_size=8, shuffle=False) for shards in (1, 3)]
    logs = [small.network.steps.train_one(0)[0]["loss"] for small in first]

    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-5)


def noisy() -> keras.Model:
    """Return a model with every kind of random number in training, and without an evaluation."""
    model = layered(
        keras.layers.GaussianNoise(0.1, seed=1), keras.layers.Dropout(0.2, seed=2), Dropout(0.2, seed=3),
        keras.layers.AlphaDropout(0.1, seed=4), keras.layers.BatchNormalization(), Sampling(),
    )  # fmt: skip
    model.test_step = None
    return model


class Sampling(keras.layers.Layer):
    """Draws from several distributions in each call."""

    def build(self, _shape: Any) -> None:
        """Make the generator."""
        self.generator = keras.random.SeedGenerator(5)

    def call(self, inputs: Any) -> Any:
        """Change the inputs."""
        shape, seed = keras.ops.shape(inputs), self.generator
        noise = keras.random.truncated_normal(shape, seed=seed) + keras.random.gamma(shape, 0.5, seed=seed)
        noise += keras.random.beta(shape, 0.5, 0.5, seed=seed) + keras.random.binomial(shape, 3.0, 0.5, seed=seed)
        chosen = keras.random.categorical(keras.ops.zeros_like(inputs), 1, seed=seed)
        less = keras.random.randint(shape, 0, 3, seed=seed) + keras.random.shuffle(keras.ops.arange(6), seed=seed)
        return inputs + noise + keras.ops.cast(chosen, "float32") - keras.ops.cast(less, "float32")


def test_the_check_by_numbers_needs_no_draws_and_no_evaluation(caplog: pytest.LogCaptureFixture) -> None:
    """Constants take the place of random numbers; a step whose random numbers are unknown is trained with a warning."""
    Small(noisy, Dataset(split().train), shards=3, batch_size=8)

    assert not caplog.records

    Small(own(Drawing), Dataset(split().train), shards=3, batch_size=8)

    assert "nobody checked" in caplog.text
    assert "StatelessRandomPoisson" in caplog.text


def test_a_part_without_rows_adds_nothing_that_is_not_finite() -> None:
    """It computes a row that does not count, whose gradient may be infinite."""
    nothing = scale_by_rows(tf.constant([np.nan, np.inf, 1.0]), tf.constant(0.0))

    assert [0.0, 0.0, 0.0] == nothing.numpy().tolist()


class Stashing(WithNumbers):
    """Logs a number of the batch that its call keeps."""

    def call(self, inputs: Any) -> Any:
        """Keep the mean of the inputs."""
        self.kept = keras.ops.mean(inputs)
        return super().call(inputs)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return the metrics and the mean."""
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "kept": self.kept}


def test_a_number_that_a_call_keeps_is_the_mean_of_the_parts() -> None:
    """It is not that of the last part, which another process may compute."""
    both = [Small(own(Stashing), split(), shards=shards, batch_size=8, shuffle=False) for shards in (1, 4)]
    kept = [small.network.steps.train_one(0)[0]["kept"] for small in both]

    np.testing.assert_allclose(kept[0], kept[1], rtol=1e-5)


def test_parts_cover_the_rows_in_order() -> None:
    """Every row is in one part, the sizes differ by one at most, and each process has its parts."""
    for rows in range(1, 20):
        for count in range(1, 9):
            bounds = [part_bounds(rows, count, number) for number in range(count)]
            sizes = [end - first for first, end in bounds]

            assert list(range(rows)) == [row for first, end in bounds for row in range(first, end)]
            assert max(sizes) - min(sizes) <= 1
            for workers in range(1, count + 1):
                parts = [own_parts(count, workers, rank) for rank in range(workers)]
                assert list(range(count)) == [number for own in parts for number in own]
                assert all(parts)


def test_a_sum_has_an_order_that_depends_on_the_number_of_parts_alone() -> None:
    """Neighbors are added first."""
    values = [np.float32(value) for value in (1e8, 1.0, -1e8, 1.0, 3.0)]

    found = tree_sum([tf.constant(value) for value in values]).numpy()

    assert ((values[0] + values[1]) + (values[2] + values[3])) + values[4] == found
    assert found != sum(values, np.float32(0))


def test_parts_of_a_batch_draw_different_numbers(tmp_path: pathlib.Path) -> None:
    """Equal rows get other noise in each part: with dropout, four parts have four gradients."""
    inputs = np.repeat(INPUTS[:1], ROWS, 0)
    small = Small(network_with_loss, images_of(inputs), batch_size=8, shards=4, shuffle=False)
    _, gradients = small.network.steps.train_one(0)
    found = [
        gradients[name].numpy().tobytes() for name in gradients if name.endswith("dense/kernel") and "part" in name
    ]

    assert 4 == len(found) == len(set(found)), tmp_path


def network_with_loss() -> keras.Model:
    """Return a compiled model with dropout."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5, seed=1), dense(4, 1), dense(1, 2)])
    model.compile("sgd", "mse")
    return model


def images_of(inputs: np.ndarray) -> Dataset:
    """Return equal rows with equal labels."""
    found: Dataset = split(np.concatenate([inputs, inputs[:20]]), np.ones((ROWS + 20, 1), np.float32))
    return found


def test_the_first_difference_of_two_traces_names_the_part(tmp_path: pathlib.Path) -> None:
    """One changed row of the first batch is found in its part, before the loss."""
    traces = []
    for name, change in (("a", 0.0), ("b", 0.5)):
        inputs = INPUTS.copy()
        inputs[4] += change  # of eight rows in three parts: the second one
        small = Small(compiled(), split(inputs), level="stage", batch_size=8, shuffle=False, shards=3)
        small.train(tmp_path / name)
        traces.append(read_rows(tmp_path / name / TRACE))
    found = next(differences(traces[0], traces[1], ignore=("generators", "data", "batch")))

    assert (1, 1, "parts") == (found.epoch, found.step, found.stage)
    assert {"part 2"} == {name.partition(":")[0] for name in found.names}
    assert str(found).startswith("epoch 1, step 1, in part 2: ")


class Source:
    """Rows that are read in parts, with noise; keeps which rows were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return ROWS

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
        """Return rows with noise."""
        self.read += rows.tolist()
        return INPUTS[rows] + rng.standard_normal((len(rows), 6)).astype(np.float32), LABELS[rows]


def test_a_process_reads_the_rows_of_its_parts_alone() -> None:
    """Its rows are those of a process that reads all, with the same noise; the others are zero."""
    sources = [Source() for _ in range(3)]
    whole, first, second = (
        make_feed(
            source, "train", SEEDS, TrainingConfig(batch_size=8, shards=3), compiled()(), is_training=True, own=own
        )
        for source, own in zip(sources, (None, range(1), range(1, 3)), strict=True)
    )
    for source in sources:
        source.read.clear()
    for feed in (whole, first, second):
        feed.start_epoch(1)
    for step in range(4):
        all_rows, some, others = (feed.take(step)[0] for feed in (whole, first, second))
        end = part_bounds(len(all_rows), 3, 0)[1]

        np.testing.assert_array_equal(all_rows[:end], some[:end])
        np.testing.assert_array_equal(all_rows[end:], others[end:])
        assert not some[end:].any()
        assert not others[:end].any()
    assert sorted(sources[0].read) == list(range(ROWS))
    assert sorted(sources[1].read + sources[2].read) == list(range(ROWS))


THREADED = """
import sys
import tempfile, pathlib
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(int(sys.argv[1]))
tf.config.threading.set_intra_op_parallelism_threads(1)
import in_process
from keras_cases import CASES
with in_process.op_determinism(), tempfile.TemporaryDirectory() as name:
    case = CASES["compiled"]
    small = in_process.Small(case.build, case.data(), epochs=3, batch_size=8, shards=4)
    trained = small.train(pathlib.Path(name) / "run")
    print(trained["weights"], trained["optimizer"], trained["values"])
"""


@pytest.mark.full
def test_any_number_of_threads_has_the_same_bits() -> None:
    """One, two, three and eight threads, in fresh processes; the machine may have fewer cores."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "tests"))
    found = [
        subprocess.run(
            [sys.executable, "-c", THREADED, str(threads)], env=QUIET | {"PYTHONPATH": paths}, capture_output=True,
            text=True, check=True,
        ).stdout.splitlines()[-1]
        for threads in (1, 2, 3, 8)
    ]  # fmt: skip

    assert 1 == len(set(found)), found
