"""Keras pieces whose bits do not depend on the CPU: a loss with an exact gradient, an exact orthogonal initialiser.

Importing this module imports Keras; only the training process and the user's model function do.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def binary_crossentropy_from_logits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the binary cross-entropy of each row, with the exact gradient sigmoid(z) - y.

    Keras's own, from logits or probabilities, has log or log1p in it, whose gradients reach an approximate reciprocal
    instruction that differs between CPU vendors.

    Args:
        labels: float32[rows], 0 or 1.
        logits: float32[rows, 1], before the sigmoid.

    Returns:
        float32[rows]: softplus(z) - z*y.
    """
    z = tf.reshape(logits, [-1])
    return tf.math.softplus(z) - z * labels


def count_correct_binary(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return how many rows are on the right side of probability 0.5: int32[]."""
    predicted = tf.cast(tf.reshape(logits, [-1]) > 0.0, labels.dtype)
    return tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.int32))


def orthonormal_rows(matrix: np.ndarray) -> np.ndarray:
    """Return rows that span what the given rows span, orthonormal, with bits that depend on nothing but the input.

    Gram-Schmidt, each row reduced twice ("twice is enough", Kahan and Parlett); every inner product is summed by
    `math.fsum`, which rounds once, and the rest is elementwise IEEE arithmetic. A library's QR takes its order of
    summation from the CPU's caches and instruction sets.

    Args:
        matrix: float64[rows, columns], rows <= columns, of full rank.

    Returns:
        float64[rows, columns].
    """
    basis = np.array(matrix, np.float64)
    for i in range(len(basis)):
        row = basis[i]
        for _ in range(2):
            for other in basis[:i]:
                row = row - math.fsum((row * other).tolist()) * other
        basis[i] = row / math.sqrt(math.fsum((row * row).tolist()))
    return basis


@keras.saving.register_keras_serializable(package="samebits")
class Orthogonal(keras.initializers.Initializer):
    """Orthogonal initialiser like Keras's `OrthogonalInitializer`, with the same bits on every CPU.

    The draws are Keras's own, so the distribution is the same; the decomposition is `orthonormal_rows`.

    Args:
        gain: Factor on the orthogonal matrix.
        seed: The seed, or None for one of Keras's own choice (unseeded).

    Source: Saxe et al., 2014.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain = gain
        self._init_seed = seed
        self.seed = keras.initializers.RandomNormal(seed=seed).seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return float[shape]; the last axis is one side of the matrix, all others together the other.

        Raises:
            ValueError: Fewer than two axes.
        """
        if len(shape) < 2:  # noqa: PLR2004
            message = f"Orthogonal expects a shape with at least two axes. Received: shape={shape}"
            raise ValueError(message)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        small, large = min(rows, columns), max(rows, columns)
        draws = keras.ops.convert_to_numpy(keras.random.normal((large, small), seed=self.seed, dtype="float32"))
        basis = orthonormal_rows(draws.T)
        matrix = basis.T if rows >= columns else basis
        return keras.ops.convert_to_tensor((self.gain * matrix).reshape(shape), dtype=dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for Keras's serialisation."""
        return {"gain": self.gain, "seed": self._init_seed}
