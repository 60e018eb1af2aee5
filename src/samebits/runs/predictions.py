"""Saves the predictions of a model on the validation rows, and averages predictions with the same bits everywhere.

    predictions.arrays      "labels" and the model's outputs by name; of a classifier "logits" float32[rows, outputs]
                            or "probabilities" float[rows, classes]

Exponentials and logarithms come from the standard library's decimal module, which rounds correctly. Sums are exact. So
an average has the same bits on every machine. Does not use TensorFlow.
"""

import csv
import decimal
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from samebits.core.digest import array_digest, arrays_digest
from samebits.core.errors import RecordError
from samebits.core.files import read_arrays, storage_error, write_arrays
from samebits.runs.folder import PREDICTIONS, RESULT, read_json

SLACK = 1e-4  # of the sum of a row of float32 probabilities
FLOOR = 1e-7  # minimum probability in a loss, as in Keras, because a forest can predict 0
EXACT = decimal.Context(prec=20, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[decimal.InvalidOperation])


def write_predictions(attempt: pathlib.Path, arrays: dict[str, np.ndarray]) -> str:
    """Write a run's predictions and return their digest.

    Args:
        attempt: The run's folder.
        arrays: "labels", and "logits", "probabilities" or other outputs.

    Raises:
        RecordError: They could not be written.
    """
    write_arrays(attempt / PREDICTIONS, arrays)
    return arrays_digest({name: array_digest(name, array) for name, array in arrays.items()})


def read_predictions(attempt: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the labels and outputs of a finished run, by name.

    Raises:
        RecordError: They are missing or damaged, or do not match the result of the run.
    """
    try:
        arrays = read_arrays(attempt / PREDICTIONS)
    except RecordError as error:
        arrays, received = {}, str(error.received)
    else:
        received = arrays_digest({name: array_digest(name, array) for name, array in arrays.items()})
    expected = read_json(attempt / RESULT).get("predictions_digest")
    if received != expected:
        raise RecordError(
            f"{attempt / PREDICTIONS} does not match the result of the run.",
            expected=expected,
            received=received,
            fix=f"remove {attempt} and run the same command again.",
        )
    return arrays


def class_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as class numbers, int64[rows]; also of whole numbers as floats, one column, or one-hot rows.

    Returns:
        No rows: the labels are not of one class per row.
    """
    none = np.empty(0, np.int64)
    if labels.dtype.kind not in "buif":
        return none
    if labels.ndim == 2 and labels.shape[1] > 1 and np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all():  # noqa: PLR2004
        return np.asarray(labels.argmax(1))
    numbers = labels.ravel().astype(np.float64)
    is_class = labels.shape[:1] == numbers.shape and (numbers >= 0).all() and (numbers == np.floor(numbers)).all()
    return numbers.astype(np.int64) if is_class else none


def read_class_probabilities(attempt: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities, float64[rows, classes], and labels, int64[rows], of a finished run.

    One column of probabilities is that of class 1. If all are 1, it is class 0, the only one that a forest saw.

    Raises:
        RecordError: As of `read_predictions`, or the predictions are not those of one class per row.
    """
    arrays = read_predictions(attempt)
    outputs = arrays.get("logits", arrays.get("probabilities", np.empty(0)))
    found, labels = np.empty((0, 0)), class_labels(arrays.get("labels", np.empty(0)))
    if outputs.ndim == 2 and labels.shape == outputs.shape[:1] and np.isfinite(outputs).all():  # noqa: PLR2004
        found = to_probabilities(outputs) if "logits" in arrays else outputs.astype(np.float64)
        if found.shape[1] == 1 and not (found == 1).all():
            found = np.concatenate([1 - found, found], axis=1)
    sums = np.abs(found.sum(1) - 1)
    if not found.size or found.min() < 0 or sums.max() > SLACK or labels.max() >= max(2, found.shape[1]):
        described = (f"{key} {array.dtype.name}{list(array.shape)}" for key, array in arrays.items())
        raise RecordError(
            f"the predictions of {attempt} are not probabilities of classes.",
            expected="labels of one class per row, and logits or probabilities [rows, classes] that sum to 1",
            received=", ".join(described),
            fix="average the predictions.arrays of the runs yourself.",
        )
    return found, labels


def to_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probability of each class: float64[rows, classes], with the same bits on every machine.

    Args:
        logits: float32[rows, outputs]. A single output is the logit of class 1 against class 0.
    """
    rows = [[0.0, row[0]] if len(row) == 1 else row for row in logits.tolist()]
    return np.array([_softmax(row) for row in rows], dtype=np.float64)


def _softmax(row: Sequence[float]) -> list[float]:
    values = [decimal.Decimal(value) for value in row]
    most = max(values)
    powers = [EXACT.exp(EXACT.subtract(value, most)) for value in values]
    total = powers[0]
    for power in powers[1:]:
        total = EXACT.add(total, power)
    return [float(EXACT.divide(power, total)) for power in powers]


def average(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of the members' probabilities: float64[rows, classes]. The order does not matter."""
    stacked = np.stack(members)
    flat = stacked.reshape(len(members), -1).T.tolist()
    return np.array([math.fsum(values) / len(members) for values in flat]).reshape(stacked.shape[1:])


def score(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy). Of equally probable classes, the first is predicted."""
    right = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], 1)[:, 0]
    losses = [-float(EXACT.ln(decimal.Decimal(value))) for value in np.maximum(right, FLOOR).tolist()]
    correct = int((probabilities.argmax(1) == labels).sum())
    return math.fsum(losses) / len(losses), correct / len(labels)


def write_table(path: pathlib.Path, kind: str, outputs: Any, labels: Any) -> None:
    """Write the outputs of a model for some rows, with their labels: a CSV file, or arrays if the path ends in .npz.

    Args:
        path: The file.
        kind: What the outputs are: "logits", "probabilities" or "outputs". Probabilities are added to logits.
        outputs: float[rows, ...], or a dict, tuple or list of such arrays.
        labels: The same for the labels; None: there are none.

    Raises:
        RecordError: The file could not be written.
    """
    arrays = named_arrays(outputs, kind) | named_arrays(labels, "labels")
    if "logits" in arrays and arrays["logits"].ndim == 2:  # noqa: PLR2004  one row per sample
        arrays["probabilities"] = to_probabilities(arrays["logits"])
    try:
        if path.suffix == ".npz":
            np.savez(path, allow_pickle=False, **arrays)
            return
        columns: dict[str, list[Any]] = {}
        for name, array in arrays.items():
            flat = array.reshape(len(array), -1)
            for number, column in enumerate(flat.T):
                columns[name if flat.shape[1] == 1 else f"{name}/{number}"] = column.tolist()
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["row", *columns])
            writer.writerows([number, *row] for number, row in enumerate(zip(*columns.values(), strict=True)))
    except OSError as error:
        raise storage_error(path, error) from error


def named_arrays(part: Any, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a nested structure by name: `name`, or `name`/key of a dict, `name`/0 of a tuple."""
    if part is None:
        return {}
    if isinstance(part, Mapping):
        return {
            key: leaf for inner in sorted(part) for key, leaf in named_arrays(part[inner], f"{name}/{inner}").items()
        }
    if isinstance(part, tuple | list):
        return {key: leaf for i, inner in enumerate(part) for key, leaf in named_arrays(inner, f"{name}/{i}").items()}
    return {name: part}
