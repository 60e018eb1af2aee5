"""Image classification with grouped convolutions.

Shows: what is not portable is refused by name; it has the same bits on the same kind of machine.
"""

import keras
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.monitor=val_accuracy", "runtime=machine")


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32").reshape(-1, 8, 8, 1), digits[rows]
    train, validation = context.split(digits)
    return Dataset(Split(images[train], digits[train]), Split(images[validation], digits[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a block as in ResNeXt."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(8, 3, activation="relu")(inputs)
    grouped = layers.Conv2D(8, 3, padding="same", groups=4, activation="relu", name="grouped")(hidden)
    pooled = layers.Flatten()(layers.add([hidden, grouped]))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(pooled))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
