"""Turns Python values into plain data and arrays for a checkpoint, and back.

Values that can be made anew, such as numbers, containers and arrays, become data. Objects that every start makes anew,
such as Keras metrics, generators and functions, are kept: only their changeable contents become data.
"""

import collections
import functools
import importlib
import inspect
import logging
import pathlib
import random
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

PLAIN = (bool, int, str, type(None))
CONTAINERS: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}
STATEFUL = (keras.Layer, keras.metrics.Metric, keras.optimizers.Optimizer, keras.random.SeedGenerator)
VARIABLES = (keras.Variable, tf.Variable)
# Objects without contents that change.
CONSTANT = (
    types.ModuleType, type, bytes, tf.DType, tf.data.Dataset, logging.Logger, keras.losses.Loss,
    keras.initializers.Initializer, keras.optimizers.schedules.LearningRateSchedule,
)  # fmt: skip
# What a function may hold, besides other functions: values that are not changed in place.
HELD = (*PLAIN, *CONSTANT, *VARIABLES, float, pathlib.PurePath, np.ndarray, np.generic, tf.Tensor, keras.Layer)

# What code draws from or writes to.
CHANGING = (np.random.Generator, np.random.RandomState, random.Random, keras.random.SeedGenerator, *VARIABLES)


class UnsavableError(Exception):
    """A value that no checkpoint can hold; the argument says which."""


class Encoder:
    """Turns the attributes of one object into plain data.

    Args:
        owner: The object, which its own functions may hold.
        saved: The ids of variables that are saved elsewhere.

    Attributes:
        arrays: The arrays that the data refers to by their number.
    """

    def __init__(self, owner: Any, saved: Collection[int] = ()) -> None:
        self._owner, self._saved = owner, saved
        self.arrays: list[np.ndarray] = []

    def encode(self, value: Any) -> Any:
        """Return a value as plain data.

        Raises:
            UnsavableError: It cannot be saved.
        """
        if isinstance(value, np.ndarray | np.generic | tf.Tensor):
            return {_array_kind(value): self._add(value)}
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, pathlib.PurePath):
            return {"path": str(value)}
        for name, kind in CONTAINERS.items():
            if type(value) is kind:
                return {name: [self.encode(item) for item in items_of(value)]}
        return self._encode_kept(value)

    def _add(self, value: Any) -> int:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise UnsavableError("an array of Python objects")
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _encode_kept(self, value: Any) -> Any:  # noqa: PLR0911  one per kind
        """Return the changeable contents of an object that every start makes anew, and which object it is."""
        if isinstance(value, (*STATEFUL, *VARIABLES)):
            contents = [self._add(variable.numpy()) for variable in self._variables(value)]
            return {"kept": [id(value), "variables", contents]}
        if isinstance(value, dict | collections.deque):  # a deque with its length, a dict with its default
            return {"kept": [id(value), "items", [self.encode(item) for item in items_of(value)]]}
        if isinstance(value, np.random.Generator):
            return {"kept": [id(value), "generator", self.encode(value.bit_generator.state)]}
        if isinstance(value, random.Random):
            return {"kept": [id(value), "random", self.encode(value.getstate())]}
        if isinstance(value, CONSTANT):
            return {"kept": [id(value), "constant", None]}
        if callable(value):
            module, name = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
            if name and _import(module, name) is value:
                if isinstance(value, types.FunctionType):
                    self.check_code(value)
                return {"function": [module, name]}
            self._check_function(value)
            return {"kept": [id(value), "constant", None]}
        raise UnsavableError(f"{type(value).__module__}.{type(value).__qualname__}")

    def _variables(self, value: Any) -> list[Any]:
        return [variable for variable in variables_of(value) if id(variable) not in self._saved]

    def check_code(self, function: types.FunctionType) -> None:
        """Check that a function and its helpers use no generator or variable that nothing saves.

        Raises:
            UnsavableError: They do, e.g. a generator of their module.
        """
        for name, value in used_objects(function, set()):
            if isinstance(value, CHANGING) and any(id(each) not in self._saved for each in _changing_parts(value)):
                raise UnsavableError(f"function {function.__qualname__} that uses {name}, a {type(value).__qualname__}")

    def _check_function(self, function: Any) -> None:
        """Check that a function holds nothing that can change.

        Raises:
            UnsavableError: It does, e.g. a list of its surrounding function.
        """
        held: list[Any] = []
        if isinstance(function, types.MethodType):
            held = [function.__self__, function.__func__]
        elif isinstance(function, functools.partial):
            held = [function.func, *function.args, *function.keywords.values()]
        elif isinstance(function, types.FunctionType):
            self.check_code(function)
            held = [cell.cell_contents for cell in function.__closure__ or ()]
            held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        elif not isinstance(function, np.ufunc | types.BuiltinFunctionType) or _holds_object(function):
            raise UnsavableError(f"{type(function).__module__}.{type(function).__qualname__}")
        for value in held:
            if isinstance(value, types.MethodType | types.FunctionType | types.BuiltinFunctionType | functools.partial):
                self._check_function(value)
            elif value is not self._owner and not isinstance(value, HELD):
                name = getattr(function, "__qualname__", "partial")
                raise UnsavableError(f"function {name} that holds a {type(value).__qualname__}")


