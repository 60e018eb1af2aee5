"""Weights and layers get the seeds of their own points, whatever Python's generator holds and whatever else exists."""

import hashlib
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from samebits.core.config import SeedConfig
from samebits.core.errors import NotPortableError, SeedError
from samebits.core.seeds import Seeds, derive_seed

Build = Callable[[Any], Any]


def glorot(seed: int | None) -> Any:
    """Return a random initializer."""
    import keras

    return keras.initializers.GlorotUniform(seed=seed)


class Built:
    """A model that was built and called once in training, with the seeds that it used."""

    def __init__(
        self, build: Build, policy: str = "derived", *, python_seed: int = 0, exact: bool = False, **points: Any
    ) -> None:
        import keras

        from samebits.train.seeding import seed_by_path

        random.seed(python_seed)
        keras.backend.clear_session(free_memory=False)
        self.seeds = Seeds.of(SeedConfig(56, policy, {"model": points}))
        with seed_by_path(self.seeds, exact_initializers=exact) as seeding:
            self.model = build(self.seeds.for_model())
            seeding.place_all(self.model)
            inputs = np.random.RandomState(0).rand(2, *self.model.input_shape[1:]).astype("float32")
            self.outputs = [self.model(inputs, training=True).numpy() for _ in range(2)]
        self.rows = {row["point"]: row for row in self.seeds.table()}

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of each weight, without those that start constant."""
        return {weight.path: weight.numpy().tobytes() for weight in self.model.weights if weight.numpy().std() > 0}

    def digest(self) -> str:
        """Return one digest of all variables, including generators, and of the outputs."""
        parts = [*(variable.numpy() for variable in self.model.variables), *self.outputs]
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def sequential(*layers: Any, shape: tuple[int, ...] = (6, 4)) -> Any:
    """Return a model of these layers."""
    import keras

    return keras.Sequential([keras.Input(shape), *layers], name="net")


def build_zoo(seed: Any) -> Any:
    """Return a model with layers that draw in every way: residual convolutions, attention, recurrence, augmentation."""
    import keras

    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.RandomCrop(8, 8)(layers.RandomFlip(name="augment")(inputs))
    x = layers.Conv2D(4, 3, padding="same", kernel_initializer="he_normal")(x)
    x = layers.Add()([x, layers.Conv2D(4, 3, padding="same", name="residual")(x)])
    x = layers.Reshape((4, 64))(layers.Dropout(0.5)(x))
    x = layers.MultiHeadAttention(2, 3, dropout=0.1, name="attention")(x, x)
    cell = layers.LSTM(3, dropout=0.2, bias_initializer="random_normal")
    x = layers.Bidirectional(cell, name="both")(x)
    return keras.Model(inputs, keras.Sequential([layers.Dense(3), layers.GaussianNoise(0.1)], name="head")(x))


@pytest.fixture(scope="module")
def zoo() -> Built:
    """Return the model with layers of every kind."""
    return Built(build_zoo)


def test_the_weights_do_not_depend_on_pythons_generator(zoo: Built) -> None:
    """Another state of Python's generator gives the same weights, generators and outputs."""
    assert zoo.digest() == Built(build_zoo, python_seed=1).digest()


def test_an_unseeded_model_is_chosen_by_keras() -> None:
    """Under the policies that leave the model unseeded, Keras chooses: other states of Python, other weights."""
    import keras

    def build(_seed: Any) -> Any:
        return sequential(keras.layers.Dense(4), keras.layers.Dropout(0.5))

    for policy in ("unseeded", "data_only"):
        first, second = (Built(build, policy, python_seed=seed) for seed in (1, 2))

        assert all(first.weights()[path] != second.weights()[path] for path in first.weights())
        assert {"unseeded"} == {row["source"] for row in first.rows.values()}


def test_every_weight_and_layer_has_its_own_point(zoo: Built) -> None:
    """The points are Keras's paths: one for each random weight, one for each layer that draws."""
    drawing = {
        "augment/generator", "random_crop/generator", "dropout/seed_generator", "attention/dropout_1/seed_generator",
        "both/forward_lstm/lstm_cell/seed_generator", "both/backward_lstm/lstm_cell/seed_generator",
        "head/gaussian_noise/seed_generator",
    }  # fmt: skip

    assert {f"model/{path}" for path in {*drawing, *zoo.weights()}} == set(zoo.rows)
    assert "weight attention/key/kernel" == zoo.rows["model/attention/key/kernel"]["consumer"]
    assert "draws of layer dropout: seed_generator" == zoo.rows["model/dropout/seed_generator"]["consumer"]
    assert all(row["value"] == derive_seed(56, point) for point, row in zoo.rows.items())


