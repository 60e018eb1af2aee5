"""The synthetic reviews: small, learnable, and as requested."""

import importlib
import pathlib
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE
from train.test_data import make_context

from samebits.core.errors import DataError

synthetic = importlib.import_module(f"{PACKAGE}.synthetic")
SYNTHETIC_OPTIONS: dict[str, Any] = {"rows": 300, "num_words": 60, "sequence_length": 12}


def test_synthetic_reviews_are_as_asked(tmp_path: pathlib.Path) -> None:
    """Rows, words and length match the arguments, labels are balanced, and words depend on the label."""
    dataset = synthetic.make_synthetic_reviews(make_context(tmp_path), **SYNTHETIC_OPTIONS)
    inputs = np.concatenate([dataset.train.inputs, dataset.validation.inputs])
    labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
    means = [inputs[labels == label].mean() for label in (0, 1)]

    assert [part.inputs.shape for part in (dataset.train, dataset.validation)] == [(240, 12), (60, 12)]
    assert {inputs.dtype, labels.dtype} == {np.dtype(np.int32)}
    assert (inputs.min(), inputs.max()) == (4, 59)
    assert np.bincount(labels).tolist() == [150, 150]
    assert means[1] - means[0] > 5


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("rows", 0, "an integer of at least 1"),
        ("rows", True, "an integer of at least 1"),
        ("num_words", "60", "an integer of at least 1"),
        ("sequence_length", 1.5, "an integer of at least 1"),
        ("num_words", 5, "at least 6"),
    ],
)
def test_synthetic_reviews_need_sensible_sizes(
    tmp_path: pathlib.Path, argument: str, value: Any, expected: str
) -> None:
    """A size that gives no data is an error with its name."""
    with pytest.raises(DataError) as caught:
        synthetic.make_synthetic_reviews(make_context(tmp_path), **SYNTHETIC_OPTIONS | {argument: value})

    assert (f"data.{argument}", expected) == (caught.value.what, caught.value.expected)
