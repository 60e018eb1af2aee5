"""Stages of a training, and a training that starts with the weights of another one."""

import json
import pathlib
from typing import Any

import pytest
from conftest import FAULTY, TrainHere, copy_project, finished

STAGES = "training.stages=[{name: first, epochs: 1}, {name: second, epochs: 2, batch_size: 24, learning_rate: 0.005}]"


def result(root: pathlib.Path) -> dict[str, Any]:
    """Return the result of the newest finished run."""
    found: dict[str, Any] = json.loads((finished(root)[-1] / "result.json").read_text())
    return found


def same_record(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Return whether the only runs of two projects have the same files."""
    (a,), (b,) = finished(one), finished(other)
    names = ("metrics.jsonl", "trace.jsonl", "predictions.arrays")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    "fault",
    [
        "row 4 kill",
        *(pytest.param(each, marks=pytest.mark.full) for each in ("row 2 kill", "row 7 kill", "checkpoint 4 kill")),
    ],
)
def test_a_training_killed_in_any_stage_resumes_to_the_same_bits(
    train_here: TrainHere, tmp_path_factory: pytest.TempPathFactory, fault: str
) -> None:
    """A kill in the first stage, at its end, or in the second leaves no trace in the result and the record."""
    whole, killed = (copy_project(tmp_path_factory.mktemp(name)) for name in ("whole", "killed"))

    assert 0 == train_here(whole, STAGES, FAULTY).returncode
    assert 1 == train_here(killed, STAGES, FAULTY, environment={"FAULT": fault}).returncode
    done = train_here(killed, STAGES, FAULTY)

    assert 0 == done.returncode, done.stderr
    assert "resumes" in done.stdout
    assert result(whole)["weights_digest"] == result(killed)["weights_digest"]
    assert same_record(whole, killed)
    assert ["first", "second"] == [stage["name"] for stage in result(whole)["stages"]]
    assert [] == list(finished(killed)[0].glob("stage-*"))


def test_the_second_stage_starts_with_the_weights_of_the_first(train_here: TrainHere, project: pathlib.Path) -> None:
    """One stage of two epochs, and two stages of one, differ only in the state of the optimizer at the start."""
    root, plain = project, "training.optimizer=sgd"  # has no state but its counter

    assert 0 == train_here(root, plain, "training.epochs=2").returncode
    one = result(root)["weights_digest"]
    two = "training.stages=[{name: a, epochs: 1}, {name: b, epochs: 1}]"
    assert 0 == train_here(root, plain, two).returncode
    assert one in {json.loads((a / "result.json").read_text())["weights_digest"] for a in finished(root)}
    assert 1 == len({json.loads((a / "result.json").read_text())["weights_digest"] for a in finished(root)})


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ("[{epochs: 1}]", "training.stages[0].name"),
        ("[{name: a, epochs: 0}]", "training.stages[0].epochs"),
        ("[{name: a}, {name: a}]", "training.stages[1].name"),
        ("[{name: a, epoch: 1}]", "received 'epoch'"),
    ],
)
def test_a_wrong_stage_is_named(train_here: TrainHere, project: pathlib.Path, stages: str, named: str) -> None:
    """The error has the key of the stage and what is allowed."""
    done = train_here(project, f"training.stages={stages}")

    assert 2 == done.returncode
    assert named in done.stderr


def test_a_run_starts_with_the_weights_of_another(train_here: TrainHere, project: pathlib.Path) -> None:
    """`training.init_from` becomes part of the run's name, with the digest of the weights."""
    assert 0 == train_here(project).returncode
    first = finished(project)[0]
    done = train_here(project, f"training.init_from={first.parent.name}")

    assert 0 == done.returncode, done.stderr
    (second,) = set(finished(project)) - {first}
    assert first.parent != second.parent
    weights = json.loads((first / "result.json").read_text())["weights_digest"]
    assert f"{first.parent.name}/1@{weights}" in (second / "config.yaml").read_text()
    started, ended = (
        json.loads((a / "trace.jsonl").read_text().splitlines()[n]) for a, n in ((second, 0), (first, -1))
    )
    assert ended["weights"] == started["weights"]


def test_weights_that_changed_are_refused(train_here: TrainHere, project: pathlib.Path) -> None:
    """The digest in the name is compared with the weights that are there."""
    assert 0 == train_here(project).returncode
    done = train_here(project, f"training.init_from={finished(project)[0].parent.name}/1@{'0' * 64}")

    assert 0 != done.returncode
    assert "has changed" in done.stderr + done.stdout
