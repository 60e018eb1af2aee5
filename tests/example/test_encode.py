"""The shared functions of the review data: argument checks and word counts."""

import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE
from train.test_data import make_context

from samebits.core.errors import DataError

count_words: Callable[..., np.ndarray] = importlib.import_module(f"{PACKAGE}.encode").count_words
LOADERS = {"reviews": "load_reviews", "keras_imdb": "load_keras_reviews"}
LIMITS: dict[str, Any] = {"num_words": 60, "skip_top": 10, "sequence_length": 8}


@pytest.mark.parametrize("module", LOADERS)
@pytest.mark.parametrize(("argument", "value"), [("num_words", 0), ("skip_top", -1), ("sequence_length", 0)])
def test_reviews_need_sensible_limits(tmp_path: pathlib.Path, module: str, argument: str, value: int) -> None:
    """Limits that leave no words are errors with their name, before any file is read."""
    load: Callable[..., object] = getattr(importlib.import_module(f"{PACKAGE}.{module}"), LOADERS[module])

    with pytest.raises(DataError) as caught:
        load(make_context(tmp_path), path=str(tmp_path / "gone"), **LIMITS | {argument: value})

    assert f"data.{argument}" == caught.value.what


def test_words_are_counted() -> None:
    """Words are counted without padding, up to 255, and many reviews are counted in parts."""
    inputs = np.zeros((2001, 300), np.int32)
    inputs[0, :3], inputs[1000, :], inputs[2000, -2:] = [3, 1, 3], 4, [4, 2]
    counts = count_words(inputs, 5)

    assert [[0, 1, 0, 2, 0], [0, 0, 0, 0, 255], [0, 0, 1, 0, 1]] == counts[[0, 1000, 2000]].tolist()
    assert 0 == counts[1:1000].sum()
    assert "uint8" == counts.dtype.name
