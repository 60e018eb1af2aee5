"""Anomaly detection with an autoencoder.

Shows: the labels are the inputs; a test split with anomalies is evaluated once, at the end.
"""

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = (
    "training.callbacks=[{class: keras.callbacks.EarlyStopping, patience: 2, restore_best_weights: true}]",
    "training.monitor=val_mae",
)


def load(context: DataContext) -> Dataset:
    """Return daily curves with 32 time steps; those of the test have an anomaly in the middle."""
    rng = context.rng("data/load")
    days = np.sin(np.arange(32) / 5 + rng.uniform(0, 1, (384, 1))) + rng.normal(0, 0.05, (384, 32))
    curves = days.astype(np.float32)[..., None]
    train, validation = context.split(curves[:320])
    strange = curves[320:].copy()
    strange[:, 12:20] += 1
    return Dataset(
        Split(curves[train], curves[train]), Split(curves[validation], curves[validation]), Split(strange, strange)
    )


def build(seed: Seed) -> keras.Model:
    """Return an autoencoder with convolutions over time."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 1)),
            layers.Conv1D(8, 5, strides=2, padding="same", activation="relu"),
            layers.Dropout(0.1),
            layers.Conv1D(4, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1DTranspose(4, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1DTranspose(8, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1D(1, 5, padding="same"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model
