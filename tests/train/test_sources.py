"""Data that is not in memory: row sources, PyDatasets and tf.data factories give the same bits after a stop."""

import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from in_process import Small, op_determinism

from samebits.core.errors import ConfigError, DataError
from samebits.core.seeds import Seeds, make_rng, resolve_points
from samebits.runs.folder import METRICS, TRACE, read_rows
from samebits.train.data import DataContext, Dataset, Split
from samebits.train.read_ahead import ReadAhead
from samebits.train.sources import RowBatches, source_digest

ROWS, SIZE, STEPS, EPOCHS = 46, 8, 6, 2  # the last batch is smaller
FULL = pytest.mark.full  # takes over 5 s
STOPPED_AT = 9  # in the middle of the second epoch


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations and set TensorFlow's global seed for this module, as in a training process."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    with op_determinism():
        tf.random.set_seed(1)
        yield
    context.set_global_seed(None)


def numbers() -> tuple[np.ndarray, np.ndarray]:
    """Return rows of six numbers whose label is the sign of their sum."""
    inputs = make_rng(1, "inputs").standard_normal((ROWS, 6)).astype(np.float32)
    return inputs, (inputs.sum(1) > 0).astype(np.int32)


# --- one data set in every form ---


class Rows:
    """A row source that adds noise, read by two threads of which one is slow."""

    workers = 2

    def __init__(self) -> None:
        self.inputs, self.labels = numbers()

    def __len__(self) -> int:
        return ROWS

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return rows with noise."""
        time.sleep(rows[0] % 2 * 0.002)
        return self.inputs[rows] + rng.normal(0, 0.1, (len(rows), 6)), self.labels[rows]


def make_sequence(**methods: Any) -> Any:
    """Return a PyDataset that adds noise, made from the epoch that its hook counts."""
    import keras

    class Sequence(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.epoch, self.calls = Rows(), 1, [0, 0]
            self.order = make_rng(2, "order")
            self.on_epoch_end()
            self.epoch = 1

        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> Any:
            rows = self.shuffled[index * SIZE : (index + 1) * SIZE]
            return self.rows.batch(rows, make_rng(56, "data/augment", self.epoch, index))

        def on_epoch_end(self) -> None:
            self.shuffled = self.order.permutation(ROWS)
            self.epoch += 1

    for name, method in methods.items():
        setattr(Sequence, name, method)
    return Sequence()


def make_pipeline(seed: int, epoch: int) -> Any:
    """Return a tf.data.Dataset that is shuffled and adds noise."""
    import tensorflow as tf

    def noisy(x: Any, y: Any) -> Any:
        return x + tf.random.stateless_normal([6], [seed, tf.cast(tf.reduce_sum(x) * 1e6, tf.int32)]) * 0.1, y

    assert epoch >= 0
    dataset = tf.data.Dataset.from_tensor_slices(numbers()).shuffle(ROWS, seed=seed).map(noisy, num_parallel_calls=4)
    return dataset.batch(SIZE).prefetch(2)


def uncounted(seed: int, epoch: int) -> Any:
    """Return the same dataset with an unknown number of batches."""
    return make_pipeline(seed, epoch).filter(lambda _x, _y: True)


def make_dataset(form: str) -> Dataset:
    """Return the numbers in one of the forms, also for validation and test."""
    plain = Split(*numbers())
    if form == "arrays":
        return Dataset(plain, plain, plain)
    if form == "sequence":
        return Dataset(make_sequence(), make_sequence(), make_sequence())
    source = {"rows": Rows(), "pipeline": make_pipeline, "uncounted": uncounted}[form]
    return Dataset(source, source, source)


FORMS = ("arrays", "rows", "sequence", "pipeline", "uncounted")


# --- trainings in this process ---


def make_model() -> Any:
    """Return a small dense model."""
    import keras

    glorot = keras.initializers.GlorotUniform
    layers = [
        keras.layers.Dense(8, activation="relu", kernel_initializer=glorot(seed=1), name="hidden"),
        keras.layers.Dense(1, kernel_initializer=glorot(seed=3), name="output"),
    ]
    return keras.Sequential([keras.Input((6,)), *layers], name="net")


def make_small(dataset: Dataset, model: Callable[[], Any] = make_model, **options: Any) -> Small:
    """Return a checked training, by default with the small dense model."""
    settings: dict[str, Any] = {
        "epochs": EPOCHS, "batch_size": SIZE, "log_every": 4, "checkpoint_every": 5, "learning_rate": 0.05,
        "loss": "binary_crossentropy", "optimizer": "adam", "metrics": ["accuracy"],
    }  # fmt: skip
    return Small(model, dataset, **settings | options)


def train(attempt: pathlib.Path, dataset: Dataset, model: Callable[[], Any] = make_model, **options: Any) -> Any:
    """Train to the end, and return the record, without the place where it was resumed."""
    small = make_small(dataset, model, **options)
    record = small.train(attempt)
    return {**record, "test": small.network.test(), "resumed_at": None}


# --- the same bits ---


@pytest.mark.parametrize("form", [form if form != "uncounted" else pytest.param(form, marks=FULL) for form in FORMS])
def test_a_stopped_training_resumes_to_the_same_bits(form: str, tmp_path: pathlib.Path) -> None:
    """Every form of data, one traced step per call and stopped in the middle of an epoch, ends as without all that."""
    whole = train(tmp_path / "whole", make_dataset(form))
    make_small(make_dataset(form), level="step").stop(tmp_path / "run", STOPPED_AT)
    resumed = train(tmp_path / "run", make_dataset(form), level="step")
    rows = [row for row in read_rows(tmp_path / "run" / TRACE) if "step" in row]

    assert whole == resumed
    assert whole["predictions"]
    assert {"test_loss", "test_accuracy"} <= whole["test"].keys()
    assert STEPS * EPOCHS == len({row["batch"] for row in rows}) == len(rows)


def test_each_epoch_and_each_seed_has_its_own_noise() -> None:
    """The noise of a batch depends on the seed point, the epoch and the step alone."""
    source = Rows()
    source.inputs[:] = 0

    def noise(seed: int, epoch: int, step: int) -> bytes:
        batches = RowBatches(source, SIZE, None, lambda *index: make_rng(seed, "data/augment", *index))
        batches.start_epoch(epoch)
        result: bytes = next(batches.tasks(step))()[0].tobytes()
        return result

    assert noise(1, 2, 3) == noise(1, 2, 3)
    assert len({noise(1, 2, 3), noise(2, 2, 3), noise(1, 3, 3), noise(1, 2, 4)}) == 4


def test_an_evaluation_draws_the_same_in_each_epoch(tmp_path: pathlib.Path) -> None:
    """With a learning rate near zero, the noise of the validation rows gives the same loss in each epoch."""
    train(tmp_path / "run", make_dataset("rows"), learning_rate=1e-30)
    losses = {row["val_loss"] for row in read_rows(tmp_path / "run" / METRICS) if "val_loss" in row}

    assert len(losses) == 1


def test_batches_are_in_order_whatever_thread_reads_them() -> None:
    """Slow and fast reads in four threads come out in order, and only a limited number is read ahead."""
    started: list[int] = []
    before = set(threading.enumerate())

    def read(number: int) -> Split:
        started.append(number)
        time.sleep(number % 3 * 0.003)
        return Split(np.full((2, 2), number))

    ahead = ReadAhead((partial(read, number) for number in range(40)), workers=4)
    first = ahead.take().inputs[0, 0]
    time.sleep(0.1)
    early = len(started)
    found = [first, *(ahead.take().inputs[0, 0] for _ in range(39))]
    ahead.close()

    assert list(range(40)) == found
    assert 6 == early
    assert before >= set(threading.enumerate())


# --- meanings ---


@pytest.mark.full
def test_sample_weights_and_class_weights_reach_the_batches(tmp_path: pathlib.Path) -> None:
    """Class weights train as the same weights per row do, and as they do with arrays."""
    inputs, labels = numbers()

    class Weighted(Rows):
        def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
            weights = np.where(labels[rows] == 1, 3.0, 1.0)
            del rng
            return inputs[rows], labels[rows], weights

    class Plain(Rows):
        def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
            return Weighted.batch(self, rows, rng)[:2]  # type: ignore[arg-type]

    by_row = train(tmp_path / "rows", Dataset(Weighted()))
    by_class = train(tmp_path / "class", Dataset(Plain()), class_weight={1: 3.0})
    arrays = train(tmp_path / "arrays", Dataset(Split(inputs, labels)), class_weight={1: 3.0})
    none = train(tmp_path / "none", Dataset(Plain()))

    assert by_row["weights"] == by_class["weights"] == arrays["weights"] != none["weights"]


def test_shuffle_false_leaves_the_order(tmp_path: pathlib.Path) -> None:
    """Without shuffling, a row source gets its rows in order."""
    seen: list[int] = []

    class Seen(Rows):
        workers = 1

        def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
            seen.extend(rows.tolist())
            return super().batch(rows, rng)

    train(tmp_path / "run", Dataset(Seen()), shuffle=False, epochs=1)

    assert list(range(ROWS)) == seen[-ROWS:]


def test_hooks_of_a_pydataset_are_called_for_each_finished_epoch(tmp_path: pathlib.Path) -> None:
    """`on_epoch_begin` and `on_epoch_end` alternate, and a resumed training calls those of finished epochs first."""
    calls: list[str] = []

    def dataset() -> Dataset:
        sequence = make_sequence(on_epoch_begin=lambda _self: calls.append("begin"))
        end = sequence.on_epoch_end

        def on_epoch_end() -> None:
            calls.append("end")
            end()

        sequence.on_epoch_end = on_epoch_end
        return Dataset(sequence)

    make_small(dataset()).stop(tmp_path / "run", STOPPED_AT)
    calls.clear()
    train(tmp_path / "run", dataset())

    assert ["begin", "end"] * EPOCHS + ["begin"] == calls


def test_sizes_may_vary_where_the_model_says_so(tmp_path: pathlib.Path) -> None:
    """Batches that are padded to their longest row train, and their predictions are padded with zeros."""
    import keras

    class Padded(Rows):
        def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
            del rng
            length = 3 + int(rows.max()) % 4
            return self.inputs[rows][:, :length, None], np.repeat(self.labels[rows, None, None], length, 1)

    def model() -> Any:
        dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        return keras.Sequential([keras.Input((None, 1)), dense], name="net")

    whole = train(tmp_path / "a", Dataset(Padded(), Padded()), model=model)

    assert whole == train(tmp_path / "b", Dataset(Padded(), Padded()), model=model, level="step")


def test_text_is_data_too(tmp_path: pathlib.Path) -> None:
    """Strings in arrays and in a row source reach a lookup layer of the model, and are in the digest."""
    import keras

    words = np.array(["good", "bad", "Hé"], object)[np.arange(ROWS) % 3]
    labels = (words == "good").astype(np.int32)

    class Words(Rows):
        def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
            del rng
            return {"word": words[rows]}, labels[rows]

    def model() -> Any:
        word = keras.Input((1,), dtype="string", name="word")
        found = keras.layers.StringLookup(vocabulary=["good", "bad"], output_mode="multi_hot")(word)
        out = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))(found)
        return keras.Model({"word": word}, out, name="net")

    arrays = Dataset(Split({"word": words.tolist()}, labels))
    moved = Dataset(Split({"word": ["worse", *words[1:]]}, labels))

    assert (
        train(tmp_path / "a", arrays, model=model)["weights"]
        == (train(tmp_path / "b", Dataset(Words()), model=model)["weights"])
    )
    assert arrays.digest() != moved.digest()


def test_a_source_is_known_by_its_length_and_its_digest() -> None:
    """The digest of a data set with sources changes with their length and with their own digest."""

    class Known(Rows):
        length, text = ROWS, "a"

        def __len__(self) -> int:
            return self.length

        def digest(self) -> str:
            return self.text

    source = Known()
    found = [source_digest(source), source_digest(Known())]
    source.text = "b"
    found.append(source_digest(source))
    source.length = 5
    found.append(source_digest(source))

    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_the_point_of_augmentation_is_used_by_sources_alone() -> None:
    """data/augment is consumed by sources that draw, and is marked unused for arrays."""
    used = {}
    for form in ("arrays", "rows", "pipeline"):
        seeds = make_small(make_dataset(form)).network.seeds
        seeds.mark_unused("data/augment", because="nothing draws")
        (row,) = (row for row in seeds.table() if row["point"] == "data/augment")
        used[form] = row["consumed"], bool(row["rests"])

    assert {"arrays": (False, True), "rows": (True, False), "pipeline": (True, False)} == used


def test_a_layer_adapts_to_the_training_rows(tmp_path: pathlib.Path) -> None:
    """A model function reads the arrays of its dataset, also those that came from pandas."""
    import keras

    inputs, labels = numbers()
    data = Dataset(Split(pd.DataFrame(inputs * 3 + 5), labels.tolist()), Split(inputs, labels))

    def model() -> Any:
        norm = keras.layers.Normalization(name="norm")
        norm.adapt(data.train.inputs)
        dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1), name="out")
        return keras.Sequential([keras.Input((6,)), norm, dense], name="net")

    small = make_small(data, model)
    small.train(tmp_path / "run")

    assert np.allclose(small.network.model.get_layer("norm").mean, (inputs * 3 + 5).mean(0), atol=1e-5)


@pytest.mark.parametrize("number", range(4))
def test_the_examples_of_the_document_train(number: int, tmp_path: pathlib.Path) -> None:
    """Each data function of docs/data.md trains a step; there are no others."""
    import keras

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[number], names)  # noqa: S102  the example
    points = dict.fromkeys(("load", "split", "folds", "oversample", "bootstrap", "order", "augment"))
    seeds = Seeds(resolve_points(56, "derived", {"data": points}))
    data = names["load"](DataContext(seeds, {"validation_size": 64}, tmp_path))

    def model() -> Any:
        dense = keras.layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(seed=1), name="out")
        return keras.Sequential([keras.Input((64,)), dense], name="net")

    options = {"loss": "sparse_categorical_crossentropy", "steps_per_epoch": 2, "epochs": 1}
    record = train(tmp_path / "run", data, model, **options)

    assert 4 == len(blocks)
    assert {"accuracy", "loss", "val_accuracy", "val_loss"} == record["values"].keys()


def test_the_state_of_a_recurrent_layer_is_in_the_checkpoint(tmp_path: pathlib.Path) -> None:
    """A stateful layer keeps its state from batch to batch, and a stopped training resumes with it."""
    import keras

    inputs, labels = numbers()
    data = Dataset(Split(inputs[:40, :, None], labels[:40]), Split(inputs[:16, :, None], labels[:16]))

    def model() -> Any:
        glorot = keras.initializers.GlorotUniform
        gru = keras.layers.GRU(
            4,
            stateful=True,
            kernel_initializer=glorot(seed=1),
            recurrent_initializer=glorot(seed=2),
            seed=4,
            name="gru",
        )
        dense = keras.layers.Dense(1, kernel_initializer=glorot(seed=3), name="out")
        return keras.Sequential([keras.Input((6, 1), batch_size=SIZE), gru, dense], name="net")

    whole = train(tmp_path / "whole", data, model)
    make_small(data, model).stop(tmp_path / "run", 7)

    assert whole == train(tmp_path / "run", data, model)


# --- refused before training ---


def broken(**methods: Any) -> Dataset:
    """Return a data set whose row source has other methods."""
    return Dataset(type("Broken", (Rows,), {"workers": 1, **methods})())


def drifting(self: Any, rows: np.ndarray, rng: np.random.Generator) -> Any:
    """Return other arrays at each call."""
    self.calls = getattr(self, "calls", 0) + 1
    return Rows.batch(self, rows, rng)[0] + self.calls, self.labels[rows]


REFUSED: dict[str, tuple[Callable[[], Dataset], str]] = {
    "a state between batches": (lambda: broken(batch=drifting), "other inputs when the first batch is read again"),
    "no rows": (lambda: broken(__len__=lambda _self: 0), "training.batch_size|at least one batch"),
    "text for numbers": (
        lambda: broken(batch=lambda _self, rows, _rng: (np.full((len(rows), 6), "a"), rows)), "train/inputs.*strings"
    ),
    "another shape": (
        lambda: broken(batch=lambda self, rows, _rng: (self.inputs[rows, :5], self.labels[rows])),
        r"train/inputs: expected shape \[rows, 6\].*received shape \[rows, 5\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cause", REFUSED)
def test_a_wrong_source_is_refused_before_training(cause: str) -> None:
    """The error names the split, the array and the cause."""
    make, message = REFUSED[cause]

    with pytest.raises((ConfigError, DataError), match=message):
        make_small(make())


class Seldom:
    """Changes a few batches, by a generator of its own."""

    def __init__(self) -> None:
        self.own = make_rng(1, "seldom")

    def __len__(self) -> int:
        """Return the number of rows."""
        return ROWS

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> Any:
        """Return rows."""
        del rng
        inputs, labels = numbers()
        return inputs[rows] * (2.0 if self.own.random() < 1e-9 else 1.0), labels[rows]


def late_pipeline() -> Any:
    """Return a factory whose Python generator draws after the first batch."""
    import tensorflow as tf

    own, (inputs, labels) = make_rng(1, "late"), numbers()

    def batches() -> Iterator[Any]:
        yield inputs[:8], labels[:8]
        while True:
            yield inputs[:8] + np.float32(own.random()), labels[:8]

    specs = tuple(tf.TensorSpec([8, *part.shape[1:]], part.dtype) for part in (inputs, labels))
    return lambda seed, epoch: tf.data.Dataset.from_generator(batches, output_signature=specs).take(3)  # noqa: ARG005


@pytest.mark.parametrize("make", [Seldom, late_pipeline])
def test_a_source_that_draws_from_its_own_generator_is_refused(make: Callable[[], Any], tmp_path: pathlib.Path) -> None:
    """Also if the first batch is the same whenever it is read."""
    with pytest.raises(DataError, match=r"a draw from (Seldom\.own|own), whose state no checkpoint holds"):
        train(tmp_path / "run", Dataset(make()))


def test_a_pipeline_shuffled_without_the_seed_is_refused() -> None:
    """A factory whose shuffle has no seed gives another first batch when it is made again."""
    import tensorflow as tf

    def make(seed: int, epoch: int) -> Any:
        del seed, epoch
        return tf.data.Dataset.from_tensor_slices(numbers()).shuffle(ROWS).batch(SIZE)

    with pytest.raises(DataError, match="the same arrays whenever a batch is read"):
        make_small(Dataset(make))


def test_a_tf_data_dataset_alone_is_refused_with_advice() -> None:
    """A tf.data.Dataset cannot resume, and the error says how to write a factory."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(numbers()).batch(SIZE)

    with pytest.raises(ConfigError, match=r"fix: return a function instead, def make\(seed, epoch\)"):
        Dataset(dataset)


