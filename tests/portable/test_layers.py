"""Our orthogonal initializer and optimizers compared with Keras's, and the seed points of the model."""

import importlib
import pathlib
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, ROOT

from samebits.compose import compose
from samebits.core.digest import array_digest
from samebits.core.seeds import make_rng, resolve_points

SHAPES = [(6, 6), (70, 280), (280, 70), (1, 5), (5, 1), (3, 4, 5), (2, 3, 40), (40, 2, 3)]
# Digest of the orthonormal rows of a matrix of small integers; the same on every CPU.
ORTHONORMAL_DIGEST = "b4561e30de77061079b89fe5bf233b2efa2e8f216e1ae94fddc54a03962160cd"


def flatten(matrix: np.ndarray) -> np.ndarray:
    """Return a weight as float64[all axes but the last, last axis]."""
    return matrix.reshape(-1, matrix.shape[-1]).astype(np.float64)


def orthogonal(shape: tuple[int, ...], **options: Any) -> np.ndarray:
    """Return a matrix from our initializer."""
    from samebits.portable.layers import Orthogonal

    return np.asarray(Orthogonal(**options)(shape))


# --- the orthogonal initialiser ---


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_is_orthogonal(shape: tuple[int, ...]) -> None:
    """The rows or the columns, whichever are fewer, are orthonormal to 1e-6; all axes but the last give the rows."""
    matrix = orthogonal(shape, seed=56)
    flat = flatten(matrix)
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat

    assert (shape, np.dtype(np.float32)) == (matrix.shape, matrix.dtype)
    np.testing.assert_allclose(product, np.eye(len(product)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 56])
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_is_keras_matrix(shape: tuple[int, ...], seed: int) -> None:
    """With the same seed and gain, the matrix equals Keras's to 1e-5: same samples, signs and distribution."""
    import keras

    expected = np.asarray(keras.initializers.Orthogonal(gain=1.5, seed=seed)(shape))

    np.testing.assert_allclose(orthogonal(shape, gain=1.5, seed=seed), expected, rtol=0, atol=1e-5)


def test_orthogonal_has_keras_moments() -> None:
    """Over 300 seeds the entries have mean 0 and variance 1/n, like those of a random orthogonal matrix."""
    entries = np.stack([flatten(orthogonal((8, 8), seed=seed)) for seed in range(300)])

    assert np.abs(entries.mean(axis=0)).max() < 5 / np.sqrt(8 * 300)
    np.testing.assert_allclose((entries**2).mean(axis=0), 1 / 8, rtol=0, atol=0.05)


def test_orthogonal_has_its_gain() -> None:
    """The gain is a factor: 2 scales every entry exactly."""
    assert (2 * orthogonal((6, 4), seed=56)).tobytes() == orthogonal((6, 4), gain=2.0, seed=56).tobytes()


def test_orthogonal_has_its_seed() -> None:
    """The same seed gives the same bits, also zero; another seed gives others; without a seed they change."""
    seeds = (0, 1, 56, 2**31 - 3)
    digests = {seed: array_digest("kernel", orthogonal((6, 4), seed=seed)) for seed in seeds}
    unseeded = {array_digest("kernel", orthogonal((6, 4))) for _ in range(2)}

    assert digests == {seed: array_digest("kernel", orthogonal((6, 4), seed=seed)) for seed in seeds}
    assert len(digests) == len(set(digests.values()))
    assert len(unseeded) == 2


def test_orthonormal_rows_are_frozen() -> None:
    """The decomposition has fixed bits, on every CPU and in every version."""
    from samebits.portable.initializers import orthonormal_rows

    rows = orthonormal_rows(make_rng(56, "matrix").integers(-9, 10, (3, 5)).astype(np.float64))

    assert array_digest("rows", rows) == ORTHONORMAL_DIGEST


def test_orthonormal_rows_span_what_they_were_given() -> None:
    """Each row is in the span of the given rows up to it, with a positive coefficient of its own row."""
    from samebits.portable.initializers import orthonormal_rows

    given = make_rng(56, "matrix").standard_normal((5, 9))
    basis = orthonormal_rows(given)
    triangle = given @ basis.T

    np.testing.assert_allclose(basis @ basis.T, np.eye(5), rtol=0, atol=1e-15)
    np.testing.assert_allclose(triangle @ basis, given, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.triu(triangle, 1), 0, rtol=0, atol=1e-14)
    assert (np.diag(triangle) > 0).all()


def test_nearly_equal_rows_become_orthonormal() -> None:
    """Rows that differ only in the last digits are orthogonal after the second pass."""
    from samebits.portable.initializers import orthonormal_rows

    row = make_rng(56, "row").standard_normal(9)
    basis = orthonormal_rows(np.stack([row, row + 1e-9 * np.arange(9), row - 1e-9 * np.arange(9) ** 2]))

    np.testing.assert_allclose(basis @ basis.T, np.eye(3), rtol=0, atol=1e-14)


def test_orthogonal_needs_two_axes() -> None:
    """A shape with one axis is an error that shows the shape."""
    with pytest.raises(ValueError, match=r"at least two axes\. Received: shape=\(6,\)"):
        orthogonal((6,), seed=56)


