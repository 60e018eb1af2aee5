"""Comet in a few seconds: one tracked run and one rejected key. test_comet.py has every kind of fault."""

import json
import pathlib

import pytest
from conftest import TrainHere, digest, finished
from fake_comet import FakeComet, read_archive
from forked_tracker import fork_trackers
from processes import start_python

from samebits.core.files import hold_lock
from samebits.launch.tracker import upload
from samebits.runs.folder import LOCK

KEY = "samebits-test-key-that-must-stay-secret"
REFUSED = (403, {"msg": "no such key", "sdk_error_code": 90212})
RESTART = """
import os
from samebits.launch import comet
print(os.environ.get(comet.OFFLINE_BECAUSE) or comet.restart_offline("no answer"))
"""


def variables(server: FakeComet, home: pathlib.Path) -> dict[str, str]:
    """Return the environment of a user with a key."""
    return {"COMET_API_KEY": KEY, "COMET_URL_OVERRIDE": server.url, "HOME": str(home), "NO_PROXY": "127.0.0.1"}


def test_a_tracked_run_is_the_untracked_one(
    own_siblings: pathlib.Path, tmp_path: pathlib.Path, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a rejected key has the same inputs and bits, an archive, and the key in no file or output.

    The output has one line about Comet. Comet's own messages are in tracker.txt, which an untracked run does not have.
    """
    fork_trackers(monkeypatch)
    with FakeComet({"/add/run": REFUSED}) as server:
        words = ("tracker=comet", "tracker.finish_timeout_s=300")
        done = train_here(own_siblings, *words, environment=variables(server, tmp_path))
    untracked, _, tracked = finished(own_siblings)
    (archive,) = (tracked / "comet").glob("*.zip")
    settings = json.loads((tracked / "machine.json").read_text())["arithmetic"]["settings"]

    assert 0 == done.returncode, done.stderr
    assert "same bits as 2 earlier runs" in done.stdout
    assert "archive (The given API key '***' is invalid" in done.stdout
    assert 1 == sum("comet" in line.lower() for line in (done.stdout + done.stderr).splitlines())
    assert "COMET " in (tracked / "tracker.txt").read_text()
    assert [] == [path.name for path in untracked.iterdir() if "comet" in path.name or "tracker" in path.name]
    assert digest(untracked) == read_archive(archive).others["weights digest"]
    assert [] == [name for name in settings["environment"] if "COMET" in name]
    assert KEY not in done.stdout + done.stderr
    assert [] == [path for path in tracked.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_restart_is_the_same_command_with_the_reason() -> None:
    """A tracker that leaves its server starts again with the same command, and knows why."""
    child = start_python(RESTART)
    output, errors = child.communicate(timeout=60)

    assert (0, "no answer\n") == (child.returncode, output)
    assert "no answer; restarting offline\n" == errors


def test_a_run_that_is_training_is_left_to_its_own_tracker(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`samebits comet` with a run that is still training is an error."""
    with hold_lock(tmp_path / LOCK):
        assert 1 == upload(tmp_path)

    assert "is still being trained" in caplog.text


def test_the_look_for_the_key_can_fail(tmp_path: pathlib.Path) -> None:
    """Negative control: a file with the key is found."""
    (tmp_path / "tracker.txt").write_text(f"key {KEY}")

    with pytest.raises(AssertionError):
        assert [] == [path for path in tmp_path.rglob("*") if KEY.encode() in path.read_bytes()]
