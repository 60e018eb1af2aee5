"""Starts fresh processes: their commands and environments, and the signals that a process passes on to them.

Three kinds: the training process, which is pinned; a parent process of its own for one run; and any other process of
the project. Knows nothing of folders of runs.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from samebits.core.config import Config
from samebits.core.seeds import resolve_points
from samebits.runs.identity import import_path
from samebits.runtime.pins import child_environment


def project_environment(root: pathlib.Path) -> dict[str, str]:
    """Return the environment of a process of a project that is no training: this one's, with the project's path."""
    return os.environ | {"PYTHONPATH": import_path(root)}


def child_command(
    config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command of the training process and its whole environment.

    Args:
        config: The configuration; decides the environment.
        attempt: The folder with config.yaml.
        root: The project's folder.
        source: Folder of the code to run, None: the project's src/.
    """
    points = resolve_points(config.seed.root, config.seed.policy, config.seed.points)
    hash_point = points.get("python/hash")
    environment = child_environment(config.runtime, hash_point.value if hash_point else None, os.environ)
    environment["PYTHONPATH"] = str(source) if source else import_path(root)
    # The child ends when this process is not its parent any more.
    return [sys.executable, "-m", "samebits.train.worker", str(attempt), str(root), str(os.getpid())], environment


def run_child(config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None) -> int:
    """Start the training process, wait for it, and return its exit code.

    Takes what `child_command` takes.

    Returns:
        What the worker exits with; negative: killed by that signal, other than the two that ask it to stop.
    """
    command, environment = child_command(config, attempt, root, source)
    # A session of its own: Ctrl-C reaches the parent alone, which forwards it once.
    with (
        forwarded_signals() as adopt,
        subprocess.Popen(command, env=environment, cwd=root, start_new_session=True, stdin=subprocess.DEVNULL) as child,
    ):
        adopt(child)
        code = child.wait()
    # A signal that came before the child could answer it: asked to stop all the same.
    return 128 - code if code in (-signal.SIGINT, -signal.SIGTERM) else code


def parent_command(path: pathlib.Path, root: pathlib.Path) -> list[str]:
    """Return the command that runs the configuration of a YAML file in a fresh parent process.

    Its environment is `project_environment`.
    """
    return [sys.executable, "-m", "samebits.launch.run", str(path), str(root)]


@contextlib.contextmanager
def answered(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Answer signals while the block runs, but for those that this process was started to ignore, as by nohup."""
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def forwarded_signals() -> Iterator[Callable[["subprocess.Popen[bytes]"], None]]:
    """Send SIGINT, SIGTERM and SIGHUP on to a child while the block runs; the child decides how it ends.

    SIGHUP, a closed terminal, is a SIGTERM to the child: it saves a checkpoint.
    Yields a function that takes the child, once it is there; what came before is sent to it then.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _frame: object) -> None:
        sent = signal.SIGTERM if number == signal.SIGHUP else number
        if children:
            children[0].send_signal(sent)
        else:
            early.append(sent)

    def adopt(child: "subprocess.Popen[bytes]") -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    with answered(forward, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield adopt


def stop_group(process: "subprocess.Popen[bytes]", wait_s: float) -> None:
    """Ask a process and all that it started to end, wait a bounded time, and kill what is left.

    Args:
        process: The leader of its process group.
        wait_s: How long it may take to end.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
