"""Regression with EarlyStopping and ReduceLROnPlateau.

Shows: callbacks with state in every checkpoint; the training ends before its last epoch, with the best weights.
"""

import keras
import numpy as np
from sklearn.datasets import load_diabetes

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=30", "training.callbacks=[gallery.regression.callbacks]", "training.monitor=val_mae")


def load(context: DataContext) -> Dataset:
    """Return measurements of patients, and the standardized progress of their disease."""
    patients, progress = load_diabetes(return_X_y=True)
    rows = context.rng("data/load").permutation(len(progress))[:320]
    patients, progress = patients[rows].astype(np.float32) * 20, progress[rows]
    progress = ((progress - 150) / 75).astype(np.float32)
    train, validation = context.split(progress)
    return Dataset(Split(patients[train], progress[train]), Split(patients[validation], progress[validation]))


def callbacks() -> list[keras.callbacks.Callback]:
    """Return the callbacks of the training."""
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.3, patience=1, min_delta=0.01),
        keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True),
        keras.callbacks.CSVLogger("log.csv"),
    ]


def build(seed: Seed) -> keras.Model:
    """Return a small network with dropout."""
    layers = [keras.Input((10,)), keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.RMSprop(0.01), keras.losses.Huber(), metrics=["mae", keras.metrics.R2Score()])
    return model
