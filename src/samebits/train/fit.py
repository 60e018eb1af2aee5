"""Takes over `Model.fit` of a script: each call becomes a stage of the run, with Keras's meaning of each argument.

The stage trains the script's own model in place. A call that an earlier process finished is restored, not trained.
Knows no script; `script` runs it.
"""

import contextlib
import dataclasses
import functools
import inspect
import logging
import math
import pathlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from samebits.core import files
from samebits.core.config import Config
from samebits.core.digest import arrays_digest, changed_names
from samebits.core.errors import (
    ConfigError,
    SamebitsError,
    StopRequestedError,
    TrainingError,
    UncoveredDrawError,
)
from samebits.core.seeds import Seeds
from samebits.core.terminal import TrainingProgress
from samebits.runs.folder import SEEDS, TRACE, read_rows
from samebits.runtime.pins import generator_state_digests
from samebits.train.arrays import map_named
from samebits.train.callbacks import check_callbacks
from samebits.train.checks_of_data import build_stateful, check_same_data
from samebits.train.compiling import check_compiled
from samebits.train.data import Dataset, Split
from samebits.train.draws import GeneratorWatch
from samebits.train.feeds import Feed, PartFeed, epoch_order
from samebits.train.iterators import UNKNOWN
from samebits.train.loop import Training
from samebits.train.network import Network
from samebits.train.recorder import Recorder
from samebits.train.resuming import state_of
from samebits.train.seeding import Seeding
from samebits.train.sources import Iterated
from samebits.train.stages import Stage
from samebits.train.steps import path_digests
from samebits.train.stop import StopRequests
from samebits.train.streams import make_feed
from samebits.train.weights import is_savable

logger = logging.getLogger(__name__)

END_OF_SCRIPT = 3  # `part` of the last row of the trace
WITHOUT_FIT = ("stopped_early", "epochs_done", "best_epoch", "resumed_at")  # unknown in result.json
BATCH_SIZE = 32  # of Keras's fit, if the call sets none
Call = Mapping[str, Any]  # the arguments of a call of fit, by name


class FitStoppedError(BaseException):
    """The training was asked to stop, in a call of `fit`. A script's `except Exception` must not catch it."""


class FitTraining(Training):
    """The training of a call of `fit`. It keeps no checkpoints if something has a state that nobody can save.

    Attributes:
        because: What has; "" if the training can resume.
    """

    because = ""

    def forget(self, because: str) -> None:
        """Keep no checkpoint from now on: after a kill, this call and all later ones are trained again."""
        logger.warning("%s begins anew after a kill, and so do later calls of fit: %s", self.stage.name, because)
        self.because, self.callbacks.is_saved = because, False
        self.checkpoints.remove_from_here()

    def forget_callback(self, error: ConfigError) -> None:
        """Keep no checkpoint, because of a callback."""
        self.forget(f"{error.what} has {error.received}")

    def run(self) -> dict[str, int] | None:
        """Train to the end; see `Training.run`."""
        self.callbacks.on_unsavable = self.forget_callback
        return super().run()

    def check_draws(self) -> None:
        """Check that the global generators were not used. If they were, no checkpoint holds their state."""
        if not self.because:
            try:
                super().check_draws()
            except UncoveredDrawError as error:
                self.forget(error.what)

    def save(self) -> None:
        """Write a checkpoint, if the state can be saved."""
        if not self.because:
            try:
                super().save()
            except ConfigError as error:
                self.forget_callback(error)

    def save_end(self) -> None:
        """Write the end of the stage, if the state can be saved."""
        if not self.because and not self.was_skipped:
            self.checkpoints.save_end(state_of(self, whole=True))


