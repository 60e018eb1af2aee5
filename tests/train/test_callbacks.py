"""Callbacks in this process: what a stop and a resume do to their state, their files and the training."""

import collections
import functools
import importlib.util
import pathlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from in_process import Small, Stop

from samebits.core import files
from samebits.core.config import TrainingConfig
from samebits.core.errors import ConfigError, RecordError, TrainingError
from samebits.core.seeds import make_rng
from samebits.train import callbacks as callbacks_module
from samebits.train.callbacks import make_callbacks
from samebits.train.data import Dataset, Split

ROWS, STEPS, EPOCHS = 30, 4, 6  # batches of eight; the last one is smaller
MIDDLE, LAST, LATE = 2 * STEPS + 2, 3 * STEPS, 3 * STEPS + 1  # stops in the middle and at the end of epoch 3, and in 4
SETTINGS: dict[str, Any] = {
    "loss": "binary_crossentropy", "optimizer": "adam", "learning_rate": 0.05, "metrics": ["accuracy"],
    "epochs": EPOCHS, "batch_size": 8, "log_every": 2, "checkpoint_every": 3,
}  # fmt: skip
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of Keras 3.15
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # a stopped process closes them
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None  # the lock has no TensorBoard
Make = Callable[[], list[keras.callbacks.Callback]]


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def build() -> keras.Model:
    """Return a model with dropout."""
    glorot = keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(6, activation="relu", kernel_initializer=glorot(seed=1), name="hidden"),
            keras.layers.Dropout(0.3, seed=2, name="dropout"),
            keras.layers.Dense(1, kernel_initializer=glorot(seed=3), name="output"),
        ],
        name="net",
    )


@functools.cache
def small(*, optimizer: Any = "adam", **settings: Any) -> Small:
    """Return the training of this module. The labels are noisy, so that the validation loss rises again."""
    inputs = make_rng(1, "inputs").standard_normal((ROWS + 20, 6)).astype(np.float32)
    labels = (make_rng(1, "labels").random(ROWS + 20) < 0.5).astype(np.int32)
    dataset = Dataset(Split(inputs[:ROWS], labels[:ROWS]), Split(inputs[ROWS:], labels[ROWS:]))
    named = {"class": "keras.optimizers.SGD", "use_ema": True, "ema_momentum": 0.5} if optimizer == "ema" else optimizer
    return Small(build, dataset, **SETTINGS | {"optimizer": named} | settings)


