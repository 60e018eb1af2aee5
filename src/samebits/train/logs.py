"""What a step logs: one mapping, and the numbers in it."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from samebits.core.errors import TrainingError

Logs = dict[str, Any]


def flatten_logs(logs: Any) -> Logs:
    """Return what a step logs as one mapping, as Keras's `fit` does.

    Raises:
        TrainingError: It is no mapping.
    """
    if logs is None:
        return {}
    if not isinstance(logs, Mapping):
        raise TrainingError(
            "a step returns no logs.", expected="a dict of metrics from train_step and test_step",
            received=type(logs).__name__, fix='return a dict, e.g. {"loss": loss}',
        )  # fmt: skip
    flat: Logs = {}
    for name, value in logs.items():
        flat |= flatten_logs(value) if isinstance(value, Mapping) else {name: value}
    return flat


def split_entries(logs: Mapping[str, Any]) -> Logs:
    """Return logs in which a metric with several numbers, such as one per class, has one name for each."""
    flat: Logs = {}
    for name, value in logs.items():
        entries: Any = np.ravel(value) if value is not None else []
        flat |= {name if len(entries) == 1 else f"{name}_{number}": entry for number, entry in enumerate(entries)}
    return flat


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the logged values that are single numbers, as floats."""
    found = {}
    for name, value in logs.items():
        array = np.asarray(value)
        if array.size == 1:
            with contextlib.suppress(TypeError, ValueError):  # e.g. a text that a callback added
                found[name] = float(array.reshape(()))
    return found