def test_no_two_weights_start_equal(zoo: Built) -> None:
    """Query, key and value, forward and backward start with different kernels, and so does every other weight."""
    starts = [value[:36] for value in zoo.weights().values()]

    assert len(starts) == len(set(starts))


def test_a_second_draw_differs(zoo: Built) -> None:
    """A layer that draws gives other numbers in the next step."""
    assert zoo.outputs[0].tobytes() != zoo.outputs[1].tobytes()


@pytest.mark.parametrize("point", ["attention/key/kernel", "both/backward_lstm/lstm_cell/recurrent_kernel"])
def test_a_point_that_no_file_lists_can_be_set(zoo: Built, point: str) -> None:
    """A point of a weight, set by its path, moves that weight alone."""
    tree: Any = 5
    for part in reversed(point.split("/")):
        tree = {part: tree}
    moved = Built(build_zoo, **tree)
    moved.seeds.check_consumed()

    assert [point] == [path for path, value in zoo.weights().items() if moved.weights()[path] != value]
    assert ("set", 5) == (moved.rows[f"model/{point}"]["source"], moved.rows[f"model/{point}"]["value"])


def test_a_set_layer_moves_its_draws_alone(zoo: Built) -> None:
    """The point of a layer that draws changes the outputs and no weight."""
    moved = Built(build_zoo, dropout={"seed_generator": 5})
    moved.seeds.check_consumed()

    assert zoo.weights() == moved.weights()
    assert zoo.outputs[0].tobytes() != moved.outputs[0].tobytes()


@pytest.mark.parametrize("points", [{"drop": {"seed_generator": 5}}, {"drop": {"seed_generator": None}}])
def test_a_point_that_nothing_uses_is_refused(points: dict[str, Any]) -> None:
    """A listed or set point without a consumer is an error, also of a layer whose rate is 0."""
    import keras

    built = Built(lambda _: sequential(keras.layers.LSTM(2, name="drop")), **points)

    with pytest.raises(SeedError, match="seed point model/drop/seed_generator: expected code that uses it"):
        built.seeds.check_consumed()


def build_inserted(*, named: bool, inserted: bool) -> Build:
    """Return a function that builds two layers, and may insert one between them."""
    import keras

    def build(_seed: Any) -> Any:
        names = {"name": "body"} if named else {}
        middle = [keras.layers.Dense(4)] if inserted else []
        return sequential(*middle, keras.layers.Dense(4, **names))

    return build


@pytest.mark.parametrize("named", [True, False])
def test_a_named_layer_keeps_its_seed_when_another_is_inserted(named: bool) -> None:
    """Automatic names number in the order of creation, so a layer without a name gets another seed."""
    before, after = (Built(build_inserted(named=named, inserted=inserted)) for inserted in (False, True))

    assert named == (
        before.model.layers[-1].kernel.numpy().tobytes() == after.model.layers[-1].kernel.numpy().tobytes()
    )


def test_the_document_names_the_points_of_its_example() -> None:
    """The model in docs/seeds.md has exactly the points that the text below it names."""
    import keras

    text = (ROOT / "docs" / "seeds.md").read_text()
    code = re.search(r"```python\n(.*?)```\n\nhas (.*?)\.", text, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"keras": keras, "Seed": Any}
    exec(code[1], names)  # noqa: S102  the document of this project

    assert set(re.findall(r"`(model/\S+)`", code[2])) == set(Built(names["build"]).rows)


# --- explicit seeds ---


def test_an_explicit_seed_belongs_to_the_first_weight_that_uses_it() -> None:
    """MultiHeadAttention copies its initializer: the query has exactly that seed, each further weight its own."""
    import keras

    def build(seed: Any) -> Any:
        inputs = keras.Input((6, 4))
        attention = keras.layers.MultiHeadAttention(2, 4, kernel_initializer=glorot(seed("a/kernel")), name="a")
        return keras.Model(inputs, attention(inputs, inputs))

    built = Built(build)
    alone = Built(lambda _: build(lambda _: derive_seed(56, "model/a/kernel")))

    assert built.weights()["a/query/kernel"] == alone.weights()["a/query/kernel"]
    assert 4 == len(set(built.weights().values()))
    assert 1 == len({value[:36] for value in alone.weights().values()})  # as Keras copies it
    assert {
        "model/a/kernel": "weight a/query/kernel", "model/a/key/kernel": "weight a/key/kernel",
        "model/a/value/kernel": "weight a/value/kernel",
        "model/a/attention_output/kernel": "weight a/attention_output/kernel",
    } == {point: row["consumer"] for point, row in built.rows.items()}  # fmt: skip