def used_objects(function: types.FunctionType, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each global or outer variable that a function and its helpers use."""
    seen.add(id(function))
    used = inspect.getclosurevars(function)
    for name, value in {**used.globals, **used.nonlocals}.items():
        yield name, value
        if isinstance(value, types.ModuleType):
            inner = [each for each in function.__code__.co_names if each in vars(value)]
            yield from ((f"{name}.{each}", vars(value)[each]) for each in inner)
        is_helper = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if is_helper and id(value) not in seen:
            yield from used_objects(value, seen)


def items_of(container: Any) -> list[Any]:
    """Return the items of a container, those of a dict as tuples, those of a set in a fixed order."""
    if isinstance(container, dict):
        return list(container.items())
    return sorted(container, key=repr) if isinstance(container, set | frozenset) else list(container)


def _array_kind(value: Any) -> str:
    return "array" if isinstance(value, np.ndarray) else "tensor" if isinstance(value, tf.Tensor) else "number"


def _holds_object(function: Any) -> bool:
    """Return whether a function of C is a method, such as the append of a list."""
    return not isinstance(getattr(function, "__self__", None), types.ModuleType | None)


def variables_of(value: Any) -> list[Any]:
    """Return the variables of a Keras object or of a variable."""
    if isinstance(value, VARIABLES):
        return [value]
    return [value.state] if isinstance(value, keras.random.SeedGenerator) else list(value.variables)


def _changing_parts(value: Any) -> list[Any]:
    is_keras = isinstance(value, (keras.random.SeedGenerator, *VARIABLES))
    return variables_of(value) if is_keras else [value]


def _import(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module) if module else None
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def kept_objects(plain: Any, path: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield (path, id, number of variables) of the kept objects in the result of `Encoder.encode`."""
    if isinstance(plain, dict):
        ((kind, content),) = plain.items()
        if kind == "kept":
            number, kind, content = content
            yield path, number, len(content) if kind == "variables" else 0
        if kind in CONTAINERS or kind == "items":
            for number, item in enumerate(content):
                yield from kept_objects(item, f"{path}/{number}")


def decode(  # noqa: PLR0911  one per kind
    plain: Any, arrays: Sequence[np.ndarray], current: Any, saved: Collection[int] = ()
) -> Any:
    """Return the value from the result of `Encoder.encode`.

    Args:
        plain: The plain data.
        arrays: The arrays of the encoder.
        current: The value of this start; its kept objects are changed in place.
        saved: The ids of variables that are saved elsewhere.
    """
    if isinstance(plain, PLAIN):
        return plain
    ((kind, content),) = plain.items()
    if kind in ("array", "number", "tensor"):
        array = arrays[content]
        return array if kind == "array" else array[()] if kind == "number" else tf.constant(array)
    if kind == "float":
        return float.fromhex(content)
    if kind == "path":
        return pathlib.Path(content)
    if kind == "function":
        return _import(*content)
    if kind == "kept":
        _restore_kept(content[1], content[2], arrays, current, saved)
        return current
    return CONTAINERS[kind](_decode_items(content, arrays, current, saved))


def _decode_items(content: list[Any], arrays: Sequence[np.ndarray], current: Any, saved: Collection[int]) -> list[Any]:
    """Return the items of a container, whose kept objects are those at the same place in `current`."""
    now = items_of(current) if isinstance(current, (*CONTAINERS.values(), collections.deque)) else []
    padded = [*now, *[None] * len(content)]
    return [decode(item, arrays, of_now, saved) for item, of_now in zip(content, padded, strict=False)]


def _restore_kept(kind: str, content: Any, arrays: Sequence[np.ndarray], current: Any, saved: Collection[int]) -> None:
    """Restore the contents of an object that every start makes anew."""
    if kind == "generator":
        current.bit_generator.state = decode(content, arrays, None)
    elif kind == "random":
        current.setstate(decode(content, arrays, None))
    elif kind == "variables":
        variables = [variable for variable in variables_of(current) if id(variable) not in saved]
        for variable, number in zip(variables, content, strict=True):
            variable.assign(arrays[number])
    elif kind == "items":
        items = _decode_items(content, arrays, current, saved)
        current.clear()
        current.update(dict(items)) if isinstance(current, dict) else current.extend(items)
