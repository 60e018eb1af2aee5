"""Random numbers without a seed point are found: in a layer, in the traced step, in a global generator."""

import importlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE

from samebits.core.errors import UncoveredDrawError
from samebits.core.seeds import Seeds, resolve_points

GLOBAL_POINTS = {"python": {"random": None}, "numpy": {"global": None}}


def make_model(*layers: Any) -> Any:
    """Return a model of float32[rows, 6, 4] with these layers."""
    import keras

    return keras.Sequential([keras.Input((6, 4)), *layers])


def seeded(seed: int = 0) -> Any:
    """Return an initializer with a seed."""
    import keras

    return keras.initializers.GlorotUniform(seed=seed)


def refusal(*layers: Any) -> UncoveredDrawError:
    """Return the error for a model with these layers."""
    from samebits.train.draws import check_layers_seeded

    with pytest.raises(UncoveredDrawError) as caught:
        check_layers_seeded(make_model(*layers))

    return caught.value


# --- layers ---


def test_a_dropout_without_a_seed_is_refused() -> None:
    """The message has the layer, its argument and what to pass."""
    import keras

    expected = (
        "layer thinning draws random numbers without a seed point: seed has no seed.\n"
        "  Expected: a seed for seed   Received: None, so Keras chooses a random one\n"
        '  Fix: pass seed=seed("thinning/…") to it in the model function and list the point in conf/model/.'
    )

    assert expected == str(refusal(keras.layers.Dropout(0.5, name="thinning")))


@pytest.mark.parametrize("name", ["GaussianNoise", "GaussianDropout", "SpatialDropout1D", "AlphaDropout"])
def test_every_layer_that_draws_needs_a_seed(name: str) -> None:
    """Keras's other random layers without a seed are errors too, and pass with a seed."""
    import keras

    from samebits.train.draws import check_layers_seeded

    layer = getattr(keras.layers, name)

    assert "layer noisy draws" in refusal(layer(0.5, name="noisy")).what
    check_layers_seeded(make_model(layer(0.5, seed=0, name="noisy")))


def test_a_dense_kernel_without_a_seed_is_refused() -> None:
    """An initializer without a seed is an error with the layer and the weight."""
    import keras

    error = refusal(keras.layers.Dense(3, name="head"))

    assert error.what == "layer head draws random numbers without a seed point: kernel_initializer has no seed."
    assert error.expected == "a seed for kernel_initializer"


@pytest.mark.parametrize("part", ["kernel_initializer", "bias_initializer"])
def test_each_initialiser_needs_a_seed(part: str) -> None:
    """The initializer of every weight needs a seed, including a random bias initializer."""
    import keras

    options = {"kernel_initializer": seeded(), "bias_initializer": "zeros"} | {part: "random_normal"}

    assert f": {part} has no seed." in refusal(keras.layers.Dense(3, **options)).what


def test_our_own_initialiser_needs_a_seed() -> None:
    """The orthogonal initializer of this project needs a seed too."""
    import keras

    from samebits.portable.layers import Orthogonal

    error = refusal(keras.layers.Dense(3, kernel_initializer=Orthogonal(), name="head"))

    assert "layer head draws random numbers without a seed point: kernel_initializer" in error.what


@pytest.mark.parametrize("rate", ["dropout", "recurrent_dropout"])
def test_an_lstm_with_dropout_without_a_seed_is_refused(rate: str) -> None:
    """Dropout inside a recurrent layer needs a seed too."""
    import keras

    from samebits.train.draws import check_layers_seeded

    options: dict[str, Any] = {
        "kernel_initializer": seeded(),
        "recurrent_initializer": seeded(1),
        "name": "lstm",
        rate: 0.5,
    }
    what = refusal(keras.layers.LSTM(3, **options)).what

    assert what.startswith("layer lstm")
    assert what.endswith("draws random numbers without a seed point: seed has no seed.")
    check_layers_seeded(make_model(keras.layers.LSTM(3, seed=0, **options)))


