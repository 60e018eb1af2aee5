"""Traces the parts of a step side by side, for layers that need numbers of the whole batch in the middle of a part.

That is `BatchNormalization(synchronized=True)`. Each part is traced in a thread of its own; only one runs at a time.
At a sum over all parts, each waits for the others, in the forward pass and in the backward pass.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state  # no public names (Keras 3.15)
from keras.src.backend.tensorflow import nn

from samebits.train.replaced import replaced
from samebits.train.shards import Exchange, refuse, tree_sum


def is_synchronized(model: keras.Model) -> bool:
    """Return whether a layer of a model wants the statistics of the whole batch."""
    return any(getattr(layer, "synchronized", False) for layer in model._flatten_layers())  # noqa: SLF001  no public name (Keras 3.15)


class Turn(threading.Thread):
    """The trace of one part. It runs from one `resume` to the next sum, or to its end.

    Args:
        trace: Traces the part.
    """

    def __init__(self, trace: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.trace, self.result = trace, None
        self.error: BaseException | None = None
        self.waits, self.has_ended = False, False
        self._go, self._paused = threading.Event(), threading.Event()
        self._graph = tf.compat.v1.get_default_graph()
        self._keras = {name: _copied(value) for name, value in vars(global_state.GLOBAL_STATE_TRACKER).items()}
        self.given: list[tf.Tensor] = []
        self.received: list[tf.Tensor] = []
        self.start()

    def run(self) -> None:
        """Trace the part in the graph of the step."""
        self._go.wait()
        vars(global_state.GLOBAL_STATE_TRACKER).update(self._keras)
        try:
            with self._graph.as_default():
                self.result = self.trace()
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that waits
            self.error = error
        self.has_ended = True
        self._paused.set()

    def resume(self) -> None:
        """Let the part run to its next sum or its end.

        Raises:
            BaseException: What the trace raises.
        """
        self._paused.clear()
        self._go.set()
        self._paused.wait()
        if self.error is not None:
            raise self.error

    def wait_for_others(self, given: list[tf.Tensor]) -> list[tf.Tensor]:
        """Give the tensors of this part, and return the sums over all parts. Called in the trace."""
        self.given = given
        self._go.clear()
        self._paused.set()
        self._go.wait()
        return self.received


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


class Lockstep:
    """Traces the parts of a step side by side.

    Args:
        exchange: Shares the parts with other processes.
        count: Number of parts.
        weights: The share of the rows of each part, float32[].
    """

    def __init__(self, exchange: Exchange, count: int, weights: Sequence[tf.Tensor]) -> None:
        self.exchange, self.count, self.weights = exchange, count, weights
        self.running: tuple[int, Turn] | None = None
        self.masked: list[str] = []  # synchronized layers that get a mask

    def trace(self, traces: Mapping[int, Callable[[], Any]]) -> dict[int, Any]:
        """Return the results of some traces, by the number of their part."""
        turns = {number: Turn(trace) for number, trace in traces.items()}
        with self.sums():
            while not all(turn.has_ended for turn in turns.values()):
                for number, turn in turns.items():
                    self.running = number, turn
                    turn.resume()
                if len({turn.has_ended for turn in turns.values()}) > 1:
                    refuse("all parts have the same operations", "parts with other numbers of synchronized layers")
                self.add_up(turns)
        if self.masked:
            refuse("synchronized statistics have no mask", f"a mask for layer {self.masked[0]}")
        return {number: turn.result for number, turn in turns.items()}

    def add_up(self, turns: dict[int, Turn]) -> None:
        """Give each part the sums over all parts."""
        if any(turn.has_ended for turn in turns.values()):
            return
        parts = self.exchange.gather({number: turn.given for number, turn in turns.items()}, self.count)
        sums = [tree_sum(same) for same in zip(*parts, strict=True)]
        for turn in turns.values():
            turn.received = sums

    @contextmanager
    def sums(self) -> Iterator[None]:
        """Let Keras's synchronized statistics be those of all parts."""

        def checked(_: Any, moments: Callable[..., Any]) -> Callable[..., Any]:
            def without_mask(normalization: Any, inputs: Any, mask: Any) -> Any:
                if mask is not None and normalization.synchronized:
                    self.masked.append(normalization.name)  # Keras would wrap an error in here
                return moments(normalization, inputs, mask)

            return without_mask

        with (
            replaced([nn], "_compute_moments_sync", lambda *_: self.moments),
            replaced([keras.layers.BatchNormalization], "_moments", checked),
        ):
            yield

    def moments(self, x: tf.Tensor, axes: Any, keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:  # noqa: FBT001  Keras's parameters
        """Return mean and variance over all parts, computed in two passes: first the mean, then the deviations."""
        sizes = tf.reduce_sum(tf.ones_like(x), axis=axes, keepdims=True)
        total, size = self.total(tf.reduce_sum(x, axis=axes, keepdims=True)), self.total(sizes)
        mean = total / size
        deviations = tf.reduce_sum(tf.math.squared_difference(x, mean), axis=axes, keepdims=True)
        variance = self.total(deviations) / size
        if not keepdims:
            mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
        return mean, variance

    def total(self, value: tf.Tensor) -> tf.Tensor:
        """Return the sum of a tensor over all parts. A part without rows adds nothing.

        The gradient of the batch is the mean of the gradients of its parts, weighted by their rows, so what the losses
        of others owe to this part is weighted here.
        """
        assert self.running is not None  # noqa: S101  only called while a part runs
        number, turn = self.running
        weight = self.weights[number]

        def add(given: tf.Tensor) -> tf.Tensor:
            return turn.wait_for_others([given])[0]

        @tf.custom_gradient
        def summed(own: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                return tf.math.divide_no_nan(add(upstream * weight), weight)

            return add(tf.where(weight > 0, own, tf.zeros_like(own))), gradient

        result: tf.Tensor = summed(value)
        return result
