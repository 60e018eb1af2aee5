"""Trains a Keras model: connects data, steps, callbacks, recorder, checkpoints and the loop."""

import contextlib
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import keras

from samebits.core.config import Config
from samebits.core.digest import arrays_digest
from samebits.core.seeds import Seeds
from samebits.core.terminal import TrainingProgress
from samebits.runs.folder import CALLBACKS
from samebits.runs.predictions import named_arrays, write_predictions
from samebits.runtime.pins import generator_state_digests
from samebits.train.activations import check_activations, warn_of_thresholds
from samebits.train.arrays import is_text
from samebits.train.callbacks import Callbacks, make_callbacks
from samebits.train.checkpoints import Checkpoints
from samebits.train.checks_of_data import build_stateful, check_batches, check_inputs, check_labels
from samebits.train.compiling import compile_model, computes_own_loss, explain_missing_loss, output_kind
from samebits.train.data import Dataset
from samebits.train.draws import GeneratorWatch
from samebits.train.feeds import Feed
from samebits.train.loop import Training
from samebits.train.parts import own_parts
from samebits.train.recorder import Recorder, finite
from samebits.train.resuming import state_of
from samebits.train.shards import Alone, Exchange
from samebits.train.stages import Stage
from samebits.train.steps import Steps, Tolerate
from samebits.train.stop import StopRequests
from samebits.train.streams import make_feed
from samebits.train.weights import is_savable, load_weights, save_model, source_of_weights


