"""The loop in this process: steps, records, checkpoints and resume, with injected faults."""

import functools
import importlib
import itertools
import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import in_process
import numpy as np
import pytest
from in_process import Small, Stop, leaping

from samebits.core import files
from samebits.core.errors import DataError, RecordError, TrainingError, UncoveredDrawError
from samebits.core.seeds import make_rng
from samebits.runs.folder import METRICS, TRACE, read_rows
from samebits.train.data import Dataset, Split

ROWS, STEPS, EPOCHS = 46, 6, 3  # batches of eight; the last one is smaller
SETTINGS: dict[str, Any] = {
    "loss": "binary_crossentropy", "optimizer": "adam", "learning_rate": 0.05, "metrics": ["accuracy"],
    "epochs": EPOCHS, "batch_size": 8, "log_every": 4, "checkpoint_every": 5,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> Iterator[None]:
    """Enable deterministic operations for this module."""
    with in_process.op_determinism():
        yield


def make_dataset() -> Dataset:
    """Return rows of six numbers whose label is the sign of their sum."""
    inputs = make_rng(1, "inputs").standard_normal((ROWS + 20, 6)).astype(np.float32)
    labels = (inputs.sum(1) > 0).astype(np.int32)
    return Dataset(Split(inputs[:ROWS], labels[:ROWS]), Split(inputs[ROWS:], labels[ROWS:]))


def build(last: str | None = None) -> Any:
    """Return a model with dropout."""
    import keras

    glorot = keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", kernel_initializer=glorot(seed=1), name="hidden"),
            keras.layers.Dropout(0.3, seed=2, name="dropout"),
            keras.layers.Dense(1, last, kernel_initializer=glorot(seed=3), name="output"),
        ],
        name="net",
    )


@functools.cache
def small(**options: Any) -> Small:
    """Return the small training of this module, with other options."""
    return Small(build, make_dataset(), **SETTINGS | options)


def train(attempt: pathlib.Path, *, clock: Any = lambda: 0.0, stop: Any = None, **options: Any) -> dict[str, Any]:
    """Train to the end."""
    return small(**options).train(attempt, clock=clock, stop=stop)


def stop(attempt: pathlib.Path, at: int = 9, **options: Any) -> list[pathlib.Path]:
    """Stop a training at one of its checks, and return its checkpoints, oldest first."""
    return small(**options).stop(attempt, at)


