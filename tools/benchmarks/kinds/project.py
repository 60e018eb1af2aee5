"""The data and model functions of the three trainings, for a project."""

import importlib
from typing import Any

import numpy as np

from samebits import DataContext, Dataset, Seed, Split


def load(context: DataContext, *, kind: str) -> Dataset:
    """Return the arrays of a kind; the last rows are for validation, as in plain Keras."""
    module = importlib.import_module(f"kinds.{kind}")
    train, validation = importlib.import_module("kinds").split_arrays(module)
    for point in ("data/load", "data/split", "data/folds"):
        context.mark_unused(point, because="the rows have one order")
    context.resample(np.arange(module.ROWS), train[1])
    return Dataset(Split(*train), Split(*validation))


def build(seed: Seed, *, kind: str) -> Any:  # noqa: ARG001  every layer has its seed
    """Return the compiled model of a kind."""
    return importlib.import_module(f"kinds.{kind}").make_model()
