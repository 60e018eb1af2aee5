"""Data that does not fit the model or its loss is refused before training, by name."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from in_process import Small

from samebits.core.errors import ConfigError
from samebits.train.checks_of_data import fits
from samebits.train.data import Dataset, Split

ROWS = 40
X = np.linspace(-1, 1, ROWS * 6, dtype=np.float32).reshape(ROWS, 6)
CLASSES = (np.arange(ROWS) % 3).astype(np.int32)
SIGNS = (np.arange(ROWS) % 2).astype(np.int32)
SPARSE, BINARY, ONE_HOT = "sparse_categorical_crossentropy", "binary_crossentropy", "categorical_crossentropy"


def make_model(*shape: int, outputs: int = 1, rank: int = 1) -> Any:
    """Return a dense model; with rank 3 one for images."""
    import keras

    layer = keras.layers.Dense(outputs, kernel_initializer=keras.initializers.GlorotUniform(seed=1), name="out")
    if rank == 3:
        layer = keras.layers.Conv2D(
            outputs, 3, padding="same", kernel_initializer=keras.initializers.GlorotUniform(seed=1), name="out"
        )
    return keras.Sequential([keras.Input(shape or (6,)), layer], name="net")


def make_small(dataset: Dataset, model: Any, **settings: Any) -> None:
    """Check a training, whose model is compiled here unless it is."""
    if not model.compiled:
        model.compile("sgd", "mse")
    Small(lambda: model, dataset, **{"epochs": 1, "batch_size": 8} | settings)


def rowwise(labels: Any, outputs: Any) -> Any:
    """Return one value per row."""
    import keras

    return keras.ops.mean(keras.ops.square(labels - outputs), -1)


def scalar(labels: Any, outputs: Any) -> Any:
    """Return one value for all rows."""
    import keras

    return keras.ops.mean(keras.ops.square(labels - outputs))


def every_row_with_every_row(labels: Any, outputs: Any) -> Any:
    """Return what labels without the last axis of the outputs are broadcast to."""
    import keras

    return keras.ops.square(keras.ops.reshape(labels, (1, -1)) - outputs)


def check(labels: Any, loss: Any, inputs: Any = X, weights: Any = None, **model: Any) -> None:
    """Check a data set against a model that is compiled with a loss."""
    made = make_model(**model)
    made.compile("sgd", loss)
    make_small(Dataset(Split(inputs, labels, weights)), made)


def keras_loss(name: str, **options: Any) -> Callable[[], Any]:
    """Return what makes one of Keras's losses that reads logits."""
    import keras

    return lambda: getattr(keras.losses, name)(from_logits=True, **options)


SCC, BCE, CCE = "SparseCategoricalCrossentropy", "BinaryCrossentropy", "CategoricalCrossentropy"
REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "a class too many": (CLASSES, SCC, {"outputs": 2}, "train/labels: expected whole numbers 0 to 1.*received 0 to 2"),
    "classes from 1": (CLASSES + 1, SCC, {"outputs": 3}, "received 1 to 3"),
    "a negative class": (CLASSES - 1, SCC, {"outputs": 3}, "received -1 to 1"),
    "a fraction of a class": (CLASSES / 2, SCC, {"outputs": 3}, "received 0.0 to 1.0 with fractions"),
    "one-hot for class numbers": (np.eye(3)[CLASSES], SCC, {"outputs": 3}, r"received shape \[rows, 3\].*argmax"),
    "class numbers for one-hot": (CLASSES, CCE, {"outputs": 3}, "categorical_crossentropy.*use the loss sparse_cat"),
    "signs -1 and 1": (SIGNS * 2 - 1, BCE, {}, "expected 0 to 1.*received -1 to 1"),
    "a missing label that counts": (
        np.where(CLASSES, SIGNS, -1.0),
        BCE,
        {"weights": (CLASSES < 2) + 0.0},
        "expected 0 to 1.*received -1.0 to",
    ),
    "text": (np.array(["no", "yes"])[SIGNS], BCE, {}, "train/labels: expected numbers, received strings such as 'no'"),
    "one label for three outputs": (SIGNS.astype(float), "mse", {"outputs": 3}, "would be broadcast"),
    "one column for three outputs": (
        SIGNS[:, None],
        "mse",
        {"outputs": 3},
        r"shape \[rows, 1\]: it would be broadcast",
    ),
    "missing numbers": (np.where(SIGNS, np.nan, 1.0), "mse", {}, "expected numbers, received NaN"),
    "a scalar with weights": (
        SIGNS,
        scalar,
        {"weights": np.ones(ROWS)},
        r"loss scalar: .*because the rows have weights",
    ),
    "each row with each row": (SIGNS, every_row_with_every_row, {}, r"shape \[rows, rows\]: labels \[rows\] against"),
    "another width": (SIGNS, BCE, {"inputs": X[:, :5]}, r"train/inputs: expected shape \[rows, 6\].*\[rows, 5\]"),
    "another rank": (SIGNS, BCE, {"inputs": X.reshape(ROWS, 3, 2)}, r"received shape \[rows, 3, 2\]"),
    "strings as inputs": (SIGNS, BCE, {"inputs": np.full((ROWS, 6), "a")}, "expected numbers.*strings such as 'a'"),
    "two inputs for one": (SIGNS, BCE, {"inputs": {"a": X, "b": X}}, "expected 1 arrays for the model: .*inputs/a"),
}


