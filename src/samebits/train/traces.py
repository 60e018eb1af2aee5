"""Keeps what a call of `fit` traced for the next call, which then starts at once.

The next call gets it if nothing that the trace depends on changed: model, `compile`, data and the arguments of `fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from samebits.train.compiling import optimizers_of
from samebits.train.feeds import ArrayFeed, Feed
from samebits.train.python_state import python_state
from samebits.train.steps import Steps

# Attributes that Keras sets in fit, evaluate and predict (Keras 3.15).
RESULTS = (
    "built", "history", "stop_training", "stop_evaluating", "stop_predicting", "train_function", "test_function",
    "predict_function", "_called", "_eval_epoch_iterator",
)  # fmt: skip
COMPILED = ("optimizer", "_compile_loss", "_compile_metrics")  # of a model, made anew by compile (Keras 3.15)


def attributes(model: keras.Model) -> dict[str, Any]:
    """Return the attributes of a model, its layers and its optimizers, which a trace may hold as constants."""
    owners = [*model._flatten_layers(), *optimizers_of(model)]  # noqa: SLF001  no public name (Keras 3.15)
    return {
        f"{owner.name}.{name}": value for owner in owners for name, value in vars(owner).items() if name not in RESULTS
    }


def differs(before: Any, now: Any) -> bool:
    """Return whether an attribute has another value: another number or text, or another object."""
    plain = bool | int | float | str
    return before is not now and not (isinstance(before, plain) and isinstance(now, plain) and before == now)


@dataclass(frozen=True)
class Basis:
    """What a trace depends on.

    Attributes:
        model: The model.
        compiled: What `compile` made.
        attributes: See `attributes`.
        python: The numbers that the own code of the model can change.
        arguments: The digests of the data, and the arguments of `fit`.
    """

    model: keras.Model
    compiled: list[Any]
    attributes: dict[str, Any]
    python: dict[str, str]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, model: keras.Model, arguments: dict[str, Any]) -> "Basis":
        """Return what a trace depends on now."""
        compiled = [getattr(model, name, None) for name in COMPILED]
        return cls(model, compiled, attributes(model), python_state(model), arguments)

    def is_compiled_as(self, other: "Basis") -> bool:
        """Return whether both are of the same model, not compiled again between them."""
        pairs = zip(self.compiled, other.compiled, strict=True)
        return self.model is other.model and all(one is two for one, two in pairs)

    def changed(self, other: "Basis") -> list[str]:
        """Return the names of the attributes and of the Python numbers that are different in another one."""
        pairs = ((self.attributes, other.attributes), (self.python, other.python))
        return sorted(
            {
                name
                for before, now in pairs
                for name in before.keys() | now.keys()
                if differs(before.get(name), now.get(name))
            }
        )


@dataclass(frozen=True)
class Traced:
    """What a call traced.

    Attributes:
        basis: What it depends on, after it was traced.
        feeds: The batches of each split.
        steps: The traced functions.
        reasons: Why the call begins anew after a kill.
        oddities: What else the user was told of.
    """

    basis: Basis
    feeds: dict[str, Feed]
    steps: Steps
    reasons: Sequence[str]
    oddities: Sequence[str]

    def serves(self, basis: Basis) -> bool:
        """Return whether a later call has the same model, not compiled again, the same data and arguments."""
        arrays = all(type(feed) is ArrayFeed for feed in self.feeds.values())
        return arrays and self.basis.is_compiled_as(basis) and self.basis.arguments == basis.arguments
