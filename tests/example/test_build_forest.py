"""The forest of the example checks its arguments."""

import importlib
from typing import Any

import pytest
from conftest import PACKAGE

from samebits.core.errors import ConfigError

build_forest = importlib.import_module(f"{PACKAGE}.forest").build_forest


@pytest.mark.parametrize("arguments", [{"trees": 0}, {"max_depth": 0}, {"min_samples_leaf": True}, {"trees": 2.5}])
def test_a_forest_needs_sensible_arguments(arguments: dict[str, Any]) -> None:
    """A wrong argument is an error with its name."""
    (name,) = arguments
    with pytest.raises(ConfigError, match=f"model.{name}: expected an integer of at least 1"):
        build_forest(lambda _: 1, **({"trees": 1, "max_depth": None, "min_samples_leaf": 1} | arguments))
