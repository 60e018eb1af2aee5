"""Cross-entropy losses whose gradients have the same bits on every CPU, with Keras's arguments and formulas.

Keras's own losses use the gradients of log and log1p, which contain an approximate reciprocal that differs between CPU
vendors. Importing this module imports Keras.
"""

from typing import Any

import keras
import tensorflow as tf

from samebits.portable import ops


def _prepare(labels: Any, outputs: Any, *, from_logits: bool) -> tuple[tf.Tensor, tf.Tensor, bool]:
    """Return the labels in the outputs' dtype, the outputs, and whether the outputs are logits.

    Like Keras, it uses the logits before a final sigmoid or softmax if Keras kept them.
    """
    outputs = tf.convert_to_tensor(outputs)
    kept = None if from_logits else getattr(outputs, "_keras_logits", None)
    if kept is not None:
        outputs, from_logits = tf.convert_to_tensor(kept), True
    return tf.cast(labels, outputs.dtype), outputs, from_logits


def _clip(probabilities: tf.Tensor) -> tf.Tensor:
    epsilon = keras.config.epsilon()
    return tf.clip_by_value(probabilities, epsilon, 1.0 - epsilon)


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
    labels, outputs, from_logits = _prepare(y_true, y_pred, from_logits=from_logits)
    if label_smoothing:
        labels = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        entropy = tf.math.softplus(outputs) - outputs * labels
    else:
        outputs = _clip(outputs)
        entropy = -(labels * ops.log(outputs) + (1.0 - labels) * ops.log(1.0 - outputs))
    return tf.reduce_mean(entropy, axis)


@keras.saving.register_keras_serializable(package="samebits")
def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1  # noqa: FBT001, FBT002  Keras's arguments
) -> tf.Tensor:  # fmt: skip
    """Return the cross-entropy of one-hot labels over an axis.

    Args:
        y_true: One-hot labels or class probabilities, [rows, ..., classes].
        y_pred: Logits or probabilities, float[rows, ..., classes].
        from_logits: Whether `y_pred` are logits.
        label_smoothing: From 0 to 1; moves the labels towards equal probabilities.
        axis: The axis of the classes.

    Returns:
        float[rows, ...] without the axis.
    """
    labels, outputs, from_logits = _prepare(y_true, y_pred, from_logits=from_logits)
    if label_smoothing:
        labels = labels * (1.0 - label_smoothing) + label_smoothing / outputs.shape[axis]
    if from_logits:
        return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=outputs, axis=axis)
    shares = outputs / tf.reduce_sum(outputs, axis, keepdims=True)
    return -tf.reduce_sum(labels * ops.log(_clip(shares)), axis)


@keras.saving.register_keras_serializable(package="samebits")
def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1  # noqa: FBT001, FBT002  Keras's arguments
) -> tf.Tensor:  # fmt: skip
    """Return the cross-entropy of integer labels.

    Args:
        y_true: Class numbers, [rows, ...] or [rows, ..., 1].
        y_pred: Logits or probabilities, float[rows, ..., classes].
        from_logits: Whether `y_pred` are logits.
        ignore_class: Samples of this class have loss 0, and a mean leaves them out.
        axis: The axis of the classes, the last.

    Returns:
        float[rows, ...].

    Raises:
        ValueError: The axis is not the last.
    """
    outputs = tf.convert_to_tensor(y_pred)
    if axis not in (-1, len(outputs.shape) - 1):
        message = f"sparse_categorical_crossentropy expects the last axis. Received: axis={axis}"
        raise ValueError(message)
    numbers = tf.cast(y_true, tf.int64)
    if len(numbers.shape) == len(outputs.shape):
        numbers = tf.squeeze(numbers, -1)
    _, outputs, from_logits = _prepare(numbers, outputs, from_logits=from_logits)
    kept = None if ignore_class is None else tf.not_equal(numbers, ignore_class)
    if kept is not None:
        numbers = tf.where(kept, numbers, tf.zeros_like(numbers))
    logits = outputs if from_logits else ops.log(_clip(outputs))
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=numbers, logits=logits)
    if kept is not None:
        entropy = tf.where(kept, entropy, tf.zeros_like(entropy))
        entropy._keras_mask = kept  # noqa: SLF001  Keras's reductions read it to leave samples out; no public name (Keras 3.15)
    return entropy


@keras.saving.register_keras_serializable(package="samebits")
class BinaryCrossentropy(keras.losses.BinaryCrossentropy):
    """Keras's `BinaryCrossentropy` with a gradient that has the same bits on every CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn = binary_crossentropy


@keras.saving.register_keras_serializable(package="samebits")
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Keras's `CategoricalCrossentropy` with a gradient that has the same bits on every CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn = categorical_crossentropy


@keras.saving.register_keras_serializable(package="samebits")
class SparseCategoricalCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Keras's `SparseCategoricalCrossentropy` with a gradient that has the same bits on every CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn = sparse_categorical_crossentropy
