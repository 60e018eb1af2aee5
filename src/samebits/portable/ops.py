"""Functions whose values and gradients have the same bits on every CPU, unlike TensorFlow's own.

TensorFlow's Reciprocal and Rsqrt use approximate instructions that differ between CPU vendors. The gradients of log and
log1p use them too. Division, square root and float32 arithmetic are exactly rounded everywhere (IEEE 754). Importing
this module imports TensorFlow.
"""

import math
from collections.abc import Callable

import tensorflow as tf

Gradient = Callable[[tf.Tensor], tf.Tensor]


def divide(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Return x / y, and 0 where y is 0.

    TensorFlow's graph optimizer (Grappler) replaces a plain division by an approximate reciprocal if y is a square root
    or x is 1. It does not change this operation.
    """
    return tf.math.divide_no_nan(x, y)


@tf.custom_gradient
def log(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """Return the natural logarithm; its gradient uses an exact division."""
    return tf.math.log(x), lambda upstream: upstream / x


@tf.custom_gradient
def log1p(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """Return log(1 + x); its gradient uses an exact division."""
    return tf.math.log1p(x), lambda upstream: upstream / (x + 1)


def rsqrt(x: tf.Tensor) -> tf.Tensor:
    """Return 1 / sqrt(x), with both operations exactly rounded; 0 where x is 0."""
    return divide(tf.ones_like(x), tf.sqrt(x))


def atan(x: tf.Tensor) -> tf.Tensor:
    """Return the arc tangent in radians, computed in float64; its gradient uses an exact division."""

    @tf.custom_gradient
    def exact(y: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        wide = tf.cast(tf.math.atan(tf.cast(y, tf.float64)), y.dtype)
        return wide, lambda upstream: upstream / (y * y + 1)

    return exact(x)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Return x * P(X <= x) for a standard normal X, computed with erf. Keras's exact version uses erfc.

    Source: Hendrycks and Gimpel, 2016.
    """
    half, root = tf.constant(0.5, x.dtype), tf.constant(math.sqrt(0.5), x.dtype)
    return half * x * (1 + tf.math.erf(x * root))


def l2_normalize(x: tf.Tensor, axis: int | list[int], epsilon: float = 1e-12) -> tf.Tensor:
    """Return x divided by its Euclidean norm over the axes; the norm's square is at least epsilon."""
    square_sum = tf.reduce_sum(tf.square(x), axis, keepdims=True)
    return divide(x, tf.sqrt(tf.maximum(square_sum, epsilon)))
