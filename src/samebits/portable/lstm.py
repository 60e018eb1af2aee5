"""An LSTM for short sequences that is faster than Keras's on a CPU, because it has fewer and larger operations."""

from typing import Any

import keras
import tensorflow as tf

State = tuple[tf.Tensor, tf.Tensor]

MAX_STEPS = 500  # every time step adds operations to the graph; longer sequences use Keras's loop


def _forward(projected: list[tf.Tensor], recurrent_kernel: tf.Tensor, state: State) -> dict[str, list[tf.Tensor]]:
    """Run the recurrence; returns name -> the tensors of each time step.

    Args:
        projected: float32[rows, 4 units] per time step: inputs times kernel, plus bias.
        recurrent_kernel: float32[units, 4 units], in Keras's order of the gates: input, forget, cell, output.
        state: Output and cell before the first step, float32[rows, units] each.
    """
    names = ("gates", "candidate", "cell", "squashed", "output")
    steps: dict[str, list[tf.Tensor]] = {name: [] for name in names}
    output, cell = state
    units = recurrent_kernel.shape[0]
    for inputs in projected:
        total = inputs + tf.matmul(output, recurrent_kernel)
        gates = tf.sigmoid(total)
        let_in, forget, _, let_out = tf.split(gates, 4, axis=1)
        candidate = tf.tanh(total[:, 2 * units : 3 * units])
        cell = forget * cell + let_in * candidate
        squashed = tf.tanh(cell)
        output = let_out * squashed
        for name, value in zip(names, (gates, candidate, cell, squashed, output), strict=True):
            steps[name].append(value)
    return steps


def _backward(
    steps: dict[str, list[tf.Tensor]], recurrent_kernel: tf.Tensor, cell: tf.Tensor, upstream: State
) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Run the recurrence backward.

    Args:
        steps: What `_forward` returned.
        recurrent_kernel: float32[units, 4 units].
        cell: float32[rows, units], before the first step.
        upstream: Gradients of all outputs, float32[time, rows, units], and of the last cell, float32[rows, units].

    Returns:
        The gradients of the gates' inputs, float32[rows, 4 units] per time step, and of output and cell before the
        first step.
    """
    gates, candidate, squashed = (tf.stack(steps[name]) for name in ("gates", "candidate", "squashed"))
    let_in, forget, _, let_out = tf.split(gates, 4, axis=2)
    before = tf.stack([cell, *steps["cell"][:-1]])
    to_cell = tf.unstack(let_out * (1.0 - squashed * squashed))
    slopes = (
        candidate * let_in * (1.0 - let_in),
        before * forget * (1.0 - forget),
        let_in * (1.0 - candidate * candidate),
        squashed * let_out * (1.0 - let_out),
    )
    slope, forgets, later = tf.unstack(tf.concat(slopes, 2)), tf.unstack(forget), tf.unstack(upstream[0])
    totals: list[tf.Tensor] = []
    d_output, d_cell = tf.zeros_like(cell), upstream[1]
    for step in reversed(range(len(later))):
        d_output += later[step]
        d_cell += d_output * to_cell[step]
        totals.insert(0, tf.concat([d_cell, d_cell, d_cell, d_output], 1) * slope[step])
        d_output = tf.matmul(totals[0], recurrent_kernel, transpose_b=True)
        d_cell *= forgets[step]
    return totals, d_output, d_cell


@tf.custom_gradient
def lstm(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    output: tf.Tensor,
    cell: tf.Tensor,
) -> tuple[Any, Any]:
    """Return the outputs of every time step and the last cell of an LSTM.

    It projects the inputs of all time steps at once, and does the same for the gradients of kernel, recurrent kernel,
    bias and inputs. So each time step needs only one matrix product forward and one backward.

    Args:
        inputs: float32[time, rows, features]; the number of time steps must be known when it is traced.
        kernel: float32[features, 4 units].
        recurrent_kernel: float32[units, 4 units].
        bias: float32[4 units].
        output: float32[rows, units], before the first step.
        cell: float32[rows, units], before the first step.

    Returns:
        (float32[time, rows, units], float32[rows, units])

    Source: Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000; gates as in Keras.
    """
    time, features = inputs.shape[0], inputs.shape[2]
    units = recurrent_kernel.shape[0]
    flat = tf.reshape(inputs, [-1, features])
    projected = tf.reshape(tf.matmul(flat, kernel) + bias, [time, -1, 4 * units])
    steps = _forward(tf.unstack(projected), recurrent_kernel, (output, cell))
    outputs = tf.stack(steps["output"])

    def gradients(upstream: tf.Tensor, upstream_cell: tf.Tensor) -> list[tf.Tensor]:
        totals, d_output, d_cell = _backward(steps, recurrent_kernel, cell, (upstream, upstream_cell))
        total = tf.reshape(tf.stack(totals), [-1, 4 * units])
        previous = tf.reshape(tf.stack([output, *steps["output"][:-1]]), [-1, units])
        return [
            tf.reshape(tf.matmul(total, kernel, transpose_b=True), [time, -1, features]),
            tf.matmul(flat, total, transpose_a=True),
            tf.matmul(previous, total, transpose_a=True),
            tf.reduce_sum(total, 0),
            d_output,
            d_cell,
        ]

    return (outputs, steps["cell"][-1]), gradients


@keras.saving.register_keras_serializable(package="samebits")
class LSTM(keras.layers.LSTM):
    """Keras's `LSTM` with unrolled time steps and a gradient written by hand.

    This needs a CPU, at most `MAX_STEPS` time steps, a bias, the default activations, no mask and no dropout. Otherwise
    it uses Keras's own code, with the same weights.
    """

    def is_plain(self, sequences: Any, mask: Any) -> bool:
        """Return whether `lstm` supports this layer's settings and inputs."""
        activations = self.cell.activation, self.cell.recurrent_activation
        return bool(
            mask is None
            and 1 <= (sequences.shape[1] or 0) <= MAX_STEPS
            and self.cell.bias is not None
            and activations == (keras.activations.tanh, keras.activations.sigmoid)
            and not (self.dropout or self.recurrent_dropout)
            and self.compute_dtype == "float32"
            and not tf.config.get_visible_devices("GPU")
        )

    def inner_loop(
        self,
        sequences: Any,
        initial_state: list[Any],
        mask: Any,
        training: bool = False,  # noqa: FBT001, FBT002  Keras's argument
    ) -> tuple[Any, Any, list[Any]]:
        """Run over all time steps.

        Args:
            sequences: float32[rows, time, features].
            initial_state: Output and cell before the first step, float32[rows, units] each.
            mask: bool[rows, time], or None.
            training: Whether dropout is active, if the layer has any.

        Returns:
            The last output float32[rows, units]; all outputs float32[rows, time, units], or [rows, 1, units] with only
            the last one if `return_sequences` is False; output and cell after the last step.
        """
        if not self.is_plain(sequences, mask):
            result: tuple[Any, Any, list[Any]] = super().inner_loop(sequences, initial_state, mask, training)
            return result
        ordered = tf.transpose(sequences, [1, 0, 2])
        if self.go_backwards:
            ordered = ordered[::-1]
        weights = self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias
        outputs, cell = lstm(ordered, *(tf.convert_to_tensor(weight) for weight in weights), *initial_state)
        last = outputs[-1]
        return last, tf.transpose(outputs, [1, 0, 2]) if self.return_sequences else last[:, None], [last, cell]
