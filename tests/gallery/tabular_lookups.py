"""Tabular classification with dict inputs and lookups.

Shows: columns of text, whole numbers and real numbers; preprocessing layers that adapt to the training rows.
"""

from typing import Any

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=8", "training.monitor=val_accuracy")
JOBS = np.array(["baker", "driver", "nurse", "pilot", "teacher"])


def load(context: DataContext) -> Dataset:
    """Return invented people: their job, children and age, and whether they rent a flat."""
    rng = context.rng("data/load")
    jobs, children, ages = rng.integers(0, 5, 320), rng.integers(0, 4, 320), rng.uniform(20, 70, 320)
    rents = (ages / 10 + children + 2 * (jobs % 2) + rng.normal(0, 1, 320) < 7).astype(np.int32)
    people = {"job": JOBS[jobs], "children": children, "age": ages.astype(np.float32)}
    train, validation = (
        Split({name: column[rows] for name, column in people.items()}, rents[rows]) for rows in context.split(rents)
    )
    return Dataset(train, validation)


def build(seed: Seed, dataset: Dataset) -> keras.Model:
    """Return a model that reads the columns as they are."""
    columns: dict[str, Any] = dataset.train.inputs
    inputs = {
        "job": keras.Input((1,), dtype="string", name="job"),
        "children": keras.Input((1,), dtype="int64", name="children"),
        "age": keras.Input((1,), name="age"),
    }
    layers: dict[str, Any] = {
        "job": keras.layers.StringLookup(output_mode="one_hot"),
        "children": keras.layers.IntegerLookup(output_mode="one_hot"),
        "age": keras.layers.Normalization(axis=None),
    }
    for name, layer in layers.items():
        layer.adapt(columns[name])
    features = keras.layers.concatenate([layer(inputs[name]) for name, layer in layers.items()])
    hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(16, activation="relu")(features))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    return model