@pytest.fixture(scope="module")
def whole(deterministic: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the record of an uninterrupted training."""
    return train(tmp_path_factory.mktemp("whole"))


# --- steps ---


def test_how_many_steps_go_in_one_call_decides_no_bits(tmp_path: pathlib.Path, whole: dict[str, Any]) -> None:
    """Many steps per call, one, and one with recorded gradients give the same rows and digests."""
    looks = [Stop(), Stop()]
    many = train(tmp_path / "many", stop=looks[0])
    one = train(tmp_path / "one", clock=leaping(), stop=looks[1])
    traced = train(tmp_path / "traced", level="stage")
    rows = [row for row in read_rows(tmp_path / "traced" / TRACE) if "gradients" in row]

    assert whole == many == one == traced
    assert looks[0].looks < looks[1].looks == STEPS * EPOCHS == len(rows)
    assert "net/hidden/kernel" in rows[0]["gradients"]


@pytest.mark.parametrize("remapping", [False, True])
def test_how_many_steps_go_in_one_call_decides_no_bits_of_fused_operations(
    tmp_path: pathlib.Path, *, remapping: bool
) -> None:
    """TensorFlow would fuse the last layer's operations with oneDNN, but not in a graph that another one calls."""
    import tensorflow as tf

    settings = SETTINGS | {"loss": "mean_squared_error", "optimizer": "sgd", "metrics": []}
    before = tf.config.optimizer.get_experimental_options()["remapping"]
    tf.config.optimizer.set_experimental_options({"remapping": remapping})
    try:
        many, one = (
            Small(functools.partial(build, last="sigmoid"), make_dataset(), level=level, **settings).train(
                tmp_path / level
            )
            for level in ("epoch", "step")
        )
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": before})

    assert many == one


def test_metrics_are_logged_as_often_as_asked(tmp_path: pathlib.Path) -> None:
    """There is one row per `log_every` steps, and one at the end of each epoch with validation metrics."""
    train(tmp_path / "run", log_every=2)
    places = [(row["epoch"], row["step"], "val_loss" in row) for row in read_rows(tmp_path / "run" / METRICS)]

    assert [(1, 2, False), (1, 4, False), (1, 6, True), (2, 2, False)] == places[:4]
    assert 3 * EPOCHS == len(places)


def test_a_short_epoch_takes_fewer_steps(tmp_path: pathlib.Path) -> None:
    """`steps_per_epoch` shortens an epoch, and never makes it longer."""
    train(tmp_path / "cut", steps_per_epoch=2, level="step")
    train(tmp_path / "long", steps_per_epoch=99, level="step")
    steps = [sum("step" in row for row in read_rows(tmp_path / name / TRACE)) for name in ("cut", "long")]

    assert [2 * EPOCHS, STEPS * EPOCHS] == steps


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_step(tmp_path: pathlib.Path) -> None:
    """The first loss that is not finite stops the training."""
    dataset = make_dataset()
    dataset.train.inputs[:] = np.inf

    with pytest.raises(TrainingError, match="loss is not finite in epoch 1, step 1"):
        Small(build, dataset, **SETTINGS).train(tmp_path / "run")


def test_a_weight_that_is_not_finite_is_an_error_though_the_loss_is_finite(tmp_path: pathlib.Path) -> None:
    """The first gradient of a square root at zero is no number, and the layer replaces what is none by zero."""
    import keras

    class Hiding(keras.layers.Layer):
        def build(self, _shape: Any) -> None:
            """Make the weight."""
            self.scale = self.add_weight(shape=(), initializer="zeros", name="scale")

        def call(self, inputs: Any) -> Any:
            """Return the inputs."""
            return inputs + keras.ops.nan_to_num(1e-30 * keras.ops.sqrt(self.scale))

    def build_hiding() -> Any:
        output = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        return keras.Sequential([keras.Input((6,)), Hiding(name="hiding"), output], name="net")

    with pytest.raises(TrainingError, match=r"weights are not finite after epoch 1: net/hiding/scale"):
        Small(build_hiding, make_dataset(), **SETTINGS).train(tmp_path / "run")


def test_a_draw_from_a_global_generator_ends_the_training(tmp_path: pathlib.Path) -> None:
    """A draw from a global generator is detected after the call of steps."""
    state, training = random.getstate(), small().start(tmp_path / "run", clock=leaping())
    training.stop_requested = lambda: random.random() < 0  # noqa: S311

    with pytest.raises(UncoveredDrawError, match=r"python/random was used in epoch 1, step 2"):
        training.run()
    random.setstate(state)


# --- stopped and resumed ---


@pytest.mark.parametrize("at", [1, STEPS, STEPS + 3, STEPS * EPOCHS])
def test_a_stopped_training_resumes_to_the_same_bits(tmp_path: pathlib.Path, whole: dict[str, Any], at: int) -> None:
    """A training stopped at the first, a middle or the last step of an epoch ends with the same rows and digests."""
    stop(tmp_path / "run", at)
    resumed = train(tmp_path / "run")
    epoch, step = divmod(at - 1, STEPS)

    assert {"epoch": epoch + 1, "step": step + 1} == resumed["resumed_at"]
    assert whole | {"resumed_at": resumed["resumed_at"]} == resumed


def test_a_checkpoint_without_the_optimizer_is_seen(tmp_path: pathlib.Path, whole: dict[str, Any]) -> None:
    """Negative control: without the optimizer state, the bits differ after resume."""
    stop(tmp_path / "run")
    training = small().start(tmp_path / "run")
    kept = {n: v for n, v in training.checkpoints._variables.items() if "adam" not in n}
    training.checkpoints._variables = kept
    training.run()

    assert whole["weights"] != training.steps.weight_digests()


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "empty"])
def test_a_damaged_checkpoint_costs_steps_and_no_bits(
    tmp_path: pathlib.Path, whole: dict[str, Any], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The training resumes from the checkpoint before, and logs a warning."""
    before, newest = stop(tmp_path / "run", 9)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"a flipped bit": bytes(data), "cut short": bytes(data[:1000]), "empty": b""}[damage])
    resumed = train(tmp_path / "run")

    assert "checkpoint-00002-00000000.arrays" == before.name
    assert {"epoch": 2, "step": 0} == resumed["resumed_at"]
    assert whole | {"resumed_at": resumed["resumed_at"]} == resumed
    assert f"checkpoint {newest.name} is damaged and ignored" in caplog.text


def test_lost_rows_cost_their_checkpoint(
    tmp_path: pathlib.Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint that counts lost rows is ignored."""
    newest = stop(tmp_path / "run", 17)[-1]
    metrics = tmp_path / "run" / METRICS
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:-1]))
    resumed = train(tmp_path / "run")

    assert {"epoch": 3, "step": 0} == resumed["resumed_at"]
    assert whole | {"resumed_at": resumed["resumed_at"]} == resumed
    assert f"{newest.name} is ignored: rows were lost from ['{METRICS}']" in caplog.text


