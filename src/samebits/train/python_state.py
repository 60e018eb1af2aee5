"""Finds Python state that decides what a traced step computes, such as a counter of a layer or its NumPy generator.

Python code runs while a step is traced, not at each step. A number that it counts, or draws, becomes a constant of the
graph, which depends on how often the step was traced.
"""

import collections
import functools
import itertools
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from samebits.core.digest import array_digest, changed_names
from samebits.core.errors import TrainingError
from samebits.train.compiling import compiled_metrics, members, optimizers_of
from samebits.train.draws import graph_nodes
from samebits.train.encoding import used_objects

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
LIBRARY_OBJECTS = (keras.Layer, keras.Variable, keras.optimizers.Optimizer)  # their state is known
LIBRARIES = ("keras.", "tensorflow.", "samebits.", "numpy.", "builtins")
NOT_STATE = ("built",)  # Keras changes it itself
LONGEST, DEEPEST = 1000, 3  # items and levels; of longer or deeper lists only the length counts
ITERATOR = "iterator"
_unknown = itertools.count()  # the place of an iterator is not known, so that it counts as changed


def python_state(model: keras.Model) -> dict[str, str]:
    """Return the values and generators that the own code of a model can change, as text by name.

    These are attributes of its layers, losses, metrics and learning-rate schedules, and what their functions use.
    """
    found: dict[str, str] = {}
    for owner in _owners(model):
        label = str(getattr(owner, "name", type(owner).__name__))
        own = [kind for kind in type(owner).__mro__ if _is_own(kind)]
        parts = {name: part for kind in own for name, part in vars(kind).items()} | getattr(owner, "__dict__", {})
        functions = [part for part in (*parts.values(), owner) if isinstance(part, types.FunctionType)]
        for name, value in parts.items() if own else ():
            if name not in NOT_STATE and (state := _state(value)):
                found[free_name(found, f"{label}.{name}")] = state
        for function in filter(_is_own, functions):
            for name, value in used_objects(function, set()):
                if state := _state(value):
                    found[free_name(found, f"{name} of {function.__qualname__}")] = state
    return found


def free_name(found: Mapping[str, Any], name: str) -> str:
    """Return a name that is not in a mapping yet: the name, or the name with a number."""
    names = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in found)


def generators_of(source: Any) -> dict[str, Any]:
    """Return the NumPy and Python generators that a source of batches holds, or its methods or functions use."""
    found: dict[str, Any] = {}
    waiting = [source]
    while waiting:
        part = waiting.pop()
        if isinstance(part, functools.partial):
            waiting += [part.func, *part.args, *part.keywords.values()]
        elif isinstance(part, types.MethodType):
            waiting += [part.__self__, part.__func__]
        elif isinstance(part, types.FunctionType):
            found |= dict(used_objects(part, set()))
        elif _is_own(type(part)):
            found |= {f"{type(part).__name__}.{name}": each for name, each in getattr(part, "__dict__", {}).items()}
            code = [vars(kind).values() for kind in type(part).__mro__ if _is_own(kind)]
            waiting += [each for each in itertools.chain(*code) if isinstance(each, types.FunctionType)]
    return {name: value for name, value in found.items() if isinstance(value, GENERATORS)}


def states_of(generators: Mapping[str, Any]) -> dict[str, str]:
    """Return the states of generators as text."""
    return {name: _state(value) for name, value in generators.items()}


def _owners(model: keras.Model) -> Iterator[Any]:
    """Yield the layers, losses, metrics and learning-rate schedules of a model."""
    layers = model._flatten_layers()  # noqa: SLF001  no public name (Keras 3.15)
    metrics = [metric for layer in layers for metric in layer._metrics]  # noqa: SLF001  no public name (Keras 3.15)
    schedules = [getattr(optimizer, "_learning_rate", None) for optimizer in optimizers_of(model)]
    yield from (*layers, *metrics, *compiled_metrics(model), *schedules)
    yield from members(getattr(model, "loss", None))


def _is_own(code: Any) -> bool:
    """Return whether a class or a function is of no library."""
    return not f"{code.__module__}.".startswith(LIBRARIES)


def _state(value: Any, depth: int = 0) -> str:  # noqa: PLR0911  one per kind
    """Return what changes in a number, a text, an array, a generator or an object that has some; "" of others."""
    if isinstance(value, int | float | np.number | str | bytes):
        return repr(value)
    if isinstance(value, np.ndarray):
        return array_digest("", value) if value.dtype != object else repr(value.shape)
    if isinstance(value, types.FunctionType):
        return f"function {id(value)}"
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState | random.Random):
        return repr(value.get_state() if isinstance(value, np.random.RandomState) else value.getstate())
    if isinstance(value, Iterator):
        return f"{ITERATOR} {next(_unknown)}"
    if isinstance(value, list | dict | collections.deque):
        items = [*(value.values() if isinstance(value, Mapping) else value)]
    elif isinstance(value, LIBRARY_OBJECTS) or not _is_own(value if isinstance(value, type) else type(value)):
        return ""
    else:
        items = [part for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("__")]
    if depth == DEEPEST or len(items) > LONGEST:
        return repr(len(items))
    return repr([_state(item, depth + 1) for item in items])


def check_python_state(before: dict[str, str], model: keras.Model, step: Any, again: Any) -> None:
    """Check that a step does not depend on Python state that changes while it is traced.

    Args:
        before: The state before the step was traced.
        model: The model.
        step: The traced step.
        again: The same step, not traced yet. It is traced only if the state changed.

    Raises:
        TrainingError: It does. The message has the state.
    """
    changed = changed_names(before, python_state(model))
    if changed and contents(step) != contents(again):
        raise TrainingError(
            f"the step depends on Python state that changes while it is traced: {', '.join(changed)}.",
            expected="numbers that change from step to step in weights, and draws by a keras.random.SeedGenerator",
            received="a Python number or generator, which becomes a constant when the step is traced",
            fix="use self.add_weight(..., trainable=False) and assign_add, or keras.random with a SeedGenerator",
        )


def contents(step: Any) -> list[tuple[str, bytes]]:
    """Return the operations of a traced step, and its constants."""
    nodes = graph_nodes(step.get_concrete_function())
    return sorted((node.op, node.attr["value"].SerializeToString() if node.op == "Const" else b"") for node in nodes)
