"""Fresh processes: their paths, environments and signals."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, wait_until

from samebits.core.config import Config
from samebits.launch import process
from samebits.runs.identity import import_path

STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_project_finds_its_packages_and_this_harness(tmp_path: pathlib.Path) -> None:
    """The import path is the harness, then src/. A folder with both is listed once."""
    assert f"{ROOT / 'src'}{os.pathsep}{tmp_path / 'src'}" == import_path(tmp_path)
    assert str(ROOT / "src") == import_path(ROOT)


def test_a_parent_process_keeps_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent process inherits everything except the import path."""
    monkeypatch.setenv("COMET_API_KEY", "a key")
    environment = process.project_environment(ROOT)

    assert "a key" == environment["COMET_API_KEY"]
    assert str(ROOT / "src") == environment["PYTHONPATH"]
    assert [sys.executable, "-m", "samebits.launch.run", "a.yaml", "p"] == process.parent_command(
        pathlib.Path("a.yaml"), pathlib.Path("p")
    )


def test_a_training_process_has_pins_and_no_key(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training process has the fixed environment, no key, and optionally another import path."""
    monkeypatch.setenv("COMET_API_KEY", "a key")
    _, own = process.child_command(Config(), tmp_path, ROOT)
    command, other = process.child_command(Config(), tmp_path, ROOT, source=tmp_path)

    assert "COMET_API_KEY" not in own
    assert "1" == own["OMP_NUM_THREADS"]
    assert [str(ROOT / "src"), str(tmp_path)] == [own["PYTHONPATH"], other["PYTHONPATH"]]
    assert [str(tmp_path), str(ROOT), str(os.getpid())] == command[-3:]


def test_a_group_that_does_not_end_is_killed(tmp_path: pathlib.Path) -> None:
    """A process that ignores SIGTERM is killed after the timeout, with its children."""
    told = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", STUBBORN, str(told)], start_new_session=True) as stubborn:
        assert wait_until(lambda: told.exists() and told.read_text())
        child = int(told.read_text())
        process.stop_group(stubborn, 0.1)

    assert -signal.SIGKILL == stubborn.returncode
    assert wait_until(lambda: not is_alive(child), 30)


def test_signals_that_are_ignored_stay_ignored() -> None:
    """Ignored signals (nohup) stay ignored. Others are handled only while the block runs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    heard: list[int] = []
    earlier = signal.getsignal(signal.SIGUSR1)
    try:
        with process.answered(lambda number, _: heard.append(number), signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert [signal.SIGUSR1] == heard
    assert earlier == signal.getsignal(signal.SIGUSR1)
