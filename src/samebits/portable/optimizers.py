"""Optimisers with the same bits on every CPU: Adam in one fused pass, RMSprop and Adagrad with real divisions."""

from typing import Any

import keras
import tensorflow as tf

from samebits.portable import ops


def runs_side_by_side() -> bool:
    """Return whether operations that do not wait for each other run on several threads (0: as many as cores)."""
    return bool(tf.config.threading.get_inter_op_parallelism_threads() != 1)


def _apply(handles: list[tf.Tensor], gradient: tf.Tensor, factors: dict[str, tf.Tensor]) -> None:
    """Update a variable and its moments, all of them float32[shape of gradient], in one pass."""
    variable, momentum, velocity = handles
    tf.raw_ops.ResourceApplyAdam(var=variable, m=momentum, v=velocity, grad=gradient, **factors)


def _apply_slices(
    gradient: tf.IndexedSlices, shape: tf.TensorShape, handles: list[tf.Tensor], factors: dict[str, tf.Tensor]
) -> None:
    """Update all rows as if the gradient were zero, then those that have one from what they were before that.

    The first is nearly all of the work and waits only until the forward pass has read its rows: with a second core it
    is done when the gradient comes. Value by value both are `ResourceApplyAdam`'s formula, and so are the bits.
    """
    rows, places = tf.unique(tf.cast(gradient.indices, tf.int32))
    before = [tf.gather(tf.raw_ops.ReadVariableOp(resource=each, dtype=tf.float32), rows) for each in handles]
    with tf.init_scope():
        zeros = tf.zeros(shape)
    with tf.control_dependencies(before):  # a tensor that somebody still reads would be copied to be updated
        _apply(handles, zeros, factors)
    sums = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    value, momentum, velocity = before
    momentum += (sums - momentum) * (1.0 - factors["beta1"])
    velocity += (tf.square(sums) - velocity) * (1.0 - factors["beta2"])
    rate = ops.divide(factors["lr"] * tf.sqrt(1.0 - factors["beta2_power"]), 1.0 - factors["beta1_power"])
    value -= ops.divide(momentum * rate, tf.sqrt(velocity) + factors["epsilon"])
    for handle, after in zip(handles, (value, momentum, velocity), strict=True):
        # A scatter into the variable would make every later read and update of it copy it whole.
        whole = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.raw_ops.InplaceUpdate(x=whole, i=rows, v=after))


@keras.saving.register_keras_serializable(package="samebits")
class Adam(keras.optimizers.Adam):
    """Adam with TensorFlow's fused `ResourceApplyAdam`; arguments and formula are those of Keras's Adam.

    The slices of an embedding's gradient that belong to one row are summed first, which gives the dense gradient's
    update; Keras's own squares each slice alone (Keras 3.15). Where operations run side by side, the rows without a
    gradient are updated while the gradient is computed.

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
        beta_1, beta_2 = tf.constant(self.beta_1, tf.float32), tf.constant(self.beta_2, tf.float32)
        factors = {
            "beta1_power": tf.pow(beta_1, step),
            "beta2_power": tf.pow(beta_2, step),
            "lr": tf.cast(learning_rate, tf.float32),
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": tf.constant(self.epsilon, tf.float32),
        }
        moments = self._momentums[index], self._velocities[index]
        handles = [variable.handle, *(moment.value.handle for moment in moments)]
        if isinstance(gradient, tf.IndexedSlices) and runs_side_by_side():
            _apply_slices(gradient, variable.shape, handles, factors)
        else:
            _apply(handles, tf.convert_to_tensor(gradient), factors)


@keras.saving.register_keras_serializable(package="samebits")
class RMSprop(keras.optimizers.RMSprop):
    """Keras's `RMSprop`, with a real division by the root, whatever the graph optimiser may rewrite.

    The slices of an embedding's gradient that belong to one row are summed first.

    Source: Hinton, 2012, lecture 6 of "Neural networks for machine learning".
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its averages in place.

        Args:
            gradient: float[shape of variable], or the slices of an embedding's gradient.
            variable: The TensorFlow variable.
            learning_rate: float[].
        """
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        index = self._get_variable_index(variable)
        velocity = self._velocities[index]
        self.assign(velocity, self.rho * velocity + (1 - self.rho) * tf.square(gradient))
        spread = velocity + self.epsilon
        if self.centered:
            average = self._average_gradients[index]
            self.assign(average, self.rho * average + (1 - self.rho) * gradient)
            spread = velocity - tf.square(average) + self.epsilon
        decrease = ops.divide(tf.cast(learning_rate, variable.dtype) * gradient, tf.sqrt(spread))
        if self.momentum > 0:
            momentum = self._momentums[index]
            self.assign(momentum, self.momentum * momentum + decrease)
            decrease = momentum
        self.assign_sub(variable, decrease)


@keras.saving.register_keras_serializable(package="samebits")
class Adagrad(keras.optimizers.Adagrad):
    """Keras's `Adagrad`, with a real division by the root, whatever the graph optimiser may rewrite.

    The slices of an embedding's gradient that belong to one row are summed first.

    Source: Duchi et al., 2011.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its accumulator in place.

        Args:
            gradient: float[shape of variable], or the slices of an embedding's gradient.
            variable: The TensorFlow variable.
            learning_rate: float[].
        """
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        accumulator = self._accumulators[self._get_variable_index(variable)]
        self.assign_add(accumulator, tf.square(gradient))
        root = tf.sqrt(accumulator + self.epsilon)
        self.assign_sub(variable, ops.divide(tf.cast(learning_rate, variable.dtype) * gradient, root))
