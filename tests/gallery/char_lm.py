"""Character language model.

Shows: a recurrent network over every position, and a callback that calls the model.
"""

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.callbacks=[gallery.char_lm.WriteText]", "training.monitor=val_accuracy")
TEXT = " ".join(load_breast_cancer().DESCR.lower().split())
CHARACTERS = sorted(set(TEXT))
LENGTH = 20


def load(context: DataContext) -> Dataset:
    """Return pieces of a text as numbers of characters; the labels are the characters that follow."""
    numbers = np.array([CHARACTERS.index(character) for character in TEXT], np.int32)
    starts = context.rng("data/load").integers(0, len(numbers) - LENGTH - 1, 320)
    pieces = numbers[starts[:, None] + np.arange(LENGTH + 1)]
    train, validation = context.split(pieces)
    return Dataset(*(Split(pieces[rows, :-1], pieces[rows, 1:]) for rows in (train, validation)))


class WriteText(keras.callbacks.Callback):
    """Prints what the model thinks is the continuation of the text."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        text = TEXT[:LENGTH]
        for _ in range(5):
            piece = np.array([[CHARACTERS.index(character) for character in text[-LENGTH:]]])
            text += CHARACTERS[int(np.argmax(self.model(piece)[0, -1]))]
        print(f"epoch {epoch + 1}: {text}")


def build(seed: Seed) -> keras.Model:
    """Return an LSTM with logits for the next character at every position."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = keras.layers.Embedding(len(CHARACTERS), 12)(inputs)
    hidden = keras.layers.LSTM(24, return_sequences=True, dropout=0.1)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(len(CHARACTERS))(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model
