"""Multi-label classification.

Shows: several labels per row, each with a logit; a focal loss and averaged metrics; averaged weights at the end.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.monitor=val_f1_score")


def load(context: DataContext) -> Dataset:
    """Return images of digits, and whether each digit is odd, larger than 4, and a multiple of 3."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32"), digits[rows]
    tags = np.stack([digits % 2 == 1, digits > 4, digits % 3 == 0], axis=1).astype("float32")
    train, validation = context.split(digits)
    return Dataset(Split(images[train], tags[train]), Split(images[validation], tags[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a small network with three probabilities, whose weights are averaged while it trains."""
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3, "sigmoid")], name="tags"
    )
    model.compile(
        keras.optimizers.SGD(0.2, momentum=0.9, nesterov=True, use_ema=True, ema_momentum=0.9),
        keras.losses.BinaryFocalCrossentropy(),
        metrics=[keras.metrics.F1Score("macro", 0.5), keras.metrics.AUC(multi_label=True, name="auc")],
    )
    return model
