"""Reading a line of symbols with CTC.

Shows: a layer that adds the loss with `add_loss`, so that the model is compiled without one; labels as an input.
"""

from typing import Any

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=3",)
SYMBOLS, LENGTH, STEPS = 5, 4, 16


def load(context: DataContext) -> Dataset:
    """Return lines of 16 x 8 pixels and the four symbols on each, as two inputs. There are no labels."""
    rng = context.rng("data/load")
    shapes = rng.normal(size=(SYMBOLS, 3, 8))
    symbols = rng.integers(1, SYMBOLS + 1, (256, LENGTH))
    lines = rng.normal(0, 0.1, (256, STEPS, 8))
    for row, line in enumerate(symbols):
        for place, symbol in enumerate(line):
            lines[row, 4 * place : 4 * place + 3] += shapes[symbol - 1]
    lines, symbols = lines.astype(np.float32), symbols.astype(np.int32)
    parts = [Split({"line": lines[rows], "symbols": symbols[rows]}) for rows in context.split(symbols[:, 0])]
    return Dataset(*parts)


@keras.saving.register_keras_serializable()
class AddCTC(keras.layers.Layer):
    """Adds the CTC loss of the scores, and returns the scores."""

    def call(self, symbols: Any, scores: Any) -> Any:
        one = keras.ops.ones_like(symbols[:, 0])
        losses = keras.ops.ctc_loss(symbols, scores, one * LENGTH, one * STEPS, mask_index=0)
        self.add_loss(keras.ops.mean(losses))
        return scores


def build(seed: Seed) -> keras.Model:
    """Return a recurrent network in both directions over the columns of a line."""
    line, symbols = keras.Input((STEPS, 8), name="line"), keras.Input((LENGTH,), dtype="int32", name="symbols")
    hidden = keras.layers.Bidirectional(keras.layers.GRU(8, return_sequences=True))(line)
    scores = keras.layers.Dense(SYMBOLS + 1)(hidden)
    model = keras.Model({"line": line, "symbols": symbols}, AddCTC()(symbols, scores))
    model.compile(keras.optimizers.Adam(0.02))
    return model
