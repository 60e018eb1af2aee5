"""Bagging: models that differ only in the bootstrap sample of the training data, and their average.

The root seed derives the seed of bag i from the name data/bootstrap/i. All other seed points, including the split, are
the same for all bags.

    runs/studies/bagging-<name>-<digest>/study.json       the runs, their summary, and the ensemble
    runs/studies/bagging-<name>-<digest>/ensemble.arrays  the ensemble's probabilities for the validation samples

Source: Breiman (1996), "Bagging predictors".
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from samebits.core.config import Config
from samebits.core.digest import array_digest
from samebits.core.errors import ConfigError, RecordError
from samebits.core.files import write_arrays
from samebits.core.seeds import derive_seed, dotted_key
from samebits.core.terminal import describe_value, shown_path
from samebits.runs.predictions import average, read_class_probabilities, score
from samebits.studies.execute import LauncherOptions, train
from samebits.studies.plan import Run, Study
from samebits.studies.study import BASE, STUDY, show_failed, show_records, write_summary

ENSEMBLE = "ensemble.arrays"
POINT = "data/bootstrap"
MAX_BAGS = 10_000
SCORES = ("cross_entropy", "accuracy")  # as `score` returns them


def make_runs(config: Config, bags: str) -> list[Run]:
    """Return one run per bag.

    Raises:
        ConfigError: Fewer than two bags, or no seeds, so that the split would change.
    """
    if not bags.isdecimal() or not 2 <= int(bags) <= MAX_BAGS:  # noqa: PLR2004  one bag is not an ensemble
        raise ConfigError(
            "--bags", expected=f"a number, 2 to {MAX_BAGS}", received=repr(bags), fix="samebits bagging --bags 10"
        )
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


def make_ensemble(attempts: list[pathlib.Path]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the average of finished runs and its entry in study.json.

    Returns:
        "probabilities" float64[rows, classes] and "labels" int[rows]; the number of models, their mean scores, those of
        the average, and the digest of its probabilities.

    Raises:
        RecordError: A run's predictions are damaged or are not probabilities of classes, or the runs validated on
            different samples.
    """
    members, labels = zip(*(read_class_probabilities(attempt) for attempt in attempts), strict=True)
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
    arrays = {"probabilities": average(padded), "labels": labels[0]}
    singles = zip(*(score(each, labels[0]) for each in padded), strict=True)
    means = {f"single_{name}": math.fsum(values) / len(padded) for name, values in zip(SCORES, singles, strict=True)}
    scores = dict(zip(SCORES, score(**arrays), strict=True))
    digest = array_digest("probabilities", arrays["probabilities"])
    return arrays, {"members": len(padded), **scores, **means, "digest": digest}


def show_ensemble(ensemble: dict[str, Any]) -> None:
    """Print the scores of the ensemble and the mean scores of its members."""
    for name in SCORES:
        whole, single = ensemble[name], ensemble[f"single_{name}"]
        gain = describe_value(whole - single, "+")
        values = f"ensemble {describe_value(whole)}, single models {describe_value(single)} ({gain})"
        print(f"{name.replace('_', ' ')} on the validation samples: {values}")
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
        RecordError: The predictions of a run are damaged or are not probabilities of classes. study.json has the runs.
    """
    config = compose([])
    runs = make_runs(config, bags)
    study = Study(f"bagging-{config.name}", runs, root)
    started = train(study, options)
    print(f"{len(runs)} bags: {started} started, {len(runs) - started} already finished")
    records = list(study.records())
    concluded, failed = write_summary(study, records, {"ensemble": {}})
    show_records(records, concluded)
    if not failed:  # a run that did not finish has no predictions to average
        arrays, ensemble = make_ensemble([study.inputs_folder(i) / str(each.attempt) for i, each in enumerate(records)])
        write_arrays(study.folder / ENSEMBLE, arrays)
        write_summary(study, records, {"ensemble": ensemble})
        show_ensemble(ensemble)
    print(f"bagging: {shown_path(study.folder / STUDY, root)}")
    return show_failed(failed, len(runs))
