"""Our LSTM and dropout have Keras's values and gradients, and use Keras's code for unsupported settings."""

from typing import Any

import numpy as np
import pytest

ROWS, TIME, FEATURES, UNITS = 7, 11, 5, 6
TOLERANCE = 1e-6
OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_sequences": True},
    {"return_sequences": True, "return_state": True},
    {"return_state": True},
    {"go_backwards": True, "return_sequences": True},
    {"unit_forget_bias": False},
]
# Settings that ours does not support, and so leaves to Keras.
OTHERS: list[dict[str, Any]] = [
    {"use_bias": False},
    {"activation": "relu"},
    {"recurrent_activation": "hard_sigmoid"},
    {"dropout": 0.5, "seed": 7},
    {"recurrent_dropout": 0.5, "seed": 7},
]


def make_inputs(time: int = TIME) -> np.ndarray:
    """Return float32[rows, time, features]."""
    return np.random.default_rng(0).standard_normal((ROWS, time, FEATURES)).astype("float32")


def make_pair(**options: Any) -> tuple[Any, Any]:
    """Return Keras's LSTM and ours, with the same weights."""
    import keras

    from samebits.portable import layers

    theirs, ours = keras.layers.LSTM(UNITS, **options), layers.LSTM(UNITS, **options)
    for layer in (theirs, ours):
        layer.build((ROWS, TIME, FEATURES))
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(weight.shape).astype("float32") for weight in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    return theirs, ours


def run(layer: Any, inputs: np.ndarray, *, states: bool = False, **call: Any) -> list[np.ndarray]:
    """Return a layer's outputs and the gradients of inputs, weights and initial states (if given)."""
    import tensorflow as tf

    rng = np.random.default_rng(2)
    begin = [tf.constant(rng.standard_normal((ROWS, UNITS)), tf.float32) for _ in range(2)] if states else None
    variable = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch([variable, *(begin or [])])
        outputs = tf.nest.flatten(layer(variable, initial_state=begin, training=True, **call))
        loss = tf.add_n([tf.reduce_sum(tf.sin(output) * (number + 1.0)) for number, output in enumerate(outputs)])
    sources = [variable, *(weight.value for weight in layer.trainable_variables), *(begin or [])]
    return [each.numpy() for each in (*outputs, *tape.gradient(loss, sources))]


def check_close(expected: list[np.ndarray], actual: list[np.ndarray]) -> None:
    """Compare arrays by their largest difference, relative to their largest value."""
    assert [array.shape for array in expected] == [array.shape for array in actual]
    for wanted, got in zip(expected, actual, strict=True):
        assert np.abs(wanted - got).max() <= TOLERANCE * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_lstm_is_keras_lstm(options: dict[str, Any], *, states: bool) -> None:
    """Outputs, states and all gradients equal Keras's."""
    theirs, ours = make_pair(**options)
    assert ours.is_plain(make_inputs(), None)

    check_close(run(theirs, make_inputs(), states=states), run(ours, make_inputs(), states=states))


def test_one_time_step_is_enough() -> None:
    """A sequence of one time step works."""
    theirs, ours = make_pair()

    check_close(run(theirs, make_inputs(1)), run(ours, make_inputs(1)))


@pytest.mark.parametrize("options", OTHERS)
def test_what_the_lstm_does_not_reach_is_keras_own(options: dict[str, Any]) -> None:
    """Unsupported settings give Keras's bits, because they use the same code."""
    theirs, ours = make_pair(**options)
    assert not ours.is_plain(make_inputs(), None)

    for wanted, got in zip(run(theirs, make_inputs()), run(ours, make_inputs()), strict=True):
        assert wanted.tobytes() == got.tobytes()


def test_a_mask_is_keras_own() -> None:
    """Masked time steps keep the state."""
    theirs, ours = make_pair(return_sequences=True)
    mask = np.arange(TIME)[None, :] < np.arange(3, 3 + ROWS)[:, None]
    assert not ours.is_plain(make_inputs(), mask)

    for wanted, got in zip(run(theirs, make_inputs(), mask=mask), run(ours, make_inputs(), mask=mask), strict=True):
        assert wanted.tobytes() == got.tobytes()


def test_long_or_unknown_time_is_keras_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sequences and unknown lengths use Keras's loop."""
    import keras

    theirs, ours = make_pair()
    monkeypatch.setattr("samebits.portable.lstm.MAX_STEPS", TIME - 1)
    assert not ours.is_plain(make_inputs(), None)
    assert ours.is_plain(make_inputs(TIME - 1), None)
    check_close(run(theirs, make_inputs()), run(ours, make_inputs()))

    unknown = keras.Input((None, FEATURES))
    assert not ours.is_plain(unknown, None)
    assert keras.Model(unknown, ours(unknown))(make_inputs()).shape == (ROWS, UNITS)


