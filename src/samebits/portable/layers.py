"""Layers, losses, optimizers and functions with the same bits on every CPU. A model imports all of them from here.

The normalization layers and dropout are defined here, the others in their own modules. The arguments are those of the
Keras classes with the same names. Importing this module imports Keras, so only the training process and the user's
functions do so.
"""

from typing import Any

import keras
import tensorflow as tf

from samebits.portable.initializers import Orthogonal
from samebits.portable.losses import BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy
from samebits.portable.lstm import LSTM
from samebits.portable.ops import atan, gelu, l2_normalize, log, log1p, rsqrt
from samebits.portable.optimizers import Adagrad, Adam, RMSprop

__all__ = [
    "LSTM",
    "Adagrad",
    "Adam",
    "BatchNormalization",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Dropout",
    "GroupNormalization",
    "LayerNormalization",
    "Orthogonal",
    "RMSNormalization",
    "RMSprop",
    "SparseCategoricalCrossentropy",
    "UnitNormalization",
    "atan",
    "gelu",
    "l2_normalize",
    "log",
    "log1p",
    "rsqrt",
]


def _wide(x: Any) -> tf.Tensor:
    """Return a tensor in at least float32, for the computation of statistics."""
    return tf.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _normalize(x: tf.Tensor, mean: Any, variance: Any, epsilon: float, gamma: Any, beta: Any) -> tf.Tensor:
    """Return (x - mean) / sqrt(variance + epsilon) * gamma + beta; all parts broadcast to x."""
    factor = rsqrt(variance + epsilon)
    if gamma is not None:
        factor *= tf.cast(gamma, x.dtype)
    shifted = (x - mean) * factor
    return shifted if beta is None else shifted + tf.cast(beta, x.dtype)


def _broadcastable(parameter: Any, axes: int | list[int], x: tf.Tensor) -> Any:
    """Return a parameter with the shape of x on its own axes and 1 on all others (None stays None)."""
    if parameter is None:
        return None
    shape = [1] * len(x.shape)
    for axis in [axes] if isinstance(axes, int) else axes:
        shape[axis] = x.shape[axis]
    return tf.reshape(parameter, shape)


