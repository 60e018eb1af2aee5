"""Studies, folds, variance and bagging with metrics of any name, which some runs lack."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from samebits import compose
from samebits.core.config import Config
from samebits.core.errors import RecordError
from samebits.runs.folder import RESULT
from samebits.runs.predictions import write_predictions
from samebits.studies import bagging, execute, folds, study, variance
from samebits.studies.execute import LauncherOptions
from samebits.studies.plan import Study, describe_record

Values = Callable[[int], dict[str, float]]
MONITORED = ("experiment=smoke", "tracker=none", "training.monitor=val_mae")
TEXTS = dict.fromkeys(("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint"), "0" * 64)
LABELS = np.array([0, 1, 1, 1], np.int32)


@pytest.fixture
def finish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets every run finish at once with made-up results, instead of training it."""

    def finish(values: Values, predictions: Callable[[int], dict[str, np.ndarray]] | None = None) -> None:
        def train(made: Study, _options: LauncherOptions) -> int:
            made.folder.mkdir(parents=True, exist_ok=True)
            missing = made.missing()
            for number in missing:
                attempt = made.inputs_folder(number) / "1"
                attempt.mkdir(parents=True)
                result: dict[str, Any] = {"metrics": values(number), "timing": {}, "resumed_at": None, **TEXTS}
                if predictions:
                    result["predictions_digest"] = write_predictions(attempt, predictions(number))
                (attempt / RESULT).write_text(json.dumps(result))
            return len(missing)

        for module, name in (
            (execute, "train"),
            (study, "train"),
            (variance, "train"),
            (bagging, "train"),
            (folds, "train_study"),
        ):
            monkeypatch.setattr(module, name, train)

    return finish


def composer(runs: pathlib.Path, *words: str) -> Callable[[list[str]], Config]:
    """Return the function that composes a configuration with more overrides."""
    return lambda more: compose.compose(ROOT, [*MONITORED, f"paths.runs={runs}", *words, *more])


