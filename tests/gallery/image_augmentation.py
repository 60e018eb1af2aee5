"""Image classification by a convolutional network, with augmentation in the model.

Shows: random layers whose generators are in the checkpoint; an optimizer with decoupled weight decay.
"""

import keras
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=10", "training.monitor=val_accuracy")


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32").reshape(-1, 8, 8, 1), digits[rows]
    train, validation = context.split(digits)
    return Dataset(Split(images[train], digits[train]), Split(images[validation], digits[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a model that shifts, turns and brightens the images while it trains."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            layers.RandomRotation(0.05, fill_mode="constant"),
            layers.RandomBrightness(0.1, value_range=(0, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.AdamW(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
