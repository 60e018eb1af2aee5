"""Multi-task learning with named outputs.

Shows: labels, losses, weights of losses and metrics as dicts; a learning rate schedule.
"""

import keras
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.monitor=val_digit_accuracy")


def load(context: DataContext) -> Dataset:
    """Return images of digits; the labels are the digit, whether it is odd, and the share of ink."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32"), digits[rows]
    parts = []
    for split in context.split(digits):
        labels = {"digit": digits[split], "odd": digits[split] % 2, "ink": images[split].mean(1)}
        parts.append(Split(images[split], labels))
    return Dataset(*parts)


def build(seed: Seed) -> keras.Model:
    """Return a model with a shared layer and three outputs."""
    inputs = keras.Input((64,))
    shared = keras.layers.Dense(32, activation="relu")(inputs)
    outputs = {
        "digit": keras.layers.Dense(10, activation="softmax", name="digit")(shared),
        "odd": keras.layers.Dense(1, activation="sigmoid", name="odd")(shared),
        "ink": keras.layers.Dense(1, name="ink")(shared),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 48)),
        loss={"digit": "sparse_categorical_crossentropy", "odd": "binary_crossentropy", "ink": "mse"},
        loss_weights={"digit": 1.0, "odd": 0.5, "ink": 0.1},
        metrics={"digit": ["accuracy"], "odd": ["accuracy", keras.metrics.AUC(name="auc")], "ink": ["mae"]},
    )
    return model
