"""Calls Keras callbacks, and saves and restores their state, so that a resumed run ends as an undisturbed one.

The state of a callback is its attributes. A callback with an attribute that cannot be saved is refused before training,
unless it has `get_state` and `set_state`, or is declared an observer by `observer = True`: then it must not change the
training, and what it does outside may be repeated after a resume.
"""

import collections
import importlib
import pathlib
import random
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.digest import array_digest, json_digest
from samebits.core.errors import ConfigError, TrainingError
from samebits.train.compiling import call_named, find_named

BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
OBSERVERS = (keras.callbacks.TensorBoard, keras.callbacks.RemoteMonitor, keras.callbacks.ProgbarLogger)
REFUSED = {
    keras.callbacks.BackupAndRestore: "remove it: samebits saves checkpoints itself, and resumes at the same step",
    keras.callbacks.SwapEMAWeights: "remove it: with use_ema, training ends with the averaged weights",
}
NOT_STATE = ("_model", "params")  # set again at every start
PATHS = ("filename", "filepath", "log_dir")  # of Keras's callbacks; relative ones lie in the run's folder
PLAIN = (bool, int, str, type(None))
CONSTANT = (types.ModuleType, type, pathlib.PurePath, tf.data.Dataset, bytes, tf.DType)
CONTAINERS = {"list": list, "tuple": tuple, "set": set, "deque": collections.deque, "dict": dict}


class UnsavableError(Exception):
    """A value that no checkpoint can hold; the argument says which."""


# --- values ---


def encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a value as plain data. Arrays are appended to `arrays` and referred to by number.

    Raises:
        UnsavableError: It cannot be saved.
    """
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        arrays.append(np.asarray(value))
        kind = "array" if isinstance(value, np.ndarray) else "tensor" if isinstance(value, tf.Tensor) else "number"
        return {kind: len(arrays) - 1}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    for name, kind in CONTAINERS.items():
        if type(value) is kind or (name == "dict" and isinstance(value, dict)):
            items = [list(pair) for pair in value.items()] if name == "dict" else list(value)
            return {name: [encode(item, arrays) for item in (sorted(items, key=repr) if name == "set" else items)]}
    if isinstance(value, np.random.Generator):
        return {"generator": encode(value.bit_generator.state, arrays)}
    if isinstance(value, random.Random):
        return {"random": encode(value.getstate(), arrays)}
    if isinstance(value, keras.Layer | keras.metrics.Metric | keras.optimizers.Optimizer | keras.random.SeedGenerator):
        variables = [value.state] if isinstance(value, keras.random.SeedGenerator) else value.variables
        return {"variables": [encode(variable.numpy(), arrays) for variable in variables]}
    if isinstance(value, CONSTANT):
        return {"constant": id(value)}  # the same object as at the start, which every start makes anew
    if callable(value):
        return encode_function(value)
    raise UnsavableError(f"{type(value).__module__}.{type(value).__qualname__}")


def encode_function(function: Any) -> Any:
    """Return a function as its import path, or as a constant if it holds nothing that can change.

    Raises:
        UnsavableError: It holds a variable of its surrounding function that can change.
    """
    module, name = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", "")
    if _import(module, name) is function:
        return {"function": [module, name]}
    if isinstance(function, np.ufunc):
        return {"function": ["numpy", function.__name__]}
    if isinstance(function, types.MethodType | types.FunctionType):
        for cell in getattr(function, "__closure__", None) or ():
            content = cell.cell_contents
            if not isinstance(content, (*PLAIN, *CONSTANT, float, types.FunctionType, keras.Model)):
                raise UnsavableError(f"function {name} that holds a {type(content).__qualname__}")
        return {"constant": id(function)}
    raise UnsavableError(f"{type(function).__module__}.{type(function).__qualname__}")


def _import(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module) if module else None
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def decode(plain: Any, arrays: Sequence[np.ndarray], current: Any) -> Any:
    """Return the value from the result of `encode`. Generators and variables are changed in place in `current`."""
    if isinstance(plain, PLAIN):
        return plain
    ((kind, content),) = plain.items()
    if kind in ("array", "number", "tensor"):
        array = arrays[content]
        return array if kind == "array" else array[()] if kind == "number" else tf.constant(array)
    if kind == "float":
        return float.fromhex(content)
    if kind == "dict":
        pairs = [decode(item, arrays, None) for item in content]
        mapping = {key: value for key, value in pairs}  # noqa: C416  pairs are lists
        return mapping if type(current) is dict or current is None else _same_kind(current, mapping)
    if kind in CONTAINERS:
        return CONTAINERS[kind](decode(item, arrays, None) for item in content)
    if kind == "function":
        return _import(*content)
    if kind == "generator":
        current.bit_generator.state = decode(content, arrays, None)
    if kind == "random":
        current.setstate(decode(content, arrays, None))
    if kind == "variables":
        variables = [current.state] if isinstance(current, keras.random.SeedGenerator) else current.variables
        for variable, value in zip(variables, content, strict=True):
            variable.assign(decode(value, arrays, None))
    return current


def _same_kind(current: Any, mapping: dict[Any, Any]) -> Any:
    """Return a defaultdict, OrderedDict or Counter with new content."""
    copy = current.copy()
    copy.clear()
    copy.update(mapping)
    return copy


# --- callbacks of the configuration ---


def make_callbacks(named: Sequence[Any], folder: pathlib.Path) -> list[keras.callbacks.Callback]:
    """Return the callbacks that `training.callbacks` names: Keras's or own classes, or functions that return some.

    Args:
        named: Names, possibly with arguments.
        folder: The run's folder, for the files of Keras's callbacks.

    Raises:
        ConfigError: A name does not exist, or is no callback.
    """
    found: list[keras.callbacks.Callback] = []
    for number, each in enumerate(named):
        key = f"training.callbacks[{number}]"
        function, arguments = find_named(key, each, {})
        made = call_named(key, function, arguments)
        for callback in made if isinstance(made, list | tuple) else [made]:
            if not isinstance(callback, keras.callbacks.Callback):
                raise ConfigError(
                    key, expected="a Keras callback, or a function that returns one or a list", received=repr(callback),
                    fix="derive the class from keras.callbacks.Callback",
                )  # fmt: skip
            found.append(callback)
    for callback in found:
        for name in PATHS:
            path = getattr(callback, name, None)
            if type(callback).__module__.startswith("keras.") and isinstance(path, str) and "://" not in path:
                setattr(callback, name, str(folder / path))
    return found


class Callbacks:
    """The callbacks of one training.

    Args:
        callbacks: Keras callbacks, called in this order.
        model: The model.
        params: What Keras gives to `set_params`: epochs, steps, verbose.

    Raises:
        ConfigError: A callback cannot be used. The message has its class and the attribute that cannot be saved.
    """

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, params: Mapping[str, Any]
    ) -> None:
        self.callbacks, self.model = list(callbacks), model
        self._initial: list[dict[str, str]] = []  # of each callback: attribute -> digest after on_train_begin
        for callback in self.callbacks:
            for kind, fix in REFUSED.items():
                if isinstance(callback, kind):
                    raise ConfigError(
                        f"callback {kind.__name__}", expected="a callback that does not replace weights",
                        received=kind.__name__, fix=fix,
                    )  # fmt: skip
            callback.set_model(model)
            callback.set_params(dict(params))
        self.on_batches = any(_overrides(callback, BATCH_HOOKS) for callback in self.callbacks)
        self.on_test_batches = any(_overrides(callback, TEST_BATCH_HOOKS) for callback in self.callbacks)

    def has(self, kind: type) -> bool:
        """Return whether a callback is of this class."""
        return any(isinstance(callback, kind) for callback in self.callbacks)

    def call(self, hook: str, *arguments: Any, logs: Mapping[str, float] | None = None) -> None:
        """Call a hook of all callbacks. An observer must not change weights.

        Args:
            hook: For example "on_epoch_end".
            arguments: The epoch (counted from 0) or the batch, if the hook has it.
            logs: The metrics. All callbacks get the same dict, as in Keras.
        """
        shared = dict(logs or {})
        for callback in self.callbacks:
            guarded = not _is_for_batches(hook) and getattr(callback, "observer", False)
            before = self._weights() if guarded else None
            getattr(callback, hook)(*arguments, shared)
            if guarded and before != self._weights():
                raise TrainingError(
                    f"the observer {type(callback).__name__} changed the weights in {hook}.",
                    expected="a callback with observer = True that changes nothing of the training",
                    received="other weights",
                    fix="remove observer = True, so that checkpoints save the state of the callback",
                )

    def _weights(self) -> str:
        return json_digest([array_digest("", variable.numpy()) for variable in self.model.variables])

    def begin(self, saved: Mapping[str, Any] | None, arrays: Sequence[np.ndarray]) -> None:
        """Call on_train_begin, and restore the state of a checkpoint.

        Raises:
            ConfigError: The state of a callback cannot be saved.
        """
        states = saved["callbacks"] if saved else [None] * len(self.callbacks)
        for callback, state in zip(self.callbacks, states, strict=True):
            if state is not None and isinstance(callback, keras.callbacks.CSVLogger):
                callback.append = True  # keeps the rows of the first start
        self.call("on_train_begin")
        self._initial = [self._encoded(callback)[1] for callback in self.callbacks]
        for callback, state in zip(self.callbacks, states, strict=True):
            if state is not None:
                restore(callback, state, arrays)

    def _encoded(self, callback: keras.callbacks.Callback) -> tuple[dict[str, tuple[Any, list[Any]]], dict[str, str]]:
        """Return each attribute as (plain data, arrays), and the digest of each."""
        parts: dict[str, tuple[Any, list[Any]]] = {}
        for name, value in attributes(callback).items():
            arrays: list[np.ndarray] = []
            try:
                parts[name] = encode(value, arrays), arrays
            except UnsavableError as error:
                raise _cannot_save(callback, f"{name}: {error}") from error
        digests = {
            name: json_digest([plain, [array_digest("", each) for each in arrays]])
            for name, (plain, arrays) in parts.items()
        }
        return parts, digests

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the state of all callbacks as plain data and arrays. It holds what changed since on_train_begin."""
        states, arrays = [], []
        for callback, initial in zip(self.callbacks, self._initial, strict=True):
            parts, digests = self._encoded(callback)
            changed = {name: part for name, part in parts.items() if digests[name] != initial.get(name)}
            state: dict[str, Any] = {}
            for name, (plain, its_arrays) in changed.items():
                if isinstance(plain, dict) and "constant" in plain:
                    raise _cannot_save(callback, f"{name}, which was replaced during the training")
                state[name] = [plain, len(arrays), len(its_arrays)]
                arrays += its_arrays
            states.append(state)
        return {"callbacks": states}, arrays


