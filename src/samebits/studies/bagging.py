"""Bagging: models that differ only in the bootstrap sample of the training data, and their average.

The root seed derives the seed of bag i from the name data/bootstrap/i. All other seed points, including the split, are
the same for all bags.

    runs/studies/bagging-<name>-<digest>/study.json       the runs, their summary, and the ensemble
    runs/studies/bagging-<name>-<digest>/ensemble.arrays  the ensemble's probabilities for the validation samples

Source: Breiman (1996), "Bagging predictors".
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
    """Return one run per bag.

    Raises:
        ConfigError: Fewer than two bags, a loss without probabilities, or no seeds, so that the split would change.
    """
    if not bags.isdecimal() or not 2 <= int(bags) <= MAX_BAGS:  # noqa: PLR2004  one bag is not an ensemble
        raise ConfigError(
            "--bags", expected=f"a number, 2 to {MAX_BAGS}", received=repr(bags), fix="samebits bagging --bags 10"
        )
    if config.training.loss not in LOSSES:
        raise ConfigError(
            "training.loss", expected=f"a loss on probabilities: {' or '.join(LOSSES)}", received=config.training.loss,
            fix="use samebits study, and average predictions.arrays of its runs yourself",
        )  # fmt: skip
    if config.seed.policy == "unseeded":
        raise ConfigError("seed.policy", expected="a policy that fixes the split", received="unseeded", fix="seed=all")
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
        RecordError: A run's predictions are damaged, or the runs validated on different samples.
    """
    members, labels = zip(*(read_predictions(attempt) for attempt in attempts), strict=True)
    for attempt, other in zip(attempts, labels, strict=True):
        if not np.array_equal(other, labels[0]):
            raise RecordError(
                f"{attempt} validated on other samples than {attempts[0]}.",
                expected="the same validation set for all bags",
                received="labels that differ",
                fix="samebits audit finds randomness outside the seed points in the data function.",
            )
    widest = max(each.shape[1] for each in members)  # a bag without the rarest class has no column for it
    padded = [np.pad(each, ((0, 0), (0, widest - each.shape[1]))) for each in members]
    return {"probabilities": average(padded), "labels": labels[0]}


def describe_ensemble(arrays: dict[str, np.ndarray], members: int) -> dict[str, Any]:
    """Return the ensemble's entry in study.json: number of models, metrics, and digest of the probabilities."""
    loss, accuracy = score(arrays["probabilities"], arrays["labels"])
    digest = array_digest("probabilities", arrays["probabilities"])
    return {"members": members, "val_accuracy": accuracy, "val_loss": loss, "digest": digest}


def show_ensemble(ensemble: dict[str, Any], summary: dict[str, Any]) -> None:
    """Print the metrics of the ensemble and of its members."""
    for metric in METRICS:
        gain = ensemble[metric] - summary[metric]["mean"]
        print(f"{metric}: ensemble {ensemble[metric]:.4f}, single models {summary[metric]['mean']:.4f} ({gain:+.4f})")
    print(f"ensemble of {ensemble['members']}: probabilities {ensemble['digest'][:12]}…")


def run_bagging(compose: Callable[[list[str]], Config], root: pathlib.Path, bags: str, options: LauncherOptions) -> int:
    """Train one model per bag, average their predictions for the validation set, and write study.json.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        bags: The number of bags, as text.
        options: How to start the runs.

    Returns:
        0: all runs finished; 1: some did not, so there is no ensemble.

    Raises:
        ConfigError: Bags, launcher or configuration are wrong; nothing was started.
        RecordError: The predictions of a run are damaged.
    """
    config = compose([])
    runs = make_runs(config, bags)
    study = Study(f"bagging-{config.name}", runs, root)
    started = train(study, options)
    print(f"{len(runs)} bags: {started} started, {len(runs) - started} already finished")
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
