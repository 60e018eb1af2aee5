"""TensorFlow and Keras: their pins, and the record of each call of `Model.fit`. Imports neither itself."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from samebits.runtime.probe.recorder import Recorder

MAX_STEPS = 1000  # of a call of `fit` that are recorded one by one
PARALLEL = ("map", "interleave", "batch", "padded_batch", "ragged_batch")


class Libraries:
    """Prepares each library right after the script has imported it.

    Args:
        recorder: Gets rows and events.
        pins: The names of the pinned sources.
        numpy_arrived: Prepares NumPy.
    """

    def __init__(self, recorder: Recorder, pins: set[str], numpy_arrived: Callable[[Any], None]) -> None:
        self.recorder, self.pins = recorder, pins
        self.waiting = {"numpy": numpy_arrived, "tensorflow": self.tensorflow_arrived, "keras": self.keras_arrived}
        self.fits = 0

    def look(self) -> None:
        """Prepare the libraries that have been imported since the last call."""
        for name in list(self.waiting):
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if module is not None and spec is not None and not getattr(spec, "_initializing", False):
                self.waiting.pop(name)(module)

    def tensorflow_arrived(self, tf: Any) -> None:
        """Pin what belongs to TensorFlow, and report seeds and parallel steps of tf.data without an order."""
        if "tensorflow" in self.pins:
            tf.random.set_seed(0)
        if "determinism" in self.pins:
            tf.config.experimental.enable_op_determinism()
        self.recorder.event("tensorflow", "import", self.recorder.own.caller()[:2])
        self._report_seed(tf.random, "set_seed")
        dataset = tf.data.Dataset
        for name in PARALLEL:
            if hasattr(dataset, name):
                setattr(dataset, name, self._ordered(getattr(dataset, name)))
        options = tf.data.Options
        set_option = options.__setattr__

        def set_attribute(chosen: Any, name: str, value: Any) -> None:
            if name.endswith("deterministic") and value is False:
                value = self._unordered()
            set_option(chosen, name, value)

        options.__setattr__ = set_attribute

    def _unordered(self) -> bool:
        """Report that the script allows any order, and return whether a pin forbids it."""
        if self.recorder.own.caller()[0]:
            self.recorder.event("order", "draw")
        return "order" in self.pins

    def _ordered(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(dataset: Any, *arguments: Any, **named: Any) -> Any:
            if named.get("deterministic") is False:
                named["deterministic"] = self._unordered()
            return original(dataset, *arguments, **named)

        return method

    def _report_seed(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def seed(*arguments: Any, **named: Any) -> Any:
            self.recorder.event("tensorflow", "seed")
            return original(*arguments, **named)

        setattr(owner, name, seed)

    def keras_arrived(self, keras: Any) -> None:
        """Record every call of `fit` from now on."""
        original, parameters = keras.Model.fit, inspect.signature(keras.Model.fit)

        @functools.wraps(original)
        def fit(model: Any, *arguments: Any, **named: Any) -> Any:
            name, line, _ = self.recorder.own.caller()
            if not name:
                return original(model, *arguments, **named)
            self.fits += 1
            watch = FitWatch(self.recorder, (name, line), self.fits)
            given = parameters.bind(model, *arguments, **named).arguments
            watch.data({key: given.get(key) for key in ("x", "y", "sample_weight", "validation_data")})
            callbacks = given.get("callbacks")
            if callbacks is None or isinstance(callbacks, list | tuple):
                given["callbacks"] = [*(callbacks or ()), watch.callback(keras)]
            elif isinstance(callbacks, keras.callbacks.Callback):
                given["callbacks"] = [callbacks, watch.callback(keras)]
            history = original(**given)
            watch.row("history", history)
            return history

        keras.Model.fit = fit


class FitWatch:
    """Records one call of `fit`.

    Args:
        recorder: Gets the rows.
        place: File and line of the call.
        number: Of the call, counted from 1.
    """

    def __init__(self, recorder: Recorder, place: tuple[str, int], number: int) -> None:
        self.recorder, self.place, self.number = recorder, place, number

    def row(self, what: str, value: Any, **more: Any) -> None:
        """Write one row of this call."""
        self.recorder.row(*self.place, "fit", what, value, call=self.number, **more)

    def data(self, given: dict[str, Any]) -> None:
        """Record the arrays that reach `fit`. What can only be iterated is not read."""
        for name, value in given.items():
            if value is not None:
                self.row(f"data {name}", value)

    def weights(self, model: Any, **more: Any) -> None:
        """Record every variable of the model."""
        for variable in model.variables:
            self.row(f"weights {variable.path}", variable, **more)

    def callback(self, keras: Any) -> Any:
        """Return the callback that records weights and losses."""
        watch = self

        class Watch(keras.callbacks.Callback):
            epoch = 0

            def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
                watch.weights(self.model, epoch=0)

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
                self.epoch = epoch + 1

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if batch < MAX_STEPS:
                    for name, value in (logs or {}).items():
                        watch.row(name, value, epoch=self.epoch, step=batch + 1)

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
                watch.weights(self.model, epoch=epoch + 1)

        return Watch()
