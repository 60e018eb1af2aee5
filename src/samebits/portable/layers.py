"""Layers, losses and optimizers that are faster than Keras's, or exact where Keras's cannot be; see `portable.exact`.

A model imports all of them from here. Dropout is defined here, the others in their own modules. The arguments are those
of the Keras classes with the same names. Importing this module imports Keras, so only the training process and the
user's functions do so.
"""

from typing import Any

import keras
import tensorflow as tf

from samebits.portable.initializers import Orthogonal
from samebits.portable.losses import BinaryCrossentropy
from samebits.portable.lstm import LSTM
from samebits.portable.optimizers import Adam

__all__ = ["LSTM", "Adam", "BinaryCrossentropy", "Dropout", "Orthogonal"]


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
