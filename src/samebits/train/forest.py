"""Fits scikit-learn's random forest, whose algorithm is itself random, and records it like a network.

Each tree is a step of the trace. The forest is saved as plain arrays, without pickle. A fit takes seconds to minutes,
so it has no checkpoints, and a stopped fit restarts. Does not know processes, the environment or trackers.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from samebits.core import files
from samebits.core.config import TrainingConfig
from samebits.core.digest import array_digest, arrays_digest, float_bits
from samebits.core.errors import ConfigError
from samebits.core.seeds import Seeds
from samebits.core.terminal import TrainingProgress, describe_values
from samebits.runs.predictions import score, write_predictions
from samebits.runtime.machine import usable_cores
from samebits.runtime.pins import generator_state_digests
from samebits.train.data import Dataset, Split
from samebits.train.draws import GeneratorWatch
from samebits.train.recorder import Recorder

MODEL = "model.arrays"
# Saved field by field, because scikit-learn's array of nodes has padding bytes.
NODE_FIELDS = (
    "feature", "threshold", "children_left", "children_right", "value", "missing_go_to_left", "impurity",
    "n_node_samples", "weighted_n_node_samples",
)  # fmt: skip
HARMLESS = ("checkpoint_every", "log_every", "monitor", "monitor_mode")  # settings without effect on a forest
WITHOUT_MEANING = TrainingConfig(epochs=1)  # the required settings of the loop for a model without a loop


def check_forest(model: Any, settings: TrainingConfig) -> None:
    """Check that the model is a random forest, and that no setting is one that a forest ignores.

    Raises:
        ConfigError: It is not, or there is one. The message has the key.
    """
    if not isinstance(model, RandomForestClassifier):
        raise ConfigError(
            "model._target_",
            expected="a function that returns a keras.Model or scikit-learn's RandomForestClassifier",
            received=f"{type(model).__module__}.{type(model).__name__}",
            fix="return one of these",
        )
    for field in dataclasses.fields(TrainingConfig):
        value, idle = getattr(settings, field.name), getattr(WITHOUT_MEANING, field.name)
        if value != idle and field.name not in HARMLESS:
            raise ConfigError(
                f"training.{field.name}",
                expected=f"{idle}: a forest has no epochs, batches, loss, optimizer or learning rate",
                received=value,
                fix="remove it; the settings of a forest are the keys of model",
            )


def forest_arrays(forest: RandomForestClassifier) -> dict[str, np.ndarray]:
    """Return a fitted forest as arrays: its classes, and the nodes of each tree, e.g. "trees/000/feature"."""
    arrays = {"classes": np.asarray(forest.classes_)}
    for number, estimator in enumerate(forest.estimators_):
        for field in NODE_FIELDS:
            arrays[f"trees/{number:03d}/{field}"] = np.asarray(getattr(estimator.tree_, field))
    return arrays


def class_probabilities(forest: RandomForestClassifier, split: Split) -> np.ndarray:
    """Return the mean of the trees' votes: float64[rows, classes], with one column per label from 0.

    Uses one thread, because several threads would add the votes in a random order and change the bits.
    """
    found = forest.set_params(n_jobs=1).predict_proba(split.inputs)
    columns = forest.classes_.astype(np.int64)
    probabilities = np.zeros((len(found), max(int(columns.max()), int(split.labels.max())) + 1))
    probabilities[:, columns] = found
    return probabilities


class Forest:
    """Trains a forest; see `samebits.train.worker.Trainer`.

    Args:
        model: The forest, with its `random_state` from a seed point.
        dataset: Training and validation rows. The inputs are features, [rows, features].
        settings: The settings of the loop, which a forest does not use.
        seeds: The run's seed points.
        attempt: The run's folder.
    """

    def __init__(
        self, model: Any, dataset: Dataset, settings: TrainingConfig, seeds: Seeds, attempt: pathlib.Path
    ) -> None:
        self.model, self.dataset, self.settings, self.seeds, self.attempt = model, dataset, settings, seeds, attempt
        self.rows: Mapping[str, int] = {}

    def check(self) -> None:
        """Check the model and its settings, see `check_forest`, and the data.

        Raises:
            ConfigError: The training or validation rows are no arrays.
        """
        check_forest(self.model, self.settings)
        for name in ("train", "validation"):
            part = getattr(self.dataset, name)
            if not isinstance(part, Split) or not isinstance(part.inputs, np.ndarray):
                raise ConfigError(
                    f"the {name} data", expected="Split(inputs, labels) with one array each, for a random forest",
                    received=type(part.inputs if isinstance(part, Split) else part).__name__,
                    fix="return arrays in the data function",
                )  # fmt: skip

    def take_seeds(self) -> None:
        """Mark data/order and data/augment as unused."""
        for point in ("data/order", "data/augment"):
            self.seeds.mark_unused(point, because="a forest uses all samples at once")

    def end_stage(self) -> None:
        """Do nothing: a forest has no stages."""

    def init_from(self, runs: pathlib.Path) -> None:
        """Do nothing: a forest has no initial weights."""

    def continue_from(self, previous: Any) -> None:
        """Do nothing: a forest has no stages."""

    def run(self, before: Mapping[str, int] | None = None) -> dict[str, Any]:  # noqa: ARG002  a forest has no stages
        """Fit all trees and record them.

        Returns:
            The same keys as `samebits.train.network.Network.run`, without phases. `resumed_at` is always None.

        Raises:
            UncoveredDrawError: A global generator was used.
        """
        forest, data = self.model, self.dataset
        watch = GeneratorWatch(self.seeds)
        with contextlib.closing(TrainingProgress(1, forest.n_estimators)) as progress:
            recorder = Recorder(self.attempt, progress)
            recorder.keep({})
            start = {"generators": generator_state_digests(), "data": data.digests(), "opaque": []}
            recorder.append_trace({"epoch": 0}, start, {})
            cores = usable_cores()
            progress.say(f"{forest.n_estimators} trees, {cores} in parallel")
            forest.set_params(n_jobs=cores).fit(data.train.inputs, data.train.labels)
            watch.check(1, forest.n_estimators)
            probabilities = {name: class_probabilities(forest, split) for name, split in data.splits().items()}
        values: dict[str, float] = {}
        for name, split in data.splits().items():
            prefix = {"train": "", "validation": "val_", "test": "test_"}[name]
            values[f"{prefix}loss"], values[f"{prefix}accuracy"] = score(probabilities[name], split.labels)
        weights = self.record(recorder, {name: value for name, value in values.items() if not name.startswith("test_")})
        progress.say(describe_values(values))
        recorder.read_complete_trace()
        return {
            "metrics": values,
            "weights_digest": weights,
            "optimizer_digest": arrays_digest({}),
            "predictions_digest": self.write_predictions(probabilities),
            "steps": forest.n_estimators,
            "epochs": 1,
            "epochs_done": 1,
            "stopped_early": False,
            "best_epoch": None,
            "resumed_at": None,
            "unmeasured_operations": [],
        }

    def write_predictions(self, probabilities: dict[str, np.ndarray]) -> str | None:
        """Write the votes for the validation rows, and return their digest; None if there are no such rows."""
        if self.dataset.validation is None:
            return None
        arrays = {"labels": self.dataset.validation.labels, "probabilities": probabilities["validation"]}
        return write_predictions(self.attempt, arrays)

    def record(self, recorder: Recorder, values: dict[str, float]) -> str:
        """Append the metrics, one trace row per tree and one for the forest. Returns the weights digest."""
        trees: dict[str, dict[str, str]] = {}
        digests = {name: array_digest(name, array) for name, array in forest_arrays(self.model).items()}
        for name, digest in digests.items():
            if name.startswith("trees/"):
                trees.setdefault(name.rpartition("/")[0], {})[name] = digest
        for number, tensors in enumerate(trees.values(), 1):
            recorder.append_trace({"epoch": 1, "step": number}, {}, tensors)
        bits = {name: float_bits(value) for name, value in values.items()}
        wholes = {tree: arrays_digest(tensors) for tree, tensors in trees.items()}
        weights = arrays_digest(digests)
        recorder.append_trace({"epoch": 1}, {"bits": bits, "optimizer": arrays_digest({})}, wholes, weights)
        recorder.append_metrics(1, len(trees), values)
        return weights

    def save_model(self) -> None:
        """Write the arrays of the forest.

        Raises:
            RecordError: The disk is full or the folder is missing.
        """
        files.write_arrays(self.attempt / MODEL, forest_arrays(self.model))
