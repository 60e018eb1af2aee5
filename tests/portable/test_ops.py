"""The portable replacements have Keras's values, gradients and state, to 1e-6 in float32."""

from collections.abc import Callable
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


# --- normalisations ---

NORMALISATIONS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("BatchNormalization", (9, 5), {}),
    ("BatchNormalization", (6, 4, 4, 3), {"center": False}),
    ("BatchNormalization", (6, 4, 4, 3), {"scale": False, "epsilon": 0.1, "momentum": 0.5}),
    ("BatchNormalization", (6, 4, 5), {"axis": 1}),
    ("BatchNormalization", (6, 4, 5), {"renorm": True, "renorm_clipping": {"rmin": 0.5, "rmax": 2.0, "dmax": 1.0}}),
    ("BatchNormalization", (6, 4, 5), {"renorm": True, "center": False, "scale": False}),
    ("LayerNormalization", (9, 5), {}),
    ("LayerNormalization", (6, 4, 5), {"center": False}),
    ("LayerNormalization", (6, 4, 5), {"axis": [1, 2], "scale": False}),
    ("LayerNormalization", (6, 4, 5), {"axis": 1, "epsilon": 0.1}),
    ("GroupNormalization", (6, 4, 4, 8), {"groups": 4}),
    ("GroupNormalization", (6, 8, 5), {"groups": 2, "axis": 1}),
    ("GroupNormalization", (6, 8), {"groups": -1, "center": False}),
    ("GroupNormalization", (6, 8), {"groups": 1, "scale": False}),
    ("RMSNormalization", (9, 5), {}),
    ("RMSNormalization", (6, 4, 5), {"axis": [1, 2], "epsilon": 0.1}),
    ("UnitNormalization", (9, 5), {}),
    ("UnitNormalization", (6, 4, 5), {"axis": [1, 2]}),
]


def run_layer(layer: Any, inputs: np.ndarray, *, training: bool, mask: np.ndarray | None = None) -> dict[str, Any]:
    """Return outputs, gradients and state of a layer with different values in all weights."""
    import tensorflow as tf

    layer.build(inputs.shape)
    rng = make_rng(56, "weights")
    for weight in layer.trainable_weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    options: dict[str, Any] = {"training": training} if "training" in layer._call_signature.parameters else {}
    if mask is not None:
        options["mask"] = tf.constant(mask)

    @tf.function
    def run(x: Any, upstream: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, **options)
            total = tf.reduce_sum(outputs * upstream)
        return outputs, tape.gradient(total, [x, *(weight.value for weight in layer.trainable_weights)])

    upstream = make_rng(56, "upstream").standard_normal(inputs.shape).astype(np.float32)
    outputs, gradients = run(tf.constant(inputs), tf.constant(upstream))
    state = {weight.path: np.asarray(weight) for weight in layer.weights}
    return {"outputs": outputs, **{f"gradient {n}": g for n, g in enumerate(gradients)}, **state}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "shape", "options"), NORMALISATIONS)
def test_a_normalisation_is_keras_own(
    kind: str, shape: tuple[int, ...], options: dict[str, Any], training: bool
) -> None:
    """Outputs, gradients of inputs and weights, and moving statistics equal those of Keras's layer."""
    import keras

    from samebits.portable import layers

    inputs = (2 * make_rng(56, "inputs").standard_normal(shape) + 0.5).astype(np.float32)
    made = [getattr(package, kind)(**options, name="same") for package in (keras.layers, layers)]
    expected, actual = (run_layer(layer, inputs, training=training) for layer in made)

    assert list(expected) == list(actual)
    for what, array in expected.items():
        check_close(array, actual[what], what)
    assert made[0].get_config() == made[1].get_config()


def test_batch_normalization_leaves_masked_places_out() -> None:
    """With a mask the statistics equal Keras's; a mask of another rank is an error."""
    import keras

    from samebits.portable import layers

    inputs = make_rng(56, "inputs").standard_normal((6, 4, 5)).astype(np.float32)
    mask = make_rng(56, "mask").random((6, 4)) > 0.4
    made = [package.BatchNormalization(name="same") for package in (keras.layers, layers)]
    expected, actual = (run_layer(layer, inputs, training=True, mask=mask) for layer in made)

    for what, array in expected.items():
        check_close(array, actual[what], what)
    with pytest.raises(ValueError, match="mask expects one axis fewer than inputs"):
        layers.BatchNormalization()(inputs, training=True, mask=np.ones((6, 4, 5), bool))