@pytest.mark.parametrize("cause", REFUSED)
def test_data_that_does_not_fit_is_refused(cause: str) -> None:
    """The error names the array, what was expected and what came."""
    labels, loss, options, message = REFUSED[cause]
    made = keras_loss(loss)() if isinstance(loss, str) and loss != "mse" else loss

    with pytest.raises(ConfigError, match=message):
        check(labels, made, **options)


ACCEPTED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "class numbers in a column": (CLASSES[:, None], SCC, {"outputs": 3}),
    "class numbers as floats": (CLASSES.astype(float), SCC, {"outputs": 3}),
    "an ignored class": (CLASSES - 1, "ignoring", {"outputs": 2}),
    "pixels": (np.zeros((ROWS, 8, 8), int), SCC, {"outputs": 2, "rank": 3, "inputs": np.zeros((ROWS, 8, 8, 1))}),
    "one-hot": (np.eye(3)[CLASSES], CCE, {"outputs": 3}),
    "labels without the last axis": (SIGNS, BCE, {}),
    "several tags": (np.eye(3)[CLASSES], BCE, {"outputs": 3}),
    "one value per row": (SIGNS, rowwise, {"weights": np.ones(ROWS)}),
    "a scalar without weights": (SIGNS, scalar, {}),
    "a missing label with the weight 0": (np.where(CLASSES, SIGNS, -1.0), BCE, {"weights": (CLASSES > 0) + 0.0}),
    "several labels for a loss of one's own": (np.stack([SIGNS, SIGNS], 1), lambda y, z: rowwise(y[:, :1], z), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_data_that_fits_is_accepted(case: str) -> None:
    """What Keras trains as it was written is not refused."""
    labels, loss, options = ACCEPTED[case]
    shape = options.pop("shape", ()) if "rank" not in options else (8, 8, 1)
    made = loss
    if isinstance(loss, str):
        made = keras_loss(SCC, ignore_class=-1)() if loss == "ignoring" else keras_loss(loss)()
    model = make_model(*shape, **{key: value for key, value in options.items() if key in ("outputs", "rank")})
    model.compile("sgd", made)
    dataset = Dataset(Split(options.get("inputs", X), labels, options.get("weights")))

    make_small(dataset, model)


@pytest.mark.parametrize(
    ("rows", "validation", "settings", "message"),
    [
        (40, 40, {}, None),
        (44, 40, {}, r"the train data: expected a multiple of 8 .*steps_per_epoch=5"),
        (44, 40, {"steps_per_epoch": 5}, None),
        (40, 12, {}, r"the validation data: expected a multiple of 8 rows.* would have 4"),
        (40, 40, {"batch_size": 4}, "training.batch_size: expected 8, for which the model was built, received 4"),
        (40, 40, {"validation_batch_size": 20}, "training.validation_batch_size: expected 8"),
        (4, 40, {}, "training.batch_size: expected 1 to 4, the number of training samples"),
    ],
)
def test_a_stateful_model_gets_no_other_batch(
    rows: int, validation: int, settings: dict[str, Any], message: str | None
) -> None:
    """Rows that leave a smaller last batch are refused, unless the epoch is cut before it."""
    import keras

    parts = [Split(np.zeros((count, 6, 2)), np.zeros(count)) for count in (rows, validation)]
    memory = keras.layers.SimpleRNN(1, stateful=True)

    def build() -> None:
        make_small(Dataset(*parts), keras.Sequential([keras.Input((6, 2), batch_size=8), memory]), **settings)

    if message is None:
        build()
        return
    with pytest.raises(ConfigError, match=message):
        build()


def test_class_weights_are_weights_of_the_rows() -> None:
    """A loss that returns one value for all rows cannot be weighted by class, in arrays or in a source."""

    class Rows:
        def __len__(self) -> int:
            return ROWS

        def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
            del rng
            return X[rows], SIGNS[rows]

    for data in (Split(X, SIGNS), Rows()):
        model = make_model()
        model.compile("sgd", scalar)
        with pytest.raises(ConfigError, match=r"loss scalar: .*because the rows have weights"):
            make_small(Dataset(data), model, class_weight={1: 5.0})


def test_missing_numbers_in_the_inputs_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """NaN may be meant, e.g. for a masking layer, so the log has the array and the number of rows."""
    inputs = X.copy()
    inputs[3:5, 1:4] = np.nan
    with caplog.at_level(logging.WARNING):
        make_small(Dataset(Split(inputs, SIGNS)), make_model())

    assert "train/inputs has NaN in 2 of 40 rows" in caplog.messages


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Keras warns about the name that is not used
def test_a_model_may_take_more_arrays_than_it_uses() -> None:
    """A dict with more names than the model's inputs is accepted, as in Keras; a missing name is not."""
    import keras

    def model() -> Any:
        a, b = keras.Input((6,), name="a"), keras.Input((1,), name="b")
        joined = keras.layers.Concatenate()([a, b])
        out = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))(joined)
        return keras.Model({"a": a, "b": b}, out, name="net")

    make_small(Dataset(Split({"a": X, "b": SIGNS, "c": X}, SIGNS)), model())
    with pytest.raises(ConfigError, match=r"expected 2 arrays for the model: a \(None, 6\), b \(None, 1\)"):
        make_small(Dataset(Split({"a": X, "c": SIGNS}, SIGNS)), model())


FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "a dict of tuples": lambda a, b: {"x": (a, b)},
    "a tuple with a dict": lambda a, b: ({"a": a}, b),
    "dicts in a dict": lambda a, b: {"x": {"a": a}, "y": {"b": b}},
}


@pytest.mark.parametrize("form", [pytest.param(name, marks=pytest.mark.full) if number else name
                                  for number, name in enumerate(FORMS)])  # fmt: skip
def test_inputs_may_be_nested(form: str) -> None:
    """Arrays in the structure of the model's inputs are accepted; in another one they are refused."""
    import keras

    def model() -> Any:
        a, b = keras.Input((6,), name="a"), keras.Input((1,), name="b")
        return keras.Model(FORMS[form](a, b), make_layer()(keras.layers.Concatenate()([a, b])))

    make_small(Dataset(Split(FORMS[form](X, SIGNS), SIGNS)), model())
    with pytest.raises(ConfigError, match="received shape"):
        make_small(Dataset(Split(FORMS[form](SIGNS, X), SIGNS)), model())
    with pytest.raises(ConfigError, match="expected 2 arrays"):
        make_small(Dataset(Split((X, X, X), SIGNS)), model())


def make_layer() -> Any:
    """Return a seeded layer."""
    import keras

    return keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))


def test_an_optional_input_may_be_missing() -> None:
    """None in its place is what Keras gives to the model."""
    import keras

    class Sum(keras.layers.Layer):
        def call(self, first: Any, second: Any = None) -> Any:
            return first if second is None else first + second

    def model() -> Any:
        a, b = keras.Input((6,), name="a"), keras.Input((1,), name="b", optional=True)
        return keras.Model({"a": a, "b": b}, Sum()(make_layer()(a), b))

    make_small(Dataset(Split({"a": X, "b": None}, SIGNS)), model())
    with pytest.raises(ConfigError, match="expected 2 arrays"):
        make_small(Dataset(Split({"a": None, "b": SIGNS}, SIGNS)), model())


def test_a_class_that_computes_its_own_loss_takes_any_labels() -> None:
    """A model with a train_step of its own may have labels that no loss of Keras would take."""
    import keras

    class Mine(keras.Sequential):
        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **__: Any) -> Any:
            return keras.ops.mean(keras.ops.square(y_pred - y[:, 3:4])) + 0 * keras.ops.sum(x)

    layer = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1), name="out")
    make_small(Dataset(Split(X, X)), Mine([keras.Input((6,)), layer]))


@pytest.mark.parametrize(
    ("found", "expected", "does"),
    [
        ((9, 2), (None, 2), True),
        ((9,), (None, 1), True),
        ((9, 1), (None,), True),
        ((9, 2), (None, None), True),
        ((9, 2), (None, 3), False),
        ((9,), (None, 2), False),
        ((9, 2, 1), (None, 2), True),
        ((9, 2), (None, 2, 1, 1), False),
    ],
)
def test_shapes_fit_with_a_last_axis_of_one(found: tuple[int, ...], expected: tuple[Any, ...], does: bool) -> None:
    """Keras adds or drops a last axis of 1, and the number of rows is free."""
    assert does == fits(found, expected)
