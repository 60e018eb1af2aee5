"""The data and model functions of the three trainings, for a project."""

import importlib
from typing import Any

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed, Split


def load(context: DataContext, *, kind: str) -> Dataset:
    """Return the arrays of a kind; the last rows are for validation, as in plain Keras."""
    module = importlib.import_module(f"kinds.{kind}")
    inputs, labels = module.make_arrays()
    for point in ("data/load", "data/split", "data/folds"):
        context.mark_unused(point, because="the rows have one order")
    context.resample(np.arange(module.ROWS), labels)

    def take(rows: slice) -> Split:
        return Split(keras.tree.map_structure(lambda array: array[rows], inputs), labels[rows])

    return Dataset(take(slice(module.ROWS)), take(slice(module.ROWS, None)))


def build(seed: Seed, *, kind: str) -> Any:  # noqa: ARG001  every layer has its seed
    """Return the compiled model of a kind."""
    return importlib.import_module(f"kinds.{kind}").make_model()
