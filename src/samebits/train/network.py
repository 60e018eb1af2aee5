"""Trains a Keras model: connects steps, batches, recorder, checkpoints and the loop."""

import contextlib
import pathlib
import time
from typing import Any

import keras

from samebits.core.config import Config
from samebits.core.files import storage_error
from samebits.core.seeds import Seeds
from samebits.core.terminal import TrainingProgress
from samebits.runs.predictions import write_predictions
from samebits.runtime.pins import generator_state_digests
from samebits.train.checkpoints import Checkpoints
from samebits.train.data import Batches, Dataset, check_batch_size
from samebits.train.draws import GeneratorWatch
from samebits.train.loop import Training
from samebits.train.recorder import Recorder
from samebits.train.steps import Steps
from samebits.train.stop import StopRequests


class Network:
    """Trains a Keras model with the loop; see `samebits.train.worker.Trainer`.

    Args:
        model: The built model, which outputs logits.
        dataset: Training and validation rows.
        config: The run's configuration.
        seeds: Uses data/order.
        attempt: The run's folder.
        stop: Knows whether a stop was requested.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Dataset,
        config: Config,
        seeds: Seeds,
        attempt: pathlib.Path,
        stop: StopRequests,
    ) -> None:
        self.model, self.dataset, self.config = model, dataset, config
        self.seeds, self.attempt, self.stop = seeds, attempt, stop

    def take_seeds(self) -> None:
        """Use data/order."""
        self.seeds.take("data/order")

    def check(self) -> None:
        """Check that the batch is not larger than the training data, and trace and check the functions of a step."""
        check_batch_size(self.config.training, len(self.dataset.train.labels))
        began = time.monotonic()
        self.watch, self.generators = GeneratorWatch(self.seeds), generator_state_digests()
        self.steps = Steps(self.model, self.dataset, self.config.training, self.config.runtime.promise)
        self.prepare_s = time.monotonic() - began

    def make_training(self, batches: Batches, recorder: Recorder) -> Training:
        """Return the training."""
        return Training(
            self.steps,
            batches,
            recorder,
            Checkpoints(self.attempt, self.model, self.steps.optimizer),
            self.config.training,
            trace=self.config.trace,
            watch=self.watch,
            start={"generators": self.generators, "data": self.dataset.digests(), "opaque": self.steps.opaque},
            data_seeded=self.seeds.all_seeded("data/"),
            stop_requested=self.stop.requested,
        )

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The metrics of the last epoch, the digests of weights and optimizer, and where the run was resumed.
        """
        settings, validation = self.config.training, self.dataset.validation
        batches = Batches(self.dataset.train, self.seeds, settings)
        with contextlib.closing(TrainingProgress(settings.epochs, batches.steps)) as progress:
            recorder = Recorder(self.attempt, progress)
            training = self.make_training(batches, recorder)
            self.stop.wait_for_checkpoint()
            resumed_at = training.run()
        last = recorder.read_complete_trace()[-1]
        logits = training.logits
        if logits is None:  # the run was stopped after its last epoch
            logits = training.steps.evaluate()[1]
        return {
            "metrics": {name: float.fromhex(bits) for name, bits in last["bits"].items()},
            "weights_digest": last["weights"],
            "optimizer_digest": last["optimizer"],
            "predictions_digest": write_predictions(self.attempt, {"labels": validation.labels, "logits": logits}),
            "steps": batches.steps * settings.epochs,
            "resumed_at": resumed_at,
            "unmeasured_operations": training.steps.unmeasured,
            "phases": recorder.phases() | {"prepare_s": self.prepare_s},
        }

    def save_model(self) -> None:
        """Write the model in Keras's format, first to a temporary name.

        Raises:
            RecordError: The disk is full or the folder is missing.
        """
        path, partial = self.attempt / "model.keras", self.attempt / ".partial.keras"
        try:
            self.model.save(partial)
            partial.replace(path)
        except OSError as error:
            raise storage_error(path, error) from error
        finally:
            partial.unlink(missing_ok=True)
