"""Bagging: models that differ in the bootstrap sample of the training rows alone, and their average.

Bag number i of a root seed is drawn with the seed that the root gives to the name data/bootstrap/i; every other seed
point, the split first of all, is held. The idea is that of Breiman (1996), "Bagging predictors".

    runs/studies/bagging-<name>-<digest>/study.json       the runs, their summary and the ensemble's
    runs/studies/bagging-<name>-<digest>/ensemble.arrays  its probabilities of the validation rows
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from samebits.core.config import Config
from samebits.core.digest import array_digest
from samebits.core.errors import ConfigError, RecordError
from samebits.core.files import write_arrays
from samebits.core.seeds import derive_seed, dotted_key
from samebits.core.short_names import LOSSES
from samebits.core.terminal import shown_path
from samebits.runs.predictions import average, read_predictions, score
from samebits.studies.execute import LauncherOptions, train
from samebits.studies.plan import Run, Study
from samebits.studies.study import BASE, METRICS, STUDY, show_failed, show_records, write_summary

ENSEMBLE = "ensemble.arrays"
POINT = "data/bootstrap"
MAX_BAGS = 10_000


def make_runs(config: Config, bags: str) -> list[Run]:
    """Return the run of every bag.

    Raises:
        ConfigError: Less than two bags, a loss without probabilities, or nothing seeded, so that nothing can be held.
    """
    if not bags.isdecimal() or not 2 <= int(bags) <= MAX_BAGS:  # noqa: PLR2004  one bag is no ensemble
        raise ConfigError(
            "--bags", expected=f"a number, 2 to {MAX_BAGS}", received=repr(bags), fix="samebits bagging --bags 10"
        )
    if config.training.loss not in LOSSES:
        raise ConfigError(
            "training.loss", expected=f"one of probabilities: {' or '.join(LOSSES)}", received=config.training.loss,
            fix="average the predictions.arrays of the runs of samebits study by yourself",
        )  # fmt: skip
    if config.seed.policy == "unseeded":
        raise ConfigError("seed.policy", expected="one that holds the split", received="unseeded", fix="seed=all")
    return [
        Run(
            BASE,
            bag,
            config,
            (("data.bootstrap", True), (dotted_key(POINT), derive_seed(config.seed.root, f"{POINT}/{bag}"))),
            varied="bag",
        )
        for bag in range(1, int(bags) + 1)
    ]


def make_ensemble(attempts: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """Return the average of finished runs: "probabilities" float64[rows, classes] and "labels" int32[rows].

    Raises:
        RecordError: A run's predictions are damaged, or of other rows.
    """
    members, labels = zip(*(read_predictions(attempt) for attempt in attempts), strict=True)
    for attempt, other in zip(attempts, labels, strict=True):
        if not np.array_equal(other, labels[0]):
            raise RecordError(
                f"{attempt} validated on other rows than {attempts[0]}.",
                expected="one validation part for all bags",
                received="labels that differ",
                fix="look for a draw outside the seed points in the data function: samebits audit.",
            )
    widest = max(each.shape[1] for each in members)  # a bag without the rarest class has no column for it
    padded = [np.pad(each, ((0, 0), (0, widest - each.shape[1]))) for each in members]
    return {"probabilities": average(padded), "labels": labels[0]}


def describe_ensemble(arrays: dict[str, np.ndarray], members: int) -> dict[str, Any]:
    """Return the ensemble as study.json has it: how many models, its metrics, and the digest of its probabilities."""
    loss, accuracy = score(arrays["probabilities"], arrays["labels"])
    digest = array_digest("probabilities", arrays["probabilities"])
    return {"members": members, "val_accuracy": accuracy, "val_loss": loss, "digest": digest}


def show_ensemble(ensemble: dict[str, Any], summary: dict[str, Any]) -> None:
    """Print the ensemble against its members."""
    for metric in METRICS:
        gain = ensemble[metric] - summary[metric]["mean"]
        print(f"{metric}: ensemble {ensemble[metric]:.4f}, single models {summary[metric]['mean']:.4f} ({gain:+.4f})")
    print(f"ensemble of {ensemble['members']}: probabilities {ensemble['digest'][:12]}…")


def run_bagging(compose: Callable[[list[str]], Config], root: pathlib.Path, bags: str, options: LauncherOptions) -> int:
    """Train a model for each bag, average what they say of the validation rows, and write study.json.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        bags: How many.
        options: How the runs are started.

    Returns:
        0: all runs finished; 1: not, and there is no ensemble.

    Raises:
        ConfigError: Bags, launcher or the configuration are wrong; nothing was begun.
        RecordError: Predictions of a run are damaged.
    """
    config = compose([])
    runs = make_runs(config, bags)
    study = Study(f"bagging-{config.name}", runs, root)
    began = train(study, options)
    print(f"{len(runs)} bags: {began} begun, {len(runs) - began} finished before")
    records = list(study.records())
    found = [study.finished(number) for number in range(len(runs))]
    attempts = [attempt for attempt in found if attempt is not None]
    ensemble: dict[str, Any] = {}
    if len(attempts) == len(runs):
        arrays = make_ensemble(attempts)
        write_arrays(study.folder / ENSEMBLE, arrays)
        ensemble = describe_ensemble(arrays, len(runs))
    concluded, failed = write_summary(study, records, {"ensemble": ensemble})
    show_records(records, concluded)
    if ensemble:
        show_ensemble(ensemble, concluded["summary"][BASE])
    print(f"bagging: {shown_path(study.folder / STUDY, root)}")
    return show_failed(failed, len(runs))
