"""Siamese network with a contrastive loss.

Shows: a tuple of two inputs, one model called twice, and a loss that is a function of the user.
"""

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.monitor=val_accuracy")


def load(context: DataContext) -> Dataset:
    """Return pairs of images; the label is 1 if they show different digits."""
    images, digits = load_digits(n_class=5, return_X_y=True)
    rng = context.rng("data/load")
    left, right = rng.integers(0, len(digits), (2, 320))
    right[::2] = [rng.choice(np.flatnonzero(digits == digit)) for digit in digits[left[::2]]]
    images, other = (images / 16).astype(np.float32), (digits[left] != digits[right]).astype(np.float32)
    parts = [Split((images[left[rows]], images[right[rows]]), other[rows]) for rows in context.split(other)]
    return Dataset(*parts)


def contrastive(other: Any, distance: Any) -> Any:
    """Pull equal pairs together, and push others at least 1 apart."""
    return (1 - other) * distance**2 + other * keras.ops.maximum(1 - distance, 0) ** 2


def build(seed: Seed) -> keras.Model:
    """Return the distance of two images in the space of an embedding."""
    left, right = keras.Input((64,)), keras.Input((64,))
    embedding = keras.Sequential([keras.layers.Dense(32, "selu"), keras.layers.Dropout(0.1), keras.layers.Dense(8)])
    difference = keras.layers.subtract([embedding(left), embedding(right)])
    square = keras.ops.sum(difference**2, axis=1, keepdims=True)
    model = keras.Model((left, right), keras.ops.sqrt(keras.ops.maximum(square, 1e-7)))
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.5)
    model.compile(keras.optimizers.RMSprop(0.005), contrastive, metrics=[accuracy])
    return model
