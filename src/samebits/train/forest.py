"""Fits scikit-learn's random forest, whose algorithm is random by nature, and records it as the loop does a network.

A tree is a step of the trace. The forest is kept as plain arrays, without pickle. A fit takes seconds to minutes, so it
has no checkpoints: one that was stopped begins anew. Knows nothing of processes, the environment or trackers.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from samebits.core.config import TrainingConfig
from samebits.core.digest import array_digest, arrays_digest, float_bits
from samebits.core.errors import ConfigError
from samebits.core.files import append_row, write_arrays
from samebits.core.seeds import Seeds
from samebits.core.terminal import TrainingProgress
from samebits.runs.folder import METRICS, TRACE, keep_rows
from samebits.runs.predictions import score, write_predictions
from samebits.runtime.machine import usable_cores
from samebits.runtime.pins import first_draws
from samebits.train.data import Dataset, Split
from samebits.train.draws import GeneratorWatch

MODEL = "model.arrays"
# Field by field: scikit-learn's own array of nodes has padding bytes between them.
NODE_FIELDS = (
    "feature", "threshold", "children_left", "children_right", "value", "missing_go_to_left", "impurity",
    "n_node_samples", "weighted_n_node_samples",
)  # fmt: skip
WITHOUT_MEANING = TrainingConfig(epochs=1)  # what the settings of the loop must be for a model that has no loop


def check_forest(model: Any, settings: TrainingConfig) -> None:
    """Refuse what is no random forest, and settings of the training loop that a forest would ignore.

    Raises:
        ConfigError: Names the key.
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
        if value != idle and field.name not in ("checkpoint_every", "log_every"):
            raise ConfigError(
                f"training.{field.name}",
                expected=f"{idle}: a forest has no epochs, batches, loss, optimizer or learning rate",
                received=value,
                fix="leave it out; the forest's own settings are the keys of model",
            )


def forest_arrays(forest: RandomForestClassifier) -> dict[str, np.ndarray]:
    """Return everything that a fitted forest knows: its classes, and each tree's nodes as "trees/000/feature"."""
    arrays = {"classes": np.asarray(forest.classes_)}
    for number, estimator in enumerate(forest.estimators_):
        for field in NODE_FIELDS:
            arrays[f"trees/{number:03d}/{field}"] = np.asarray(getattr(estimator.tree_, field))
    return arrays


def class_probabilities(forest: RandomForestClassifier, split: Split) -> np.ndarray:
    """Return the mean of the trees' votes: float64[rows, classes], a column for every label from 0.

    One thread adds them up: several would in the order in which they come, and the bits would follow.
    """
    found = forest.set_params(n_jobs=1).predict_proba(split.inputs)
    columns = forest.classes_.astype(np.int64)
    probabilities = np.zeros((len(found), max(int(columns.max()), int(split.labels.max())) + 1))
    probabilities[:, columns] = found
    return probabilities


class Fitting:
    """One fit of a forest.

    Args:
        forest: With its `random_state` from a seed point.
        dataset: Training and validation rows; inputs are features, [rows, features].
        seeds: Whose global generators must not move.
        attempt: The run's folder.
    """

    def __init__(self, forest: RandomForestClassifier, dataset: Dataset, seeds: Seeds, attempt: pathlib.Path) -> None:
        self.forest, self.dataset, self.attempt = forest, dataset, attempt
        self.watch = GeneratorWatch(seeds)

    def run(self) -> dict[str, Any]:
        """Fit all trees, and record them.

        Returns:
            What `samebits.train.loop.Training.run` returns; there is no optimizer and nothing is resumed.

        Raises:
            UncoveredDrawError: A global generator moved.
        """
        forest, data = self.forest, self.dataset
        for name in (METRICS, TRACE):
            keep_rows(self.attempt / name, 0)
        nothing = arrays_digest({})
        start = {"epoch": 0, "generators": first_draws(), "data": data.digests(), "opaque": []}
        append_row(self.attempt / TRACE, {**start, "weights": nothing, "tensors": {}})
        cores = usable_cores()
        progress = TrainingProgress(1, forest.n_estimators)
        progress.say(f"{forest.n_estimators} trees, {cores} at once")
        try:
            forest.set_params(n_jobs=cores).fit(data.train.inputs, data.train.labels)
            self.watch.check(1, forest.n_estimators)
            probabilities = {name: class_probabilities(forest, getattr(data, name)) for name in ("train", "validation")}
        finally:
            progress.close()
        loss, accuracy = score(probabilities["train"], data.train.labels)
        val_loss, val_accuracy = score(probabilities["validation"], data.validation.labels)
        metrics = {"loss": loss, "accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
        weights = self.record(metrics)
        predictions = {"labels": data.validation.labels, "probabilities": probabilities["validation"]}
        progress.say("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        return {
            "metrics": metrics,
            "weights_digest": weights,
            "optimizer_digest": nothing,
            "predictions_digest": write_predictions(self.attempt, predictions),
            "steps": forest.n_estimators,
            "resumed_at": None,
            "unmeasured_operations": [],
        }

    def record(self, metrics: dict[str, float]) -> str:
        """Write a row of the trace for every tree and one for all, and the metrics; returns the weights digest."""
        trees: dict[str, dict[str, str]] = {}
        digests = {name: array_digest(name, array) for name, array in forest_arrays(self.forest).items()}
        for name, digest in digests.items():
            if name.startswith("trees/"):
                trees.setdefault(name.rpartition("/")[0], {})[name] = digest
        wholes = {tree: arrays_digest(tensors) for tree, tensors in trees.items()}
        for number, (tree, tensors) in enumerate(trees.items(), 1):
            append_row(self.attempt / TRACE, {"epoch": 1, "step": number, "weights": wholes[tree], "tensors": tensors})
        weights = arrays_digest(digests)
        bits = {name: float_bits(value) for name, value in metrics.items()}
        last = {"epoch": 1, "bits": bits, "weights": weights, "optimizer": arrays_digest({}), "tensors": wholes}
        append_row(self.attempt / TRACE, last)
        append_row(self.attempt / METRICS, {"epoch": 1, "step": len(trees), **metrics})
        return weights

    def save_model(self) -> None:
        """Write the forest's arrays.

        Raises:
            RecordError: The disk is full or the folder is gone.
        """
        write_arrays(self.attempt / MODEL, forest_arrays(self.forest))
