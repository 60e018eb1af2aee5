"""Generative adversarial network.

Shows: two optimizers, a `train_step` that draws and updates two models, and a `compile` with arguments of its own.
"""

from typing import Any

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=4", "training.monitor=generator_loss")
NOISE = 8


def load(context: DataContext) -> Dataset:
    """Return images of the digit 0 to 4."""
    images = (load_digits(n_class=5).data / 16).astype("float32")
    rows = context.rng("data/load").permutation(len(images))[:256]
    train, _ = context.split(images[rows])
    return Dataset(Split(images[rows[train]]))


class GAN(keras.Model):
    """A generator that makes images from noise, and a discriminator that tells them from real ones."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = keras.layers
        self.generator = keras.Sequential(
            [keras.Input((NOISE,)), layers.Dense(24), layers.LeakyReLU(0.2), layers.Dense(64, "sigmoid")]
        )
        self.discriminator = keras.Sequential(
            [keras.Input((64,)), layers.Dense(24), layers.LeakyReLU(0.2), layers.Dropout(0.2), layers.Dense(1)]
        )
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def compile(self, generator_optimizer: Any, discriminator_optimizer: Any, loss_fn: Any) -> None:
        super().compile()
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.loss_fn = loss_fn
        self.trackers = [keras.metrics.Mean(name) for name in ("discriminator_loss", "generator_loss")]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self.trackers

    def train_step(self, images: Any) -> dict[str, Any]:
        count = keras.ops.shape(images)[0]
        noise = keras.random.normal((count, NOISE), seed=self.seed_generator)
        both = keras.ops.concatenate([self.generator(noise), images])
        fake = keras.ops.concatenate([keras.ops.ones((count, 1)), keras.ops.zeros((count, 1))])
        with tf.GradientTape() as tape:
            first = self.loss_fn(fake, self.discriminator(both, training=True))
        weights = self.discriminator.trainable_weights
        self.discriminator_optimizer.apply(tape.gradient(first, weights), weights)
        noise = keras.random.normal((count, NOISE), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            second = self.loss_fn(keras.ops.zeros((count, 1)), self.discriminator(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.generator_optimizer.apply(tape.gradient(second, weights), weights)
        for tracker, value in zip(self.trackers, (first, second), strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


def build(seed: Seed) -> keras.Model:
    """Return the two networks with an optimizer each."""
    model = GAN()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), keras.optimizers.Adam(0.003), loss)
    return model
