"""Cross-validation: each fold is a normal run, its cost is printed first, and only `samebits train` runs every fold."""

import json
import pathlib

import pytest
from conftest import (
    ROOT,
    Command,
    TrainHere,
    copy_project,
    digest,
    finished,
    forks,
    train_in_process,
)
from pinned_trainer import PinnedTrainer

import samebits.compose
from samebits.core.config import Config
from samebits.studies import folds
from samebits.studies.folds import START_S, describe_duration, run_duration, wants_every_fold
from samebits.studies.plan import Study

SHORT = ("training.epochs=1", "training.steps_per_epoch=3", "data.rows=60")
FOLDS = ("training=kfold", "data.folds=3", *SHORT)


@pytest.fixture(scope="module")
def trained(trainer: PinnedTrainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """Return a project with three trained folds, and the output."""
    root = copy_project(tmp_path_factory.mktemp("folds"))
    with forks(trainer) as patch:
        done = train_in_process(patch, root, *FOLDS)

    assert 0 == done.returncode, done.stdout + done.stderr
    return root, done.stdout


def compose(*overrides: str) -> Config:
    """Return a smoke configuration."""
    return samebits.compose.compose(ROOT, ["experiment=smoke", "tracker=none", *overrides])


@pytest.mark.full
def test_every_fold_is_a_run_with_a_row_of_its_own(trained: tuple[pathlib.Path, str]) -> None:
    """Prints the cost, then a table with mean, standard deviation and interval; the folds have three digests."""
    root, said = trained
    lines = said.splitlines()
    study = json.loads(next((root / "runs" / "studies").glob("folds-smoke-*/study.json")).read_text())

    assert (
        "3 folds, 0 already finished; to do: 3 runs, 36 s one after another (12 s each, for the start only" in lines[0]
    )
    assert {"mean", "sd", "95 % interval of the mean"} <= {line.split("│")[1].strip() for line in lines if "│" in line}
    assert [("fold", 0), ("fold", 1), ("fold", 2)] == [(run["varied"], run["seed"]) for run in study["runs"]]
    assert 3 == study["summary"]["base"]["val_loss"]["n"]
    assert 3 == len({run["weights_digest"] for run in study["runs"]})
    assert all(run["weights_digest"][:12] in said for run in study["runs"])


@pytest.mark.full
def test_a_fold_has_the_bits_that_it_has_alone(trained: tuple[pathlib.Path, str], train_here: TrainHere) -> None:
    """Fold 1 alone is another attempt of the same run, with the same weights; a second command trains no fold."""
    root, _ = trained
    alone = train_here(root, "data.folds=3", "data.fold=1", *SHORT)
    again = train_here(root, *FOLDS)

    assert "same bits as 1 earlier run" in alone.stdout
    assert 4 == len(finished(root))
    assert 3 == len({digest(attempt) for attempt in finished(root)})
    assert "3 folds, 3 already finished\n" in again.stdout


@pytest.mark.full
def test_a_finished_run_of_the_same_kind_says_what_one_takes(trained: tuple[pathlib.Path, str]) -> None:
    """Runs with other seeds and folds give the expected time; with another number of epochs it is a minimum."""
    root, _ = trained
    same_s, how = run_duration(compose("training=leave_one_out", "seed.root=9", *SHORT), root)
    other_s, _ = run_duration(compose("training=leave_one_out", *SHORT, "training.epochs=2"), root)
    timings = [json.loads((attempt / "result.json").read_text())["timing"] for attempt in finished(root)]

    assert same_s in [sum(timing.values()) for timing in timings]
    assert "as measured in a finished run" == how
    assert START_S == other_s


def test_thousands_of_runs_want_to_be_confirmed(project: pathlib.Path, train_here: TrainHere) -> None:
    """Leave-one-out with 2,000 samples is refused with its cost before it starts; with fewer samples it is allowed."""
    done = train_here(project, "training=leave_one_out", "data.rows=2000")

    assert 2 == done.returncode
    assert "expected at most 200, or confirm=true, received 2000 runs, 6.7 h one after another" in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert not (project / "runs").exists()


def test_confirmed_thousands_begin(monkeypatch: pytest.MonkeyPatch, project: pathlib.Path) -> None:
    """With confirm=true the number of folds is accepted."""

    def begin(study: Study, _: object) -> int:
        raise InterruptedError(f"{len(study.runs)} runs begin")

    monkeypatch.setattr(folds, "train_study", begin)
    with pytest.raises(InterruptedError, match="2000 runs begin"):
        folds.train_folds(compose("training=leave_one_out", "data.rows=2000", "confirm=true"), project)


def test_commands_for_one_configuration_refuse_every_fold(project: pathlib.Path, command_here: Command) -> None:
    """The error lists the folds, and says that samebits train trains all of them; nothing starts."""
    overrides = ("training=kfold", "experiment=smoke", "tracker=none")
    for command in ("verify", "study", "seeds", "rounds", "portability", "variance", "torture", "audit"):
        done = command_here(project, command, *overrides)

        assert 2 == done.returncode, command + done.stdout + done.stderr
        assert "data.fold: expected one fold, 0 to 4, received null, which means every fold" in done.stderr
        assert not list((project / "runs").rglob("config.yaml"))


def test_every_fold_means_folds() -> None:
    """Without folds, a fold of null gives the normal error."""
    assert wants_every_fold(compose("training=kfold"))
    assert not wants_every_fold(compose("data.fold=null"))
    assert not wants_every_fold(compose("training=kfold", "data.fold=0"))


@pytest.mark.parametrize(("seconds", "text"), [(36, "36 s"), (600, "10.0 min"), (9000, "2.5 h"), (400_000, "4.6 days")])
def test_durations_are_said_in_fitting_units(seconds: float, text: str) -> None:
    """Durations are printed in units from seconds to days."""
    assert text == describe_duration(seconds)
