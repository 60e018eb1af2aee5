"""Processes that upload to Comet without a start of Python: forks of one that has imported Comet and Matplotlib.

They do what `python -m samebits.launch.tracker` and `samebits comet` do, with two differences: they keep their
priority, because a test waits for them, and a restart (`samebits.launch.comet.restart_offline`) is another fork.
"""

import functools
import multiprocessing.forkserver
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import pytest
from conftest import QUIET, ROOT, Result

from samebits import cli
from samebits.core.config import Config
from samebits.launch import comet, run, tracker
from samebits.runtime.pins import end_process

RESTART = 75  # the exit code of a process that wants to start again
PRELOADED = ["comet_ml", "matplotlib.backends.backend_agg", "PIL.PngImagePlugin", "forked_tracker"]


@functools.cache
def fork_server() -> multiprocessing.context.ForkServerContext:
    """Start the process with the imports, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(QUIET):
            patch.delenv(name)
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests"))))
        multiprocessing.forkserver.ensure_running()
    return context


def begin(
    call: Callable[[], int], environment: dict[str, str], folder: pathlib.Path, outputs: list[pathlib.Path],
    stdin: Connection, patience_s: int,
) -> NoReturn:  # fmt: skip
    """Become the process: its variables, folder, input and outputs; and start it again as often as it wants."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(stdin.fileno(), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  the number of standard input
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    reading, writing = os.pipe()

    def restart(reason: str) -> NoReturn:
        os.write(writing, reason.encode())
        os._exit(RESTART)

    changed: Any = comet
    changed.restart_offline = restart
    changed.START_TIMEOUT_S = patience_s
    changed.server_answers.__defaults__ = (patience_s,)
    os.nice = lambda _: 0
    while True:
        if (pid := os.fork()) == 0:
            end_process(call())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != RESTART:
            os._exit(code % 256)
        os.environ[comet.OFFLINE_BECAUSE] = os.read(reading, 65536).decode()


def follow(attempt: pathlib.Path) -> int:
    """Be the tracker of an attempt."""
    sys.argv = ["", str(attempt)]
    return tracker.main()


class Forked:
    """A process of this module. Has what the tests and `samebits.launch.run` use of `subprocess.Popen`.

    Args:
        call: What it does; returns its exit code.
        environment: All of its variables.
        folder: Its folder.
        outputs: The files of its output and its errors.
        patience_s: How long Comet may take to answer, and to create an experiment.
    """

    def __init__(
        self, call: Callable[[], int], environment: Mapping[str, str], folder: pathlib.Path,
        outputs: list[pathlib.Path], patience_s: int = 120,
    ) -> None:  # fmt: skip
        context = fork_server()
        reading, self.stdin = context.Pipe(duplex=False)
        arguments = (call, dict(environment), folder, outputs, reading, patience_s)
        self._process = context.Process(target=begin, args=arguments, daemon=True)
        self._process.start()
        reading.close()

    @property
    def returncode(self) -> int | None:
        """The exit code, once it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("tracker", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> None:
        """End its input, and wait for its end."""
        self.stdin.close()
        self.wait(timeout)

    def kill(self) -> None:
        """Kill it as SIGKILL kills a tracker."""
        os.killpg(self._process.pid or 0, signal.SIGKILL)


def fork_tracker(attempt: pathlib.Path, environment: Mapping[str, str], folder: pathlib.Path = ROOT) -> Forked:
    """Start the tracker of an attempt, as the parent of a training does."""
    return Forked(functools.partial(follow, attempt), environment, folder, [attempt / "tracker.txt"] * 2)


def fork_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trackers of runs that are launched in this process be forks."""

    def start(config: Config, attempt: pathlib.Path, root: pathlib.Path) -> Forked | None:
        return None if config.tracker.name == "none" else fork_tracker(attempt, os.environ, root)

    monkeypatch.setattr(run, "start_tracker", start)


def retell(
    attempt: pathlib.Path | str, environment: Mapping[str, str], root: pathlib.Path, patience_s: int = 120
) -> Result:
    """Run `samebits comet ATTEMPT`."""
    call = functools.partial(cli.main, [f"--root={root}", "comet", str(attempt)])
    return finish(call, environment, root, patience_s)


def upload_archives(archives: list[pathlib.Path], environment: Mapping[str, str], folder: pathlib.Path) -> Result:
    """Run Comet's own command `comet upload`."""
    return finish(functools.partial(be_comet, "upload", *map(str, archives)), environment, folder)


def be_comet(*words: str) -> int:
    """Be Comet's own command."""
    sys.argv = ["comet", *words]
    from comet_ml.scripts.comet import main  # takes its words when it is imported

    return main() or 0


def finish(
    call: Callable[[], int], environment: Mapping[str, str], folder: pathlib.Path, patience_s: int = 120
) -> Result:
    """Run a command, whose standard input stays open, as in a terminal."""
    outputs = [folder / f"told.{name}" for name in ("output", "errors")]
    for path in outputs:
        path.unlink(missing_ok=True)
    code = Forked(call, QUIET | dict(environment), folder, outputs, patience_s).wait(600)
    return subprocess.CompletedProcess([], code, *(path.read_text() for path in outputs))