class Own(keras.callbacks.Callback):
    """Moves the weights by numbers from several generators, which it keeps in several ways, with other state."""

    def __init__(self) -> None:
        super().__init__()
        self.rng, self.others = np.random.default_rng(1), {"python": random.Random(2)}  # noqa: S311
        self.seed_generator = keras.random.SeedGenerator(3)
        self.means = [keras.metrics.Mean(name="mean"), keras.metrics.Sum(name="sum")]
        self.recent: collections.deque[float] = collections.deque(maxlen=3)
        self.counts: collections.Counter[str] = collections.Counter()
        self.seen: set[int] = set()
        self.shift = np.zeros(6, np.float32)
        self.nothing: tuple[float | None, ...] = (None,)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Move the bias of the first layer."""
        loss = (logs or {})["loss"]
        self.recent.append(loss)
        self.counts[f"batch {batch}"] += 1
        self.seen.add(batch)
        for mean in self.means:
            mean.update_state(loss)
        noise = self.rng.normal(0, 0.01, 6) + self.others["python"].random() / 100
        noise += keras.random.normal((6,), seed=self.seed_generator).numpy() / 100
        noise += float(self.means[0].result()) / 100 + sum(self.recent) / 1000 + self.counts["batch 1"] / 1000
        self.shift = self.shift + noise.astype(np.float32)
        self.nothing = (loss, float(len(self.seen)))
        bias = self.model.get_layer("hidden").bias
        bias.assign(bias + self.shift / 100)


class WithState(keras.callbacks.Callback):
    """Has an attribute that cannot be saved, and says what its state is."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.epochs = threading.Lock(), 0

    def get_state(self) -> dict[str, int]:
        """Return the number of epochs."""
        return {"epochs": self.epochs}

    def set_state(self, state: dict[str, int]) -> None:
        """Put back the number of epochs."""
        self.epochs = state["epochs"]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Add the number to the metrics."""
        self.epochs += 1
        (logs if logs is not None else {})["epochs_seen"] = self.epochs


class Notes(keras.callbacks.Callback):
    """An observer with an open file."""

    observer = True

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        folder.mkdir(exist_ok=True)
        self.stream = (folder / "notes").open("a")

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
        """Write a line."""
        self.stream.write(f"{batch}\n")


def halve(epoch: int, rate: float) -> float:
    """Return half the learning rate after the first epoch."""
    return rate / 2 if epoch else rate


def early(**options: Any) -> keras.callbacks.Callback:
    """Return an EarlyStopping whose minimum improvement decides when it stops."""
    return keras.callbacks.EarlyStopping(**{"monitor": "loss", "min_delta": 0.03, "patience": 2} | options)


def plateau() -> keras.callbacks.Callback:
    """Return a ReduceLROnPlateau whose minimum improvement decides when it reduces."""
    return keras.callbacks.ReduceLROnPlateau("loss", factor=0.3, patience=1, min_delta=0.03, cooldown=1)


def best_weights() -> keras.callbacks.Callback:
    """Return a ModelCheckpoint of the best weights."""
    return keras.callbacks.ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True)


def tensorboard(update_freq: str = "epoch") -> list[keras.callbacks.Callback]:
    """Return a TensorBoard that also writes histograms."""
    return [keras.callbacks.TensorBoard("board", update_freq=update_freq, histogram_freq=1)]


CASES: dict[str, Make] = {
    "EarlyStopping": lambda: [early()],
    "EarlyStopping that restores": lambda: [early(monitor="val_loss", min_delta=0, restore_best_weights=True)],
    "ReduceLROnPlateau": lambda: [plateau()],
    "LearningRateScheduler": lambda: [keras.callbacks.LearningRateScheduler(halve)],
    "CSVLogger": lambda: [keras.callbacks.CSVLogger("log.csv")],
    "ModelCheckpoint": lambda: [best_weights()],
    "ModelCheckpoint by batches": lambda: [keras.callbacks.ModelCheckpoint("{epoch}-{batch}.keras", save_freq=3)],
    "TerminateOnNaN": lambda: [keras.callbacks.TerminateOnNaN()],
    "LambdaCallback": lambda: [keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logs.update(two=2))],
    "own": lambda: [Own()],
    "with get_state": lambda: [WithState()],
    **({"TensorBoard": tensorboard, "TensorBoard by batches": lambda: tensorboard("batch")} if HAS_TENSORBOARD else {}),
    "several": lambda: [plateau(), keras.callbacks.CSVLogger("all.csv"), early(), best_weights(), Own()],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return a function that returns the record of an uninterrupted training of a case."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def train(case: str) -> dict[str, Any]:
        return small().train(folder / case.replace(" ", "-"), callbacks=CASES[case])

    return train


def resumed(attempt: pathlib.Path, at: int, make: Make, training: Small | None = None) -> dict[str, Any]:
    """Return the record of a training that was stopped at a step and resumed."""
    training = training or small()
    training.stop(attempt, at, callbacks=make)
    found = training.train(attempt, callbacks=make)

    assert found["resumed_at"] is not None
    return found | {"resumed_at": None}


# --- their state ---


@pytest.mark.parametrize("at", [MIDDLE, LAST])
@pytest.mark.parametrize("case", CASES)
def test_a_stop_changes_nothing(
    case: str, at: int, undisturbed: Callable[[str], dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    """Stopped in the middle or at the end of an epoch and resumed: same weights, optimizer, history, rows and files."""
    whole = undisturbed(case)

    assert whole == resumed(tmp_path / "run", at, CASES[case])


def test_the_cases_do_something(undisturbed: Callable[[str], dict[str, Any]]) -> None:
    """Early stopping stops, a learning rate falls, weights are restored, files are written."""
    found = {case: undisturbed(case) for case in CASES}
    epochs = {case: len(each["history"]["loss"]) for case, each in found.items()}
    rates = found["ReduceLROnPlateau"]["history"]["learning_rate"]

    assert epochs["EarlyStopping"] < EPOCHS == epochs["CSVLogger"]
    assert rates[0] > rates[-1]
    assert found["EarlyStopping that restores"]["best_epoch"] < epochs["EarlyStopping that restores"]
    assert EPOCHS + 1 == len(found["CSVLogger"]["files"]["log.csv"].splitlines())
    assert found["own"]["weights"] != found["CSVLogger"]["weights"] == found["TerminateOnNaN"]["weights"]
    assert list(range(1, EPOCHS + 1)) == found["with get_state"]["history"]["epochs_seen"]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("ReduceLROnPlateau", "monitor_op"),
        ("ReduceLROnPlateau", "best"),
        ("EarlyStopping", "wait"),
        ("EarlyStopping that restores", "best_weights"),
        ("own", "rng"),
        ("own", "others"),
        ("own", "seed_generator"),
        ("own", "means"),
        ("own", "recent"),
        ("own", "counts"),
        ("own", "shift"),
    ],
)
def test_a_lost_attribute_is_seen(
    case: str,
    name: str,
    undisturbed: Callable[[str], dict[str, Any]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: without one attribute in the checkpoint, the resumed training or its callbacks differ."""
    complete = callbacks_module.attributes

    def incomplete(callback: keras.callbacks.Callback) -> dict[str, Any]:
        return {key: value for key, value in complete(callback).items() if key != name}

    whole = undisturbed(case)
    monkeypatch.setattr(callbacks_module, "attributes", incomplete)

    assert whole != resumed(tmp_path / "run", LATE, CASES[case])


