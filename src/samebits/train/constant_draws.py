"""Lets the same numbers for every row take the place of random numbers, so that a step is a function of each row."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import tensorflow as tf

from samebits.train.replaced import replaced

# Multiples of irrational numbers, modulo 1, spread evenly.
GOLDEN_RATIO, BY_CALL = 0.6180339887498949, 0.7548776662466927
EDGE = 1e-3  # numbers of a uniform distribution keep this distance from 0 and 1


class Constants:
    """Functions with the parameters of TensorFlow's, whose numbers depend on the place in a row and on the call."""

    def __init__(self) -> None:
        self._calls = count(1)

    def between(self, shape: Any) -> tf.Tensor:
        """Return numbers between 0 and 1 that are the same for each index of the first axis: float64[shape]."""
        shape = tf.cast(shape, tf.int32)
        row = shape[1:]
        places = tf.cast(tf.range(1, tf.reduce_prod(row) + 1), tf.float64)
        numbers = tf.math.floormod(places * GOLDEN_RATIO + next(self._calls) * BY_CALL, tf.constant(1.0, tf.float64))
        return tf.broadcast_to(tf.reshape(EDGE + (1 - 2 * EDGE) * numbers, row), shape)

    def uniform(
        self, shape: Any, seed: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        """Stand in for `tf.random.stateless_uniform`. All bits are 1 if an integer has no bounds."""
        del seed
        dtype = tf.as_dtype(dtype)
        if minval is None:
            return tf.fill(tf.cast(shape, tf.int32), tf.constant(dtype.max, dtype))
        first, end = (tf.cast(value, tf.float64) for value in (minval, 1 if maxval is None else maxval))
        return tf.cast(first + self.between(shape) * (end - first), dtype)

    def normal(
        self, shape: Any, seed: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        """Stand in for `tf.random.stateless_normal` and `stateless_truncated_normal`."""
        del seed
        numbers = tf.cast(tf.math.ndtri(self.between(shape)), dtype)
        return numbers * tf.cast(stddev, dtype) + tf.cast(mean, dtype)

    def gamma(
        self, shape: Any, seed: Any, alpha: Any, beta: Any = None, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        """Stand in for `tf.random.stateless_gamma`: numbers near the mean."""
        del seed
        mean = tf.cast(alpha, dtype) / tf.cast(1 if beta is None else beta, dtype)
        return mean * tf.cast(0.5 + self.between(shape), dtype)

    def binomial(
        self, shape: Any, seed: Any, counts: Any, probs: Any, output_dtype: Any = tf.int32, **_: Any
    ) -> tf.Tensor:
        """Stand in for `tf.random.stateless_binomial`: numbers near the mean."""
        del seed
        mean = tf.cast(counts, tf.float64) * tf.cast(probs, tf.float64)
        return tf.cast(tf.floor(mean + self.between(shape)), output_dtype)

    @staticmethod
    def categorical(logits: Any, num_samples: Any, seed: Any, dtype: Any = tf.int64, **_: Any) -> tf.Tensor:
        """Stand in for `tf.random.stateless_categorical`: the first class."""
        del seed
        return tf.zeros([tf.shape(logits)[0], num_samples], dtype)

    def dropout(self, x: Any, rate: Any, seed: Any, noise_shape: Any = None, **_: Any) -> tf.Tensor:
        """Stand in for `tf.nn.experimental.stateless_dropout`."""
        del seed
        x = tf.convert_to_tensor(x)
        kept = self.between(tf.shape(x) if noise_shape is None else noise_shape) >= tf.cast(rate, tf.float64)
        return tf.where(kept, x / tf.cast(1 - rate, x.dtype), tf.zeros([], x.dtype))


@contextmanager
def constant_draws() -> Iterator[None]:
    """Let the same numbers for every row take the place of random numbers while a step is traced."""
    constants = Constants()
    instead = {
        "stateless_uniform": constants.uniform, "stateless_normal": constants.normal,
        "stateless_truncated_normal": constants.normal, "stateless_gamma": constants.gamma,
        "stateless_binomial": constants.binomial, "stateless_categorical": constants.categorical,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, function in instead.items():
            stack.enter_context(replaced([tf.random], name, lambda *_, function=function: function))
        stack.enter_context(replaced([tf.nn.experimental], "stateless_dropout", lambda *_: constants.dropout))
        yield
