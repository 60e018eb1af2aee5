"""Mixup: training on weighted means of two images and their labels.

Shows: a row source that draws from the generator of its batch, so that a batch is the same after a resume.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.monitor=val_accuracy")


class Mixup:
    """Images mixed with other images of the same batch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the mixed images and labels of some rows."""
        share = rng.beta(0.2, 0.2, (len(rows), 1)).astype(np.float32)
        others = rng.permutation(rows)
        mixed = [share * part[rows] + (1 - share) * part[others] for part in (self.images, self.labels)]
        return mixed[0], mixed[1]


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits, and one-hot labels."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, labels = (images[rows] / 16).astype(np.float32), keras.utils.to_categorical(digits[rows], 10)
    train, validation = context.split(digits[rows])
    return Dataset(Mixup(images[train], labels[train]), Split(images[validation], labels[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a small network."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.Dense(48, "elu"), layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.Adamax(0.02), "categorical_crossentropy", metrics=["accuracy"])
    return model
