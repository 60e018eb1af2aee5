"""Adam in one fused pass, which is faster than Keras's."""

from typing import Any

import keras
import tensorflow as tf

FEW = 8  # rows with a gradient, of so many rows, are updated after the others


def runs_side_by_side() -> bool:
    """Return whether TensorFlow uses several inter-op threads (0: one per core)."""
    return bool(tf.config.threading.get_inter_op_parallelism_threads() != 1)


def dense_gradient(gradient: Any, variable: Any) -> tf.Tensor:
    """Return the gradient of a variable as a tensor, also if it is slices, which need not know their shape."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    return tf.convert_to_tensor(gradient)


def _apply(handles: list[tf.Tensor], gradient: tf.Tensor, factors: dict[str, tf.Tensor]) -> None:
    """Update a variable and its moments in one pass; all are float32[shape of gradient]."""
    variable, momentum, velocity = handles
    tf.raw_ops.ResourceApplyAdam(var=variable, m=momentum, v=velocity, grad=gradient, **factors)


def _apply_slices(
    gradient: tf.IndexedSlices, variable: Any, handles: list[tf.Tensor], factors: dict[str, tf.Tensor]
) -> None:
    """Update all rows with a zero gradient, then overwrite the few that have a gradient, from their previous values.

    The first update is nearly all of the work. It only waits until the forward pass has read its rows, so with a second
    core it is done before the gradient arrives. With many rows, one update of all is faster. All use the formula of
    `ResourceApplyAdam`, so the bits are the same.
    """
    rows, places = tf.unique(tf.cast(gradient.indices, tf.int32))
    shape = variable.shape
    are_few = tf.size(rows) * FEW < shape[0]
    with tf.init_scope():
        zeros = tf.zeros(shape)

    def apply_zeros() -> list[tf.Tensor]:
        before = [tf.gather(tf.raw_ops.ReadVariableOp(resource=each, dtype=tf.float32), rows) for each in handles]
        # TensorFlow copies a tensor before an update if another operation reads it.
        with tf.control_dependencies(before):
            _apply(handles, zeros, factors)
        return before

    before = tf.cond(are_few, apply_zeros, lambda: [tf.zeros([0, *shape[1:]])] * len(handles))
    tf.cond(
        are_few,
        lambda: _overwrite(
            rows, tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows)), before, handles, factors
        ),
        lambda: _apply(handles, dense_gradient(gradient, variable), factors),
    )


def _overwrite(
    rows: tf.Tensor, sums: tf.Tensor, before: list[tf.Tensor], handles: list[tf.Tensor], factors: dict[str, tf.Tensor]
) -> None:
    """Update some rows, given the sums of their gradients and their values before."""
    value, momentum, velocity = before
    momentum += (sums - momentum) * (1.0 - factors["beta1"])
    velocity += (tf.square(sums) - velocity) * (1.0 - factors["beta2"])
    # Where Grappler's arithmetic optimization is on, it replaces a plain division by a root, but not this one.
    divide = tf.math.divide_no_nan
    rate = divide(factors["lr"] * tf.sqrt(1.0 - factors["beta2_power"]), 1.0 - factors["beta1_power"])
    value -= divide(momentum * rate, tf.sqrt(velocity) + factors["epsilon"])
    for handle, after in zip(handles, (value, momentum, velocity), strict=True):
        # After a scatter into the variable, every later read and update would copy the whole variable.
        whole = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.raw_ops.InplaceUpdate(x=whole, i=rows, v=after))


@keras.saving.register_keras_serializable(package="samebits")
class Adam(keras.optimizers.Adam):
    """Adam with TensorFlow's fused `ResourceApplyAdam`, with the arguments and the formula of Keras's Adam.

    In an embedding's gradient it first sums the slices of each row, which gives the update of the dense gradient. Keras
    3.15 squares each slice separately. With several inter-op threads, the rows without a gradient are updated while the
    gradient is computed.

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
            _apply_slices(gradient, variable, handles, factors)
        else:
            _apply(handles, dense_gradient(gradient, variable), factors)
