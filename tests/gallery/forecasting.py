"""Forecasting with windows made by tf.data.

Shows: a function that makes the `tf.data.Dataset` of an epoch, with the windows in a new order; a split by time.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed

OVERRIDES = ("training.monitor=val_mae", "data.validation_size=84")
PAST, HOURS = 12, 360


def windows(weather: np.ndarray, *, shuffle: bool) -> Callable[[int, int], Any]:
    """Return the function that makes the windows of an epoch: 12 hours, and the temperature of the next."""

    def make(seed: int, epoch: int) -> Any:
        return keras.utils.timeseries_dataset_from_array(
            weather[:-1], weather[PAST:, 0], PAST, shuffle=shuffle, seed=seed if shuffle else None, batch_size=32
        )

    return make


def load(context: DataContext) -> Dataset:
    """Return invented weather: temperature and pressure by the hour."""
    hours, rng = np.arange(HOURS), context.rng("data/load")
    weather = np.stack([np.sin(hours * np.pi / 12), np.cos(hours / 40)], axis=1) + rng.normal(0, 0.1, (HOURS, 2))
    train, validation = context.split(hours, time=hours)
    weather = weather.astype(np.float32)
    return Dataset(windows(weather[train], shuffle=True), windows(weather[validation], shuffle=False))


def build(seed: Seed) -> keras.Model:
    """Return a recurrent network over a window."""
    inputs = keras.Input((PAST, 2))
    hidden = keras.layers.LSTM(16, dropout=0.1)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model