def test_an_explicit_seed_is_what_keras_makes_of_it() -> None:
    """A weight and a dropout with explicit points have the numbers that the same integers give without samebits."""
    import keras

    def build(seed: Any) -> Any:
        return sequential(
            keras.layers.Dense(4, kernel_initializer=glorot(seed("out/kernel")), name="out"),
            keras.layers.Dropout(0.5, seed=seed("drop/dropout"), name="drop"),
        )

    built = Built(build)
    keras.backend.clear_session(free_memory=False)
    plain = build(lambda path: derive_seed(56, f"model/{path}"))

    assert [v.numpy().tobytes() for v in plain.weights] == [v.numpy().tobytes() for v in built.model.weights]
    assert "draws of layer net/drop: seed_generator" == built.rows["model/drop/dropout"]["consumer"]
    assert {"model/out/kernel", "model/drop/dropout"} == set(built.rows)
    keras.utils.set_random_seed(0)
    inputs = np.random.RandomState(0).rand(2, 6, 4).astype("float32")
    assert plain(inputs, training=True).numpy().tobytes() == built.outputs[0].tobytes()


def test_a_literal_seed_stays_and_is_listed() -> None:
    """An integer in the code is used as it is, and the table says so; its point cannot be set."""
    import keras

    def build(_seed: Any) -> Any:
        return sequential(keras.layers.Dense(4, kernel_initializer=glorot(42)), keras.layers.Dropout(0.5, seed=43))

    built = Built(build)

    assert [("literal", 42), ("literal", 43)] == [(row["source"], row["value"]) for row in built.rows.values()]
    assert ["model/net/dense/kernel", "model/net/dropout/seed_generator"] == list(built.rows)
    with pytest.raises(SeedError, match="received none: the code has the seed 42"):
        Built(build, net={"dense": {"kernel": 5}}).seeds.check_consumed()


def test_one_integer_everywhere_stays_one_integer() -> None:
    """Under the article's policy every point has the root seed."""
    built = Built(build_zoo, "root_everywhere")

    assert {56} == {row["value"] for row in built.rows.values()}


# --- where Keras hides its choices ---


def test_layers_in_a_model_that_no_one_called_are_seeded() -> None:
    """A model whose parts are used in its own train_step alone, and inner layers that are never called, have points."""
    import keras

    class Gan(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="gan")
            self.noise = keras.random.SeedGenerator()
            self.others = [keras.random.SeedGenerator()]
            self.inner = keras.layers.Dropout(0.5, name="inner")

    def build(_seed: Any) -> Any:
        return Gan()

    from samebits.train.seeding import seed_by_path

    states = []
    for python_seed in (1, 2):
        random.seed(python_seed)
        seeds = Seeds.of(SeedConfig(56))
        with seed_by_path(seeds) as seeding:
            gan = build(None)
            seeding.place_all(gan)
            drawn = [
                keras.random.uniform((3,), seed=each) for each in (gan.noise, gan.others[0], gan.inner.seed_generator)
            ]
        states.append([each.numpy().tobytes() for each in drawn])

    assert states[0] == states[1]
    assert 3 == len(set(states[0]))
    points = ["model/gan/noise", "model/gan/seed_generators/1", "model/gan/inner/seed_generator"]
    assert points == [row["point"] for row in seeds.table()]


