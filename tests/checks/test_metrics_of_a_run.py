"""What one run prints, draws and uploads if its metrics have other names: real records, renamed."""

import json
import pathlib
from typing import Any

import pytest
import yaml
from conftest import ROOT, finished

from samebits.checks import explain, portability, rounds
from samebits.compose import compose
from samebits.core.config import Config
from samebits.launch import comet, run, tracker
from samebits.runs.compare import compare_with_siblings
from samebits.runs.folder import read_metrics
from samebits.runtime.emulators import Machine


def rename(attempt: pathlib.Path, old: str = "accuracy", new: str = "mae", **more: Any) -> None:
    """Rename a metric in an attempt's records, monitor its validation values, and add entries to the result."""
    for name in ("metrics.jsonl", "trace.jsonl", "result.json"):
        text = (attempt / name).read_text()
        (attempt / name).write_text(text.replace(f'"{old}"', f'"{new}"').replace(f'"val_{old}"', f'"val_{new}"'))
    result = json.loads((attempt / "result.json").read_text())
    result["metrics"] |= more.pop("metrics", {})
    (attempt / "result.json").write_text(json.dumps(result | more))
    tree = yaml.safe_load((attempt / "config.yaml").read_text())
    tree["training"]["monitor"] = f"val_{new}"
    (attempt / "config.yaml").write_text(yaml.safe_dump(tree))


@pytest.fixture
def attempts(own_siblings: pathlib.Path) -> list[pathlib.Path]:
    """Return two attempts with the metrics of a regression, which stopped early and have a test split."""
    found = finished(own_siblings)
    for attempt in found:
        metrics = {"test_loss": 0.5, "test_mae": 0.00025}
        rename(attempt, metrics=metrics, stopped_early=True, epochs_done=2, best_epoch=1)
    return found