@keras.saving.register_keras_serializable(package="samebits")
class Dropout(keras.layers.Dropout):
    """Keras's `Dropout` with 16 random bits per value instead of 32, which halves the random numbers.

    The rate is rounded to a multiple of 1/65536. With `noise_shape` it uses Keras's own code.

    Source: Srivastava et al., 2014.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002  Keras's argument
        """Return the inputs; while training, some are set to 0 and the others are scaled up: float[same shape].

        Args:
            inputs: float[any shape], finite.
            training: Whether to drop.
        """
        if not training or self.rate == 0 or self.noise_shape is not None:
            return super().call(inputs, training=training)
        size = tf.size(inputs)
        words = tf.random.stateless_uniform(
            [(size + 1) // 2],
            self.seed_generator.next(),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size], tf.shape(inputs))
        kept = bits >= tf.constant(min(round(self.rate * 2**16), 2**16 - 1), tf.uint16)
        return inputs * (tf.cast(kept, inputs.dtype) * (1.0 / (1.0 - self.rate)))


@keras.saving.register_keras_serializable(package="samebits")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's `BatchNormalization`, with an exact division by the standard deviation.

    Source: Ioffe and Szegedy, 2015.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: FBT001  Keras's argument
        """Return the normalized inputs, float[same shape]; updates the moving statistics while training.

        Args:
            inputs: float[rows, ...].
            training: Whether to use the batch's own statistics.
            mask: bool[inputs' shape without the last axis]; True: the position counts.

        Raises:
            ValueError: The mask has another number of axes.
        """
        if mask is not None and len(mask.shape) != len(inputs.shape) - 1:
            message = f"mask expects one axis fewer than inputs. Received: {mask.shape} and {inputs.shape}"
            raise ValueError(message)
        x = _wide(inputs)
        gamma = tf.cast(self.gamma, x.dtype) if self.scale else None
        beta = tf.cast(self.beta, x.dtype) if self.center else None
        moving = {"mean": tf.cast(self.moving_mean, x.dtype), "variance": tf.cast(self.moving_variance, x.dtype)}
        mean, variance = moving["mean"], moving["variance"]
        if training and self.trainable:
            mean, variance = self._moments(x, mask)
            if self.renorm:
                r, d, mean, variance = self._renorm_correction_and_moments(mean, variance)
                gamma, beta = self._compose_transforms(r, d, gamma, beta, x.dtype)
                self._update_renorm_statistics(mean, variance)
            else:
                for variable, old, new in (
                    (self.moving_mean, moving["mean"], mean),
                    (self.moving_variance, moving["variance"], variance),
                ):
                    variable.assign(old * self.momentum + new * (1.0 - self.momentum))
        parts = [_broadcastable(part, self.axis, x) for part in (mean, variance, gamma, beta)]
        return tf.cast(_normalize(x, parts[0], parts[1], self.epsilon, *parts[2:]), self.compute_dtype)


@keras.saving.register_keras_serializable(package="samebits")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's `LayerNormalization`, with an exact division by the standard deviation.

    Source: Ba et al., 2016.
    """

    def call(self, inputs: Any) -> Any:
        """Return the inputs normalized over the layer's axes, float[same shape]."""
        x = _wide(inputs)
        gamma, beta = (_broadcastable(part, self.axis, x) for part in (self.gamma, self.beta))
        mean, variance = keras.ops.moments(x, axes=self.axis, keepdims=True)
        if self.rms_scaling:
            mean, beta = 0.0, None
        return tf.cast(_normalize(x, mean, variance, self.epsilon, gamma, beta), self.compute_dtype)


@keras.saving.register_keras_serializable(package="samebits")
class GroupNormalization(keras.layers.GroupNormalization):
    """Keras's `GroupNormalization`, with an exact division by the standard deviation.

    Source: Wu and He, 2018.
    """

    def _apply_normalization(self, reshaped_inputs: Any, input_shape: Any) -> Any:  # noqa: ARG002  Keras's argument
        x = _wide(reshaped_inputs)
        channels = len(x.shape) - 1 if self.axis == -1 else self.axis + 1
        groups = channels - 1
        axes = [axis for axis in range(1, len(x.shape)) if axis != groups]
        mean, variance = keras.ops.moments(x, axes=axes, keepdims=True)
        gamma = _broadcastable(self.gamma, [groups, channels], x) if self.scale else None
        beta = _broadcastable(self.beta, [groups, channels], x) if self.center else None
        return tf.cast(_normalize(x, mean, variance, self.epsilon, gamma, beta), reshaped_inputs.dtype)


@keras.saving.register_keras_serializable(package="samebits")
class RMSNormalization(keras.layers.RMSNormalization):
    """Keras's `RMSNormalization`, with an exact division by the root mean square.

    Source: Zhang and Sennrich, 2019.
    """

    def call(self, x: Any) -> Any:
        """Return the inputs divided by their root mean square over the layer's axes and scaled, float[same shape]."""
        wide = _wide(x)
        mean_square = tf.reduce_mean(tf.square(wide), self.axis, keepdims=True)
        scale = _broadcastable(self.scale, self.axis, wide)
        return tf.cast(_normalize(wide, 0.0, mean_square, self.epsilon, scale, None), x.dtype)


@keras.saving.register_keras_serializable(package="samebits")
class UnitNormalization(keras.layers.UnitNormalization):
    """Keras's `UnitNormalization`, with an exact division by the norm."""

    def call(self, inputs: Any) -> Any:
        """Return the inputs divided by their Euclidean norm over the layer's axes, float[same shape]."""
        return l2_normalize(inputs, self.axis, epsilon=1e-24)  # Keras bounds the norm by 1e-12
