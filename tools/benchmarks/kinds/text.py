"""A text classifier with one transformer block."""

from typing import Any

import keras
import numpy as np

ROWS, VALIDATION, BATCH = 4000, 800, 32
WORDS, LENGTH, UNITS = 2000, 64, 32


def make_arrays() -> tuple[Any, np.ndarray]:
    """Return int32[rows, words] and int32[rows]: whether the first half of the vocabulary is used more."""
    rng = np.random.default_rng(1)
    words = rng.integers(0, WORDS, (ROWS + VALIDATION, LENGTH)).astype(np.int32)
    return words, ((words < WORDS // 2).mean(1) > 0.5).astype(np.int32)  # noqa: PLR2004  half


def make_model() -> keras.Model:
    """Return the compiled model."""
    words = keras.Input((LENGTH,), dtype="int32")
    hidden = keras.layers.Embedding(WORDS, UNITS)(words)
    attended = keras.layers.MultiHeadAttention(2, UNITS // 2)(hidden, hidden)
    hidden = keras.layers.LayerNormalization()(hidden + keras.layers.Dropout(0.1)(attended))
    forward = keras.layers.Dense(UNITS)(keras.layers.Dense(2 * UNITS, activation="relu")(hidden))
    hidden = keras.layers.LayerNormalization()(hidden + forward)
    pooled = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model(words, keras.layers.Dense(2, activation="softmax")(pooled))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
