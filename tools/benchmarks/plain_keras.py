"""Keras's example imdb_cnn_lstm in plain Keras: python plain_keras.py REVIEWS RECIPE EPOCHS BATCH_SIZE.

Uses nothing of samebits. Recipes: "plain", no seeds and no fixed settings; "deterministic", `set_random_seed` and
`enable_op_determinism`; "article", seeds for Python, NumPy and TensorFlow, and one thread. Prints one line of JSON: the
time when the first step ended (seconds since 1970), the duration of the later steps (s), their number of samples, and
the duration of the evaluation (s).
"""

import json
import random
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

SEED, NUM_WORDS = 56, 20_000


class Clock(keras.callbacks.Callback):
    """Measures the time of steps and evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.first_step_at = self.began = self.steps_s = self.evaluate_s = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the time of the steps."""
        self.began = time.time()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Leave out the first step, in which TensorFlow traces and compiles."""
        if not self.first_step_at:
            self.first_step_at = self.began = time.time()

    def on_test_begin(self, logs: Any = None) -> None:
        """End the time of the steps and start that of the evaluation."""
        now = time.time()
        self.steps_s += now - self.began
        self.began = now

    def on_test_end(self, logs: Any = None) -> None:
        """End the time of the evaluation."""
        self.evaluate_s += time.time() - self.began


def apply_recipe(recipe: str) -> None:
    """Apply the recipe's seeds and settings."""
    if recipe == "deterministic":
        keras.utils.set_random_seed(SEED)
        tf.config.experimental.enable_op_determinism()
    elif recipe == "article":
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002  the article's way
        tf.random.set_seed(SEED)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    elif recipe != "plain":
        sys.exit(f"recipe: expected plain, deterministic or article, received {recipe}")


def build_model(sequence_length: int) -> keras.Model:
    """Return the example's model."""
    return keras.Sequential(
        [
            keras.Input((sequence_length,), dtype="int32"),
            keras.layers.Embedding(NUM_WORDS, 128),
            keras.layers.Dropout(0.25),
            keras.layers.Conv1D(64, 5, padding="valid", activation="relu", strides=1),
            keras.layers.MaxPooling1D(pool_size=4),
            keras.layers.LSTM(70),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def main() -> None:
    """Train and evaluate."""
    path, recipe, epochs, batch_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    apply_recipe(recipe)
    data = np.load(path)
    model = build_model(data["train_inputs"].shape[1])
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    clock = Clock()
    model.fit(
        data["train_inputs"],
        data["train_labels"],
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(data["validation_inputs"], data["validation_labels"]),
        callbacks=[clock],
        verbose=2,
    )
    rows = epochs * len(data["train_labels"]) - batch_size
    times = {"first_step_at": clock.first_step_at, "steps_s": clock.steps_s, "evaluate_s": clock.evaluate_s}
    print(json.dumps({**times, "rows": rows}))


if __name__ == "__main__":
    main()