def test_a_layer_that_draws_while_it_is_built_is_seeded() -> None:
    """A generator that is made in build(), held by a plain object, or by an initializer has a point too."""
    import keras

    class Late(keras.Layer):
        def build(self, _shape: Any) -> None:
            self.generator = keras.random.SeedGenerator()
            self.start = self.add_weight(shape=(4,), initializer="zeros", name="start")
            self.start.assign(keras.random.normal((4,), seed=self.generator))
            self.scale = self.add_weight(
                shape=(4,), name="scale", initializer=keras.initializers.RandomNormal(seed=keras.random.SeedGenerator())
            )
            self.own = self.add_weight(
                shape=(4,), name="own", initializer=lambda shape, dtype: keras.random.normal(shape, dtype=dtype)
            )

        def call(self, inputs: Any) -> Any:
            return inputs * self.start + self.scale * self.own

    first, second = (Built(lambda _: sequential(Late(name="late")), python_seed=seed) for seed in (1, 2))

    assert first.digest() == second.digest()
    assert {"model/net/late/generator", "model/net/late/scale", "model/net/late/own"} == set(first.rows)


def test_two_weights_with_one_path_start_different() -> None:
    """Keras allows two weights with the same path; the second has a numbered point."""
    import keras

    class Pair(keras.Layer):
        def build(self, _shape: Any) -> None:
            self.parts = [self.add_weight(shape=(4,), initializer="random_normal", name="part") for _ in range(2)]

        def call(self, inputs: Any) -> Any:
            return inputs + self.parts[0] + self.parts[1]

    built = Built(lambda _: sequential(Pair(name="pair")))

    assert {"model/net/pair/part", "model/net/pair/part-2"} == set(built.rows)
    assert built.model.weights[0].numpy().tobytes() != built.model.weights[1].numpy().tobytes()


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("conv/kernel", "model/conv/kernel"), ("block.1/conv 2/kernel", "model/block_1/conv_2/kernel"),
        ("1x1/kernel", "model/_1x1/kernel"), ("0/kernel", "model/0/kernel"), ("é/-a", "model/_/_-a"),
    ],
)  # fmt: skip
def test_a_point_can_be_typed(path: str, point: str) -> None:
    """The name of a point has only characters that a key on the command line can have."""
    from samebits.train.seeding import point_of

    assert point == point_of(path)


@pytest.mark.parametrize(("policy", "is_same"), [("derived", True), ("root_everywhere", True), ("unseeded", False)])
def test_keras_draws_from_pythons_generator_only_if_the_model_is_unseeded(policy: str, is_same: bool) -> None:
    """A layer may be created while a step is traced, when a draw from Python's generator is an error."""
    import keras

    random.seed(3)
    before = random.getstate()
    Built(lambda _: sequential(keras.layers.LSTM(2, dropout=0.5)), policy, python_seed=3)

    assert is_same == (before == random.getstate())


def test_a_wrapped_keras_is_unwrapped() -> None:
    """After the block Keras is as before, also if the block fails."""
    import keras
    from keras.src.backend.tensorflow import random as keras_random

    from samebits.train.seeding import seed_by_path

    def functions() -> list[Any]:
        return [keras_random.draw_seed, keras.Layer._open_name_scope, keras.random.SeedGenerator.next]

    def fail() -> None:
        with seed_by_path(Seeds.of(SeedConfig(56))):
            assert all(old is not new for old, new in zip(before, functions(), strict=True))
            raise KeyError

    before = functions()
    with pytest.raises(KeyError):
        fail()

    assert before == functions()


def test_keras_orthogonal_initializer_becomes_exact() -> None:
    """Under portable, Keras's orthogonal initializer gives the bits of the exact one, with the same seed."""
    import keras

    from samebits.portable.initializers import Orthogonal

    def build(kind: Any) -> Build:
        return lambda _: sequential(keras.layers.LSTM(5, recurrent_initializer=kind(), name="lstm"))

    stock, replaced = (Built(build(keras.initializers.Orthogonal), exact=exact) for exact in (False, True))
    exact = Built(build(Orthogonal))
    path = "net/lstm/lstm_cell/recurrent_kernel"

    assert exact.weights()[path] == replaced.weights()[path]
    assert exact.weights()[path] != stock.weights()[path]
    values, expected = (abs(each.model.weights[1].numpy()) for each in (exact, stock))
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_subclass_of_keras_orthogonal_is_refused() -> None:
    """What a subclass computes is the user's, so it is refused under portable alone, with the path of its weight."""
    import keras

    class Own(keras.initializers.Orthogonal):
        """Decomposes a matrix too."""

    def build(_: Any) -> Any:
        return sequential(keras.layers.LSTM(5, recurrent_initializer=Own(), name="lstm"))

    with pytest.raises(NotPortableError, match=r"the initializer .*Own of net/lstm/lstm_cell/recurrent_kernel"):
        Built(build, exact=True)
    Built(build, exact=False)
