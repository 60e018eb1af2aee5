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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from samebits.core import files
from samebits.core.config import Config
from samebits.core.digest import arrays_digest, changed_names
from samebits.core.errors import (
    ConfigError,
    DataError,
    NotPortableError,
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
from samebits.train.checkpoints import Checkpoints
from samebits.train.checks_of_data import build_stateful, check_labels, check_same_data
from samebits.train.compiling import check_compiled, optimizers_of
from samebits.train.data import Dataset, Split, named_leaves
from samebits.train.draws import GeneratorWatch
from samebits.train.feeds import Feed, PartFeed, epoch_order
from samebits.train.iterators import UNKNOWN
from samebits.train.logs import numbers
from samebits.train.loop import Training
from samebits.train.network import Network
from samebits.train.notices import line_in_stack, line_of
from samebits.train.recorder import Recorder, finite
from samebits.train.resuming import as_bits, state_of
from samebits.train.seeding import Seeding
from samebits.train.sources import Iterated
from samebits.train.stages import Stage
from samebits.train.steps import path_digests
from samebits.train.stop import StopRequests
from samebits.train.streams import make_feed
from samebits.train.traces import TRAINED, Basis, Traced, in_words
from samebits.train.weights import is_savable, save_model

logger = logging.getLogger(__name__)

ANEW = "%s begins anew after a kill, and so do later calls of fit: %s"
MAY_DIFFER = "Its batches are read ahead of the training: if they draw these numbers, two runs may differ"
OWN_LOOP = "%strains outside of fit: seeded, and recorded at the end of the script, but trained again after a kill"
CHANGED = "%s: %s changed without a new compile. It counts from now on; Keras's own fit would use the value before"
DOES_NOT_COUNT = "%s: %s changed without a new compile, and does not count until there is one"
CHANGED_IN_FIT = "a callback changed %s, which a restored call would not"
JIT = "jit_compile=True is ignored: XLA has other bits on every machine"
END_OF_SCRIPT = 3  # `part` of the last row of the trace
WITHOUT_FIT = ("stopped_early", "epochs_done", "best_epoch", "resumed_at", "begins_anew")  # unknown in result.json
# The arguments that a trace depends on. A PartFeed depends on more, and its trace is not used again.
TRACED = ("batch_size", "validation_batch_size", "steps_per_epoch", "class_weight", "shuffle")
MAX_KEPT = 1 << 30  # bytes of data up to which a trace is kept for the next call
BATCH_SIZE = 32  # of Keras's fit, if the call sets none
Call = Mapping[str, Any]  # the arguments of a call of fit, by name


class FitStoppedError(BaseException):
    """The training was asked to stop, in a call of `fit`. A script's `except Exception` must not catch it."""


class FitTraining(Training):
    """The training of a call of `fit`. It keeps no checkpoints if something has a state that nobody can save.

    Attributes:
        because: What has; "" if the training can resume.
        is_told: Whether the user knows already that this call begins anew, because an earlier one does.
    """

    because, is_told = "", False

    def forget(self, because: str) -> None:
        """Keep no checkpoint from now on: after a kill, this call and all later ones are trained again."""
        if self.because:
            return
        if not self.is_told:
            logger.warning(ANEW, self.stage.name, because)
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
                may_differ = getattr(self.feed, "reads_ahead", False)
                self.forget(error.what.rstrip(".") + (f". {MAY_DIFFER}" if may_differ else ""))

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
        is_told: Whether the user knows already that this call begins anew after a kill.

    Attributes:
        before: The state of the model's attributes before the training.
    """

    before: Basis

    def __init__(
        self, model: keras.Model, dataset: Dataset, stage: Stage, seeds: Seeds, attempt: pathlib.Path,
        stop: StopRequests, *, callbacks: list[keras.callbacks.Callback], verbose: Any, is_told: bool,
    ) -> None:  # fmt: skip
        super().__init__(model, dataset, stage, seeds, attempt, stop)
        self.given, self.verbose, self.is_told = callbacks, verbose, is_told
        self.folder = pathlib.Path(self.config.script.path).parent
        self.digests = dataset.digests()
        self.traced: Traced | None = None
        self.reasons: list[str] = []  # why the call begins anew after a kill
        self.oddities: list[str] = []  # what else the user is told

    def check(self) -> None:
        """Trace a step of the compiled model, unless there is a trace to use again.

        What Keras trains is trained, so what is odd in it is only told.
        """
        check_compiled(self.model, may_jit=True)
        check_callbacks("callbacks of fit", self.given)
        self.watch, self.generators = GeneratorWatch(self.seeds), generator_state_digests()
        self.callbacks, self.validation_outputs, self.prepare_s = self.given, None, 0.0
        if self.traced is None:
            self.traced = self.trace_all()
        self.feeds, self.steps, self.before = self.traced.feeds, self.traced.steps, self.traced.basis

    def trace_all(self) -> Traced:
        """Trace a step, and note what is odd and what no checkpoint can hold."""
        if self.model.jit_compile:
            self.oddities.append(JIT)
        build_stateful(self.model, self.dataset.train, self.config.training.batch_size)
        self.feeds = {name: self.make_feed(part, name) for name, part in self.dataset.splits().items()}
        if self.model.built and self.model.optimizer is not None:
            self.model.optimizer.build(self.model.trainable_variables)
        steps = self.trace(self.tolerate)
        self.note_labels()
        return Traced(self.basis(), self.feeds, steps, self.reasons, self.oddities)

    def basis(self) -> Basis:
        """Return what the traced functions depend on."""
        settings = {name: getattr(self.config.training, name) for name in TRACED}
        return Basis.of(self.model, settings | {"validation_steps": self.stage.validation_steps}, self.digests)

    def data_bytes(self) -> int:
        """Return the size of the arrays, which the traced functions hold a copy of."""
        parts = [part for part in self.dataset.splits().values() if isinstance(part, Split)]
        return sum(array.nbytes for part in parts for array in named_leaves(part).values())

    def reuse(self, traced: Traced) -> None:
        """Use what an earlier call traced."""
        self.traced, self.reasons, self.oddities = traced, [*traced.reasons], [*traced.oddities]

    def note_labels(self) -> None:
        """Note labels that do not fit the loss."""
        if getattr(self.model, "outputs", None):
            try:
                check_labels(self.model, {name: feed.example for name, feed in self.feeds.items()})
            except ConfigError as error:
                self.oddities.append(f"{error.what}: expected {error.expected}, received {error.received}")

    def tolerate(self, error: SamebitsError, operations: Sequence[Any], *, is_harmless: bool) -> None:
        """Note an error that would end a training of `samebits train`, with the line of the script that causes it."""
        lines = (line_in_stack(self.folder, operation.traceback) for operation in operations)
        place = next(filter(None, lines), "")
        text = f"{place + ': ' if place else ''}{error.what}"
        (self.oddities if is_harmless else self.reasons).append(text if is_harmless else f"{text} Fix: {error.fix}")

    def note_draw(self, error: DataError) -> None:
        """Note that the data draw random numbers, or hold a state, which no checkpoint has."""
        training: Any = getattr(self, "training", None)
        text = f"{error.what}: {error.received}"
        if training is None:
            self.reasons.append(text)
        else:
            training.forget(f"{text}. {MAY_DIFFER}")

    def make_feed(self, part: Any, name: str) -> Feed:
        """Return the batches of a split."""
        settings, stage, is_training = self.config.training, self.stage, name == "train"
        steps = settings.steps_per_epoch
        if is_training and steps and isinstance(part, Split) and steps < math.ceil(part.rows / settings.batch_size):
            order = functools.partial(epoch_order, self.seeds) if settings.shuffle else None
            return PartFeed(part, settings.batch_size, order, steps, stage.epochs_before + 1)
        return make_feed(
            part, name, self.seeds, settings, self.model, is_training=is_training, max_steps=stage.validation_steps,
            on_draw=self.note_draw,
        )  # fmt: skip

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
        training: Any = self.training
        if training.ended is not None:
            training.callbacks.restore_end(training.ended.loop, training.ended.arrays)
            self.model.stop_training = training.ended.loop["stop_training"]
        return outcome | {"begins_anew": training.because}

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
        training.is_told = self.is_told
        for callback in training.callbacks.callbacks:
            callback.params["verbose"] = {"auto": 1}.get(self.verbose, self.verbose)
            if callback.params["steps"] == UNKNOWN:
                callback.params["steps"] = None
        iterated = [name for name, part in self.dataset.splits().items() if isinstance(part, Iterated)]
        if iterated:
            source = getattr(self.dataset, iterated[0]).source
            kind_of_data = "tf.data.Dataset" if isinstance(source, tf.data.Dataset) else type(source).__name__
            training.forget(f"nobody knows the position of its {iterated[0]} data, a {kind_of_data}")
        for reason in self.reasons:
            training.forget(reason)
        found: FitTraining = training
        return found

    def note_inner_call(self) -> None:
        """Note that a callback calls `fit`: no checkpoint of this call has the inner model."""
        training: Any = self.training
        training.forget("a callback calls fit")

    def end_stage(self) -> None:
        """Save the end of the stage, with the whole state of the callbacks, whose hooks a resumed run does not call."""
        training: Any = self.training
        changed = [] if training.was_skipped else self.before.changed(self.basis())
        if changed:
            training.forget(CHANGED_IN_FIT % in_words(changed))
        training.save_end()


class Traces:
    """Lets a call of `fit` use what the last one traced, if nothing changed that the trace depends on.

    Args:
        tell: Tells the user something, once.

    Attributes:
        last: What the last call traced.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell = tell
        self.last: Traced | None = None

    def trace(self, trainer: Fit) -> None:
        """Trace a call, or let it use what the last one traced if nothing changed that the trace depends on."""
        before, self.last = self.last, None
        basis = trainer.basis() if before else None
        if before is None or basis is None or not before.is_stale(basis):
            before = None  # frees its data before there are new ones
            trainer.check()
        elif changed := before.basis.changed(basis):
            self.trace_changed(trainer, before, basis, changed)
        else:
            if before.basis.data == basis.data:
                trainer.reuse(before)
            before = None
            trainer.check()
        found: Any = trainer.traced
        if found.can_be_kept and trainer.data_bytes() <= MAX_KEPT:
            self.last = found

    def trace_changed(self, trainer: Fit, before: Traced, basis: Basis, changed: list[str]) -> None:
        """Trace a call whose model changed since the last one without a new `compile`, and tell the user."""
        name, what, contents = trainer.stage.name, in_words(changed), before.steps.contents()
        try:
            trainer.check()
        except SamebitsError:
            raise
        except Exception:
            if before.basis.data != basis.data:
                raise
            trainer.reuse(before)  # such as a layer that is not frozen any more, whose weights the optimizer lacks
            trainer.check()
            trainer.before = basis
            self.tell(DOES_NOT_COUNT, name, what)
            return
        if TRAINED in changed or contents != trainer.steps.contents():
            self.tell(CHANGED, name, what)


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
        model: The model of the last call.
        rows: How many rows each file of the record has after the last call.
        data: The digest of each array of each call.
        error: The first error of samebits in a call, which the script may have caught.
        training: The call that trains now.
    """

    def __init__(
        self, config: Config, seeds: Seeds, attempt: pathlib.Path, stop: StopRequests, seeding: Seeding
    ) -> None:
        self.config, self.seeds, self.attempt, self.stop, self.seeding = config, seeds, attempt, stop, seeding
        self.stages: list[Stage] = []
        self.outcomes: list[dict[str, Any]] = []
        self.model: keras.Model | None = None
        self.rows: dict[str, int] = {}
        self.data: dict[str, str] = {}
        self.error: SamebitsError | None = None
        self.training: Fit | str = ""  # the name of a call that Keras trains
        self.traces = Traces(self.tell)
        self._told: set[str] = set()

    def tell(self, text: str, *arguments: Any) -> None:
        """Log a warning, the first time."""
        if (text := text % arguments) not in self._told:
            self._told.add(text)
            logger.warning("%s", text)

    def fit(self, model: keras.Model, call: Call, of_keras: Callable[..., Any]) -> Any:
        """Train a model as its `fit` would. Returns Keras's History.

        Args:
            model: The model.
            call: The arguments of the call.
            of_keras: Keras's own `fit`, for what cannot be taken over.

        Raises:
            FitStoppedError: A stop was requested. The checkpoint is saved.
            SamebitsError: The training failed, or the run cannot resume.
        """
        if self.error is not None:
            raise self.error
        if isinstance(self.training, str) and self.training:  # Keras trains the outer call too
            return of_keras(**call)
        if isinstance(self.training, Fit):
            self.training.note_inner_call()
            return of_keras(**call)
        model._assert_compile_called("fit")  # noqa: SLF001  no public name (Keras 3.15)
        try:
            try:
                trainer = self.prepare(model, call)
            except NotPortableError:
                raise
            except SamebitsError as error:
                return self.leave(model, call, of_keras, error)
            return self.train(trainer)
        except StopRequestedError as stopped:
            raise FitStoppedError from stopped
        except SamebitsError as error:
            self.error = error
            raise
        finally:
            self.training = ""

    def prepare(self, model: keras.Model, call: Call) -> Fit:
        """Return a call of `fit` as a stage, ready to train.

        Raises:
            SamebitsError: It cannot be taken over.
        """
        callbacks, dataset = self.as_callbacks(call["callbacks"]), as_dataset(call)
        rows = dataset.train.rows if isinstance(dataset.train, Split) else 0
        stage = stage_of(call, rows, self.config, self.stages)
        self.seeding.place_all(model)
        trainer = Fit(
            model, dataset, stage, self.seeds, self.attempt, self.stop,
            callbacks=callbacks, verbose=call["verbose"], is_told=self.begins_anew,
        )  # fmt: skip
        self.training = stage.name
        self.traces.trace(trainer)
        trainer.take_seeds()
        for text in trainer.oddities:
            self.tell("%s: %s", stage.name if text != JIT else "model.compile", text)
        return trainer

    def train(self, trainer: Fit) -> Any:
        """Train a call of `fit` that is prepared, and return its History."""
        stage, self.training = trainer.stage, trainer
        self.write_seeds()
        self.stages.append(stage)
        self.data |= {f"{stage.name}/{name}": digest for name, digest in trainer.digests.items()}
        self.outcomes.append(trainer.run(self.rows))
        trainer.end_stage()
        self.model, self.rows = trainer.model, dict(trainer.rows)
        self.stop.end_at_once()
        return self.model.history

    @property
    def begins_anew(self) -> bool:
        """Whether a call before begins anew after a kill, so that all later ones do."""
        return any(outcome["begins_anew"] for outcome in self.outcomes)

    def as_callbacks(self, given: Any) -> list[keras.callbacks.Callback]:
        """Return the callbacks of a call as a list, without BackupAndRestore."""
        if isinstance(given, keras.callbacks.CallbackList):
            raise _not_taken_over("a keras.callbacks.CallbackList", "pass a list of callbacks")
        found = [] if given is None else list(keras.tree.flatten(given))
        kept = [each for each in found if not isinstance(each, keras.callbacks.BackupAndRestore)]
        if len(kept) < len(found):
            self.tell("BackupAndRestore is ignored: samebits saves checkpoints itself, and resumes at the same step")
        return kept

    def leave(self, model: keras.Model, call: Call, of_keras: Callable[..., Any], error: SamebitsError) -> Any:
        """Let Keras train a call that cannot be taken over, and record its end. Returns its History."""
        if any(isinstance(part, types.GeneratorType) and inspect.getgeneratorstate(part) != inspect.GEN_CREATED
               for part in (call["x"], call["validation_data"])):  # fmt: skip
            raise error  # its first batches are lost
        stage = stage_of(call, 0, self.config, self.stages)
        self.training = stage.name
        because = f"{error.what.rstrip('.')}, received {error.received}"
        self.tell(
            "%s is trained by Keras's own fit. It begins anew after a kill, and so do later calls of fit: %s",
            stage.name, because,
        )  # fmt: skip
        if self.config.runtime.promise == "portable":
            self.tell("%s was not checked: its bits may differ on another CPU, also with runtime=portable", stage.name)
        Checkpoints(self.attempt, (), stage.number).remove_from_here()
        history = of_keras(**{**call, "callbacks": self.as_callbacks(call["callbacks"])})
        self.stages.append(stage)
        with self.recorder() as recorder:
            self.outcomes.append(record_of_keras(model, stage, history, recorder) | {"begins_anew": because})
        self.model = model
        return history

    @contextlib.contextmanager
    def recorder(self) -> Iterator[Recorder]:
        """Yield a recorder that goes on after the last call, and shows nothing."""
        with contextlib.closing(TrainingProgress(1, 1, quiet=True)) as progress:
            recorder = Recorder(self.attempt, progress)
            recorder.keep(self.rows)
            yield recorder
            recorder.sync()
        self.rows = dict(recorder.counts)

    def finish(self, names: Mapping[str, Any]) -> None:
        """Save the model of the last call, and record all models, which the script may have trained without `fit`.

        Args:
            names: The global names of the script.
        """
        models = {name: value for name, value in names.items() if isinstance(value, keras.Model) and value.built}
        digests = {
            f"{name}/{path}": one for name in sorted(models) for path, one in path_digests(models[name].weights).items()
        }
        with self.recorder() as recorder:
            last = self.stages[-1].last_epoch if self.stages else 0
            evidence = {"generators": generator_state_digests(), "data": {}}
            recorder.append_trace({"epoch": last, "part": END_OF_SCRIPT}, evidence, digests)
        self.write_seeds()
        if self.model is not None:
            save_model(self.model, self.attempt, whole=is_savable(self.model))
        if not self.outcomes:
            logger.warning("the script calls no fit: it begins anew after a kill")
            self.outcomes.append(dict.fromkeys(WITHOUT_FIT) | {
                "metrics": {}, "weights_digest": arrays_digest(digests), "optimizer_digest": arrays_digest({}),
            })  # fmt: skip

    def write_seeds(self) -> None:
        """Write the seed points that were used until now."""
        seed = self.config.seed
        table = {"root": seed.root, "policy": seed.policy, "points": self.seeds.table()}
        files.write_json(self.attempt / SEEDS, table)


def stage_of(call: Call, rows: int, config: Config, before: Sequence[Stage]) -> Stage:
    """Return the stage of a call, whose settings are the arguments of the call. `rows` is 0 if it is not known."""
    epochs, initial = int(call["epochs"]), int(call["initial_epoch"])
    steps, size, weights = call["steps_per_epoch"], call["batch_size"], call["class_weight"]
    if not size:
        size = math.ceil(rows / steps) if steps and rows else BATCH_SIZE
    training = dataclasses.replace(
        config.training, epochs=max(0, epochs - initial), batch_size=int(size), keep_best=False, callbacks=[],
        class_weight=weights and dict(weights), shuffle=bool(call["shuffle"]), steps_per_epoch=steps,
        validation_batch_size=int(call["validation_batch_size"] or call["batch_size"] or BATCH_SIZE),
    )  # fmt: skip
    number = len(before)
    return Stage(
        number, f"fit {number + 1}", dataclasses.replace(config, training=training),
        before[-1].last_epoch if before else 0, initial_epoch=initial,
        validation_freq=call["validation_freq"], validation_steps=call["validation_steps"], strict=False,
    )  # fmt: skip


def record_of_keras(model: keras.Model, stage: Stage, history: Any, recorder: Recorder) -> dict[str, Any]:
    """Record a call that Keras trained: the metrics of each epoch and the weights at its end. Returns its outcome."""
    weights, optimizers = path_digests(model.weights), optimizers_of(model)
    optimizer = arrays_digest(path_digests([each for one in optimizers for each in one.variables]))
    steps, epochs, values = history.params["steps"] or 0, len(history.epoch), {}
    for number in range(epochs):
        values = numbers({name: row[number] for name, row in history.history.items() if len(row) == epochs})
        recorder.append_metrics(stage.epochs_before + number + 1, steps, values)
    place = {"epoch": stage.epochs_before + epochs}
    recorder.append_trace(place, {"bits": as_bits(values), "optimizer": optimizer}, weights)
    return dict.fromkeys(WITHOUT_FIT) | {
        "metrics": finite(values), "weights_digest": arrays_digest(weights), "optimizer_digest": optimizer,
        "epochs_done": place["epoch"],
    }  # fmt: skip


@contextlib.contextmanager
def take_over(fits: Fits) -> Iterator[None]:
    """Let every call of `fit` of a Keras model be a stage of a run while the block runs."""
    of_keras, apply = keras.Model.fit, keras.optimizers.Optimizer.apply
    signature = inspect.signature(of_keras)

    @functools.wraps(of_keras)
    def fit(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        model, *_ = bound.args
        return fits.fit(model, bound.arguments, of_keras)

    @functools.wraps(apply)
    def apply_and_tell(*arguments: Any, **named: Any) -> Any:
        if not fits.training:
            place = line_of(pathlib.Path(fits.config.script.path).parent)
            fits.tell(OWN_LOOP, f"{place}: " if place else "")
        return apply(*arguments, **named)

    with contextlib.ExitStack() as undo:
        for owner, name, wrapper in ((keras.Model, "fit", fit), (keras.optimizers.Optimizer, "apply", apply_and_tell)):
            inherited = name not in vars(owner)
            undo.callback(delattr, owner, name) if inherited else undo.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, wrapper)
        yield


def _not_taken_over(received: str, fix: str) -> TrainingError:
    return TrainingError(
        "samebits cannot take over this call", expected="arguments of fit that a run can resume with",
        received=received, fix=fix,
    )  # fmt: skip


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
