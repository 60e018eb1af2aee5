"""Trainings in the process of a test, built as the training process builds them. A test can stop them at any step."""

import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from samebits.core.config import Config, RuntimeConfig, TraceConfig, TrainingConfig
from samebits.core.errors import StopRequestedError
from samebits.core.seeds import Seeds, resolve_points
from samebits.core.terminal import TrainingProgress
from samebits.runs.folder import METRICS, TRACE, read_rows
from samebits.runtime.pins import graph_rewrites
from samebits.train.data import Dataset

POINTS = {"python": {"random": None}, "data": {"order": None, "augment": None}}
Build = Callable[[], Any]  # returns a keras.Model


@contextmanager
def op_determinism() -> Iterator[None]:
    """Enable deterministic operations for a while, and disable rewrites of graphs, as the training process does."""
    import tensorflow as tf
    from tensorflow.python.framework.config import disable_op_determinism

    before = tf.config.optimizer.get_experimental_options()
    tf.config.experimental.enable_op_determinism()
    rewrites = graph_rewrites(RuntimeConfig())
    tf.config.optimizer.set_experimental_options(rewrites)
    yield
    disable_op_determinism()
    tf.config.optimizer.set_experimental_options({name: before.get(name, True) for name in rewrites})


class Stop:
    """Requests a stop at one of the checks of the loop; 0: never."""

    def __init__(self, at: int = 0) -> None:
        self.looks, self.at = 0, at

    def requested(self) -> bool:
        """Return whether the training must stop."""
        self.looks += 1
        return self.looks == self.at

    def wait_for_checkpoint(self) -> None:
        """Do nothing."""


def leaping() -> Callable[[], float]:
    """Return a clock on which every call takes too long, so that the loop takes one step per call."""
    return itertools.count(0.0, 100.0).__next__


class Small:
    """A small training, which is traced once and then started as often as a test needs.

    Args:
        build: Returns the model, compiled or not.
        dataset: The data.
        level: The detail of the trace.
        policy: The policy of the seeds.
        settings: Of `training`.
    """

    def __init__(
        self, build: Build, dataset: Dataset, *, level: str = "epoch", policy: str = "derived", **settings: Any
    ) -> None:
        import keras

        from samebits.train.network import Network
        from samebits.train.stages import Stage

        keras.backend.clear_session(free_memory=False)  # the same names of variables each time
        training, runtime = TrainingConfig(**settings), RuntimeConfig(promise="machine")
        stage = Stage(0, "", Config(training=training, runtime=runtime, trace=TraceConfig(level)), 0)
        seeds = Seeds(resolve_points(56, policy, POINTS))
        with tempfile.TemporaryDirectory() as folder:
            self.network = Network(build(), dataset, stage, seeds, pathlib.Path(folder), Stop())  # type: ignore[arg-type]
            self.network.check()
        self.initial = [variable.numpy() for variable in self.network.steps.variables()]

    def start(
        self,
        attempt: pathlib.Path,
        *,
        stop: Any = None,
        clock: Callable[[], float] = lambda: 0.0,
        callbacks: Callable[[], list[Any]] | None = None,
    ) -> Any:
        """Return the training of a new start, in a folder that may have a stopped one.

        Args:
            attempt: The folder.
            stop: Requests a stop.
            clock: A clock that stands still gives calls of as many steps as possible.
            callbacks: Returns new callbacks instead of those of the settings.
        """
        from samebits.train.callbacks import make_callbacks, place_files
        from samebits.train.draws import GeneratorWatch
        from samebits.train.recorder import Recorder

        attempt.mkdir(exist_ok=True)
        network, settings, folder = self.network, self.network.config.training, attempt / "callbacks"
        for variable, value in zip(network.steps.variables(), self.initial, strict=True):
            variable.assign(value)
        halt: Any = stop or Stop()
        network.attempt, network.stop, network.watch = attempt, halt, GeneratorWatch(network.seeds)
        network.callbacks = callbacks() if callbacks else make_callbacks(settings, {"folder": folder})
        for callback in network.callbacks:
            place_files(callback, folder)
        progress = TrainingProgress(settings.epochs, network.steps.train_feed.steps)
        return network.make_training(Recorder(attempt, progress, clock))

    def train(self, attempt: pathlib.Path, **options: Any) -> dict[str, Any]:
        """Train to the end. Returns the digests of the trained model, its record, and where it was resumed."""
        training = self.start(attempt, **options)
        resumed_at = training.run()
        training.recorder.read_complete_trace()
        steps = self.network.steps
        return {
            "weights": steps.weight_digests(),
            "optimizer": steps.optimizer_digest(),
            "variables": values_of(self.network.model),
            "values": training.values,
            "best_epoch": training.best_epoch,
            "predictions": self.network.predict(),
            "metrics": (attempt / METRICS).read_bytes(),
            "trace": [row for row in read_rows(attempt / TRACE) if "step" not in row],
            "files": files_of_callbacks(attempt),
            "history": self.network.model.history.history,
            "resumed_at": resumed_at,
        }

    def stop(self, attempt: pathlib.Path, at: int, **options: Any) -> list[pathlib.Path]:
        """Stop a training at one of its checks, one per step, and return its checkpoints, oldest first."""
        defaults: dict[str, Any] = {"clock": leaping(), "stop": Stop(at)}
        training = self.start(attempt, **defaults | options)
        with pytest.raises(StopRequestedError):
            training.run()
        return sorted(attempt.glob("checkpoint-*"))


def values_of(model: Any) -> list[bytes]:
    """Return the values of all variables of a model and of its optimizers."""
    from samebits.train.compiling import optimizers_of

    optimizers = [variable for optimizer in optimizers_of(model) for variable in optimizer.variables]
    return [variable.numpy().tobytes() for variable in (*model.variables, *optimizers)]


def files_of_callbacks(attempt: pathlib.Path) -> dict[str, bytes]:
    """Return the text files that callbacks wrote."""
    paths = sorted((attempt / "callbacks").rglob("*.csv")) + sorted((attempt / "callbacks").rglob("*.txt"))
    return {path.name: path.read_bytes() for path in paths}
