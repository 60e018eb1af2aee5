"""Turns what Keras takes as data into NumPy arrays.

Does not import TensorFlow or pandas.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from samebits.core.errors import DataError

PARTS = ("inputs", "labels", "sample_weight")
SCALARS = (str, bytes, int, float, complex, np.generic)


def map_named(function: Callable[[Any, str], Any], part: Any, name: str) -> Any:
    """Return a nested structure with `function(array, name)` in the place of each array; see `named_arrays`."""
    if part is None:
        return None
    if isinstance(part, Mapping):
        return {key: map_named(function, inner, f"{name}/{key}") for key, inner in part.items()}
    if isinstance(part, tuple | list):
        return type(part)(map_named(function, inner, f"{name}/{number}") for number, inner in enumerate(part))
    return function(part, name)


def convert(part: Any, name: str) -> Any:
    """Return a nested structure with each part as a NumPy array. Arrays stay the same object.

    A dict, tuple or list of arrays is a structure. A list of numbers or strings, also a nested one, is an array. A
    pandas Series is one column [rows, 1], as in Keras.

    Raises:
        DataError: A part is no array of numbers or strings. The message has its name.
    """
    if part is None:
        return None
    if isinstance(part, Mapping):
        return {key: convert(inner, f"{name}/{key}") for key, inner in part.items()}
    if isinstance(part, tuple) and not all(isinstance(inner, SCALARS) for inner in part):
        return tuple(convert(inner, f"{name}/{number}") for number, inner in enumerate(part))
    if isinstance(part, list) and not _is_list_of_scalars(part):
        return [convert(inner, f"{name}/{number}") for number, inner in enumerate(part)]
    return as_array(part, name)


def _is_list_of_scalars(part: list[Any]) -> bool:
    return all(_is_list_of_scalars(inner) if isinstance(inner, list) else isinstance(inner, SCALARS) for inner in part)


def as_array(part: Any, name: str) -> np.ndarray:
    """Return one array.

    Raises:
        DataError: It is no array of numbers or strings.
    """
    is_series = hasattr(part, "to_frame") and hasattr(part, "to_numpy") and getattr(part, "ndim", 0) == 1
    if hasattr(part, "to_numpy"):  # pandas
        part = part.to_numpy()
    if not (isinstance(part, list | tuple | np.ndarray) or hasattr(part, "__array__")):
        raise _unusable(name, type(part).__qualname__)
    try:
        array = np.asarray(part)
    except ValueError as error:
        raise _unusable(name, "lists of unequal lengths") from error
    if array.dtype.hasobject and not is_text(array):
        array = _numbers(array, name)
    if array.dtype.kind in "mM":
        raise _unusable(name, f"dates ({array.dtype})")
    if array.ndim == 0:
        raise _unusable(name, "a single value")
    return array.reshape(-1, 1) if is_series else array


def is_text(array: np.ndarray) -> bool:
    """Return whether an array holds strings."""
    if array.dtype.hasobject:
        return array.size > 0 and all(isinstance(value, str | bytes) for value in array.flat)
    return array.dtype.kind in "US"


def _numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array of objects, such as a pandas column with gaps, as numbers."""
    kinds = {type(value).__name__ for value in array.flat if not isinstance(value, int | float | np.number | np.bool_)}
    if kinds:
        raise _unusable(name, f"an array of Python objects ({', '.join(sorted(kinds)[:3])})")
    return np.array(array.tolist())


def _unusable(name: str, received: str) -> DataError:
    return DataError(
        name, expected="an array of numbers or of strings, with one entry per row", received=received,
        fix="convert it: .toarray() of a sparse matrix, keras.utils.pad_sequences of sequences, numbers for dates, "
        "dict(frame) for a DataFrame whose columns have several types",
    )  # fmt: skip
