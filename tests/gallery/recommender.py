"""Collaborative filtering of ratings.

Shows: a subclassed model with embeddings of users and films; inputs are pairs of numbers; regularized weights.
"""

from typing import Any

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=8", "training.monitor=val_mae")
USERS, FILMS, SIZE = 40, 30, 4


def load(context: DataContext) -> Dataset:
    """Return (user, film) and the rating from 0 to 1, of invented users with invented tastes."""
    rng = context.rng("data/load")
    tastes, films = rng.normal(size=(USERS, 2)), rng.normal(size=(FILMS, 2))
    pairs = np.stack([rng.integers(0, USERS, 320), rng.integers(0, FILMS, 320)], axis=1)
    ratings = 1 / (1 + np.exp(-(tastes[pairs[:, 0]] * films[pairs[:, 1]]).sum(1)))
    train, validation = context.split(pairs[:, 0])
    pairs, ratings = pairs.astype(np.int32), ratings.astype(np.float32)
    return Dataset(Split(pairs[train], ratings[train]), Split(pairs[validation], ratings[validation]))


class Recommender(keras.Model):
    """Rates a film for a user: the product of their vectors, plus a bias of each."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        l2 = keras.regularizers.L2(1e-5)
        self.user = keras.layers.Embedding(USERS, SIZE, "he_normal", embeddings_regularizer=l2)
        self.film = keras.layers.Embedding(FILMS, SIZE, "he_normal", embeddings_regularizer=l2)
        self.user_bias = keras.layers.Embedding(USERS, 1)
        self.film_bias = keras.layers.Embedding(FILMS, 1)

    def call(self, pairs: Any) -> Any:
        user, film = pairs[:, 0], pairs[:, 1]
        product = keras.ops.sum(self.user(user) * self.film(film), axis=1, keepdims=True)
        return keras.ops.sigmoid(product + self.user_bias(user) + self.film_bias(film))


def build(seed: Seed) -> keras.Model:
    """Return the recommender. Keras builds it from the first batch."""
    model = Recommender()
    model.compile(keras.optimizers.Adam(0.02), keras.losses.MeanSquaredError(), metrics=["mae"])
    return model
