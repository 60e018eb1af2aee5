"""Small trainings as Keras users write them, for several tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.seeds import make_rng
from samebits.train.data import Dataset, Split

ROWS = 30


def glorot(seed: int) -> keras.initializers.Initializer:
    """Return a seeded initializer."""
    return keras.initializers.GlorotUniform(seed=seed)


def dense(units: int, seed: int, **options: Any) -> keras.layers.Layer:
    """Return a seeded dense layer."""
    return keras.layers.Dense(units, kernel_initializer=glorot(seed), **options)


def numbers(name: str, *shape: int) -> np.ndarray:
    """Return random numbers."""
    return make_rng(1, name).standard_normal(shape).astype(np.float32)


INPUTS = numbers("inputs", ROWS + 20, 6)
LABELS = (INPUTS.sum(1) > 0).astype(np.float32)[:, None]


def split(inputs: Any = INPUTS, labels: Any = LABELS, weights: Any = None) -> Dataset:
    """Return the first rows for training and the others for validation."""

    def take(part: Any, rows: slice) -> Any:
        return None if part is None else keras.tree.map_structure(lambda array: array[rows], part)

    parts = [[take(part, rows) for part in (inputs, labels, weights)] for rows in (slice(ROWS), slice(ROWS, None))]
    return Dataset(*(Split(*part) for part in parts))


def network(*last: keras.layers.Layer) -> keras.Sequential:
    """Return a model with dropout, batch normalization and a regularizer."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            dense(8, 1, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2, seed=2),
            *(last or [dense(1, 3, activation="sigmoid")]),
        ]
    )


def compiled() -> keras.Model:
    """Return a model with its own loss, optimizer, metrics and weighted metrics."""
    model = network()
    optimizer = keras.optimizers.RMSprop(keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.9), clipnorm=0.5)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()], weighted_metrics=["mae"])
    return model


def averaged() -> keras.Model:
    """Return a model whose optimizer averages the weights."""
    model = network()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.8), "mse")
    return model


def scaled() -> keras.Model:
    """Return a model in mixed precision, whose loss is scaled."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(dense(1, 3), keras.layers.Activation("sigmoid", dtype="float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def with_outputs() -> keras.Model:
    """Return a model with two outputs, and a loss, a weight and metrics for each."""
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
    hidden = dense(8, 1, activation="tanh")(keras.layers.Concatenate()([inputs["a"], inputs["b"]]))
    outputs = {"sign": dense(1, 2, name="sign")(hidden), "sum": dense(1, 3, name="sum")(hidden)}
    model = keras.Model(inputs, outputs)
    losses = {"sign": keras.losses.BinaryCrossentropy(from_logits=True), "sum": "mse"}
    model.compile(
        keras.optimizers.AdamW(0.02),
        losses,
        loss_weights={"sign": 1.0, "sum": 0.3},
        metrics={"sum": ["mae"], "sign": []},
    )
    return model


class Noise(keras.layers.Layer):
    """Adds noise, and the size of its input to the loss."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any) -> Any:
        """Return the sum of the input and the noise."""
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs + 0.1 * keras.random.normal(keras.ops.shape(inputs), seed=self.seed_generator)


class EndLoss(keras.layers.Layer):
    """Has the whole loss of the model, as CTC examples do."""

    def call(self, labels: Any, outputs: Any) -> Any:
        """Return the outputs."""
        self.add_loss(keras.ops.mean(keras.ops.square(labels - outputs)))
        return outputs


def with_added_loss() -> keras.Model:
    """Return a model whose only loss is that of its layers."""
    inputs, labels = keras.Input((6,), name="inputs"), keras.Input((1,), name="labels")
    outputs = EndLoss()(labels, dense(1, 2)(Noise(4)(dense(8, 1, activation="relu")(inputs))))
    model = keras.Model({"inputs": inputs, "labels": labels}, outputs)
    model.compile("adam")
    return model


class WithOwnLoss(keras.Model):
    """Computes a loss that reads the inputs."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return a loss that reads the inputs."""
        del sample_weight, training
        return keras.ops.mean(keras.ops.square(y - y_pred) * (1 + keras.ops.abs(x[:, :1]))) + sum(self.losses)


