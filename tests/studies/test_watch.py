"""`samebits watch`: its table of running trainings, and that it does not affect them."""

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import pytest
from conftest import QUIET, ROOT, at_full_speed, run_command, start_and_wait_for_rows

from samebits.core.files import hold_lock
from samebits.runs.folder import LOCK
from samebits.studies import watch


def make_training(runs: pathlib.Path, *, age_s: float = 3600) -> pathlib.Path:
    """Write the folder of a training in its second epoch, with a last row of the given age."""
    attempt = runs / "made" / "0123456789abcdef" / "1"
    attempt.mkdir(parents=True)
    config = {"name": "made", "seed": {"policy": "derived", "points": {}}, "data": {}, "model": {}}
    (attempt / "config.yaml").write_text(json.dumps(config | {"training": {"epochs": 4}}))
    (attempt / LOCK).touch()
    rows = [
        {"epoch": 1, "step": 15, "loss": 0.7, "accuracy": 0.5, "val_loss": 0.8},
        {"epoch": 2, "step": 5, "loss": 0.25, "accuracy": 0.9},
    ]
    (attempt / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 2, "st')
    (attempt / "log.txt").write_text("INFO epoch 2/4  step 3/15  loss 0.3  accuracy 0.8  31 steps/s  1 s left\n")
    then = time.time() - age_s
    os.utime(attempt / "metrics.jsonl", (then, then))
    return attempt


def test_a_training_whose_lock_is_held_is_shown(tmp_path: pathlib.Path) -> None:
    """A locked run is shown with its last complete row, of any age, and its rate; without a lock it is not running."""
    attempt = make_training(tmp_path)

    assert [] == watch.find_trainings(tmp_path)
    with hold_lock(attempt / LOCK):
        (found,) = watch.find_trainings(tmp_path)
    assert ("made/0123456789abcdef/1", "2/4", "5/15") == (found.key, found.epoch, found.step)
    assert ({"loss": 0.25, "accuracy": 0.9}, "31 steps/s") == (found.values, found.rate)
    assert "val_loss 0.8000 (epoch 1)" == found.monitored
    assert 3600 <= (found.age_s or 0) < 3700


def test_any_metrics_of_a_training_are_shown(tmp_path: pathlib.Path) -> None:
    """At most three of training, that of the monitor first; its newest value has an epoch, or is said to be missing."""
    attempt = make_training(tmp_path)
    tree = json.loads((attempt / "config.yaml").read_text())
    rows: list[dict[str, float]] = [{"epoch": 1, "step": 9, "loss": 0.7, "auc": 0.5, "val_auc": 0.75}]
    rows.append({"epoch": 2, "step": 4, "loss": 0.5, "a_loss": 0.25, "b_loss": 0.25, "auc": 0.875})
    (attempt / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for monitor in ("val_auc", "val_mae"):
        (attempt / "config.yaml").write_text(json.dumps(tree | {"training": {"epochs": 4, "monitor": monitor}}))
        found.append(watch.read_training(attempt, time.time()))

    assert ["val_auc 0.7500 (epoch 1)", "no val_mae in the last rows"] == [each.monitored for each in found]
    assert [["auc", "loss", "a_loss"], ["loss", "a_loss", "b_loss"]] == [list(each.values) for each in found]
    assert 1 == watch.make_table(found[:1]).row_count


def test_a_finished_run_is_not_shown(tmp_path: pathlib.Path) -> None:
    """A finished run is not running, even if its tracker holds the lock."""
    attempt = make_training(tmp_path, age_s=0)
    (attempt / "result.json").write_text("{}")

    with hold_lock(attempt / LOCK):
        assert [] == watch.find_trainings(tmp_path)


def test_where_no_lock_is_told_a_growing_run_is_shown(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without visible locks, a row of a few seconds ago means running; a row of an hour ago does not."""
    monkeypatch.setattr(watch, "locked_files", set)
    make_training(tmp_path / "young", age_s=5)
    make_training(tmp_path / "old")

    assert 1 == len(watch.find_trainings(tmp_path / "young"))
    assert [] == watch.find_trainings(tmp_path / "old")


def test_damaged_files_end_nothing(tmp_path: pathlib.Path) -> None:
    """A damaged configuration or invalid rows give empty cells."""
    attempt = make_training(tmp_path)
    (attempt / "config.yaml").write_bytes(b"\xff{")
    (attempt / "metrics.jsonl").write_bytes(b"[1]\n\xff\n")

    with hold_lock(attempt / LOCK):
        (found,) = watch.find_trainings(tmp_path)
    assert ("", "", {}, "") == (found.epoch, found.step, found.values, found.monitored)


def test_it_takes_no_lock(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never calls flock, so a training can take its lock meanwhile."""
    make_training(tmp_path, age_s=0)
    monkeypatch.setattr("fcntl.flock", lambda *_: pytest.fail("watch took a lock"))

    assert 1 == len(watch.find_trainings(tmp_path))


@pytest.mark.full
def test_on_a_terminal_it_goes_on_until_ctrl_c(project: pathlib.Path) -> None:
    """It refreshes, and Ctrl-C ends it with 130 and no traceback."""
    make_training(project / "runs", age_s=0)
    screen, terminal = pty.openpty()
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "COLUMNS": "150"}
    # A shell's background jobs ignore Ctrl-C, and so would the processes of this test.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "samebits", "watch"]
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=terminal, stderr=subprocess.STDOUT)
    os.close(terminal)
    said = b""
    deadline = time.monotonic() + 300
    while said.count(b"1 running") < 3 and time.monotonic() < deadline:
        said += os.read(screen, 65536)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=120)
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(screen)

    assert 130 == code
    assert said.count(b"1 running") >= 3
    assert b"Traceback" not in said


@pytest.mark.full
def test_a_real_training_is_seen_from_another_process_and_then_gone(project: pathlib.Path) -> None:
    """Without a terminal it prints one table, and the training continues to its end."""
    process = start_and_wait_for_rows(project, 3)
    seen = run_command(project, "watch")
    at_full_speed(project)
    code = process.wait(timeout=600)
    if process.stdout is not None:
        process.stdout.close()
    gone = run_command(project, "watch")

    assert (0, 0, 0) == (seen.returncode, code, gone.returncode)
    assert "1 running" in seen.stdout
    assert "smoke/" in seen.stdout
    assert "0 running" in gone.stdout
