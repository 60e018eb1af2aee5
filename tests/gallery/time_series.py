"""Time-series classification.

Shows: batch normalization over time, and the best weights in a file by ModelCheckpoint.
"""

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.callbacks=[gallery.time_series.callbacks]", "training.monitor=val_sparse_categorical_accuracy")


def load(context: DataContext) -> Dataset:
    """Return noisy waves with 40 time steps: sines, triangles or squares."""
    rng = context.rng("data/load")
    kinds = rng.integers(0, 3, 320)
    sines = np.sin(rng.uniform(0, 6, (320, 1)) + np.arange(40) * rng.uniform(0.3, 0.6, (320, 1)))
    waves = np.stack([sines, np.arcsin(sines) * 2 / np.pi, np.sign(sines)])[kinds, np.arange(320)]
    waves = (waves + rng.normal(0, 0.1, waves.shape)).astype(np.float32)[..., None]
    train, validation = context.split(kinds)
    return Dataset(Split(waves[train], kinds[train]), Split(waves[validation], kinds[validation]))


def callbacks() -> list[keras.callbacks.Callback]:
    """Return the callbacks of the training."""
    name = "val_sparse_categorical_accuracy"
    return [keras.callbacks.ModelCheckpoint("best.keras", monitor=name, mode="max", save_best_only=True)]


def build(seed: Seed) -> keras.Model:
    """Return two convolutions over time and an average."""
    hidden = inputs = keras.Input((40, 1))
    for filters in (8, 16):
        hidden = keras.layers.Conv1D(filters, 3, padding="same")(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.8)(hidden))
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(pooled))
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["sparse_categorical_accuracy"],
    )
    return model
