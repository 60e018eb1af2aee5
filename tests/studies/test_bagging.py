"""Bagging: only the bootstrap sample varies, and the ensemble is the average of the runs' predictions."""

import json
import pathlib

import numpy as np
import pytest
from conftest import ROOT, Command, command_in_process, copy_project, finished, forks
from pinned_trainer import PinnedTrainer

from samebits import compose
from samebits.core.errors import RecordError
from samebits.core.files import read_arrays, write_json
from samebits.core.seeds import resolve_points
from samebits.runs.compare import first_difference
from samebits.runs.folder import PREDICTIONS, read_json, read_rows
from samebits.runs.predictions import read_class_probabilities, write_predictions
from samebits.studies.bagging import ENSEMBLE, make_ensemble, make_runs

pytestmark = pytest.mark.full  # whole trainings, one after another

TINY = ("experiment=smoke", "tracker=none", "training.epochs=1", "training.steps_per_epoch=8")


@pytest.fixture(scope="module")
def bagged(trainer: PinnedTrainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """Return a project with three trained bags, and the output."""
    root = copy_project(tmp_path_factory.mktemp("bagging"))
    with forks(trainer) as patch:
        done = command_in_process(patch, root, "bagging", "--bags=3", *TINY)

    assert 0 == done.returncode, done.stdout + done.stderr
    return root, done.stdout


def read_study(root: pathlib.Path) -> dict[str, object]:
    """Return the study.json of the bags."""
    found: dict[str, object] = json.loads(next((root / "runs/studies").glob("bagging-*/study.json")).read_text())
    return found


def test_bags_differ_in_their_bootstrap_alone() -> None:
    """Only data.bootstrap and its seed differ between bags; another root seed gives other bags."""
    config = compose.compose(ROOT, list(TINY))
    base = resolve_points(56, "derived", config.seed.points)
    seeds = []
    for run in make_runs(config, "3"):
        bag = run.config()
        points = resolve_points(bag.seed.root, bag.seed.policy, bag.seed.points)

        assert ["data/bootstrap"] == [name for name in base if points[name].value != base[name].value]
        assert {**config.data, "bootstrap": True} == bag.data
        assert (config.model, config.training) == (bag.model, bag.training)
        seeds.append(points["data/bootstrap"].value)
    others = make_runs(compose.compose(ROOT, [*TINY, "seed.root=57"]), "3")

    assert 3 == len(set(seeds))
    assert not {value for run in others for _, value in run.settings[1:]} & set(seeds)


def test_the_bags_trained_on_other_rows_and_validated_on_the_same(bagged: tuple[pathlib.Path, str]) -> None:
    """The digests of the training data differ; those of the validation data are equal."""
    data = [read_rows(attempt / "trace.jsonl")[0]["data"] for attempt in finished(bagged[0])]

    assert 3 == len({each["train/labels"] for each in data})
    assert 1 == len({each["validation/labels"] + each["validation/inputs"] for each in data})


def test_a_run_predicts_what_it_was_evaluated_with(bagged: tuple[pathlib.Path, str]) -> None:
    """The accuracy from the saved logits is exactly the run's, in float32; the loss agrees to float32 precision."""
    for attempt in finished(bagged[0]):
        metrics = read_json(attempt / "result.json")["metrics"]
        arrays = read_arrays(attempt / PREDICTIONS)
        logits = arrays["logits"][:, 0].astype(np.float64)
        losses = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * arrays["labels"]

        assert ("float32", (120, 1)) == (arrays["logits"].dtype.name, arrays["logits"].shape)
        right = (logits > 0) == arrays["labels"]
        assert metrics["val_accuracy"] == float(np.float32(right.sum()) / np.float32(len(right)))
        assert abs(metrics["val_loss"] - losses.mean()) < 1e-6


def test_the_ensemble_is_the_average(bagged: tuple[pathlib.Path, str]) -> None:
    """The probabilities are the mean of the runs, the accuracy follows from them, and the table lists the runs."""
    root, said = bagged
    study = read_study(root)
    arrays = read_arrays(next((root / "runs" / "studies").glob(f"bagging-*/{ENSEMBLE}")))
    mean = np.mean([read_class_probabilities(attempt)[0] for attempt in finished(root)], axis=0)
    accuracy = float(np.mean(arrays["probabilities"].argmax(1) == arrays["labels"]))
    ensemble: dict[str, object] = study["ensemble"]  # type: ignore[assignment]

    assert np.allclose(mean, arrays["probabilities"], rtol=1e-15, atol=0)
    assert (3, accuracy) == (ensemble["members"], ensemble["accuracy"])
    assert f"accuracy on the validation samples: ensemble {accuracy:.4f}, single models" in said
    assert str(ensemble["digest"])[:12] in said


def test_again_nothing_is_trained_and_the_ensemble_is_the_same(
    bagged: tuple[pathlib.Path, str], command_here: Command
) -> None:
    """Finished runs are reused, and the average has the same bits in every order of the runs."""
    root, said = bagged
    again = command_here(root, "bagging", "--bags=3", *TINY)
    attempts = finished(root)
    swapped = make_ensemble([attempts[2], attempts[0], attempts[1]])[0]["probabilities"]

    assert "3 bags: 0 started, 3 already finished" in again.stdout
    assert said.splitlines()[-3:] == again.stdout.splitlines()[-3:]
    assert make_ensemble(attempts)[0]["probabilities"].tobytes() == swapped.tobytes()


def test_verify_compares_predictions(bagged: tuple[pathlib.Path, str], tmp_path: pathlib.Path) -> None:
    """A change of one ulp in one logit is detected, although weights, metrics and trace are equal."""
    attempt = finished(bagged[0])[0]
    for name in ("trace.jsonl", "metrics.jsonl"):
        (tmp_path / name).write_bytes((attempt / name).read_bytes())
    arrays = read_arrays(attempt / PREDICTIONS)
    arrays["logits"][7, 0] = np.nextafter(arrays["logits"][7, 0], np.float32(9))
    result = read_json(attempt / "result.json") | {"predictions_digest": write_predictions(tmp_path, arrays)}
    write_json(tmp_path / "result.json", result)

    assert "" == first_difference(attempt, attempt)
    assert "predictions digest" == first_difference(attempt, tmp_path)


def test_runs_of_other_validation_rows_have_no_average(
    bagged: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    """A run that validated on other samples is named."""
    attempt = finished(bagged[0])[0]
    arrays = read_arrays(attempt / PREDICTIONS)
    arrays["labels"] = arrays["labels"][::-1].copy()
    result = read_json(attempt / "result.json") | {"predictions_digest": write_predictions(tmp_path, arrays)}
    write_json(tmp_path / "result.json", result)
    with pytest.raises(RecordError, match=f"{tmp_path} validated on other samples than"):
        make_ensemble([attempt, tmp_path])


def test_a_bag_without_the_rarest_class_counts_as_nothing_for_it(tmp_path: pathlib.Path) -> None:
    """A forest that never saw a class has no column for it, so its probability of that class is 0."""
    labels = np.array([0, 1], np.int32)
    members = [np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])]
    for number, member in enumerate(members):
        folder = tmp_path / str(number)
        folder.mkdir()
        digest = write_predictions(folder, {"labels": labels, "probabilities": member})
        write = {"metrics": {"loss": 0.5}, "timing": {}, "resumed_at": None}
        names = ("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint")
        write_json(folder / "result.json", write | dict.fromkeys(names, "x") | {"predictions_digest": digest})
    found = make_ensemble([tmp_path / "0", tmp_path / "1"])[0]["probabilities"]

    assert [[0.5, 0.25, 0.25], [0.125, 0.875, 0.0]] == found.tolist()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--bags=1", "--bags: expected a number, 2 to 10000, received '1'"),
        ("--bags=many", "--bags: "),
        ("seed=none", "seed.policy: expected a policy that fixes the split"),
    ],
)
def test_bad_usage_of_bagging_is_one_line(
    option: str, words: str, project: pathlib.Path, command_here: Command
) -> None:
    """The error comes before any run starts."""
    done = command_here(project, "bagging", option, *TINY)

    assert 2 == done.returncode
    assert words in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert not (project / "runs").exists()


def test_a_failed_bag_leaves_no_ensemble(project: pathlib.Path, command_here: Command) -> None:
    """If a run fails, there is no ensemble; the failed runs are listed and the exit code is 1."""
    done = command_here(project, "bagging", "--bags=2", *TINY, "data.rows=3")

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "INCOMPLETE: 2 of 2 runs did not finish" in done.stdout
    assert {} == read_study(project)["ensemble"]
