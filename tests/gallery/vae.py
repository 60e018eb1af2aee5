"""Variational autoencoder.

Shows: a `train_step` of the user with metrics of its own, a layer that draws, and data without labels or validation.
"""

from typing import Any

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=5", "training.monitor=loss")


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits."""
    images = (load_digits().data / 16).astype("float32")
    rows = context.rng("data/load").permutation(len(images))[:256]
    train, _ = context.split(images[rows])
    return Dataset(Split(images[rows[train]]))


class VAE(keras.Model):
    """An encoder to the mean and the logarithmic variance of a normal distribution, and a decoder."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = keras.layers
        self.encoder = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(4)])
        self.decoder = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(64, "sigmoid")])
        self.generator = keras.random.SeedGenerator()
        self.trackers = [keras.metrics.Mean(name) for name in ("loss", "reconstruction", "divergence")]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self.trackers

    def call(self, images: Any) -> Any:
        mean, variance = keras.ops.split(self.encoder(images), 2, axis=-1)
        noise = keras.random.normal(keras.ops.shape(mean), seed=self.generator)
        return self.decoder(mean + keras.ops.exp(variance / 2) * noise), mean, variance

    def train_step(self, images: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            output, mean, variance = self(images)
            reconstruction = keras.ops.mean(keras.ops.sum((images - output) ** 2, axis=-1))
            divergence = keras.ops.mean(keras.ops.sum(keras.ops.exp(variance) + mean**2 - 1 - variance, axis=-1)) / 2
            loss = reconstruction + divergence
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        for tracker, value in zip(self.trackers, (loss, reconstruction, divergence), strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


def build(seed: Seed) -> keras.Model:
    """Return the autoencoder. Keras builds it from the first batch."""
    model = VAE()
    model.compile(keras.optimizers.Adam(0.01))
    return model
