"""Starts fresh processes: builds their commands and environments, and forwards signals to them.

There are three kinds: the training process, which has fixed settings; a parent process for one run; and any other
process of the project. Does not know folders of runs.
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

SHOWN_LINES = 5  # of a log


def project_environment(root: pathlib.Path) -> dict[str, str]:
    """Return the environment of a process that does not train: this process's, with the import path of the project."""
    return os.environ | {"PYTHONPATH": import_path(root)}


def pinned_environment(config: Config, root: pathlib.Path, source: pathlib.Path | None = None) -> dict[str, str]:
    """Return the whole environment of a process with the fixed settings of a run.

    Args:
        config: The configuration, which decides the environment.
        root: The project's folder.
        source: Folder of the code to run; None: the code of the project.
    """
    points = resolve_points(config.seed.root, config.seed.policy, config.seed.points)
    hash_point = points.get("python/hash")
    environment = child_environment(config.runtime, hash_point.value if hash_point else None, os.environ)
    environment["PYTHONPATH"] = str(source) if source else import_path(root)
    if config.script.path:
        environment["PYTHONSAFEPATH"] = "1"  # files of the current folder must not hide modules of the training process
    return environment


def child_command(
    config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command of the training process and its whole environment.

    Args:
        config: The configuration.
        attempt: The folder with config.yaml.
        root: The project's folder.
        source: Folder of the code to run; None: the code of the project.
    """
    # The child stops when its parent is no longer this process.
    command = [sys.executable, "-m", "samebits.train.worker", str(attempt), str(root), str(os.getpid())]
    return command, pinned_environment(config, root, source)


def run_child(config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None) -> int:
    """Start the training process, wait for it, and return its exit code.

    The arguments are those of `child_command`.

    Returns:
        The exit code of the worker. Negative: killed by that signal. SIGINT and SIGTERM give 130 and 143.
    """
    command, environment = child_command(config, attempt, root, source)
    # A new session, so that Ctrl-C reaches only the parent, which forwards it once.
    with (
        forwarded_signals() as adopt,
        subprocess.Popen(command, env=environment, cwd=root, start_new_session=True, stdin=subprocess.DEVNULL) as child,
    ):
        adopt(child)
        code = child.wait()
    return exit_code(code)


def exit_code(code: int) -> int:
    """Return the exit code of a training process that has ended with this one.

    A signal that arrived before the process could handle it is still a request to stop.
    """
    return 128 - code if code in (-signal.SIGINT, -signal.SIGTERM) else code


def describe_exit(code: int) -> str:
    """Return why a training process has ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    reason = f"killed by {signal.Signals(-code).name}"
    return reason + (" (out of memory, or kill -9)" if code == -signal.SIGKILL else "")


def last_lines(path: pathlib.Path) -> str:
    """Return the end of a text file, each line on a new line and indented; "" if it cannot be read."""
    try:
        lines = path.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
    except OSError:
        return ""
    return "".join(f"\n  | {line}" for line in lines)


def parent_command(path: pathlib.Path, root: pathlib.Path) -> list[str]:
    """Return the command that runs the configuration of a YAML file in a fresh parent process.

    Its environment is `project_environment`.
    """
    return [sys.executable, "-m", "samebits.launch.run", str(path), str(root)]


@contextlib.contextmanager
def answered(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Handle signals while the block runs, except those that this process was started to ignore, e.g. by nohup."""
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def forwarded_signals() -> Iterator[Callable[["subprocess.Popen[bytes]"], None]]:
    """Forward SIGINT, SIGTERM and SIGHUP to a child process while the block runs. The child decides how it ends.

    SIGHUP (a closed terminal) is forwarded as SIGTERM, so that the child saves a checkpoint. Yields a function that
    takes the child once it exists. Earlier signals are sent to the child then.
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
    """Ask a process group to end, wait, and kill the processes that remain.

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
