"""The binary cross-entropy has Keras's values and gradients, to 1e-6 in float32."""

from typing import Any

import numpy as np
import pytest

from samebits.core.seeds import make_rng

TOLERANCE = 1e-6
LOGITS = np.array([-90, -20, -5, -1, -0.1, -0.0, 0, 1e-7, 0.1, 1, 5, 20, 90], np.float32)


def check_close(expected: Any, actual: Any, what: str) -> None:
    """Check that two arrays agree to 1e-6 of the larger of 1 and the largest value."""
    expected, actual = np.asarray(expected), np.asarray(actual)

    assert (expected.shape, expected.dtype) == (actual.shape, actual.dtype), what
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * scale, err_msg=what)


def loss_and_gradient(loss: Any, labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> list[Any]:
    """Return a loss and its gradient with respect to the outputs, from a traced function."""
    import tensorflow as tf

    @tf.function
    def run(x: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x, sample_weight=weights)
        return value, tape.gradient(value, x)

    return list(run(tf.constant(outputs)))


@pytest.mark.parametrize("reduction", [None, "sum", "sum_over_batch_size"])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_binary_loss_is_keras_own(label_smoothing: float, from_logits: bool, reduction: str | None) -> None:
    """Values and gradients equal those of Keras's loss, with and without sample weights."""
    import keras

    from samebits.portable import layers

    rng = make_rng(56, "loss")
    logits = rng.standard_normal((12, 4)) * 3
    outputs = (logits if from_logits else 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels = rng.integers(0, 2, (12, 4)).astype(np.float32)
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "from_logits": from_logits, "reduction": reduction}
    made = [package.BinaryCrossentropy(**options) for package in (keras.losses, layers)]
    for weights in (None, rng.random(12).astype(np.float32)):
        expected, actual = (loss_and_gradient(loss, labels, outputs, weights) for loss in made)
        check_close(expected[0], actual[0], "loss")
        check_close(expected[1], actual[1], "gradient")


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_binary_loss_is_exact_far_out(label: float) -> None:
    """For logits from -90 to 90 the loss equals Keras's, and the gradient is sigmoid(z) - y without overflow."""
    import keras

    from samebits.portable import layers

    labels = np.full_like(LOGITS, label)[:, None]
    expected, actual = (
        loss_and_gradient(package.BinaryCrossentropy(from_logits=True, reduction="sum"), labels, LOGITS[:, None], None)
        for package in (keras.losses, layers)
    )
    gradient = 1 / (1 + np.exp(-LOGITS.astype(np.float64))) - label

    check_close(expected[0], actual[0], "loss")
    np.testing.assert_allclose(actual[1].numpy()[:, 0], gradient, rtol=0, atol=1e-7)


def test_the_logits_before_a_sigmoid_are_used() -> None:
    """Like Keras, the loss uses the logits before a final sigmoid or softmax, so large values are not clipped."""
    import keras

    from samebits.portable import layers

    outputs = keras.ops.sigmoid(keras.ops.convert_to_tensor(np.array([[40.0], [-40.0]], np.float32)))
    labels = np.array([[0.0], [1.0]], np.float32)
    expected, actual = (package.BinaryCrossentropy()(labels, outputs) for package in (keras.losses, layers))

    assert float(expected) == float(actual) == 40.0


def test_our_loss_goes_through_keras_configuration() -> None:
    """Keras makes an equal loss from the configuration."""
    import keras

    from samebits.portable.layers import BinaryCrossentropy

    loss = BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))

    assert type(again) is BinaryCrossentropy
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_a_compiled_model_takes_our_loss(shape: tuple[int, ...]) -> None:
    """`compile(loss=…)` takes the class and the function; labels have the shape [rows] or [rows, 1]."""
    import keras

    from samebits.portable.losses import BinaryCrossentropy, binary_crossentropy

    rng = make_rng(56, "loss")
    inputs, labels = rng.standard_normal((12, 3)).astype(np.float32), rng.integers(0, 2, shape)
    weights = rng.random(12).astype(np.float32)
    ours, theirs = BinaryCrossentropy(from_logits=True), keras.losses.BinaryCrossentropy(from_logits=True)
    for one, other, activation in ((ours, theirs, None), (binary_crossentropy, "binary_crossentropy", "sigmoid")):
        losses = []
        for loss in (one, other):
            keras.utils.set_random_seed(1)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation=activation)])
            model.compile("sgd", loss)
            fitted = model.fit(inputs, labels, sample_weight=weights, batch_size=4, epochs=2, shuffle=False, verbose=0)
            losses.append(fitted.history["loss"])

        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