def shown(attempt: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that a finished run prints."""
    capsys.readouterr()
    assert not run.show_result(attempt, ROOT, compare_with_siblings(attempt))
    return capsys.readouterr().out.splitlines()


def test_a_run_ends_with_its_monitored_metric(attempts: list[pathlib.Path], capsys: pytest.CaptureFixture[str]) -> None:
    """MAE comes first; the test split and the early stop have lines of their own."""
    metrics = json.loads((attempts[0] / "result.json").read_text())["metrics"]
    lines = shown(attempts[0], capsys)

    assert lines[0].startswith(f"val_mae {metrics['val_mae']:.4f}   val_loss {metrics['val_loss']:.4f}   ")
    assert ["test_loss 0.5000   test_mae 0.00025", "stopped at epoch 2 of 2, best 1"] == lines[1:3]
    assert "same bits as 1 earlier run" in lines[3]


def test_a_run_without_its_monitored_metric_says_so(
    attempts: list[pathlib.Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The other metrics follow."""
    rename(attempts[0], "val_mae", "val_rmse")
    rename(attempts[0], "x", "auc")

    assert shown(attempts[0], capsys)[0].startswith("no val_auc (training.monitor)   val_loss ")


def test_curves_have_a_panel_per_metric(attempts: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel has training and validation values, by step over all epochs; a metric of few rows has few points."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(tracker, "draw_lines", lambda _path, panels, **_: drawn.update(panels))
    rows = [json.loads(line) for line in (attempts[0] / "metrics.jsonl").read_text().splitlines()]
    del rows[0]["mae"]
    (attempts[0] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tracker.draw_curves(attempts[0])

    assert {"loss": ["loss", "val_loss"], "mae": ["mae", "val_mae"]} == {
        name: [line[0] for line in lines] for name, lines in drawn.items()
    }
    assert ([10, 15, 20, 25, 30], [15, 30]) == (drawn["mae"][0][1], drawn["mae"][1][1])


def test_steps_count_over_epochs_of_any_length(tmp_path: pathlib.Path) -> None:
    """The first epoch has 4 steps, the second 2, and the third goes on; no validation is needed."""
    places = [(1, 2), (1, 4), (2, 1), (2, 2), (3, 1)]
    rows = "".join(json.dumps({"epoch": epoch, "step": step, "loss": 1.0}) + "\n" for epoch, step in places)
    (tmp_path / "metrics.jsonl").write_text(rows)

    assert [2, 4, 5, 6, 7] == [row["global_step"] for row in read_metrics(tmp_path)]


class Experiment:
    """Collects what is logged to it."""

    def __init__(self) -> None:
        self.others: dict[str, Any] = {}
        self.metrics: list[tuple[str, float, int]] = []

    def log_other(self, name: str, value: Any) -> None:
        """Take a fact."""
        self.others[name] = value

    def log_metrics(self, values: dict[str, float], step: int, epoch: int) -> None:  # noqa: ARG002  Comet's argument
        """Take metrics."""
        self.metrics += [(name, value, step) for name, value in values.items()]

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def test_comet_gets_every_metric_under_its_own_name(attempts: list[pathlib.Path]) -> None:
    """All rows arrive under the names of the record; the test split and the monitor are facts of the run."""
    experiment, uploader, rows = Experiment(), comet.CometTracker("offline"), read_metrics(attempts[0])
    uploader._experiment = experiment
    uploader.log_rows(rows)
    comet.log_end(experiment, attempts[0])

    assert {"loss", "mae", "val_loss", "val_mae"} == {name for name, _, _ in experiment.metrics}
    assert ("val_mae", rows[-1]["val_mae"], 30) == experiment.metrics[-1]
    assert (0.5, 0.00025) == (experiment.others["test_loss"], experiment.others["test_mae"])


def test_explain_draws_the_metrics_that_there_are(
    attempts: list[pathlib.Path], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A metric that only one run has is "not recorded" for the other; no metrics at all give an empty picture."""
    rename(attempts[1], "mae", "auc")
    explain.show_curves(attempts[0], attempts[1], tmp_path / "a.png")
    said = capsys.readouterr().out
    for attempt in attempts:
        (attempt / "metrics.jsonl").write_text('{"epoch": 1, "step": 15}\n')
    explain.show_curves(attempts[0], attempts[1], tmp_path / "b.png")

    assert "     mae B not recorded" in said
    assert "     auc A not recorded" in said
    assert "accuracy" not in said
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


def test_rounds_show_the_monitored_metric(
    attempts: list[pathlib.Path], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has its range; a metric that nobody recorded is said to be missing, and the figure is drawn."""
    trained = [(part, attempts) for part in rounds.ROUNDS[2:]]

    assert 0 == rounds.show(trained, "val_mae")
    assert "range of val_mae" in capsys.readouterr().out
    assert 0 == rounds.show(trained, "val_auc")
    assert "not recorded" in capsys.readouterr().out
    for attempt in attempts:
        rename(attempt, "loss", "cost")
    rounds.draw(trained, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("codes", "differs", "verdict"),
    [
        ((0, 0), False, "PORTABLE: 2 rows with one digest"),
        ((0, 1), False, "NOT DECIDED: two did not finish (exit code 1; "),
        ((1, 1), False, "NOT DECIDED: one did not finish (exit code 1; "),
        ((0, 0), True, "NOT PORTABLE: two differs; first divergence: epoch 1, step 5, metrics"),
    ],
)
def test_portability_judges_no_run_that_crashed(
    codes: tuple[int, int], verdict: str, attempts: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], *, differs: bool,
) -> None:  # fmt: skip
    """Only bits decide: a run that did not finish leaves the question open, with exit code 1."""
    machines = [Machine("one"), Machine("two")]

    def run_on(_machines: Any, config: Config, folder: pathlib.Path, root: pathlib.Path) -> dict[str, int]:
        for machine, attempt in zip(machines, attempts, strict=True):
            attempt.rename(folder / machine.folder)
        if differs:
            path = folder / machines[1].folder / "metrics.jsonl"
            path.write_text(path.read_text().replace('"loss": 0.', '"loss": 1.', 1))
        return dict(zip(("one", "two"), codes, strict=True))

    monkeypatch.setattr(portability, "choose_machines", lambda *_: (machines, ""))
    monkeypatch.setattr(portability, "probe", lambda _: {"sets": [], "caches": ""})
    monkeypatch.setattr(portability, "run_on", run_on)
    root = attempts[0].parents[3]
    code = portability.portability(compose(root, ["experiment=smoke", "tracker=none"]), root, [], full=False)

    assert verdict in capsys.readouterr().out
    assert int("NOT" in verdict) == code
