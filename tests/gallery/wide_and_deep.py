"""Wide and deep model on tabular data.

Shows: two inputs by name, one of them buckets of the same columns; two paths whose logits are added.
"""

import keras
from sklearn.datasets import load_breast_cancer

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.monitor=val_accuracy")
COLUMNS = 6


def load(context: DataContext) -> Dataset:
    """Return measurements of cells in a breast, and whether they are benign."""
    measured, benign = load_breast_cancer(return_X_y=True)
    rows = context.rng("data/load").permutation(len(benign))[:320]
    measured, benign = measured[rows, :COLUMNS].astype("float32"), benign[rows]
    parts = [Split({"wide": measured[rows], "deep": measured[rows]}, benign[rows]) for rows in context.split(benign)]
    return Dataset(*parts)


def build(seed: Seed, dataset: Dataset) -> keras.Model:
    """Return a linear model of buckets beside a network of standardized columns."""
    wide, deep = keras.Input((COLUMNS,), name="wide"), keras.Input((COLUMNS,), name="deep")
    buckets = []
    for column in range(COLUMNS):
        layer = keras.layers.Discretization(num_bins=8, output_mode="one_hot")
        layer.adapt(dataset.train.inputs["wide"][:, column : column + 1])
        buckets.append(layer(wide[:, column : column + 1]))
    normalization = keras.layers.Normalization()
    normalization.adapt(dataset.train.inputs["deep"])
    hidden = normalization(deep)
    for units in (16, 8):
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    linear = keras.layers.Dense(1, use_bias=False, name="linear")(keras.layers.concatenate(buckets))
    logit = keras.layers.add([linear, keras.layers.Dense(1, name="network")(hidden)])
    model = keras.Model({"wide": wide, "deep": deep}, keras.layers.Activation("sigmoid")(logit))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    return model
