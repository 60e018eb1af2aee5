"""Image super-resolution.

Shows: images as labels; a metric that is a function; a custom callback that counts, whose state is saved.
"""

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = (
    "training.epochs=10",
    "training.callbacks=[gallery.super_resolution.HalveRate]",
    "training.monitor=val_psnr",
)


def load(context: DataContext) -> Dataset:
    """Return images of 4 x 4 pixels, and the same images with 8 x 8 pixels."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    large = (images[rows] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    small = large.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
    train, validation = context.split(digits[rows])
    return Dataset(Split(small[train], large[train]), Split(small[validation], large[validation]))


class HalveRate(keras.callbacks.Callback):
    """Halves the learning rate after every 40 batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        if self.batches % 40 == 0:
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate * 0.5


def psnr(truth: Any, image: Any) -> Any:
    """Return the ratio of signal to noise in decibels."""
    return keras.ops.mean(-10 * keras.ops.log10(keras.ops.mean((truth - image) ** 2, axis=(1, 2, 3))))


def build(seed: Seed) -> keras.Model:
    """Return convolutions whose channels become pixels."""
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    pixels = keras.layers.Conv2D(4, 3, padding="same")(hidden)
    pixels = keras.layers.Reshape((4, 4, 2, 2))(pixels)
    large = keras.layers.Reshape((8, 8, 1))(keras.layers.Permute((1, 3, 2, 4))(pixels))
    model = keras.Model(inputs, large)
    model.compile(keras.optimizers.Adam(0.03), "mse", metrics=[psnr])
    return model
