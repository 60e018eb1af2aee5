"""Sequence to sequence with masks.

Shows: an encoder and a decoder over sequences of different lengths; padding is masked in layers, loss and metrics.
"""

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=4", "training.monitor=val_sparse_categorical_accuracy")
SYMBOLS, LENGTH, START = 8, 6, 9  # 0 is padding


def load(context: DataContext) -> Dataset:
    """Return sequences of 2 to 6 symbols, and the same sequences backwards."""
    rng = context.rng("data/load")
    forwards, backwards = np.zeros((2, 320, LENGTH), np.int32)
    lengths = rng.integers(2, LENGTH + 1, 320)
    for row, length in enumerate(lengths):
        forwards[row, :length] = rng.integers(1, SYMBOLS + 1, length)
        backwards[row, :length] = forwards[row, :length][::-1]
    shifted = np.concatenate([np.full((320, 1), START, np.int32), backwards[:, :-1]], axis=1)
    shifted[backwards == 0] = 0
    parts = [
        Split({"text": forwards[rows], "shifted": shifted[rows]}, backwards[rows]) for rows in context.split(lengths)
    ]
    return Dataset(*parts)


def build(seed: Seed) -> keras.Model:
    """Return two recurrent networks; the state of the first is the initial state of the second."""
    layers = keras.layers
    text, shifted = (keras.Input((LENGTH,), dtype="int32", name=name) for name in ("text", "shifted"))
    embedding = layers.Embedding(START + 1, 12, mask_zero=True)
    _, state = layers.GRU(24, return_state=True, name="encoder")(embedding(text))
    hidden = layers.GRU(24, return_sequences=True, name="decoder")(embedding(shifted), initial_state=state)
    scores = layers.Dense(SYMBOLS + 1, activation="softmax")(hidden)
    model = keras.Model({"text": text, "shifted": shifted}, scores)
    model.compile(
        keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", weighted_metrics=["sparse_categorical_accuracy"]
    )
    return model
