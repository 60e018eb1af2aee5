"""The 1,797 grey images of 8 x 8 pixels that scikit-learn ships."""

import numpy as np
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Split


def load(context: DataContext, *, classes: int) -> Dataset:
    """Return inputs float32[rows, 8, 8, 1] from 0 to 1 and labels int32[rows], the digit."""
    images, labels = load_digits(n_class=classes, return_X_y=True)
    rows = context.rng("data/load").permutation(len(labels))
    images, labels = (images[rows] / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels[rows].astype(np.int32)
    train, validation = context.split(labels)
    return Dataset(Split(images[train], labels[train]), Split(images[validation], labels[validation]))