@pytest.mark.parametrize("part", ["kernel_initializer", "recurrent_initializer"])
def test_each_initialiser_of_an_lstm_needs_a_seed(part: str) -> None:
    """The kernel and the recurrent kernel each need a seed."""
    import keras

    options: dict[str, Any] = {"kernel_initializer": seeded(), "recurrent_initializer": seeded(1)} | {
        part: "orthogonal"
    }

    assert f": {part} has no seed." in refusal(keras.layers.LSTM(3, **options)).what


def test_an_lstm_without_dropout_passes() -> None:
    """A recurrent layer always has a generator, but needs no seed without dropout."""
    import keras

    from samebits.train.draws import check_layers_seeded

    check_layers_seeded(
        make_model(keras.layers.LSTM(3, kernel_initializer=seeded(), recurrent_initializer=seeded(1), name="lstm"))
    )


def test_seed_zero_covers_a_draw() -> None:
    """Zero is a seed for a layer and an initializer. A rate of 0 and constant initializers need none."""
    import keras

    from samebits.train.draws import check_layers_seeded

    check_layers_seeded(
        make_model(
            keras.layers.Dropout(0.5, seed=0),
            keras.layers.Dropout(0.0),
            keras.layers.Dense(3, kernel_initializer=seeded(0), bias_initializer="ones"),
            keras.layers.MaxPooling1D(2),
        )
    )


def test_a_layer_inside_another_is_found() -> None:
    """Layers in a nested model and in a wrapper are checked."""
    import keras

    inner = make_model(keras.layers.Dropout(0.5, name="inside"))
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(3, name="wrapped"))

    assert "layer inside draws" in refusal(inner).what
    assert "layer wrapped draws" in refusal(wrapped).what


def test_the_example_model_is_covered() -> None:
    """The CNN-LSTM passes with all seeds, and is an error if one is missing."""
    build_model = importlib.import_module(f"{PACKAGE}.model").build_model
    from samebits.train.draws import check_layers_seeded

    sizes = {"num_words": 20, "sequence_length": 12, "embedding_dim": 4, "filters": 3, "kernel_size": 3, "pool_size": 2}
    points: list[str] = []

    def build(missing: str | None) -> Any:
        def seed(point: str) -> int | None:
            points.append(point)
            return None if point == missing else 0

        return build_model(seed, dropout_rate=0.5, units=2, **sizes)

    check_layers_seeded(build(None))

    assert len(points) == 6
    for point in sorted(set(points)):
        with pytest.raises(UncoveredDrawError, match=f"layer {point.partition('/')[0]}"):
            check_layers_seeded(build(point))


# --- the traced step ---