def _cannot_save(callback: keras.callbacks.Callback, received: str) -> ConfigError:
    return ConfigError(
        f"callback {type(callback).__name__}", expected="attributes that a checkpoint can save", received=received,
        fix="keep plain values, arrays or Keras objects in it; or give it get_state() and set_state(state); or set "
        "observer = True if it changes nothing of the training",
    )  # fmt: skip


def _is_for_batches(hook: str) -> bool:
    return "batch" in hook


def attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the state of a callback by name; empty for an observer."""
    if is_observer(callback):
        return {}
    get_state = getattr(callback, "get_state", None)
    if get_state is not None:
        return {"get_state()": get_state()}
    found = {name: value for name, value in vars(callback).items() if name not in NOT_STATE}
    if isinstance(callback, keras.callbacks.CSVLogger):
        found.pop("writer", None)
        stream = found.pop("csv_file", None)
        if stream is not None and not stream.closed:
            stream.flush()
            found["size_bytes"] = pathlib.Path(callback.filename).stat().st_size
    return found


def restore(callback: keras.callbacks.Callback, state: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Put back the state of a checkpoint."""
    for name, (plain, first, count) in state.items():
        value = decode(plain, arrays[first : first + count], getattr(callback, name, None))
        if name == "get_state()":
            callback.set_state(value)
        elif name == "size_bytes":
            callback.csv_file.truncate(value)
            callback.append_header = not value
        elif name != "append":
            setattr(callback, name, value)


def is_observer(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback only observes: Keras's own ones that do, and those with `observer = True`."""
    return isinstance(callback, OBSERVERS) or bool(getattr(callback, "observer", False))


def _overrides(callback: keras.callbacks.Callback, hooks: Sequence[str]) -> bool:
    """Return whether a callback does something in one of these hooks."""
    if isinstance(callback, keras.callbacks.ModelCheckpoint) and callback.save_freq == "epoch":
        return False
    return any(not getattr(getattr(callback, hook), "_is_default", False) for hook in hooks)