def test_a_stateful_lstm_remembers() -> None:
    """A stateful layer gives the same for two halves as for the whole sequence."""
    import keras

    from samebits.portable import layers

    inputs = make_inputs(10)
    _, whole = make_pair()
    halves = layers.LSTM(UNITS, stateful=True)
    halves(inputs[:, :5])
    halves.set_weights(whole.get_weights())
    halves.reset_states()
    halves(inputs[:, :5])

    check_close([keras.ops.convert_to_numpy(whole(inputs))], [keras.ops.convert_to_numpy(halves(inputs[:, 5:]))])


def test_both_directions() -> None:
    """Keras's Bidirectional makes a backward LSTM from the configuration of the first."""
    import keras

    from samebits.portable import layers

    inputs = make_inputs()
    theirs, ours = (keras.layers.Bidirectional(kind(UNITS)) for kind in (keras.layers.LSTM, layers.LSTM))
    theirs(inputs), ours(inputs)
    ours.set_weights(theirs.get_weights())

    assert isinstance(ours.backward_layer, layers.LSTM)
    check_close([theirs(inputs).numpy()], [ours(inputs).numpy()])


# --- dropout ---


def drop(layer: Any, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's outputs while training, and the gradient of their sum."""
    import tensorflow as tf

    variable = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        outputs = layer(variable, training=True)
    return outputs.numpy(), tape.gradient(outputs, variable).numpy()


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5, 0.9, 0.999])
def test_dropout_drops_its_share_and_scales_the_rest(rate: float) -> None:
    """The share of zeros is as expected within five standard errors; the gradient has the same mask."""
    from samebits.portable import layers

    inputs = np.full((301, 1001), 3.0, np.float32)  # an odd number
    outputs, gradient = drop(layers.Dropout(rate, seed=7), inputs)

    share = float(np.mean(outputs == 0))
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / inputs.size)
    scale = np.float32(1.0 / (1.0 - rate))
    assert np.array_equal(np.unique(gradient), np.array([0, scale], np.float32))
    assert np.array_equal(outputs, inputs * gradient)


def test_dropout_is_keras_dropout_on_average() -> None:
    """Both halves of a random word are equally good: no row, column or pair of neighbors stands out."""
    from samebits.portable import layers

    _, gradient = drop(layers.Dropout(0.5, seed=7), np.ones((1000, 1000), np.float32))
    kept = (gradient > 0) * 2.0 - 1.0

    for axis in (0, 1):
        assert np.abs(kept.mean(axis)).max() < 5.5 / np.sqrt(1000)
    for shift in (1, 2, 3, 4, 1000):
        flat = kept.ravel()
        assert abs(np.mean(flat[shift:] * flat[:-shift])) < 5 / 1000


def test_dropout_follows_its_seed() -> None:
    """The same seed gives the same masks, a new one per call; another seed gives others."""
    from samebits.portable import layers

    inputs = np.ones((20, 30), np.float32)
    first, again, other = layers.Dropout(0.5, seed=7), layers.Dropout(0.5, seed=7), layers.Dropout(0.5, seed=8)
    one, two = drop(first, inputs)[0], drop(first, inputs)[0]

    assert not np.array_equal(one, two)
    assert np.array_equal(one, drop(again, inputs)[0])
    assert np.array_equal(two, drop(again, inputs)[0])
    assert not np.array_equal(one, drop(other, inputs)[0])


def test_dropout_does_nothing_outside_training_or_with_a_rate_of_zero() -> None:
    """The inputs are returned unchanged."""
    from samebits.portable import layers

    inputs = make_inputs()

    assert np.array_equal(layers.Dropout(0.5, seed=7)(inputs, training=False), inputs)
    assert np.array_equal(layers.Dropout(0.0)(inputs, training=True), inputs)


def test_dropout_with_a_noise_shape_is_keras_own() -> None:
    """With noise_shape, Keras drops whole columns."""
    import keras

    from samebits.portable import layers

    inputs = np.ones((40, 50), np.float32)
    made = [drop(kind(0.5, noise_shape=(1, 50), seed=7), inputs)[0] for kind in (keras.layers.Dropout, layers.Dropout)]

    assert np.array_equal(made[0], made[1])
    assert {float(value) for value in made[1].std(axis=0)} == {0.0}


@pytest.mark.parametrize("kind", ["LSTM", "Dropout"])
def test_a_layer_goes_through_keras_configuration(kind: str) -> None:
    """The configuration makes an equal layer, as a saved model needs."""
    import keras

    from samebits.portable import layers

    layer = layers.LSTM(UNITS, go_backwards=True) if kind == "LSTM" else layers.Dropout(0.3, seed=7)
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))

    assert type(back) is type(layer)
    assert back.get_config() == layer.get_config()
