"""`samebits prune` and `samebits clean`: what they list, what they remove, and what they never remove."""

import json
import os
import pathlib
import shutil
import signal

import pytest
from conftest import (
    Result,
    TrainHere,
    at_full_speed,
    children,
    finished,
    run_command,
    start_and_wait_for_rows,
)

from samebits.core.files import hold_lock


def prune(root: pathlib.Path, *arguments: str) -> Result:
    """Run `samebits prune` on the runs of a project."""
    return run_command(root, "prune", *arguments)


def names(root: pathlib.Path) -> list[str]:
    """Return every file below the runs of a project."""
    return sorted(path.relative_to(root / "runs").as_posix() for path in (root / "runs").rglob("*"))


@pytest.fixture(scope="module")
def trained(siblings: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a folder of runs: three finished attempts (one is a copy), one stopped, an incomplete file."""
    root = pathlib.Path(shutil.copytree(siblings, tmp_path_factory.mktemp("pruned") / "project"))
    first = finished(root)[0]
    for number in ("3", "4"):
        shutil.copytree(first, first.parent / number)
    (first.parent / "4" / "result.json").unlink()
    (first / ".metrics.jsonl.17.partial").write_bytes(b"torn")
    (root / "runs" / ".torture" / "1").mkdir(parents=True)
    (root / "runs" / "mine.txt").write_text("of the user")
    return root


@pytest.fixture
def root(trained: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a copy of that project for one test."""
    shutil.copytree(trained, tmp_path / "project")
    return tmp_path / "project"


def test_pruning_says_first_and_removes_nothing(root: pathlib.Path) -> None:
    """Without --yes every candidate is listed with size and reason, and no file is removed."""
    before = names(root)
    done = prune(root, "--keep=1")

    assert 0 == done.returncode, done.stderr
    assert before == names(root)
    assert 5 == done.stdout.count("would remove ")
    assert "/1: " in done.stdout
    assert "(finished, older than the newest 1 with the same inputs)" in done.stdout
    assert "(stopped, and attempt 3 with the same inputs is finished)" in done.stdout
    assert "(temporary files of a stopped command)" in done.stdout
    assert "; add --yes to remove them" in done.stdout


def test_confirmed_pruning_removes_what_it_said(root: pathlib.Path, train_here: TrainHere) -> None:
    """With --yes the newest finished attempt, its inputs and the user's file stay. A second call finds nothing."""
    inputs = next((root / "runs").glob("*/*/inputs.json")).parent
    done = prune(root, "--keep=1", "--yes")

    assert 0 == done.returncode, done.stderr
    assert ["3"] == [path.name for path in inputs.iterdir() if path.name.isdecimal()]
    assert (root / "runs" / "mine.txt").exists()
    assert "would free 0.0 MB\n" == prune(root, "--keep=1").stdout
    assert 0 == train_here(root).returncode


def test_finished_runs_stay_unless_a_number_is_given(root: pathlib.Path) -> None:
    """Without --keep no finished attempt is removed, confirmed or not."""
    before = finished(root)
    done = prune(root, "--yes")

    assert 0 == done.returncode
    assert before == finished(root)
    assert "finished, older" not in done.stdout


def test_an_attempt_with_a_file_of_ones_own_stays(root: pathlib.Path) -> None:
    """An attempt with a user's file stays, and the reason names the file."""
    mine = finished(root)[0].parent / "1" / "notes.txt"
    mine.write_text("mine")
    done = prune(root, "--keep=0", "--yes")

    assert mine.exists()
    assert "(it contains your files: notes.txt)" in done.stdout
    assert [mine.parent] == finished(root)


def test_keeping_none_removes_the_inputs_folder_too(root: pathlib.Path) -> None:
    """--keep 0 --yes removes everything with these inputs, and nothing else."""
    prune(root, "--keep=0", "--yes")

    assert ["mine.txt"] == [name for name in names(root) if "/" not in name and name != "smoke"]
    assert [] == list((root / "runs" / "smoke").iterdir())


@pytest.mark.full
def test_a_running_training_is_never_pruned(project: pathlib.Path) -> None:
    """The attempt of a running training stays, and the training finishes normally."""
    process = start_and_wait_for_rows(project, 5)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGSTOP)
    attempt = next((project / "runs").glob("*/*/1"))
    shutil.copytree(attempt, attempt.parent / "2")
    (attempt.parent / "2" / "result.json").write_text(json.dumps({}))
    done = prune(project, "--keep=1", "--yes")
    os.kill(child, signal.SIGCONT)
    at_full_speed(project)
    process.communicate(timeout=600)

    assert f"kept {attempt.relative_to(project / 'runs')}: " in done.stdout
    assert "(it is being trained)" in done.stdout
    assert 0 == process.returncode


def test_the_scratch_of_a_running_command_stays(root: pathlib.Path) -> None:
    """Temporary runs of audit and explain stay while the lock of their training process is held."""
    scratch = root / "runs" / ".audit" / "base"
    scratch.mkdir(parents=True)
    with hold_lock(scratch / "worker.lock"):
        kept = prune(root, "--yes")

    assert "kept .audit: 0.0 MB (its command is running)" in kept.stdout
    assert scratch.exists()

    gone = prune(root, "--yes")

    assert "removed .audit" in gone.stdout
    assert not scratch.exists()


@pytest.mark.parametrize("keep", ["-1", "some"])
def test_a_wrong_number_is_refused(keep: str, root: pathlib.Path) -> None:
    """A wrong --keep has exit code 2, no traceback, and removes nothing."""
    before = names(root)
    done = prune(root, f"--keep={keep}", "--yes")

    assert 2 == done.returncode
    assert "Traceback" not in done.stderr
    assert before == names(root)


def test_cleaning_says_first_and_leaves_runs(root: pathlib.Path) -> None:
    """`samebits clean` lists the caches, and removes them only with --yes. Runs stay."""
    (root / ".cache").mkdir(exist_ok=True)
    (root / ".cache" / "a.arrays").write_bytes(b"x" * 1000)
    before = names(root)
    said = run_command(root, "clean")

    assert "would remove .cache: 0.0 MB" in said.stdout
    assert (root / ".cache" / "a.arrays").exists()

    run_command(root, "clean", "--yes")

    assert not (root / ".cache").exists()
    assert before == names(root)