@pytest.mark.parametrize("seed", [0, 56, None])
def test_orthogonal_goes_through_keras_configuration(seed: int | None) -> None:
    """The configuration has gain and seed, also None, and Keras makes an equal initializer from it."""
    import keras

    from samebits.portable.layers import Orthogonal

    initializer = Orthogonal(gain=1.5, seed=seed)
    serialized = keras.saving.serialize_keras_object(initializer)
    again = keras.saving.deserialize_keras_object(serialized)

    assert initializer.get_config() == {"gain": 1.5, "seed": seed}
    assert serialized["registered_name"] == "samebits>Orthogonal"
    assert isinstance(again, Orthogonal)
    assert again.get_config() == initializer.get_config()
    if seed is not None:
        assert np.asarray(again((6, 4))).tobytes() == np.asarray(initializer((6, 4))).tobytes()


def test_keras_orthogonal_becomes_ours() -> None:
    """`exact_version` returns ours with the gain and the seed of Keras's, and any other initializer as it is."""
    import keras

    from samebits.portable.initializers import Orthogonal, exact_version

    made = exact_version(keras.initializers.Orthogonal(gain=1.5, seed=7), "a weight")
    other = keras.initializers.HeNormal(seed=7)

    assert (Orthogonal, {"gain": 1.5, "seed": 7}) == (type(made), made.get_config())
    assert exact_version(other, "a weight") is other
    assert exact_version(made, "a weight") is made


def make_model(**points: int) -> Any:
    """Return the tiny model of conf/ with root seed 56, and optionally some points set separately."""
    build_model = importlib.import_module(f"{PACKAGE}.model").build_model

    config = compose(ROOT, ["experiment=smoke"])
    tree: dict[str, Any] = config.seed.points
    for name, value in points.items():
        owner, _, part = name.partition("/")
        tree["model"][owner][part] = value
    seeds = resolve_points(56, "derived", tree)
    arguments = {key: value for key, value in config.model.items() if key != "_target_"}
    return build_model(lambda path: seeds[f"model/{path}"].value, **arguments)


def digests_of(model: Any) -> dict[str, str]:
    """Return layer and name -> digest of every variable of a model, seed generators included."""
    named = {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.variables}

    assert len(named) == len(model.variables)
    del named["lstm/seed_generator_state"]  # every LSTM has one; without dropout nothing uses it
    return {name: array_digest(name, np.asarray(variable)) for name, variable in named.items()}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_a_saved_model_comes_back_with_its_bits(tmp_path: pathlib.Path) -> None:
    """Keras saves and loads a model with our initializer: same weights, same generators, same seeds."""
    import keras

    from samebits.portable.layers import Orthogonal

    model = make_model()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    made, loaded = (each.get_layer("lstm").cell.recurrent_initializer for each in (model, again))

    assert digests_of(model) == digests_of(again)
    assert isinstance(loaded, Orthogonal)
    assert made.get_config() == loaded.get_config()


def test_a_model_made_anew_from_its_configuration_has_its_bits() -> None:
    """The configuration contains the seeds, so it gives the same initial weights."""
    import keras

    model = make_model()

    assert digests_of(model) == digests_of(keras.models.clone_model(model))


MODEL_POINTS = {
    "embedding/embeddings": "embedding/embeddings",
    "embedding_dropout/dropout": "embedding_dropout/seed_generator_state",
    "conv/kernel": "conv/kernel",
    "lstm/kernel": "lstm/kernel",
    "lstm/recurrent": "lstm/recurrent_kernel",
    "output/kernel": "output/kernel",
}


@pytest.mark.parametrize("point", MODEL_POINTS)
def test_each_model_point_moves_its_own_weight_alone(point: str) -> None:
    """The same seeds give the same weights; changing one point changes only its weight or generator."""
    before, again, moved = digests_of(make_model()), digests_of(make_model()), digests_of(make_model(**{point: 57}))

    assert before == again
    assert [MODEL_POINTS[point]] == [name for name in before if before[name] != moved[name]]


def test_every_model_point_of_conf_is_tested() -> None:
    """The list above equals the one in conf/model/."""
    points = resolve_points(56, "derived", compose(ROOT, ["experiment=smoke"]).seed.points)

    assert {f"model/{name}" for name in MODEL_POINTS} == {name for name in points if name.startswith("model/")}


# --- Adam ---

Arrays = dict[str, np.ndarray]
WORDS = 40


def train_with(optimizer: Any, gradients: list[tuple[Any, ...]], *, as_slices: bool = True) -> Arrays:
    """Apply gradients in a traced function, as training does; returns path -> variables of model and optimizer."""
    import keras
    import tensorflow as tf

    start = {
        "dense": np.ones((5, 3), np.float32),
        "embedding": np.ones((WORDS, 2), np.float32),
        "bias": np.zeros(3, np.float32),
    }
    variables = [keras.Variable(array, name=name) for name, array in start.items()]
    optimizer.build(variables)

    @tf.function
    def apply(dense: Any, values: Any, rows: Any, bias: Any) -> None:
        slices = tf.IndexedSlices(values, rows, tf.constant([WORDS, 2]))
        optimizer.apply([dense, slices if as_slices else tf.convert_to_tensor(slices), bias], variables)

    for step in gradients:
        apply(*map(tf.constant, step))
    return {variable.path: np.asarray(variable) for variable in (*variables, *optimizer.variables)}