def trace(draw: Callable[[Any], Any]) -> Any:
    """Return the traced step of a model with a layer named noisy that adds random numbers."""
    import keras
    import tensorflow as tf

    class Noisy(keras.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs + draw(inputs)

    model = make_model(keras.layers.Dense(4, kernel_initializer=seeded()), Noisy(name="noisy"))
    step = tf.function(lambda inputs: model(inputs, training=True), input_signature=[tf.TensorSpec([None, 6, 4])])
    return step.get_concrete_function()


DRAWING: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "uniform": ("RandomUniform", lambda tf, x: tf.random.uniform(tf.shape(x))),
    "normal": ("RandomStandardNormal", lambda tf, x: tf.random.normal(tf.shape(x), seed=1)),
    "integers": ("RandomUniformInt", lambda tf, x: tf.cast(tf.random.uniform([4], 0, 9, tf.int32), x.dtype)),
    "shuffle": ("RandomShuffle", lambda tf, x: tf.random.shuffle(x)),
    "dropout": ("RandomUniform", lambda tf, x: tf.nn.dropout(x, 0.5)),
    "inside a branch": (
        "RandomUniform",
        lambda tf, x: tf.cond(tf.reduce_sum(x) > 0, lambda: tf.random.uniform([4]), lambda: tf.zeros([4])),
    ),
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_stateful_draw_in_a_layer_is_refused(name: str) -> None:
    """TensorFlow's stateful random operations are errors with the operation and (outside branches) the layer."""
    import tensorflow as tf

    from samebits.train.draws import check_graph_draws, graph_nodes

    operation, draw = DRAWING[name]
    step = trace(lambda inputs: draw(tf, inputs))

    with pytest.raises(UncoveredDrawError) as caught:
        check_graph_draws(step, graph_nodes(step))

    assert caught.value.received == f"TensorFlow's stateful {operation}"
    assert caught.value.what.endswith(" draws random numbers without a seed point.")
    if name != "inside a branch":
        assert "/noisy" in caught.value.what


def test_a_step_without_stateful_draws_passes() -> None:
    """A layer with its own generator and a layer without random numbers pass."""
    import keras

    from samebits.train.draws import check_graph_draws, graph_nodes

    generator = keras.random.SeedGenerator(0)

    for draw in (lambda x: keras.random.uniform(keras.ops.shape(x), seed=generator), lambda x: x):
        step = trace(draw)
        check_graph_draws(step, graph_nodes(step))


def test_keras_random_without_a_seed_is_refused() -> None:
    """keras.random without a seed is an error, because it uses Keras's global generator."""
    import keras

    from samebits.train.draws import check_graph_draws, graph_nodes

    step = trace(lambda inputs: keras.random.uniform(keras.ops.shape(inputs)))

    with pytest.raises(UncoveredDrawError) as caught:
        check_graph_draws(step, graph_nodes(step))

    assert "Keras's global generator" == caught.value.received


# --- global generators ---


@pytest.fixture(autouse=True)
def kept_states() -> Iterator[None]:
    """Restore the global generators after the test."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


def make_watch(policy: str = "derived") -> Any:
    """Return a new watch."""
    from samebits.train.draws import GeneratorWatch

    return GeneratorWatch(Seeds(resolve_points(56, policy, GLOBAL_POINTS)))


@pytest.mark.parametrize(
    ("draw", "point", "module"),
    [
        (random.random, "python/random", "random"),
        (lambda: random.shuffle([1, 2]), "python/random", "random"),
        (lambda: random.seed(1), "python/random", "random"),
        (np.random.rand, "numpy/global", "numpy.random"),
        (np.random.standard_normal, "numpy/global", "numpy.random"),
        (lambda: np.random.permutation(3), "numpy/global", "numpy.random"),  # noqa: NPY002
        (lambda: np.random.seed(1), "numpy/global", "numpy.random"),  # noqa: NPY002
    ],
)
def test_a_draw_from_a_global_generator_is_noticed(draw: Callable[[], Any], point: str, module: str) -> None:
    """One draw during training is an error with the module, the epoch and the step."""
    watch = make_watch()
    watch.check(1, 4)
    draw()

    with pytest.raises(UncoveredDrawError) as caught:
        watch.check(1, 5)

    what = f"the global generator {point} was used in epoch 1, step 5: code draws from the module {module}"

    assert f"{what} during training." == caught.value.what
    assert f"a draw from {module}'s global generator" == caught.value.received


def test_a_second_draw_is_noticed_too() -> None:
    """A draw that only advances the position in NumPy's state is detected."""
    np.random.seed(1)  # noqa: NPY002
    np.random.rand()  # noqa: NPY002
    watch = make_watch()
    np.random.rand()  # noqa: NPY002

    with pytest.raises(UncoveredDrawError, match="numpy/global"):
        watch.check(1, 1)


def test_the_second_half_of_a_normal_pair_is_noticed() -> None:
    """A draw that returns the second Gaussian saved by NumPy's legacy generator is detected."""
    np.random.seed(1)  # noqa: NPY002
    np.random.randn()  # noqa: NPY002
    watch = make_watch()
    np.random.randn()  # noqa: NPY002

    with pytest.raises(UncoveredDrawError, match="numpy/global"):
        watch.check(1, 1)


def test_draws_from_generators_of_their_own_are_let_be() -> None:
    """Separate generator objects of Python and NumPy are allowed."""
    watch = make_watch()
    random.Random(1).random()  # noqa: S311
    np.random.default_rng(1).random()
    np.random.RandomState(1).rand()
    watch.check(1, 1)


def test_an_unseeded_generator_is_not_watched() -> None:
    """Under the policy unseeded, draws from the global generators are allowed."""
    watch = make_watch("unseeded")
    random.random()  # noqa: S311
    np.random.rand()  # noqa: NPY002
    watch.check(1, 1)