def read_study(runs: pathlib.Path) -> dict[str, Any]:
    """Return the contents of the only study.json."""
    (path,) = (runs / "studies").glob("*/study.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def regression(number: int) -> dict[str, float]:
    """Return the metrics of a regression; the larger the number, the smaller the error."""
    error = 1 / (number + 2)
    splits = {"": error, "val_": error + 0.25, "test_": error + 0.5}
    return {f"{split}{name}": value for split, value in splits.items() for name in ("loss", "mae")}


def test_a_regression_is_ranked_by_its_error(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The least error is the best seed, MAE comes first, no accuracy appears, and the test split is apart."""
    finish(regression)
    code = study.run_study(composer(tmp_path), ROOT, "1..4", [], LauncherOptions())
    said, found = capsys.readouterr().out, read_study(tmp_path)
    summary = found["summary"]["base"]

    assert 0 == code
    assert ["val_mae", "val_loss", "test_loss", "test_mae"] == list(summary)
    assert (4, 1) == (summary["val_mae"]["best_seed"], summary["val_mae"]["worst_seed"])
    assert regression(0)["val_mae"] == found["runs"][0]["metrics"]["val_mae"]
    assert said.index("val_mae") < said.index("val_loss") < said.index("test split") < said.index("test_mae")
    assert "accuracy" not in said
    assert "note:" not in said


def test_lower_error_is_an_improvement(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second configuration has less error and less AUC for each seed: better in one, worse in the other."""

    def values(number: int) -> dict[str, float]:
        return {"val_mae": 0.5 - number / 10, "val_auc": 0.9 - number / 10, "val_wealth": 1.0 * number}

    finish(values)
    study.run_study(composer(tmp_path), ROOT, "1..2", ["model.dropout_rate=0.5"], LauncherOptions())
    said = capsys.readouterr().out

    assert "val_mae: model.dropout_rate=0.5 is better; difference -0.1000" in said
    assert "2 wins, 0 ties, 0 losses" in said
    assert "val_auc: model.dropout_rate=0.5 is worse; difference -0.1000" in said
    assert "0 wins, 0 ties, 2 losses" in said
    assert "note: val_wealth is not compared: its name does not say whether higher is better" in said
    assert [None, 1] == [
        read_study(tmp_path)["summary"]["base"][name]["best_seed"] for name in ("val_wealth", "val_auc")
    ]


def test_a_mode_ranks_a_metric_of_an_unknown_name(finish: Callable[..., None], tmp_path: pathlib.Path) -> None:
    """Of the same values, another seed is the best one with the other mode."""
    best = []
    finish(lambda number: {"wealth": 1.0 * number})
    for mode in ("min", "max"):
        words = ("training.monitor=wealth", f"training.monitor_mode={mode}")
        study.run_study(composer(tmp_path / mode, *words), ROOT, "1..3", [], LauncherOptions())
        best.append(read_study(tmp_path / mode)["summary"]["base"]["wealth"]["best_seed"])

    assert [1, 3] == best


def test_runs_without_the_monitored_metric_are_told(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing value and one that is not finite are counted and left out; the others are summarized."""
    finish(
        lambda number: {"val_loss": 0.5, **({} if number == 0 else {"val_mae": float("nan") if number == 1 else 1.0})}
    )
    code = study.run_study(composer(tmp_path), ROOT, "1..3", [], LauncherOptions())
    said, found = capsys.readouterr().out, read_study(tmp_path)

    assert 0 == code
    assert "note: base: 2 of 3 finished runs have no finite val_mae" in said
    assert (1, 3) == tuple(found["summary"]["base"][name]["n"] for name in ("val_mae", "val_loss"))
    assert ["val_loss"] == list(found["runs"][1]["metrics"])


def test_runs_without_any_metric_are_told(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command of many runs crashes if its runs recorded no metric."""
    finish(lambda _: {})
    made = composer(tmp_path)
    commands: dict[str, Callable[[], int]] = {
        "study": lambda: study.run_study(made, ROOT, "1..2", [], LauncherOptions()),
        "variance": lambda: variance.run_variance(made, ROOT, "1..2", LauncherOptions()),
        "folds": lambda: folds.train_folds(made(["data.folds=2", "data.fold=null"]), ROOT),
    }
    for command in commands.values():
        assert 0 == command()
        assert "2 of 2 finished runs have no finite val_mae" in capsys.readouterr().out
    assert 3 == len(list((tmp_path / "studies").glob("*/study.json")))


def test_folds_show_the_metrics_that_there_are(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has MAE first; a fold without a metric has a dash; the test split has a table of its own."""
    finish(lambda number: regression(number) | ({} if number else {"val_auc": 0.75}))
    folds.train_folds(composer(tmp_path)(["data.folds=3", "data.fold=null"]), ROOT)
    said = capsys.readouterr().out

    assert said.index("val_mae") < said.index("val_loss") < said.index("val_auc") < said.index("test split")
    assert "note: base: 2 of 3 finished runs have no finite val_auc" in said
    assert "accuracy" not in said


@pytest.mark.full
def test_variance_measures_the_metrics_that_there_are(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MAE comes first, the test split is not used, and the picture has a panel per metric."""
    finish(regression)
    code = variance.run_variance(composer(tmp_path), ROOT, "1..2", LauncherOptions())
    said, found = capsys.readouterr().out, read_study(tmp_path)

    assert 0 == code
    assert ["val_mae", "val_loss"] == list(dict.fromkeys(row["metric"] for row in found["variance"]))
    assert "test_mae" not in said + json.dumps(found["variance"])
    assert [True, True] == [any((tmp_path / "studies").glob(f"*/{name}")) for name in variance.PICTURES]


def test_a_line_about_a_run_starts_with_the_monitored_metric(
    finish: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    """At most three metrics, whatever their number."""
    many = {f"val_{name}": 0.5 for name in ("loss", "a_loss", "b_loss", "c_loss", "mae")}
    finish(lambda _: many)
    made = Study("s", bagging.make_runs(composer(tmp_path)([]), "2"), ROOT)
    execute.train(made, LauncherOptions())

    said = describe_record(made.record(0))
    assert "base  bag 1  val_mae 0.5000  val_loss 0.5000  val_a_loss 0.5000  weights 000000000000" == said


def bag(number: int) -> dict[str, np.ndarray]:
    """Return the predictions of one bag: certain of class 1 in the first, of class 0 in the second."""
    logit = 8.0 if number == 0 else -2.0
    return {"labels": LABELS, "logits": np.full((4, 1), logit, np.float32)}


def test_bagging_scores_classes_without_any_accuracy_of_the_runs(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ensemble and single models are scored alike, from their probabilities."""
    finish(lambda _: {"val_auc": 0.5}, bag)
    code = bagging.run_bagging(composer(tmp_path), ROOT, "2", LauncherOptions())
    said, found = capsys.readouterr().out, read_study(tmp_path)["ensemble"]

    assert 0 == code
    assert (2, 0.75, 0.5) == (found["members"], found["accuracy"], found["single_accuracy"])
    assert found["cross_entropy"] < found["single_cross_entropy"]
    assert "accuracy on the validation samples: ensemble 0.7500, single models 0.5000 (+0.2500)" in said


def test_bagging_of_a_regression_names_its_predictions(finish: Callable[..., None], tmp_path: pathlib.Path) -> None:
    """The runs are kept in study.json, and the error says what was predicted."""
    finish(regression, lambda _: {"labels": np.array([0.5, 1.5]), "outputs": np.zeros((2, 1), np.float32)})
    with pytest.raises(RecordError, match="not probabilities of classes") as caught:
        bagging.run_bagging(composer(tmp_path), ROOT, "2", LauncherOptions())

    assert "labels float64[2], outputs float32[2, 1]" in str(caught.value.received)
    assert (2, {}) == (len(read_study(tmp_path)["runs"]), read_study(tmp_path)["ensemble"])


def test_bagging_judges_no_run_that_did_not_finish(
    finish: Callable[..., None], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with a damaged result is listed as failed, and there is no ensemble."""
    finish(lambda _: {"val_auc": 0.5}, bag)
    bagging.run_bagging(composer(tmp_path), ROOT, "2", LauncherOptions())
    capsys.readouterr()
    (folder,) = (tmp_path / "studies").iterdir()
    second = json.loads((folder / "study.json").read_text())["runs"][1]["inputs"]
    (tmp_path / "smoke" / second / "1" / RESULT).write_text("{")
    code = bagging.run_bagging(composer(tmp_path), ROOT, "2", LauncherOptions())
    said = capsys.readouterr().out

    assert 1 == code
    assert "INCOMPLETE: 1 of 2 runs did not finish" in said
    assert "ensemble" not in said
    assert {} == read_study(tmp_path)["ensemble"]
