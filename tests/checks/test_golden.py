"""`samebits golden` trains again and compares, and never rewrites the golden files on its own."""

import json
import pathlib
import shutil

import pytest
from conftest import ROOT, Command


@pytest.fixture
def golden_project(own_siblings: pathlib.Path) -> pathlib.Path:
    """Return a project with the committed golden files and two runs with the golden digest."""
    shutil.copytree(ROOT / "golden", own_siblings / "golden")
    return own_siblings


def test_the_smoke_experiment_is_golden(golden_project: pathlib.Path, command_here: Command) -> None:
    """Training again gives the committed digests of every epoch."""
    done = command_here(golden_project, "golden", "smoke")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "GOLDEN smoke: seed 56" in done.stdout


@pytest.mark.full
def test_another_digest_is_not_golden_and_is_explained(golden_project: pathlib.Path, command_here: Command) -> None:
    """A changed setting fails, names the changed input and the epochs, writes nothing, and runs explain."""
    before = (golden_project / "golden" / "smoke.json").read_bytes()
    path = golden_project / "conf" / "experiment" / "smoke.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    done = command_here(golden_project, "golden", "smoke")

    assert 1 == done.returncode
    assert "changed input: decided_by.config.training.learning_rate: golden 0.01, now 0.02" in done.stdout
    assert "NOT GOLDEN smoke: " in done.stdout
    assert "first divergence: epoch 1, step 1, weights after the update of" in done.stdout
    assert before == (golden_project / "golden" / "smoke.json").read_bytes()


@pytest.mark.full
def test_update_is_the_only_writer_and_shows_what_changed(project: pathlib.Path, command_here: Command) -> None:
    """--update prints the changed digests and writes the file; then the check passes."""
    shutil.copytree(ROOT / "golden", project / "golden")
    path = project / "golden" / "smoke.json"
    golden = json.loads(path.read_text())
    path.write_text(json.dumps(golden | {"weights_digest": "0" * 64}))
    done = command_here(project, "golden", "--update", "smoke")

    assert 0 == done.returncode, done.stderr
    assert f"weights_digest: golden {'0' * 64}, now {golden['weights_digest']}" in done.stdout
    assert golden == json.loads(path.read_text())


def test_a_missing_golden_file_is_an_error(project: pathlib.Path, command_here: Command) -> None:
    """Without golden files, the command ends with an error."""
    done = command_here(project, "golden", "smoke")

    assert 1 == done.returncode
    assert "smoke.json could not be read." in done.stderr
