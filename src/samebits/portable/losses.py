"""The binary cross-entropy with a short gradient, with Keras's arguments and values.

The gradient of Keras's loss from logits is that of four functions; this one's is sigmoid(z) - y. Importing this module
imports Keras.
"""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="samebits")
def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1  # noqa: FBT001, FBT002  Keras's arguments
) -> tf.Tensor:  # fmt: skip
    """Return the mean binary cross-entropy over an axis.

    Args:
        y_true: Labels from 0 to 1, [rows, ...].
        y_pred: Logits or probabilities, float[rows, ...].
        from_logits: Whether `y_pred` are logits.
        label_smoothing: From 0 to 1; moves the labels towards 0.5.
        axis: The axis of the mean.

    Returns:
        float[rows, ...] without the axis: softplus(z) - z*y of logits z.
    """
    outputs = tf.convert_to_tensor(y_pred)
    kept = None if from_logits else getattr(outputs, "_keras_logits", None)  # before a final sigmoid, as in Keras
    if kept is not None:
        outputs, from_logits = tf.convert_to_tensor(kept), True
    labels = tf.cast(y_true, outputs.dtype)
    if label_smoothing:
        labels = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        entropy = tf.math.softplus(outputs) - outputs * labels
    else:
        outputs = tf.clip_by_value(outputs, keras.config.epsilon(), 1.0 - keras.config.epsilon())
        entropy = -(labels * tf.math.log(outputs) + (1.0 - labels) * tf.math.log(1.0 - outputs))
    return tf.reduce_mean(entropy, axis)


@keras.saving.register_keras_serializable(package="samebits")
class BinaryCrossentropy(keras.losses.BinaryCrossentropy):
    """Keras's `BinaryCrossentropy` with a shorter gradient, which is faster."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn = binary_crossentropy
