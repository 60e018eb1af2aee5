"""A small convolutional network on images of digits, with augmentation in the model."""

from typing import Any

import keras
import numpy as np

ROWS, VALIDATION, BATCH = 6000, 1000, 64


def make_arrays() -> tuple[Any, np.ndarray]:
    """Return float32[rows, 28, 28, 1] and int32[rows]: noisy images, each with a bar in the row of its class."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, ROWS + VALIDATION).astype(np.int32)
    images = rng.random((len(labels), 28, 28, 1), np.float32)
    images[np.arange(len(labels)), 4 + 2 * labels] += 1
    return images, labels


def make_model() -> keras.Model:
    """Return the compiled model."""
    layers = [
        keras.Input((28, 28, 1)),
        keras.layers.RandomTranslation(0.05, 0.05),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