def test_averaged_weights_are_swapped_back(tmp_path: pathlib.Path) -> None:
    """SwapEMAWeights has its state, and training ends with the averaged weights."""
    training = small(optimizer="ema")
    plain = training.train(tmp_path / "plain", callbacks=list)
    swapped: Make = lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), Own()]  # noqa: E731
    whole = training.train(tmp_path / "whole", callbacks=swapped)

    assert plain["values"]["val_loss"] != plain["history"]["val_loss"][-1]
    for at in (MIDDLE, LAST):
        assert whole == resumed(tmp_path / str(at), at, swapped, training)


# --- files ---


def test_a_row_that_no_checkpoint_counts_is_written_once(
    undisturbed: Callable[[str], dict[str, Any]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CSVLogger whose training ends between the row of an epoch and its checkpoint has each row once."""
    write, calls = files.write_arrays, []

    def fail(path: pathlib.Path, arrays: Any) -> None:
        calls.append(path)
        if path.name == "checkpoint-00002-00000000.arrays":
            raise files.storage_error(path, OSError(28, "No space left on device"))
        write(path, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_arrays", fail)
        with pytest.raises(RecordError):
            small().train(tmp_path / "run", callbacks=CASES["CSVLogger"])
    rows = (tmp_path / "run" / "callbacks" / "log.csv").read_text().splitlines()
    found = small().train(tmp_path / "run", callbacks=CASES["CSVLogger"])

    assert 2 == len(rows)
    assert {"epoch": 1, "step": 3} == found["resumed_at"]
    assert undisturbed("CSVLogger") == found | {"resumed_at": None}


def test_a_csv_that_lost_rows_is_an_error(tmp_path: pathlib.Path) -> None:
    """A resumed training does not go on with a shorter file."""
    small().stop(tmp_path / "run", LAST, callbacks=CASES["CSVLogger"])
    (tmp_path / "run" / "callbacks" / "log.csv").write_text("")

    with pytest.raises(RecordError, match=r"log\.csv lost rows"):
        small().train(tmp_path / "run", callbacks=CASES["CSVLogger"])


def test_the_best_weights_are_in_the_file(tmp_path: pathlib.Path) -> None:
    """After a stop, ModelCheckpoint has written the weights of the best epoch, as EarlyStopping restores them."""
    restoring = {"monitor": "val_loss", "min_delta": 0, "patience": EPOCHS, "restore_best_weights": True}
    found = resumed(tmp_path / "run", LATE, lambda: [best_weights(), early(**restoring)])
    model = small().network.model
    before = [array.tobytes() for array in model.get_weights()]
    model.load_weights(tmp_path / "run" / "callbacks" / "best.weights.h5")

    assert before == [array.tobytes() for array in model.get_weights()]
    assert found["best_epoch"] < EPOCHS


# --- refused ---


class Unsavable(keras.callbacks.Callback):
    """Has an attribute of a kind that a test chooses."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def appending(values: list[float]) -> Callable[[float], None]:
    """Return a function that holds a list."""

    def append(value: float) -> None:
        values.append(value)

    return append


def scaling(scale: float) -> Callable[[float], float]:
    """Return a function that holds a number."""

    def multiply(value: float) -> float:
        return scale * value

    return multiply


UNSAVABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "lock": (threading.Lock, "value: _thread.lock"),
    "generator": (lambda: (number for number in range(3)), "value: builtins.generator"),
    "own object": (Stop, "value: in_process.Stop"),
    "in a list": (lambda: [1, {"a": threading.Lock()}], "value: _thread.lock"),
    "object array": (lambda: np.array([object()]), "an array of Python objects"),
    "closure": (lambda: appending([]), "that holds a list"),
    "bound method": (lambda: in_process.Stop().requested, "that holds a Stop"),
    "append": (lambda: [].append, "builtin_function_or_method"),
    "default": (lambda: lambda x, seen=[]: seen.append(x), "that holds a list"),
    "partial": (lambda: functools.partial(print, []), "that holds a list"),
}


@pytest.mark.parametrize("kind", UNSAVABLE)
def test_a_callback_whose_state_cannot_be_saved_is_refused(kind: str, tmp_path: pathlib.Path) -> None:
    """The error comes before the first step and names the callback, the attribute and what can be done."""
    make, received = UNSAVABLE[kind]
    stop = Stop()
    training = small().start(tmp_path / "run", stop=stop, callbacks=lambda: [Unsavable(make())])

    with pytest.raises(ConfigError) as error:
        training.run()

    assert str(error.value).startswith("callback Unsavable: expected attributes that a checkpoint can save")
    assert received in str(error.value)
    assert "observer = True" in error.value.fix
    assert 0 == stop.looks


RNG, VARIABLE = np.random.default_rng(7), tf.Variable(0.0)


def draw() -> float:
    """Return a number from a generator of this module."""
    return float(RNG.normal())


def count() -> None:
    """Change a variable of this module."""
    VARIABLE.assign_add(1.0)


def drawing(rng: random.Random) -> keras.callbacks.Callback:
    """Return a callback whose function holds a generator."""
    return Unsavable(lambda: rng.random() + 1)


class Drawing(keras.callbacks.Callback):
    """Draws in a helper."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Draw."""
        del epoch, logs
        draw()


class DrawingElsewhere(keras.callbacks.Callback):
    """Draws from the generator of another module."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Draw."""
        del epoch, logs
        callbacks_module.RNG.normal()  # type: ignore[attr-defined]


USES: dict[str, tuple[Callable[[], keras.callbacks.Callback], str]] = {
    "a helper": (Drawing, "function Drawing.on_epoch_end that uses RNG, a Generator"),
    "another module": (DrawingElsewhere, "that uses callbacks_module.RNG, a RandomState"),
    "a lambda": (lambda: keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: draw()), "that uses RNG"),
    "a variable": (lambda: Unsavable(count), "function count that uses VARIABLE, a ResourceVariable"),
    "a closure": (lambda: drawing(random.Random(1)), "that uses rng, a Random"),  # noqa: S311
}


