"""The fused optimiser update: one pass over each variable instead of Keras's several, with the same formula."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="samebits")
class Adam(keras.optimizers.Adam):
    """Adam with TensorFlow's fused `ResourceApplyAdam`; arguments and formula are those of Keras's Adam.

    The slices of an embedding's gradient that belong to one row are summed first, which gives the dense gradient's
    update; Keras's own squares each slice alone (Keras 3.15).

    Source: Kingma and Ba, 2015; the formula before section 2.1, as in Keras and TensorFlow.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its two moments in place.

        Args:
            gradient: float32[shape of variable], or the slices of an embedding's gradient.
            variable: The TensorFlow variable.
            learning_rate: float32[].
        """
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, tf.float32), step),
            beta2_power=tf.pow(tf.constant(self.beta_2, tf.float32), step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=tf.constant(self.beta_1, tf.float32),
            beta2=tf.constant(self.beta_2, tf.float32),
            epsilon=tf.constant(self.epsilon, tf.float32),
            grad=tf.convert_to_tensor(gradient),
        )
