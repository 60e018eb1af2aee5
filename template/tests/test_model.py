"""The model: the same initial weights for the same seed, and it accepts the data."""

import pathlib
from typing import Any

import numpy as np
from conftest import build, load

from samebits.core.digest import array_digest


def initial_weights(model: Any) -> list[str]:
    """Return the digest of each weight."""
    return [array_digest(weight.path, np.asarray(weight)) for weight in model.trainable_weights]


def test_a_seed_gives_the_same_initial_weights() -> None:
    """The same root seed gives the same bytes, another seed gives others."""
    first = initial_weights(build(56))

    assert first == initial_weights(build(56))
    assert first != initial_weights(build(57))


def test_the_model_accepts_the_data(tmp_path: pathlib.Path) -> None:
    """It gives one finite output per row."""
    inputs = load(56, tmp_path).validation.inputs[:8]
    outputs = np.asarray(build(56)(inputs))

    assert len(inputs) == len(outputs)
    assert np.isfinite(outputs).all()
