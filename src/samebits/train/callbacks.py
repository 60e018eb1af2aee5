"""Calls Keras callbacks, and saves and restores their state, so that a resumed run ends as an undisturbed one.

The state of a callback is its attributes. A callback with an attribute that cannot be saved is refused before training,
unless it has `get_state` and `set_state`, or is declared an observer by `observer = True`: then it must not change the
training, and what it does outside may be repeated after a resume.
"""

import importlib.util
import inspect
import math
import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from samebits.core.config import TrainingConfig
from samebits.core.digest import array_digest, json_digest
from samebits.core.errors import ConfigError, RecordError, TrainingError
from samebits.core.metrics import Monitor
from samebits.train.compiling import call_named, find_named
from samebits.train.encoding import Encoder, UnsavableError, decode, kept_objects

TRAIN_BATCH = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
TEST_BATCH = ("on_test_batch_begin", "on_test_batch_end")
OBSERVERS = (keras.callbacks.RemoteMonitor, keras.callbacks.ProgbarLogger)
TENSORBOARD_STATE = ("_global_train_batch", "_global_test_batch")  # the numbers of its rows
STATE, SIZE = "get_state()", "size_bytes"  # names in the state of a callback that are no attributes
NOT_STATE = ("_model", "params")  # set again at every start
# Callbacks that write files, and the attribute with the path.
WRITERS = {
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.TensorBoard: "log_dir",
}


class KeepBest(keras.callbacks.EarlyStopping):
    """Keeps the weights of the best epoch, for `training.keep_best`. Never stops the training."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Keep the weights if the epoch is the best one.

        Raises:
            TrainingError: The training has no metric with this name.
        """
        if self.monitor not in (logs or {}):
            raise TrainingError(
                f"training.keep_best cannot compare epochs by {self.monitor}.", expected=", ".join(logs or {}),
                received=self.monitor, fix="set training.monitor to one of these metrics, or training.keep_best=false",
            )  # fmt: skip
        super().on_epoch_end(epoch, logs)


def make_callbacks(settings: TrainingConfig, offered: Mapping[str, Any]) -> list[keras.callbacks.Callback]:
    """Return the callbacks that `training.callbacks` names: Keras's or own classes, or functions that return some.

    Args:
        settings: `callbacks`, and `keep_best` with `monitor`.
        offered: Arguments that a class or function gets if it has parameters with these names. "folder" is the folder
            for the files of callbacks.

    Raises:
        ConfigError: A name does not exist, or is no callback.
    """
    callbacks: list[keras.callbacks.Callback] = []
    for number, each in enumerate(settings.callbacks):
        key = f"training.callbacks[{number}]"
        function, arguments = find_named(key, each, {})
        parameters = inspect.signature(function).parameters
        given = {name: value for name, value in offered.items() if name in parameters}
        made = call_named(key, function, given | arguments)
        callbacks += made if isinstance(made, list | tuple) else [made]
        check_callbacks(key, callbacks)
    for callback in callbacks:
        place_files(callback, offered["folder"])
    if settings.keep_best:
        monitor = Monitor(settings.monitor, settings.monitor_mode)
        mode = "max" if monitor.higher_is_better(monitor.name) else "min"
        callbacks.append(KeepBest(monitor.name, mode=mode, patience=settings.epochs, restore_best_weights=True))
    return callbacks


def check_callbacks(key: str, callbacks: Sequence[Any]) -> None:
    """Check that all are callbacks that can be used here.

    Raises:
        ConfigError: One is not. The message has the key.
    """
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigError(
                key, expected="a Keras callback, or a function that returns one or a list", received=repr(callback),
                fix="derive the class from keras.callbacks.Callback",
            )  # fmt: skip
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ConfigError(
                key, expected="a callback that does not save and restore the training", received="BackupAndRestore",
                fix="remove it: samebits saves checkpoints itself, and resumes at the same step",
            )  # fmt: skip
        if isinstance(callback, keras.callbacks.TensorBoard) and importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                key, expected="the package tensorboard", received="TensorBoard is not installed",
                fix="add tensorboard to the dependencies in pyproject.toml and lock them, or use CSVLogger",
            )  # fmt: skip


def place_files(callback: keras.callbacks.Callback, folder: pathlib.Path) -> None:
    """Move the files of a Keras callback whose path is relative into a folder."""
    for kind, name in WRITERS.items():
        path = getattr(callback, name, "")
        if isinstance(callback, kind) and "://" not in path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            setattr(callback, name, str(folder / path))
            if isinstance(callback, keras.callbacks.CSVLogger):
                callback.append = False  # a start without a checkpoint starts the file anew