def test_a_training_that_lost_its_trace_begins_anew(tmp_path: pathlib.Path, whole: dict[str, Any]) -> None:
    """A training without its trace restarts, because its checkpoints cannot be trusted."""
    stop(tmp_path / "run")
    (tmp_path / "run" / TRACE).write_bytes(b"")

    assert whole == train(tmp_path / "run")


def test_other_data_are_refused_and_the_checkpoints_stay(tmp_path: pathlib.Path, whole: dict[str, Any]) -> None:
    """The error has the arrays that differ. With the original data the training ends with the same bits."""
    kept = stop(tmp_path / "run")
    dataset = make_dataset()
    dataset.splits()["validation"].inputs[3, 2] += 1

    with pytest.raises(DataError, match="received different validation/inputs; fix: restore the file"):
        Small(build, dataset, **SETTINGS).train(tmp_path / "run")

    assert kept == sorted((tmp_path / "run").glob("checkpoint-*"))
    assert whole["weights"] == train(tmp_path / "run")["weights"]


def test_unseeded_data_that_changed_begin_anew(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unseeded data that changed restarts the training, because a resume would validate on training rows."""
    stop(tmp_path / "run", policy="unseeded")
    dataset = make_dataset()
    dataset.train.inputs[0, 0] += 1
    resumed = Small(build, dataset, **SETTINGS, policy="unseeded").train(tmp_path / "run")

    assert resumed["resumed_at"] is None
    assert "the run restarts: its data is unseeded" in caplog.text


# --- faults in what is written ---


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    """Make one function of `core.files` fail at its nth call, as on a full disk."""
    function, calls = getattr(files, name), itertools.count(1)

    def failing(path: pathlib.Path, *arguments: Any) -> None:
        if next(calls) == at:
            raise files.storage_error(path, OSError(28, "No space left on device"))
        function(path, *arguments)

    monkeypatch.setattr(files, name, failing)


@pytest.mark.parametrize(("name", "at"), [("append_row", 1), ("append_row", 6), ("write_arrays", 1), ("sync_file", 5)])
def test_a_full_disk_costs_no_bits(
    tmp_path: pathlib.Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    """The error has the file. With free space the training ends with the same bits."""
    with monkeypatch.context() as patched:
        fail_at(patched, name, at)
        with pytest.raises(RecordError, match=r"run/.* could not be written"):
            train(tmp_path / "run")
    resumed = train(tmp_path / "run")

    assert whole | {"resumed_at": resumed["resumed_at"]} == resumed


def test_a_record_that_was_cut_under_the_run_is_noticed(tmp_path: pathlib.Path) -> None:
    """A finished training detects lost rows."""
    training = small().start(tmp_path / "run")
    training.run()
    (tmp_path / "run" / METRICS).write_bytes(b"")

    with pytest.raises(RecordError, match=r"metrics\.jsonl was changed by another process"):
        training.recorder.read_complete_trace()


def test_a_checkpoint_is_written_after_its_rows(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows that a checkpoint counts are on the disk before it, and only the newest two checkpoints stay."""
    write_arrays, counted = files.write_arrays, []

    def checked(path: pathlib.Path, arrays: Any) -> None:
        counts = json.loads(arrays["state"].tobytes())["rows"]
        counted.append({kind: len(read_rows(tmp_path / "run" / kind)) for kind in counts} == counts)
        write_arrays(path, arrays)

    monkeypatch.setattr(files, "write_arrays", checked)
    train(tmp_path / "run")

    assert [True] * 2 * EPOCHS == counted
    assert 2 == len(list((tmp_path / "run").glob("checkpoint-*")))


def test_seconds_are_counted_once(tmp_path: pathlib.Path) -> None:
    """The phases add up to the time since the start of the recorder."""
    clock = itertools.count(0.0, 1.0).__next__
    training = small().start(tmp_path / "run", clock=clock)
    training.run()
    phases = training.recorder.phases()

    assert {"first_step_s", "evaluate_s", "record_s", "steps_s"} == phases.keys()
    assert clock() - 1 == sum(phases.values())
    assert (1, EPOCHS) == (phases["first_step_s"], phases["evaluate_s"])


def test_short_names_stand_for_what_can_be_imported() -> None:
    """Each short name leads to a function or class."""
    from samebits.core.short_names import LOSSES, OPTIMIZERS

    for target in {**LOSSES, **OPTIMIZERS}.values():
        module, _, name = target.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
