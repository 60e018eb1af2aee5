"""Image classification with augmentation in tf.data.

Shows: random operations of TensorFlow whose seed is made of the seed of the epoch and the number of the image.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=10", "training.monitor=val_accuracy")


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits: for training as a function that makes the dataset of an epoch."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype(np.float32).reshape(-1, 8, 8, 1), digits[rows]
    train, validation = context.split(digits)

    def make(seed: int, epoch: int) -> Any:
        def augment(number: Any, pair: Any) -> Any:
            image, digit = pair
            image = tf.image.stateless_random_brightness(image, 0.2, seed=(seed, number))
            image = tf.pad(image, [[1, 1], [1, 1], [0, 0]])
            return tf.image.stateless_random_crop(image, (8, 8, 1), seed=(number, seed)), digit

        pairs = tf.data.Dataset.from_tensor_slices((images[train], digits[train])).shuffle(256, seed=seed)
        return pairs.enumerate().map(augment, num_parallel_calls=2).batch(32).prefetch(2)

    return Dataset(make, Split(images[validation], digits[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a network of separable convolutions."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.SeparableConv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Nadam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