@pytest.mark.parametrize("use", USES)
def test_a_callback_that_uses_a_generator_of_its_module_is_refused(
    use: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed process would start the generator or the variable anew."""
    monkeypatch.setattr(callbacks_module, "RNG", np.random.RandomState(1), raising=False)
    make, received = USES[use]

    with pytest.raises(ConfigError, match="expected attributes that a checkpoint can save") as error:
        small().start(tmp_path / "run", callbacks=lambda: [make()]).run()

    assert received in str(error.value)


def savable() -> list[Any]:
    """Return values of many kinds."""
    zeros = keras.layers.Dense(1, kernel_initializer="zeros")
    return [
        halve, scaling(2.0), functools.partial(halve, rate=1.0), Stop, pathlib.Path("a/b"), b"ab",
        keras.losses.MeanSquaredError(), keras.optimizers.schedules.CosineDecay(0.1, 10), keras.ops.mean, np.mean,
        [float("nan"), float("inf"), np.float32(0.1), np.bool_(1), 2**70, True, None], {(1, "a"): frozenset({2, 3})},
        collections.defaultdict(list, {"a": [1]}), zeros, keras.Sequential([keras.Input((2,)), zeros]),
    ]  # fmt: skip


def test_ordinary_attributes_are_savable(tmp_path: pathlib.Path) -> None:
    """Functions, constants, Keras objects and numbers of any kind are no obstacle."""
    assert resumed(tmp_path / "run", MIDDLE, lambda: [Unsavable(value) for value in savable()])["weights"]


class Late(keras.callbacks.Callback):
    """Makes an object during the training that only a start could make anew."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
        """Make it."""
        self.rngs = [np.random.default_rng(epoch)]


def test_an_object_that_is_made_during_the_training_is_refused(tmp_path: pathlib.Path) -> None:
    """At the first checkpoint the error names the attribute."""
    with pytest.raises(
        ConfigError, match=r"callback Late: .* received rngs, which holds an object that was made during"
    ):
        small().train(tmp_path / "run", callbacks=lambda: [Late()])


# --- observers ---


def test_an_observer_needs_no_state(tmp_path: pathlib.Path, undisturbed: Callable[[str], dict[str, Any]]) -> None:
    """What it does outside is repeated after a resume, and the training has the same bits."""
    make: Make = lambda: [Notes(tmp_path / "notes")]  # noqa: E731
    found = resumed(tmp_path / "run", MIDDLE, make)

    assert undisturbed("CSVLogger")["weights"] == found["weights"]


def set_rate(model: keras.Model) -> None:
    """Change the learning rate."""
    model.optimizer.learning_rate = 0.5


def set_weight(model: keras.Model) -> None:
    """Change a weight."""
    model.get_layer("hidden").bias.assign_add([1.0] * 6)


def set_stop(model: keras.Model) -> None:
    """Stop the training."""
    model.stop_training = True


@pytest.mark.parametrize("touch", [set_rate, set_weight, set_stop])
@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_end", "on_batch_end", "on_test_batch_begin"])
def test_an_observer_that_touches_the_training_is_an_error(
    hook: str, touch: Callable[[keras.Model], None], tmp_path: pathlib.Path
) -> None:
    """The error names the observer and the hook, which may be one of a batch."""
    observer = keras.callbacks.Callback()
    setattr(observer, hook, lambda *_, **__: touch(observer.model))
    observer.observer = True
    named = hook.replace("on_batch", "on_train_batch")

    with pytest.raises(TrainingError, match=f"the observer Callback changed the training in {named}"):
        small().train(tmp_path / "run", callbacks=lambda: [observer])


# --- when they are called ---


class Calls(keras.callbacks.Callback):
    """Writes down each call."""

    observer = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        for hook in dir(keras.callbacks.Callback):
            if hook.startswith("on_") and "predict" not in hook:
                setattr(self, hook, functools.partial(self.note, hook))

    def note(self, hook: str, *arguments: Any, logs: Mapping[str, float] | None = None) -> None:
        """Write down the hook, the epoch or batch, and the names of the metrics."""
        numbers = [each for each in arguments if isinstance(each, int)]
        named = logs or next((each for each in arguments if isinstance(each, Mapping)), {})
        self.calls.append((hook, *numbers, *sorted(named)))


def test_hooks_are_called_as_in_fit(tmp_path: pathlib.Path) -> None:
    """The same hooks in the same order with the same numbers and metrics as in Keras's fit."""
    ours, theirs = Calls(), Calls()
    small().train(tmp_path / "run", callbacks=lambda: [ours])
    network = small().network
    train, validation = network.dataset.train, network.dataset.splits()["validation"]
    network.model.fit(
        train.inputs, train.labels, batch_size=8, epochs=EPOCHS, callbacks=[theirs], verbose=0, shuffle=False,
        validation_data=(validation.inputs, validation.labels), validation_batch_size=250,
    )  # fmt: skip

    assert theirs.calls == ours.calls
    assert ("on_train_batch_end", 3, "accuracy", "loss") in ours.calls


def test_batch_hooks_change_no_bits(tmp_path: pathlib.Path, undisturbed: Callable[[str], dict[str, Any]]) -> None:
    """With a hook at each batch, each step has a call of its own, with the same bits."""
    plain, watched = Stop(), Stop()
    one = small().train(tmp_path / "one", stop=watched, callbacks=lambda: [Notes(tmp_path / "notes")])
    many = small().train(tmp_path / "many", stop=plain, callbacks=list)

    assert many == one
    assert plain.looks < watched.looks == STEPS * EPOCHS


def test_a_training_that_is_stopped_in_its_last_batch_still_ends_its_epoch(tmp_path: pathlib.Path) -> None:
    """A callback ends the training in the batch in which a stop is requested: validation and on_epoch_end follow."""
    make: Make = lambda: [keras.callbacks.LambdaCallback(on_train_batch_end=end_in_third_epoch)]  # noqa: E731
    whole = small().train(tmp_path / "whole", callbacks=make)

    assert 3 == len(whole["history"]["val_loss"])
    assert whole == resumed(tmp_path / "run", MIDDLE, make)


def end_in_third_epoch(batch: int, logs: Mapping[str, float]) -> None:
    """End the training in the second batch of the third epoch."""
    model = small().network.model
    if int(model.optimizer.iterations) == MIDDLE:
        model.stop_training = True


def test_terminate_on_nan_ends_the_training(tmp_path: pathlib.Path) -> None:
    """A loss that is not finite ends the training without an error, and is not in the metrics."""
    inputs = np.ones((ROWS, 6), np.float32)
    inputs[20:] = np.inf
    labels = np.ones(ROWS, np.int32)
    training = Small(build, Dataset(Split(inputs, labels)), **SETTINGS, shuffle=False)
    found = training.train(tmp_path / "run", callbacks=CASES["TerminateOnNaN"])

    assert 1 == len(found["history"]["loss"])
    assert np.isnan(found["values"]["loss"])
    assert b'"loss"' not in found["metrics"].splitlines()[-1]


# --- the best epoch ---


@pytest.mark.parametrize("at", [0, MIDDLE, LAST, LATE])
def test_the_weights_of_the_best_epoch_are_kept(at: int, tmp_path: pathlib.Path) -> None:
    """`keep_best` ends with the weights and metrics of the best epoch by the monitor, also after a stop."""
    training = small(keep_best=True)
    if at:
        training.stop(tmp_path / "run", at)
    found = training.train(tmp_path / "run")
    history, best = found["history"], found["best_epoch"]
    ends = {row["epoch"]: row["weights"] for row in found["trace"] if "part" not in row}

    assert min(history["val_loss"]) == history["val_loss"][best - 1]
    assert 1 < best < EPOCHS
    assert {name: values[best - 1] for name, values in history.items()} == found["values"]
    assert (EPOCHS, 1, ends[best]) == tuple(found["trace"][-1][key] for key in ("epoch", "part", "weights"))
    assert training.network.steps.evaluate()["loss"] == found["values"]["val_loss"]


def test_the_best_epoch_is_named_without_early_stopping(undisturbed: Callable[[str], dict[str, Any]]) -> None:
    """It is the one with the best value of the monitor."""
    found = undisturbed("CSVLogger")

    assert np.argmin(found["history"]["val_loss"]) + 1 == found["best_epoch"]


def test_a_monitor_that_does_not_exist_cannot_keep_the_best(tmp_path: pathlib.Path) -> None:
    """The error names the metrics that the training has."""
    with pytest.raises(TrainingError, match=r"cannot compare epochs by val_acc") as error:
        small(keep_best=True, monitor="val_acc").train(tmp_path / "run")

    assert "loss, accuracy, val_loss, val_accuracy" in str(error.value).replace("accuracy, loss", "loss, accuracy")


# --- from the configuration ---


def make_two(folder: pathlib.Path, seed: Callable[[str], int], patience: int) -> list[keras.callbacks.Callback]:
    """Return two callbacks, as a function of a user does."""
    return [early(patience=patience), Unsavable([str(folder), seed("noise")])]


def test_callbacks_of_the_configuration(tmp_path: pathlib.Path) -> None:
    """A name, a class with arguments, and a function that gets the folder and seeds."""
    named = [
        "keras.callbacks.TerminateOnNaN",
        {"class": "keras.callbacks.CSVLogger", "filename": "sub/log.csv"},
        {"class": f"{__name__}.make_two", "patience": 7},
        {"class": "keras.callbacks.LearningRateScheduler", "schedule": {"function": f"{__name__}.halve"}},
    ]
    offered = {"folder": tmp_path, "seed": len}
    nan, log, first, second, rate = make_callbacks(TrainingConfig(callbacks=named), offered)

    assert isinstance(nan, keras.callbacks.TerminateOnNaN)
    assert str(tmp_path / "sub" / "log.csv") == log.filename
    assert 7 == first.patience
    assert [str(tmp_path), len("noise")] == second.value
    assert halve is rate.schedule


@pytest.mark.parametrize(
    ("named", "received"),
    [
        ("keras.callbacks.EarlyStoping", "has no attribute 'EarlyStoping'"),
        ({"class": "keras.callbacks.EarlyStopping", "patients": 3}, "unexpected keyword argument 'patients'"),
        ("EarlyStopping", "fix: write the module too, e.g. keras.callbacks.EarlyStopping"),
        ("keras.losses.MeanSquaredError", "expected a Keras callback, or a function that returns one"),
        ({"class": "keras.callbacks.BackupAndRestore", "backup_dir": "a"}, "BackupAndRestore"),
        pytest.param(
            "keras.callbacks.TensorBoard",
            "TensorBoard is not installed",
            marks=pytest.mark.skipif(HAS_TENSORBOARD, reason="TensorBoard is installed"),
        ),
    ],
)
def test_a_wrong_name_is_an_error(named: Any, received: str, tmp_path: pathlib.Path) -> None:
    """The error has the key and what was received."""
    with pytest.raises(ConfigError, match=r"training\.callbacks\[0\]") as error:
        make_callbacks(TrainingConfig(callbacks=[named]), {"folder": tmp_path})

    assert received in str(error.value)
