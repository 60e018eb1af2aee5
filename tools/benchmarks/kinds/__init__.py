"""Three trainings of the kinds of Keras's gallery, for the race: each as a data function, and a compiled model.

The race copies this package below src/ of a project. `python -m benchmarks.plain_kind` trains the same in plain Keras.
"""

from typing import Any

import keras


def split_arrays(kind: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return inputs and labels for training, and those of the last rows, for validation, of one of these modules."""
    inputs, labels = kind.make_arrays()

    def take(rows: slice) -> tuple[Any, Any]:
        return keras.tree.map_structure(lambda array: array[rows], inputs), labels[rows]

    return take(slice(kind.ROWS)), take(slice(kind.ROWS, None))
