"""A classifier of tables: dict inputs, an embedding per category, and the area under the curve."""

from typing import Any

import keras
import numpy as np

ROWS, VALIDATION, BATCH = 20_000, 2000, 128
CATEGORIES, SIZE, NUMBERS = 4, 50, 8


def make_arrays() -> tuple[Any, np.ndarray]:
    """Return a dict of arrays and int32[rows]."""
    rng = np.random.default_rng(1)
    rows = ROWS + VALIDATION
    inputs = {f"category_{i}": rng.integers(0, SIZE, rows).astype(np.int32) for i in range(CATEGORIES)}
    inputs["numbers"] = rng.standard_normal((rows, NUMBERS)).astype(np.float32)
    odds: np.ndarray = inputs["numbers"][:, 0] + (inputs["category_0"] > SIZE // 2)
    odds = odds + rng.standard_normal(rows) - 1 / 2
    return inputs, (odds > 0).astype(np.int32)


def make_model() -> keras.Model:
    """Return the compiled model."""
    inputs = {f"category_{i}": keras.Input((), name=f"category_{i}", dtype="int32") for i in range(CATEGORIES)}
    parts = [keras.layers.Embedding(SIZE, 8)(each) for each in inputs.values()]
    inputs["numbers"] = keras.Input((NUMBERS,), name="numbers")
    hidden = keras.layers.Concatenate()([*parts, inputs["numbers"]])
    for units in (64, 32):
        hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(units, activation="relu")(hidden))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
    return model