def make_gradients(*, repeated_rows: bool = False) -> list[tuple[Any, ...]]:
    """Return 20 steps of gradients: a matrix, few or many slices of an embedding with their rows, and a vector."""
    rng = make_rng(56, "adam")

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def draw_rows(count: int) -> np.ndarray:
        return rng.permutation(rng.integers(0, WORDS, count // 2).repeat(2) if repeated_rows else WORDS)[:count]

    return [(draw(5, 3), draw(count, 2), draw_rows(count), draw(3)) for count in (4, 30) * 10]


def check_equal(expected: Arrays, actual: Arrays, tolerance: float) -> None:
    """Check that the variables have the same names and almost the same values, and that they changed."""
    assert list(expected) == list(actual)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=tolerance, atol=tolerance, err_msg=name)
    for name in ("dense", "embedding", "bias"):
        assert np.ptp(actual[name]) > 0.001


OPTIONS: list[dict[str, Any]] = [
    {"learning_rate": 0.001},
    {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
    {"learning_rate": 0.01, "weight_decay": 0.1, "clipnorm": 0.5},
    {"learning_rate": 0.01, "amsgrad": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_adam_is_keras_adam(options: dict[str, Any]) -> None:
    """Over 20 steps with dense gradients and slices, variables and moments equal those of Keras's Adam to 1e-6."""
    import keras

    from samebits.portable.optimizers import Adam

    gradients = make_gradients()
    expected = train_with(keras.optimizers.Adam(**options, name="adam"), gradients)

    check_equal(expected, train_with(Adam(**options, name="adam"), gradients), 1e-6)


def test_adam_sums_the_slices_of_a_row() -> None:
    """A word that comes twice in a batch has the sum of its gradients, as Keras's Adam has it for the dense gradient.

    Keras's own squares each slice alone (Keras 3.15), which the second comparison shows.
    """
    import keras

    from samebits.portable.optimizers import Adam

    gradients = make_gradients(repeated_rows=True)
    actual = train_with(Adam(0.01, name="adam"), gradients)

    check_equal(train_with(keras.optimizers.Adam(0.01, name="adam"), gradients, as_slices=False), actual, 1e-6)

    keras_slices = train_with(keras.optimizers.Adam(0.01, name="adam"), gradients)

    assert np.abs(keras_slices["embedding"] - actual["embedding"]).max() > 0.001


@pytest.mark.parametrize("options", OPTIONS[:3])
def test_adam_has_the_dense_updates_bits_for_slices(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Updating rows without a gradient first and few others later gives the bits of one pass over all rows."""
    from samebits.portable import optimizers

    gradients = make_gradients(repeated_rows=True)
    assert optimizers.runs_side_by_side()
    ahead = train_with(optimizers.Adam(**options, name="adam"), gradients)
    monkeypatch.setattr(optimizers, "runs_side_by_side", lambda: False)
    at_once = train_with(optimizers.Adam(**options, name="adam"), gradients)

    assert {name: array.tobytes() for name, array in at_once.items()} == {
        name: array.tobytes() for name, array in ahead.items()
    }


def test_adam_follows_a_learning_rate_that_changes() -> None:
    """The learning rate is read in every step, like in Keras's Adam."""
    import keras

    from samebits.portable.optimizers import Adam

    gradients = make_gradients()
    for rate in (
        keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=3, decay_rate=0.5),
        keras.optimizers.schedules.PiecewiseConstantDecay([5, 10], [0.1, 0.0, 0.01]),
    ):
        expected = train_with(keras.optimizers.Adam(rate, name="adam"), gradients)

        check_equal(expected, train_with(Adam(rate, name="adam"), gradients), 1e-5)


def test_adam_has_the_same_bits_each_time() -> None:
    """The same steps give the same bits in variables, moments and step count."""
    from samebits.portable.optimizers import Adam

    gradients = make_gradients(repeated_rows=True)
    first, second = (train_with(Adam(0.01, name="adam"), gradients) for _ in range(2))

    assert {name: array.tobytes() for name, array in first.items()} == {n: a.tobytes() for n, a in second.items()}


def test_adam_goes_through_keras_configuration() -> None:
    """The configuration equals that of Keras's Adam, and Keras makes an equal optimizer from it."""
    import keras

    from samebits.portable.optimizers import Adam

    options = {"learning_rate": 0.01, "beta_1": 0.8, "epsilon": 1e-5, "name": "adam"}
    serialized = keras.saving.serialize_keras_object(Adam(**options))
    again = keras.saving.deserialize_keras_object(serialized)

    assert serialized["registered_name"] == "samebits>Adam"
    assert isinstance(again, Adam)
    assert again.get_config() == keras.optimizers.Adam(**options).get_config()
