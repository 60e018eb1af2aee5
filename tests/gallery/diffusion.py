"""Denoising diffusion with an averaged network.

Shows: a second network that is a moving average of the first, and a normalization that adapts to the training rows.
"""

from typing import Any

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=10",)


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits."""
    images = load_digits().data.astype("float32")
    images = images[context.rng("data/load").permutation(len(images))[:320]]
    train, validation = context.split(images)
    return Dataset(Split(images[train]), Split(images[validation]))


def network() -> keras.Model:
    """Return a network from noisy images and the share of noise to the noise."""
    noisy, share = keras.Input((64,)), keras.Input((1,))
    hidden = keras.layers.Dense(48, activation="swish")(keras.layers.concatenate([noisy, share]))
    return keras.Model([noisy, share], keras.layers.Dense(64)(hidden))


class Diffusion(keras.Model):
    """Learns to tell the noise in an image."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalizer = keras.layers.Normalization(axis=None)
        self.network, self.average = network(), network()
        self.average.set_weights(self.network.get_weights())
        self.seed_generator = keras.random.SeedGenerator()
        self.tracker = keras.metrics.Mean("loss")
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.tracker]

    def compute(self, network: keras.Model, images: Any, training: bool) -> Any:
        images = self.normalizer(images)
        noise = keras.random.normal(keras.ops.shape(images), seed=self.seed_generator)
        angle = keras.random.uniform((keras.ops.shape(images)[0], 1), 0.02, 1.5, seed=self.seed_generator)
        share = keras.ops.sin(angle)
        found = network([keras.ops.cos(angle) * images + share * noise, share], training=training)
        return self.compute_loss(y=noise, y_pred=found)

    def train_step(self, images: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = self.compute(self.network, images, training=True)
        weights = self.network.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        for weight, average in zip(self.network.weights, self.average.weights, strict=True):
            average.assign(0.9 * average + 0.1 * weight)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}

    def test_step(self, images: Any) -> dict[str, Any]:
        self.tracker.update_state(self.compute(self.average, images, training=False))
        return {"loss": self.tracker.result()}


def build(seed: Seed, dataset: Dataset) -> keras.Model:
    """Return the diffusion model."""
    model = Diffusion()
    model.normalizer.adapt(dataset.train.inputs)
    model.compile(keras.optimizers.Adam(0.01), "mae")
    return model