class Unbuilt(WithOwnLoss):
    """Has no keras.Input, computes its loss and its metrics itself."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.noise, self.out = dense(8, 1, activation="relu"), Noise(5), dense(1, 2)
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the output, with noise in training."""
        hidden = self.hidden(inputs)
        return self.out(self.noise(hidden) if training else hidden)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return Keras's metrics and the square of one's own."""
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        self.error.update_state(y, y_pred)
        return {**found, "squared": self.error.result() ** 2}


def unbuilt() -> keras.Model:
    """Return a model that the first batch builds."""
    model = Unbuilt()
    model.compile(keras.optimizers.Adam(0.01))
    return model


def unbuilt_layers() -> keras.Model:
    """Return a Sequential without keras.Input."""
    model = keras.Sequential([dense(8, 1, activation="relu"), keras.layers.LayerNormalization(), dense(1, 2)])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["mse"])
    return model


class Autoencoder(keras.Model):
    """A variational autoencoder with its own step, as in Keras's examples."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((6,)), dense(4, 1)])
        self.decoder = keras.Sequential([keras.Input((2,)), dense(6, 2)])
        self.total, self.seed_generator = keras.metrics.Mean(name="loss"), keras.random.SeedGenerator(7)

    @property
    def metrics(self) -> list[Any]:
        """Return the metric that Keras resets in each epoch."""
        return [self.total]

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train encoder and decoder."""
        with tf.GradientTape() as tape:
            mean, spread = keras.ops.split(self.encoder(data), 2, axis=-1)
            noise = keras.random.normal(keras.ops.shape(mean), seed=self.seed_generator)
            error = keras.ops.mean(keras.ops.square(data - self.decoder(mean + keras.ops.exp(spread) * noise)))
            loss = error + 0.1 * keras.ops.mean(keras.ops.square(mean) + keras.ops.exp(spread) - spread)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.total.update_state(loss)
        return {"loss": self.total.result()}


def autoencoder() -> keras.Model:
    """Return a model with a train_step of its own, and no call."""
    model = Autoencoder()
    model.compile(keras.optimizers.Adam(0.02))
    return model


class Adversarial(keras.Model):
    """Two networks with an optimizer each, as in Keras's examples."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential([keras.Input((2,)), dense(6, 1)])
        self.discriminator = keras.Sequential([keras.Input((6,)), dense(4, 2, activation="tanh"), dense(1, 3)])
        self.seed_generator = keras.random.SeedGenerator(8)

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        """Keep both optimizers and the loss."""
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train the discriminator, then the generator."""
        rows = keras.ops.shape(data)[0]
        noise = keras.random.normal((rows, 2), seed=self.seed_generator)
        both = keras.ops.concatenate([self.generator(noise), data])
        labels = keras.ops.concatenate([keras.ops.ones((rows, 1)), keras.ops.zeros((rows, 1))])
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(both))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply_gradients(zip(tape.gradient(d_loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(keras.ops.zeros((rows, 1)), self.discriminator(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, weights), weights, strict=True))
        return {"d_loss": d_loss, "g_loss": g_loss}


def adversarial() -> keras.Model:
    """Return a model with two optimizers."""
    model = Adversarial()
    optimizers = keras.optimizers.Adam(0.02), keras.optimizers.RMSprop(0.01)
    model.compile(*optimizers, keras.losses.BinaryCrossentropy(from_logits=True))
    return model


class Distiller(keras.Model):
    """A student that learns from a frozen teacher, and an average of the student, updated in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student, self.average = (
            keras.Sequential([keras.Input((6,)), dense(8, seed, activation="relu"), dense(1, seed + 1)])
            for seed in (1, 3, 3)
        )
        self.teacher.trainable = self.average.trainable = False

    def call(self, inputs: Any) -> Any:
        """Return the output of the average."""
        return self.average(inputs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train the student, and move the average towards it."""
        inputs, labels = data
        with tf.GradientTape() as tape:
            outputs = self.student(inputs, training=True)
            taught = keras.ops.mean(keras.ops.square(outputs - self.teacher(inputs, training=False)))
            loss = self.compute_loss(y=labels, y_pred=outputs) + 0.5 * taught
        weights = self.student.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        for weight, average in zip(self.student.weights, self.average.weights, strict=True):
            average.assign(0.9 * average + 0.1 * weight)
        self.loss_tracker.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}

    @property
    def loss_tracker(self) -> Any:
        """Return Keras's metric of the loss."""
        return self._loss_tracker


def distiller() -> keras.Model:
    """Return a model with parts that do not train, and parts that its step trains itself."""
    model = Distiller()
    model.compile("adam", "mse")
    return model


class OwnTest(Unbuilt):
    """Has a test_step of its own, whose logs are nested."""

    def test_step(self, data: Any) -> dict[str, Any]:
        """Return the error."""
        inputs, labels = data
        self.error.update_state(labels, self(inputs, training=False))
        return {"parts": {"error": self.error.result()}}


def own_test() -> keras.Model:
    """Return a model with a test_step of its own."""
    model = OwnTest()
    model.compile("adam")
    return model


@dataclass
class Case:
    """One training in both ways.

    Attributes:
        build: Returns the compiled model.
        data: Returns the data.
        plain: Returns the same model without compile(), for `settings`.
        settings: Of `training`; the same for `fit`, if it has them.
        callbacks: Returns callbacks.
    """

    build: Callable[[], keras.Model]
    data: Callable[[], Dataset] = split
    plain: Callable[[], keras.Model] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list


def images(**parts: Any) -> Dataset:
    """Return data without labels or validation."""
    return Dataset(Split(INPUTS[:ROWS], **parts))


CONFIGURED = {
    "loss": {"class": "keras.losses.BinaryCrossentropy", "from_logits": False},
    "optimizer": {"class": "keras.optimizers.Nadam", "beta_1": 0.8},
    "learning_rate": 0.01,
    "metrics": ["accuracy", {"class": "keras.metrics.AUC", "name": "area"}],
}


def compiled_alike() -> keras.Model:
    """Return the model with what `CONFIGURED` says."""
    model = network()
    metrics = ["accuracy", keras.metrics.AUC(name="area")]
    model.compile(keras.optimizers.Nadam(0.01, beta_1=0.8), "binary_crossentropy", metrics=metrics)
    return model


def for_eight() -> keras.Model:
    """Return a model for batches of eight rows, without a state; Keras gives it smaller ones too."""
    model = keras.Sequential([keras.Input((6,), batch_size=8), dense(1, 1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy")
    return model


def callbacks() -> list[keras.callbacks.Callback]:
    """Return callbacks that change the training."""
    return [
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.5),
        keras.callbacks.EarlyStopping("val_loss", min_delta=0.9, patience=2, restore_best_weights=True),
    ]


WEIGHTS = make_rng(1, "weights").random(ROWS + 20).astype(np.float32)
CASES = {
    "compiled": Case(compiled),
    "configured": Case(compiled_alike, plain=network, settings=CONFIGURED),
    "sample weights, float16 arrays": Case(
        unbuilt_layers, lambda: split(INPUTS.astype(np.float16), LABELS.astype(np.float16), WEIGHTS)
    ),
    "class weights, float64 arrays": Case(
        unbuilt_layers, lambda: split(INPUTS.astype(np.float64), LABELS.astype(np.int64)),
        settings={"class_weight": {0: 0.3, 1: 2.0}},
    ),
    "steps per epoch": Case(unbuilt_layers, settings={"steps_per_epoch": 2}),
    "a fixed batch": Case(for_eight),
    "use_ema": Case(averaged),
    "mixed precision": Case(scaled),
    "several outputs": Case(
        with_outputs,
        lambda: split({"a": INPUTS[:, :4], "b": INPUTS[:, 4:]}, {"sign": LABELS, "sum": INPUTS.sum(1, keepdims=True)}),
    ),
    "add_loss": Case(with_added_loss, lambda: split({"inputs": INPUTS, "labels": LABELS}, None)),
    "own loss and metrics": Case(unbuilt),
    "no Input": Case(unbuilt_layers),
    "own test_step": Case(own_test),
    "VAE": Case(autoencoder, images),
    "GAN": Case(adversarial, images),
    "distillation": Case(distiller),
    "callbacks": Case(averaged, callbacks=callbacks),
}  # fmt: skip