class Network:
    """Trains a Keras model with the loop; see `samebits.train.worker.Trainer`.

    Args:
        model: The model, compiled or not.
        dataset: Training rows, and possibly validation and test rows.
        stage: The stage, with its configuration.
        seeds: Uses data/order.
        attempt: The run's folder.
        stop: Knows whether a stop was requested.
        exchange: Shares the parts of a batch with other processes; None: there are none.
    """

    def __init__(
        self, model: keras.Model, dataset: Dataset, stage: Stage, seeds: Seeds, attempt: pathlib.Path,
        stop: StopRequests, exchange: Exchange | None = None,
    ) -> None:  # fmt: skip
        self.exchange = exchange or Alone()
        self.model, self.dataset, self.stage, self.config = model, dataset, stage, stage.config
        self.seeds, self.attempt, self.stop = seeds, attempt, stop

    def check(self) -> None:
        """Compile and check the model, and trace a step, so that everything that can fail fails before training."""
        settings, began = self.config.training, time.monotonic()
        compile_model(self.model, settings)
        self.watch, self.generators = GeneratorWatch(self.seeds), generator_state_digests()
        build_stateful(self.model, self.dataset.train, settings.batch_size)
        check_batches(self.model, self.dataset, settings)
        self.feeds = make_feeds(self)
        has_outputs = bool(getattr(self.model, "outputs", None))  # a class of one's own has none before it is traced
        was_built, examples = self.model.built, {name: feed.example for name, feed in self.feeds.items()}
        check_inputs(self.model, examples)
        if has_outputs:
            check_labels(self.model, examples)
            predictions = self.trace_predictions()
        if was_built and self.model.optimizer is not None:
            self.model.optimizer.build(self.model.trainable_variables)
        offered = {
            "folder": self.attempt / CALLBACKS / self.stage.name,
            "seed": lambda name: self.seeds.take(f"callbacks/{name}"),
        }
        self.callbacks = make_callbacks(settings, offered)
        self.steps = self.trace()
        outputs = None
        if not has_outputs:
            predictions = self.trace_predictions()
            if predictions is not None:
                outputs = predictions.get_concrete_function().structured_outputs
                check_labels(self.model, examples, outputs)
        if predictions is not None:
            warn_of_thresholds(self.model, outputs)
        self.validation_outputs = predictions if "validation" in self.feeds else None
        self.is_savable = is_savable(self.model)
        self.prepare_s = time.monotonic() - began

    def trace_predictions(self) -> Any:
        """Return the traced function of the outputs, after a check of the last activations.

        Returns:
            None if there are no outputs, or nothing that reads them: no loss of Keras's and no validation rows.
        """
        if computes_own_loss(self.model) and "validation" not in self.feeds:
            return None
        predictions = Steps.trace_predictions(self.model, self.feeds.get("validation") or self.feeds["train"])
        check_activations(self.model, predictions)
        return predictions

    def trace(self, tolerate: Tolerate | None = None) -> Steps:
        """Return the traced and checked functions of a step; see `Steps`.

        Raises:
            ConfigError: There is no loss.
        """
        train, validation, promise = self.feeds["train"], self.feeds.get("validation"), self.config.runtime.promise
        try:
            return Steps(
                self.model, train, validation, promise, tolerate=tolerate,
                allow_python=self.config.training.allow_python_operations, shards=self.config.training.shards,
                exchange=self.exchange,
            )  # fmt: skip
        except ValueError as error:
            raise explain_missing_loss(error) from error

    def init_from(self, runs: pathlib.Path) -> None:
        """Start with the weights that `training.init_from` names: "run@weights digest" or "file@SHA-256".

        Raises:
            RecordError: They changed since the run was named, or do not fit the model.
        """
        place, _, digest = str(self.config.training.init_from).rpartition("@")
        load_weights(self.model, source_of_weights(runs, place, digest))

    def continue_from(self, previous: Any) -> None:
        """Start with the weights and the seed generators of another model, where both have the same paths."""
        before = {variable.path: variable for variable in previous.variables}
        for variable in self.model.variables:
            if variable.path in before:
                variable.assign(before[variable.path])

    def take_seeds(self) -> None:
        """Use data/order and data/augment, or mark them as unused."""
        if self.config.training.shuffle:
            self.seeds.take("data/order")
        else:
            self.seeds.mark_unused("data/order", because="training.shuffle is false")
        self.seeds.mark_unused("data/augment", because="no batch draws: the data are arrays or use no rng")

    def make_training(self, recorder: Recorder, kind: type[Training] = Training) -> Training:
        """Return the training, with traced and checked functions."""
        settings = self.config.training
        last = self.stage.initial_epoch + settings.epochs
        params = {"epochs": last, "steps": self.steps.train_feed.steps, "verbose": 0}
        variables = self.steps.variables()
        return kind(
            self.steps,
            Callbacks(self.callbacks, self.model, params, variables),
            recorder,
            Checkpoints(self.attempt, variables, self.stage.number, is_written=self.exchange.rank == 0),
            self.stage,
            watch=self.watch,
            start={"generators": self.generators, "data": self.dataset.digests(), "opaque": self.steps.opaque},
            data_seeded=self.seeds.all_seeded("data/"),
            stop_requested=self.stop.requested,
            exchange=self.exchange,
        )

    def make_progress(self) -> TrainingProgress:
        """Return what shows the progress."""
        return TrainingProgress(self.stage.last_epoch, self.steps.train_feed.steps)

    def run(self, before: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Train the stage to its end.

        Args:
            before: How many rows earlier stages have in each file of the record.

        Returns:
            The metrics of the trained model, the digests of weights and optimizer, and where the run was resumed.
        """
        with contextlib.closing(self.make_progress()) as progress:
            recorder = Recorder(self.attempt, progress)
            recorder.counts |= before or {}
            training = self.training = self.make_training(recorder)
            self.stop.wait_for_checkpoint()
            resumed_at = training.run()
            phases, ended = recorder.phases(), recorder.clock()
            metrics = finite(training.values | self.test())
        if not training.was_skipped:
            recorder.read_complete_trace()
        self.rows = dict(recorder.counts)
        epochs = training.position.epoch - 1
        outcome = {
            "metrics": finite(metrics),
            "epochs": self.stage.last_epoch,
            "epochs_done": epochs,
            "stopped_early": epochs < self.stage.last_epoch,
            "best_epoch": training.best_epoch,
            "weights_digest": arrays_digest(self.steps.weight_digests()),
            "optimizer_digest": self.steps.optimizer_digest(),
            "predictions_digest": self.predict(),
            "steps": training.steps_done,
            "resumed_at": resumed_at,
            "unmeasured_operations": self.steps.unmeasured,
        }
        # Last, after the predictions, which take as long as an evaluation.
        outcome["phases"] = phases | {"prepare_s": self.prepare_s, "finish_s": recorder.clock() - ended}
        return outcome

    def end_stage(self) -> None:
        """Save the end of the stage, so that a resumed run continues with the next one."""
        if not self.training.was_skipped:
            self.training.checkpoints.save_end(state_of(self.training))

    def test(self) -> dict[str, float]:
        """Return the metrics of the test rows, named test_…, if there are any."""
        if self.dataset.test is None:
            return {}
        found = self.steps.evaluate_on(self.feeds["test"])
        return {f"test_{name}": value for name, value in found.items()}

    def predict(self) -> str | None:
        """Write the outputs for the validation rows, and return their digest; None if the model has none."""
        if self.validation_outputs is None:
            return None
        outputs, labels = Steps.predict(self.validation_outputs, self.feeds["validation"])
        arrays = named_arrays(outputs, output_kind(self.model)) | named_arrays(labels, "labels")
        return write_predictions(self.attempt, {name: array for name, array in arrays.items() if not is_text(array)})

    def save_model(self) -> None:
        """Write the model in Keras's format, or its weights if Keras cannot save it.

        Raises:
            RecordError: The disk is full or the folder is missing.
        """
        save_model(self.model, self.attempt, whole=self.is_savable)


def make_feeds(network: Network) -> dict[str, Feed]:
    """Return the batches of each split."""
    settings, own = network.config.training, read_parts(network.config, network.exchange)
    return {
        name: make_feed(part, name, network.seeds, settings, network.model, is_training=name == "train", own=own)
        for name, part in network.dataset.splits().items()
    }


def read_parts(config: Config, exchange: Exchange) -> range | None:
    """Return the parts of a batch whose rows this process reads, or None if it needs all: a trace shows all."""
    if exchange.workers == 1 or config.trace.level != "epoch":
        return None
    return own_parts(config.training.shards, exchange.workers, exchange.rank)