@pytest.mark.parametrize(("kind", "shape", "options"), NORMALISATIONS)
def test_a_normalisation_in_half_precision_is_keras_own(
    kind: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Under mixed_float16, statistics are computed in float32 and outputs are float16, as in Keras."""
    import keras

    from samebits.portable import layers

    inputs = make_rng(56, "inputs").standard_normal(shape).astype(np.float16)
    made = [getattr(package, kind)(**options, dtype="mixed_float16") for package in (keras.layers, layers)]
    expected, actual = (np.asarray(layer(inputs)) for layer in made)

    assert np.float16 == actual.dtype
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_a_saved_normalisation_comes_back(tmp_path: Any) -> None:
    """Keras saves and loads a model with all our layers, with the same outputs."""
    import keras

    from samebits.portable import layers

    kinds = dict.fromkeys(kind for kind, *_ in NORMALISATIONS)
    made = [getattr(layers, kind)(**({"groups": 2} if kind == "GroupNormalization" else {})) for kind in kinds]
    model = keras.Sequential([keras.Input((4, 8)), *made])
    inputs = make_rng(56, "inputs").standard_normal((3, 4, 8)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")

    assert [type(layer) for layer in model.layers] == [type(layer) for layer in again.layers]
    assert np.asarray(model(inputs)).tobytes() == np.asarray(again(inputs)).tobytes()


def test_the_zero_vector_has_a_unit_normalisation() -> None:
    """A row of zeros stays zero, with finite gradients."""
    import tensorflow as tf

    from samebits.portable.layers import UnitNormalization

    rows = tf.constant([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        outputs = UnitNormalization()(rows)

    np.testing.assert_allclose(outputs.numpy(), np.array([[0, 0], [0.6, 0.8]]), rtol=0, atol=1e-7)
    assert np.isfinite(tape.gradient(outputs, rows).numpy()).all()


# --- losses ---


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
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BinaryCrossentropy", {}),
        ("BinaryCrossentropy", {"label_smoothing": 0.2}),
        ("CategoricalCrossentropy", {}),
        ("CategoricalCrossentropy", {"label_smoothing": 0.2}),
        ("SparseCategoricalCrossentropy", {}),
        ("SparseCategoricalCrossentropy", {"ignore_class": 2}),
    ],
)
def test_a_crossentropy_is_keras_own(
    kind: str, options: dict[str, Any], from_logits: bool, reduction: str | None
) -> None:  # fmt: skip
    """Values and gradients equal those of Keras's loss, with and without sample weights."""
    import keras

    from samebits.portable import layers

    rng = make_rng(56, "loss")
    outputs = rng.standard_normal((12, 4)).astype(np.float32) * 3
    numbers = rng.integers(0, 4, 12)
    kinds: dict[str, np.ndarray] = {
        "BinaryCrossentropy": rng.integers(0, 2, (12, 4)).astype(np.float32),
        "CategoricalCrossentropy": np.eye(4, dtype=np.float32)[numbers],
        "SparseCategoricalCrossentropy": numbers,
    }
    labels = kinds[kind]
    if not from_logits:
        odds = np.exp(outputs)
        outputs = (odds / (1 + odds) if kind == "BinaryCrossentropy" else odds / odds.sum(1, keepdims=True)).astype(
            np.float32
        )
    made = [
        getattr(package, kind)(from_logits=from_logits, reduction=reduction, **options)
        for package in (keras.losses, layers)
    ]
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


def test_sparse_classes_lie_on_the_last_axis() -> None:
    """Another axis is an error that names it."""
    from samebits.portable.losses import sparse_categorical_crossentropy

    with pytest.raises(ValueError, match=r"expects the last axis\. Received: axis=0"):
        sparse_categorical_crossentropy([1], [[0.5, 0.5]], axis=0)


def test_our_losses_go_through_keras_configuration() -> None:
    """Keras makes an equal loss from the configuration."""
    import keras

    from samebits.portable import layers

    for kind in ("BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"):
        loss = getattr(layers, kind)(from_logits=True)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))

        assert type(again) is type(loss)
        assert again.get_config() == loss.get_config()


# --- functions ---


def keras_gelu(x: Any) -> Any:
    """Return Keras's GELU with approximate=False."""
    import keras

    return keras.activations.gelu(x, approximate=False)


def tensorflow(name: str) -> Callable[[Any], Any]:
    """Return a function of tf.math, looked up when called."""

    def call(x: Any) -> Any:
        import tensorflow as tf

        return getattr(tf.math, name)(x)

    return call


FUNCTIONS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "log": (tensorflow("log"), np.linspace(0.05, 9, 97)),
    "log1p": (tensorflow("log1p"), np.linspace(-0.9, 9, 97)),
    "rsqrt": (tensorflow("rsqrt"), np.linspace(0.1, 9, 97)),
    "atan": (tensorflow("atan"), np.linspace(-9, 9, 97)),
    "gelu": (keras_gelu, np.linspace(-9, 9, 97)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_tensorflows_own(name: str) -> None:
    """Values and gradients equal TensorFlow's."""
    import tensorflow as tf

    from samebits.portable import layers

    theirs, points = FUNCTIONS[name]
    found = []
    for function in (theirs, getattr(layers, name)):
        x = tf.constant(points.astype(np.float32))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        found.append((y, tape.gradient(y, x)))

    check_close(found[0][0], found[1][0], name)
    check_close(found[0][1], found[1][1], f"gradient of {name}")


def test_the_euclidean_norm_is_tensorflows_own() -> None:
    """Values and gradients equal TensorFlow's l2_normalize."""
    import tensorflow as tf

    from samebits.portable.layers import l2_normalize

    x = tf.constant(make_rng(56, "x").standard_normal((7, 9)).astype(np.float32))
    upstream = tf.constant(make_rng(56, "upstream").standard_normal((7, 9)).astype(np.float32))
    found = []
    for function in (tf.math.l2_normalize, l2_normalize):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x, 1)
            total = tf.reduce_sum(y * upstream)
        found.append((y, tape.gradient(total, x)))

    check_close(found[0][0], found[1][0], "values")
    check_close(found[0][1], found[1][1], "gradients")
