"""Random numbers without a seed point are found: in the traced step, in a global generator."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

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
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
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