class Callbacks:
    """The callbacks of one training.

    Args:
        callbacks: Keras callbacks, called in this order. Keras's History is added, as in `fit`.
        model: The model.
        params: What Keras gives to `set_params`: epochs, steps, verbose.
        variables: The variables that checkpoints save. The state of a callback does not repeat them.

    Attributes:
        on_batches: Whether a callback does something at each training batch.
        on_test_batches: The same for each batch of an evaluation.
        is_saved: Whether checkpoints hold the state of the callbacks.
        on_unsavable: Called instead of the error if the state of a callback cannot be saved.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        params: Mapping[str, Any],
        variables: Sequence[Any],
    ) -> None:
        self.callbacks, self.model = list(callbacks), model
        if not self.has(keras.callbacks.History):
            self.callbacks.append(keras.callbacks.History())
        metrics = {id(variable) for variable in model.metrics_variables}
        self._saved = {id(variable) for variable in variables}
        self._guarded = [variable for variable in variables if id(variable) not in metrics]
        self._initial: list[dict[str, tuple[str, Any]]] = []  # of each callback; see `_encode`
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(dict(params))
            if isinstance(callback, keras.callbacks.History):
                model.history = callback
        self.on_batches = any(_uses_batches(callback, TRAIN_BATCH) for callback in self.callbacks)
        self.is_saved = True
        self.on_unsavable: Callable[[ConfigError], None] | None = None
        self.on_test_batches = any(_uses_batches(callback, TEST_BATCH) for callback in self.callbacks)

    def has(self, kind: type) -> bool:
        """Return whether a callback is of this class."""
        return any(isinstance(callback, kind) for callback in self.callbacks)

    def best_epoch(self, monitor: Monitor) -> int | None:
        """Return the best epoch, counted from 1: that of the first EarlyStopping, or else by the monitor.

        Returns:
            None: there is no such metric.
        """
        for callback in self.callbacks:
            if isinstance(callback, keras.callbacks.EarlyStopping) and getattr(callback, "best", None) is not None:
                return int(callback.best_epoch) + 1
        values = [float(value) for value in self.model.history.history.get(monitor.name, ())]
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return None
        return values.index(max(known) if monitor.higher_is_better(monitor.name) else min(known)) + 1

    def call(self, hook: str, *arguments: int, logs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call a hook of all callbacks, and return the metrics, to which callbacks may add.

        Args:
            hook: For example "on_epoch_end".
            arguments: The epoch (counted from 0) or the batch, if the hook has it.
            logs: The metrics. All callbacks get the same dict, as in Keras.

        Raises:
            TrainingError: An observer changed the training.
        """
        shared = dict(logs or {})
        for callback in self.callbacks:
            if getattr(callback, "observer", False) and _is_used(callback, hook):
                self._observe(callback, hook, arguments, shared)
            elif "batch" in hook:
                getattr(callback, hook)(*arguments, logs=shared)
            else:
                getattr(callback, hook)(*arguments, shared)
        return shared

    def _observe(
        self, observer: keras.callbacks.Callback, hook: str, arguments: Sequence[int], logs: dict[str, Any]
    ) -> None:
        """Call a hook of an observer, and check that it changes nothing of the training."""
        before = self._state_of_training()
        getattr(observer, hook)(*arguments, logs)
        if before != self._state_of_training():
            raise TrainingError(
                f"the observer {type(observer).__name__} changed the training in {hook}.",
                expected="a callback with observer = True that changes no weights, optimizer or stop_training",
                received="other values after its call",
                fix="remove observer = True, so that checkpoints save the state of the callback",
            )

    def _state_of_training(self) -> list[Any]:
        return [self.model.stop_training, *(variable.numpy().tobytes() for variable in self._guarded)]

    def begin(self, saved: Mapping[str, Any] | None, arrays: Sequence[np.ndarray]) -> None:
        """Call on_train_begin, and restore the state of a checkpoint.

        Raises:
            ConfigError: The state of a callback cannot be saved.
        """
        states = saved["callbacks"] if saved else [{}] * len(self.callbacks)
        if saved:
            for callback in self.callbacks:
                if isinstance(callback, keras.callbacks.CSVLogger):
                    callback.append = True  # keeps the rows of the first start
        self._try_to_save(lambda: [*map(self._check_code, self.callbacks)])
        self.call("on_train_begin")
        self._try_to_save(self._keep_initial)
        for callback, state in zip(self.callbacks, states, strict=True):
            self._restore(callback, state, arrays)

    def _keep_initial(self) -> None:
        self._initial = [self._encode(callback)[1] for callback in self.callbacks]

    def _try_to_save(self, action: Callable[[], object]) -> None:
        """Do what raises an error if the state of a callback cannot be saved, unless nobody wants to save it."""
        try:
            if self.is_saved:
                action()
        except ConfigError as error:
            if self.on_unsavable is None:
                raise
            self.on_unsavable(error)

    def _check_code(self, callback: keras.callbacks.Callback) -> None:
        """Check that the methods of a callback use no generator or variable of their module.

        Raises:
            ConfigError: They do.
        """
        if isinstance(callback, OBSERVERS) or getattr(callback, "observer", False) or hasattr(callback, "get_state"):
            return
        own = [kind for kind in type(callback).__mro__ if not kind.__module__.startswith(("keras.", "builtins"))]
        for method in [part for kind in own for part in vars(kind).values() if isinstance(part, types.FunctionType)]:
            try:
                Encoder(callback, self._saved).check_code(method)
            except UnsavableError as error:
                raise _cannot_save(callback, str(error)) from error

    def _encode(self, callback: keras.callbacks.Callback) -> tuple[dict[str, Any], dict[str, tuple[str, Any]]]:
        """Return each attribute as (plain data, arrays), and for each a digest and which objects it keeps."""
        parts: dict[str, Any] = {}
        for name, value in attributes(callback).items():
            encoder = Encoder(callback, self._saved)
            try:
                parts[name] = encoder.encode(value), encoder.arrays
            except UnsavableError as error:
                raise _cannot_save(callback, f"{name}: {error}") from error
        marks = {
            name: (json_digest([plain, [array_digest("", each) for each in arrays]]), [*kept_objects(plain)])
            for name, (plain, arrays) in parts.items()
        }
        return parts, marks

    def state(self, *, whole: bool = False) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the state of all callbacks as plain data and arrays.

        Args:
            whole: Whether it holds every attribute, also one that did not change since on_train_begin.

        Raises:
            ConfigError: An attribute has a new value that cannot be saved.
        """
        states: list[dict[str, Any]] = []
        all_arrays: list[np.ndarray] = []
        for callback, initial in zip(self.callbacks, self._initial, strict=True):
            parts, marks = self._encode(callback)
            state: dict[str, Any] = {}
            for name, (plain, arrays) in parts.items():
                digest, kept = initial.get(name, ("", []))
                if marks[name][0] == digest and name != SIZE and not whole:
                    continue
                if not set(marks[name][1]) <= set(kept):
                    raise _cannot_save(callback, f"{name}, which holds an object that was made during the training")
                state[name] = [plain, len(all_arrays), len(arrays)]
                all_arrays += arrays
            states.append(state)
        return {"callbacks": states}, all_arrays

    def restore_end(self, saved: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
        """Restore the whole state at the end of a training, without calls of the callbacks' hooks."""
        for callback, state in zip(self.callbacks, saved["callbacks"], strict=True):
            self._restore(callback, state, arrays)

    def _restore(
        self, callback: keras.callbacks.Callback, state: Mapping[str, Any], arrays: Sequence[np.ndarray]
    ) -> None:
        """Put back the state of a checkpoint."""
        now = attributes(callback)
        for name, (plain, first, count) in state.items():
            value = decode(plain, arrays[first : first + count], now.get(name), self._saved)
            if name == STATE:
                callback.set_state(value)
            elif name == SIZE:
                cut_rows(callback, value)
            else:
                setattr(callback, name, value)


