"""Keeps what a call of `fit` traced for the next call, which then starts at once.

The next call gets it if nothing that the trace depends on changed: model, `compile`, data and the arguments of `fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from samebits.core.errors import first_names
from samebits.train.compiling import members, optimizers_of
from samebits.train.feeds import ArrayFeed, Feed
from samebits.train.python_state import ITERATOR, free_name, python_state
from samebits.train.steps import Steps

# Attributes that Keras sets in fit, evaluate and predict (Keras 3.15).
RESULTS = (
    "built", "history", "stop_training", "stop_evaluating", "stop_predicting", "train_function", "test_function",
    "predict_function", "_called", "_eval_epoch_iterator",
)  # fmt: skip
# Of a model, made anew by compile (Keras 3.15).
COMPILED = ("optimizer", "_compile_loss", "_compile_metrics", "_compile_config")
# What layers, optimizers and models hold that has settings of its own.
PARTS = (
    keras.regularizers.Regularizer, keras.constraints.Constraint, keras.losses.Loss,
    keras.optimizers.schedules.LearningRateSchedule,
)  # fmt: skip
TRAINED = "the list of trained variables"


def attributes(model: keras.Model) -> dict[str, Any]:
    """Return what a trace may hold as constants: the attributes of a model, its layers, optimizers, losses and others.

    The names of owners are made different, so that two layers of the same name count both.
    """
    owners: list[Any] = [*model._flatten_layers(), *optimizers_of(model)]  # noqa: SLF001  no public name (Keras 3.15)
    values = [value for owner in owners for value in (*vars(owner).values(), *members(getattr(owner, "loss", None)))]
    owners += [value for value in values if isinstance(value, PARTS)]
    found: dict[str, Any] = {TRAINED: str([id(variable) for variable in model.trainable_variables])}
    for owner in {id(owner): owner for owner in owners}.values():
        label = getattr(owner, "name", type(owner).__name__)
        for name, value in vars(owner).items():
            if name not in RESULTS:
                found[free_name(found, f"{label}.{name}")] = value
    return found


def in_words(changed: Sequence[str]) -> str:
    """Return the names of changed attributes as a user knows them, the first ones of many."""
    return first_names(list(dict.fromkeys(name.replace("._", ".") for name in changed if name != TRAINED)) or changed)


def differs(before: Any, now: Any) -> bool:
    """Return whether an attribute has another value: another number or text, or another object.

    The place of an iterator is not known; it counts as the same, as for Keras, which does not trace again.
    """
    plain = bool | int | float | str
    if before is now or not (isinstance(before, plain) and isinstance(now, plain)):
        return before is not now
    return before != now and ITERATOR not in f"{before}"


@dataclass(frozen=True)
class Basis:
    """What a trace depends on.

    Attributes:
        model: The model.
        compiled: What `compile` made.
        attributes: See `attributes`.
        python: The numbers that the own code of the model can change.
        arguments: The arguments of `fit`.
        data: The digests of the data.
    """

    model: keras.Model
    compiled: list[Any]
    attributes: dict[str, Any]
    python: dict[str, str]
    arguments: dict[str, Any]
    data: dict[str, str]

    @classmethod
    def of(cls, model: keras.Model, arguments: dict[str, Any], data: dict[str, str]) -> "Basis":
        """Return what a trace depends on now."""
        compiled = [getattr(model, name, None) for name in COMPILED]
        return cls(model, compiled, attributes(model), python_state(model), arguments, data)

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

    @property
    def can_be_kept(self) -> bool:
        """Whether a later call can use it: it has arrays in memory, and no data set or part of an epoch."""
        return all(type(feed) is ArrayFeed for feed in self.feeds.values())

    def is_stale(self, basis: Basis) -> bool:
        """Return whether Keras would use it for a later call: the same model, not compiled again, and arguments."""
        return self.basis.is_compiled_as(basis) and self.basis.arguments == basis.arguments