class Fit(Network):
    """One call of `fit` as a stage.

    Args:
        model: The script's compiled model.
        dataset: Its data.
        stage: The stage.
        seeds: Uses data/order and data/augment.
        attempt: The run's folder.
        stop: Knows whether a stop was requested.
        callbacks: The callbacks of the call.
        verbose: Of the call; 0 shows no progress.
    """

    def __init__(
        self, model: keras.Model, dataset: Dataset, stage: Stage, seeds: Seeds, attempt: pathlib.Path,
        stop: StopRequests, *, callbacks: list[keras.callbacks.Callback], verbose: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, dataset, stage, seeds, attempt, stop)
        self.given, self.verbose = callbacks, verbose

    def check(self) -> None:
        """Trace a step of the compiled model. What Keras trains is trained, so the data are not checked further."""
        settings = self.config.training
        check_compiled(self.model)
        check_callbacks("callbacks of fit", self.given)
        self.watch, self.generators = GeneratorWatch(self.seeds), generator_state_digests()
        build_stateful(self.model, self.dataset.train, settings.batch_size)
        self.feeds = {name: self.make_feed(part, name) for name, part in self.dataset.splits().items()}
        if self.model.built and self.model.optimizer is not None:
            self.model.optimizer.build(self.model.trainable_variables)
        self.callbacks, self.steps = self.given, self.trace()
        self.validation_outputs, self.prepare_s = None, 0.0

    def make_feed(self, part: Any, name: str) -> Feed:
        """Return the batches of a split."""
        settings, stage, is_training = self.config.training, self.stage, name == "train"
        steps = settings.steps_per_epoch
        if is_training and steps and isinstance(part, Split) and steps < math.ceil(part.rows / settings.batch_size):
            order = functools.partial(epoch_order, self.seeds) if settings.shuffle else None
            return PartFeed(part, settings.batch_size, order, steps, stage.epochs_before + 1)
        return make_feed(
            part, name, self.seeds, settings, self.model, is_training=is_training, max_steps=stage.validation_steps
        )

    def make_progress(self) -> TrainingProgress:
        """Return what shows the progress."""
        return TrainingProgress(self.stage.last_epoch, self.steps.train_feed.steps, quiet=self.verbose in (0, "0"))

    def run(self, before: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Train the stage to its end, or restore that end. See `Network.run`.

        Raises:
            TrainingError: The script did not repeat what it computed before this call in an earlier process.
        """
        rows = read_rows(self.attempt / TRACE)[(before or {}).get(TRACE, 0) :]
        if rows and self.seeds.all_seeded(""):
            self.check_repeated(rows[0])
        outcome = super().run(before)
        training = self.training
        if training.ended is not None:
            training.callbacks.restore_end(training.ended.loop, training.ended.arrays)
            self.model.stop_training = training.ended.loop["stop_training"]
        return outcome

    def check_repeated(self, first: Mapping[str, Any]) -> None:
        """Check that this start of the script has the data and the weights of the one before.

        Raises:
            DataError: The data differ.
            TrainingError: The weights before the training differ.
        """
        check_same_data(first.get("data") or {}, self.dataset.digests())
        changed = changed_names(first["tensors"], self.steps.weight_digests())
        if changed:
            raise TrainingError(
                f"the script did not repeat what it computed before {self.stage.name}, so the run cannot resume.",
                expected="the weights of its first start", received=f"different {', '.join(changed[:4])}",
                fix="restore the files that it reads, draw random numbers after a seed; or start anew: resume=never",
            )  # fmt: skip

    def make_training(self, recorder: Recorder, kind: type[Training] | None = None) -> FitTraining:
        """Return the training; its callbacks get `verbose` and `steps` as in Keras."""
        training: Any = super().make_training(recorder, kind or FitTraining)
        for callback in training.callbacks.callbacks:
            callback.params["verbose"] = {"auto": 1}.get(self.verbose, self.verbose)
            if callback.params["steps"] == UNKNOWN:
                callback.params["steps"] = None
        iterated = [name for name, part in self.dataset.splits().items() if isinstance(part, Iterated)]
        if iterated:
            kind_of_data = type(getattr(self.dataset, iterated[0]).source).__name__
            training.forget(f"nobody knows the position of its {iterated[0]} data, a {kind_of_data}")
        found: FitTraining = training
        return found

    def end_stage(self) -> None:
        """Save the end of the stage, with the whole state of the callbacks, whose hooks a resumed run does not call."""
        training: Any = self.training
        training.save_end()

    def save_model(self) -> None:
        """Write the model in Keras's format, or its weights if Keras cannot save it."""
        self.is_savable = is_savable(self.model)
        super().save_model()


class Fits:
    """The calls of `fit` of one run.

    Args:
        config: The configuration of the run.
        seeds: The seed points.
        attempt: The run's folder.
        stop: Knows whether a stop was requested.
        seeding: Seeds the generators of the models.

    Attributes:
        stages: The stage of each call.
        outcomes: The outcome of each finished call.
        trainer: The last call.
        rows: How many rows each file of the record has after the last call.
        data: The digest of each array of each call.
        error: The first error of samebits in a call, which the script may have caught.
    """

    def __init__(
        self, config: Config, seeds: Seeds, attempt: pathlib.Path, stop: StopRequests, seeding: Seeding
    ) -> None:
        self.config, self.seeds, self.attempt, self.stop, self.seeding = config, seeds, attempt, stop, seeding
        self.stages: list[Stage] = []
        self.outcomes: list[dict[str, Any]] = []
        self.trainer: Fit | None = None
        self.rows: dict[str, int] = {}
        self.data: dict[str, str] = {}
        self.error: SamebitsError | None = None
        self._is_training = False

    def fit(self, model: keras.Model, call: Call) -> keras.callbacks.History:
        """Train a model as its `fit` would.

        Raises:
            FitStoppedError: A stop was requested. The checkpoint is saved.
            SamebitsError: Something cannot be taken over, or failed.
        """
        if self.error is not None:
            raise self.error
        try:
            return self._fit(model, call)
        except StopRequestedError as stopped:
            raise FitStoppedError from stopped
        except SamebitsError as error:
            self.error = error
            raise
        finally:
            self._is_training = False

    def _fit(self, model: keras.Model, call: Call) -> keras.callbacks.History:
        if self._is_training:
            raise _not_taken_over("a call of fit in a callback", "train the second model after the first call")
        model._assert_compile_called("fit")  # noqa: SLF001  no public name (Keras 3.15)
        self._is_training = True
        dataset = as_dataset(call)
        stage = self.next_stage(call, dataset)
        self.seeding.place_all(model)
        trainer = Fit(
            model, dataset, stage, self.seeds, self.attempt, self.stop,
            callbacks=as_callbacks(call["callbacks"]), verbose=call["verbose"],
        )  # fmt: skip
        trainer.check()
        trainer.take_seeds()
        self.write_seeds()
        self.stages.append(stage)
        self.data |= {f"{stage.name}/{name}": digest for name, digest in dataset.digests().items()}
        self.outcomes.append(trainer.run(self.rows))
        trainer.end_stage()
        self.trainer, self.rows = trainer, dict(trainer.rows)
        self.stop.end_at_once()
        history: keras.callbacks.History = model.history
        return history

    def finish(self, names: Mapping[str, Any]) -> None:
        """Save the model of the last call, and record all models, which the script may have trained without `fit`.

        Args:
            names: The global names of the script.
        """
        models = {name: value for name, value in names.items() if isinstance(value, keras.Model) and value.built}
        digests = {
            f"{name}/{path}": one for name in sorted(models) for path, one in path_digests(models[name].weights).items()
        }
        with contextlib.closing(TrainingProgress(1, 1, quiet=True)) as progress:
            recorder = Recorder(self.attempt, progress)
            recorder.keep(self.rows)
            last = self.stages[-1].last_epoch if self.stages else 0
            evidence = {"generators": generator_state_digests(), "data": {}}
            recorder.append_trace({"epoch": last, "part": END_OF_SCRIPT}, evidence, digests)
            recorder.sync()
        self.write_seeds()
        if self.trainer is not None:
            self.trainer.save_model()
        if not self.outcomes:
            logger.warning("the script calls no fit: after a kill it starts anew")
            self.outcomes.append(dict.fromkeys(WITHOUT_FIT) | {
                "metrics": {}, "weights_digest": arrays_digest(digests), "optimizer_digest": arrays_digest({}),
            })  # fmt: skip

    def write_seeds(self) -> None:
        """Write the seed points that were used until now."""
        seed = self.config.seed
        table = {"root": seed.root, "policy": seed.policy, "points": self.seeds.table()}
        files.write_json(self.attempt / SEEDS, table)

    def next_stage(self, call: Call, dataset: Dataset) -> Stage:
        """Return the stage of a call, whose settings are the arguments of the call."""
        epochs, initial = int(call["epochs"]), int(call["initial_epoch"])
        rows = dataset.train.rows if isinstance(dataset.train, Split) else 0
        steps, size = call["steps_per_epoch"], call["batch_size"]
        if not size:
            size = math.ceil(rows / steps) if steps and rows else BATCH_SIZE
        training = dataclasses.replace(
            self.config.training, epochs=max(0, epochs - initial), batch_size=int(size), keep_best=False, callbacks=[],
            class_weight=call["class_weight"], shuffle=bool(call["shuffle"]), steps_per_epoch=steps,
            validation_batch_size=int(call["validation_batch_size"] or call["batch_size"] or BATCH_SIZE),
        )  # fmt: skip
        number = len(self.stages)
        return Stage(
            number, f"fit {number + 1}", dataclasses.replace(self.config, training=training),
            self.stages[-1].last_epoch if self.stages else 0, initial_epoch=initial,
            validation_freq=call["validation_freq"], validation_steps=call["validation_steps"], strict=False,
        )  # fmt: skip


@contextlib.contextmanager
def take_over(fits: Fits) -> Iterator[None]:
    """Let every call of `fit` of a Keras model be a stage of a run while the block runs."""
    original = keras.Model.fit
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(*arguments: Any, **named: Any) -> keras.callbacks.History:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        model, *_ = bound.args
        return fits.fit(model, bound.arguments)

    keras.Model.fit = fit
    try:
        yield
    finally:
        del keras.Model.fit  # inherited again


def _not_taken_over(received: str, fix: str) -> TrainingError:
    return TrainingError(
        "samebits cannot take over this call of fit.", expected="arguments of fit that a run can resume with",
        received=received, fix=fix,
    )  # fmt: skip


def as_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Return the callbacks of a call as a list."""
    if isinstance(given, keras.callbacks.CallbackList):
        raise _not_taken_over("a keras.callbacks.CallbackList", "pass a list of callbacks")
    return [] if given is None else list(keras.tree.flatten(given))


# --- data ---


def is_array(part: Any) -> bool:
    """Return whether x of a call is one array or a structure of arrays, not a data set or a generator."""
    return all(
        isinstance(leaf, list | int | float | str) or hasattr(leaf, "__array__") or hasattr(leaf, "to_numpy")
        for leaf in keras.tree.flatten(part)
    )


def as_dataset(call: Call) -> Dataset:
    """Return the data of a call.

    Raises:
        TrainingError: A form that cannot be taken over yet.
    """
    if call["shuffle"] == "batch":
        raise _not_taken_over('shuffle="batch"', "use shuffle=True")
    train, validation = part_of(call["x"], call["y"], call["sample_weight"]), None
    if call["validation_data"] is not None:
        given = call["validation_data"]
        parts = keras.utils.unpack_x_y_sample_weight(given) if isinstance(given, tuple | list) else (given, None, None)
        validation = part_of(*parts)
    elif call["validation_split"]:
        train, validation = split_end(train, float(call["validation_split"]))
    return Dataset(train, validation)


def part_of(x: Any, y: Any, sample_weight: Any) -> Any:
    """Return the rows of a call as a split or a source."""
    if is_array(x):
        nested = isinstance(y, Mapping | tuple) or (isinstance(y, list) and any(hasattr(each, "shape") for each in y))
        if sample_weight is not None and nested and not isinstance(sample_weight, Mapping | tuple | list):
            sample_weight = keras.tree.map_structure(lambda _: sample_weight, y)
        return Split(x, y, sample_weight)
    if isinstance(x, keras.utils.PyDataset) and x.num_batches is not None:
        return x
    if isinstance(x, tf.data.Dataset | types.GeneratorType):
        return Iterated(x)
    kind = type(x).__name__
    expected = "arrays, a tf.data.Dataset, a generator, or a keras.utils.PyDataset with a length"
    raise _not_taken_over(f"data of the type {kind}", f"pass {expected}")


def split_end(train: Any, share: float) -> tuple[Split, Split]:
    """Return the rows but for the last ones, and these, as `validation_split` of Keras."""
    if not isinstance(train, Split):
        raise _not_taken_over("validation_split of a data set", "pass validation_data")
    at = math.floor(train.rows * (1.0 - share))
    if at in (0, train.rows):
        raise ValueError(f"validation_split={share} leaves no rows to train on or to validate, of {train.rows} rows")

    def take(rows: slice) -> Split:
        parts = (train.inputs, train.labels, train.sample_weight)
        return Split(*(map_named(lambda array, _: array[rows], part, "") for part in parts))

    return take(slice(at)), take(slice(at, None))