def _cannot_save(callback: keras.callbacks.Callback, received: str) -> ConfigError:
    return ConfigError(
        f"callback {type(callback).__name__}", expected="attributes that a checkpoint can save", received=received,
        fix="keep plain values, arrays or Keras objects in it; or give it get_state() and set_state(state); or set "
        "observer = True if it changes nothing of the training",
    )  # fmt: skip


def attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the state of a callback by name; empty for an observer."""
    if isinstance(callback, keras.callbacks.TensorBoard):
        return {name: getattr(callback, name) for name in TENSORBOARD_STATE}
    if isinstance(callback, OBSERVERS) or getattr(callback, "observer", False):
        return {}
    get_state = getattr(callback, "get_state", None)
    if get_state is not None:
        return {STATE: get_state()}
    found = {name: value for name, value in vars(callback).items() if name not in NOT_STATE}
    if isinstance(callback, keras.callbacks.CSVLogger):
        found.pop("writer", None)
        stream = found.pop("csv_file", None)
        if stream is not None and not stream.closed:
            stream.flush()
            os.fsync(stream.fileno())
            found[SIZE] = pathlib.Path(callback.filename).stat().st_size
    return found


def cut_rows(callback: keras.callbacks.CSVLogger, size_bytes: int) -> None:
    """Cut the file of a CSVLogger to the rows that a checkpoint counts.

    Raises:
        RecordError: It lacks rows.
    """
    now = pathlib.Path(callback.filename).stat().st_size
    if now < size_bytes:
        raise RecordError(
            f"{callback.filename} lost rows.", expected=f"at least {size_bytes} bytes", received=now,
            fix="restore the file, or run the same command again with resume=never.",
        )  # fmt: skip
    callback.csv_file.truncate(size_bytes)
    callback.append_header = not size_bytes


def _is_used(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Return whether a callback does something in a hook. Keras calls on_batch_end in on_train_batch_end."""
    names = {hook, hook.replace("train_batch", "batch")}
    return any(not getattr(getattr(callback, name), "_is_default", False) for name in names)


def _uses_batches(callback: keras.callbacks.Callback, hooks: Sequence[str]) -> bool:
    """Return whether a callback needs to be called at each batch."""
    if type(callback) is keras.callbacks.ModelCheckpoint and callback.save_freq == "epoch":
        return False
    if type(callback) is keras.callbacks.TensorBoard and callback.update_freq == "epoch":
        return bool(callback.write_steps_per_second or callback._should_trace)  # noqa: SLF001  no public name (Keras 3.15)
    return any(_is_used(callback, hook) for hook in hooks)