@pytest.mark.parametrize(("what", "received"), [(3, "int"), ([np.ones(3)], "list"), (np.ones((3, 2)), "ndarray")])
def test_anything_else_is_refused(what: Any, received: str) -> None:
    """The error lists the forms."""
    with pytest.raises(ConfigError, match=rf"expected Split\(inputs, labels\), .* received {received}"):
        Dataset(what)


def test_an_endless_pipeline_needs_a_number_of_steps(tmp_path: pathlib.Path) -> None:
    """An infinite dataset trains with steps_per_epoch, and is refused without."""

    def make(seed: int, epoch: int) -> Any:
        return make_pipeline(seed, epoch).repeat()

    with pytest.raises(ConfigError, match=r"training.steps_per_epoch: .* infinite"):
        make_small(Dataset(make))
    train(tmp_path / "cut", Dataset(make), steps_per_epoch=2)


def test_another_number_of_batches_is_an_error(tmp_path: pathlib.Path) -> None:
    """A dataset of unknown size that has fewer or more batches in a later epoch is an error, not a shorter epoch."""
    for extra, received in ((-1, "received 5"), (1, "received more")):

        def make(seed: int, epoch: int, extra: int = extra) -> Any:
            return uncounted(seed, epoch).repeat(2).take(STEPS + (extra if epoch == 2 else 0)).filter(lambda *_: True)

        with pytest.raises(DataError, match=rf"expected 6 batches, {received}"):
            train(tmp_path / f"run{extra}", Dataset(make))


def test_a_batch_of_another_shape_is_an_error_with_its_number(tmp_path: pathlib.Path) -> None:
    """A later batch that differs from the first two is named."""

    def cut(self: Any, rows: np.ndarray, rng: np.random.Generator) -> Any:
        inputs, labels = Rows.batch(self, rows, rng)
        return (inputs[:, :5] if 45 in rows else inputs), labels

    with pytest.raises(DataError, match=r"batch 6 of epoch 1: expected inputs of shape \(None, 6\)"):
        train(tmp_path / "run", broken(batch=cut), shuffle=False)
