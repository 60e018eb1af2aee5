"""Contrastive pretraining, then fine-tuning.

Shows: two stages, the first without labels and with an own `train_step`; the second takes the encoder and freezes it.
"""

from typing import Any

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = (
    "training.stages=[{name: pretrain, epochs: 4}, {name: finetune, epochs: 4, data: {labelled: true}}]",
    "training.monitor=val_accuracy",
)


def load(context: DataContext, *, labelled: bool = False) -> Dataset:
    """Return images of handwritten digits, with labels if asked."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32").reshape(-1, 8, 8, 1), digits[rows]
    train, validation = context.split(digits)
    if not labelled:
        return Dataset(Split(images[train]))
    return Dataset(Split(images[train], digits[train]), Split(images[validation], digits[validation]))


class Pretraining(keras.Model):
    """Learns that two views of an image are alike, and those of other images are not."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = keras.layers
        self.augment = keras.Sequential([layers.RandomTranslation(0.15, 0.15), layers.GaussianNoise(0.1)])
        self.encoder = keras.Sequential([layers.Flatten(), layers.Dense(48, "relu")], name="encoder")
        self.project = layers.Dense(16, name="project")
        self.tracker = keras.metrics.Mean("loss")

    def call(self, images: Any, training: bool = False) -> Any:
        found = self.project(self.encoder(self.augment(images, training=training)))
        return found / keras.ops.sqrt(keras.ops.sum(found**2, axis=1, keepdims=True) + 1e-6)

    def train_step(self, images: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            scores = self(images, training=True) @ keras.ops.transpose(self(images, training=True)) / 0.2
            own = keras.ops.arange(keras.ops.shape(images)[0])
            losses = keras.losses.sparse_categorical_crossentropy(own, scores, from_logits=True)
            loss = keras.ops.mean(losses)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


def build(seed: Seed, stage: str, previous: Any) -> keras.Model:
    """Return the model of a stage."""
    if stage == "pretrain":
        model = Pretraining()
        model.compile(keras.optimizers.Adam(0.01))
        return model
    previous.encoder.trainable = False
    model = keras.Sequential([previous.encoder, keras.layers.Dense(10, "softmax", name="classes")])
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
