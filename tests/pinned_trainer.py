"""Training processes that start in under a second: a pinned Python imports TensorFlow once and forks for each training.

A test starts `samebits.launch.run` in its own process (`conftest.train_here`) and puts `PinnedTrainer.run_child` where
that starts the training process. The trainer is started with the environment that `child_environment` gives, before
Python starts, and TensorFlow has run no operation when it forks: the worker applies and checks its pins as always.
`python pinned_trainer.py` is the trainer. It reads one JSON list per line (program, environment, folder, files for
output and errors) and answers with the exit code of the program, negative: the signal that killed it.
"""

import importlib
import itertools
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import IO, Any, NoReturn

from samebits.runtime.pins import OPTIONAL_FOR_KERAS, SCRUBBED_PREFIXES, hidden_packages

MODULE = "samebits.train.worker"
AT_START = (*SCRUBBED_PREFIXES, "LC_ALL", "TZ", "MALLOC_")


def serve() -> None:
    """Answer one request per line until the input ends."""
    preload()
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w", buffering=1)
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            begin(*request)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")


def preload() -> None:
    """Import what every training imports, without running an operation."""
    with hidden_packages(OPTIONAL_FOR_KERAS):
        import keras  # noqa: F401
    for name in ("samebits.train.draws", "samebits.train.loop", *sys.argv[1:]):
        importlib.import_module(name)


def begin(program: list[str], environment: dict[str, str], folder: str, *outputs: str) -> NoReturn:
    """Become the process of a program ("-m", module or "-c", code; arguments): its variables, folder and outputs."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    sys.modules.pop("threadpoolctl", None)  # its import sets a variable, as in a fresh process
    os.chdir(folder)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    for number, path in enumerate([os.devnull, *outputs]):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644), number)
    if "KILL_AFTER_ROW" in environment:
        kill_after_row(int(environment["KILL_AFTER_ROW"]))
    kind, name, *arguments = program
    sys.argv = [name, *arguments]
    code: object = 1
    try:
        if kind == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            exec(name, {"__name__": "__main__"})  # noqa: S102  what `python -c` does
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001  this process must not go on as the trainer
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)


def kill_after_row(number: int) -> None:
    """Let this process be killed when it has written a number of rows of metrics."""
    from samebits.train.recorder import Recorder

    append, rows = Recorder.append_metrics, itertools.count(1)

    def append_or_die(*arguments: Any) -> None:
        append(*arguments)
        if next(rows) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Recorder.append_metrics = append_or_die  # type: ignore[method-assign, assignment]


class PinnedTrainer:
    """The trainers of a test session, one per pinned environment; each starts when it is first needed.

    Args:
        prefix: Starts the command of each trainer, e.g. an emulator.
        modules: Are imported once, too. The default is what many data functions in tests import.
    """

    def __init__(self, prefix: tuple[str, ...] = (), modules: tuple[str, ...] = ("sklearn.datasets",)) -> None:
        self.prefix, self.modules = prefix, modules
        self.trainers: dict[tuple[tuple[str, str], ...], subprocess.Popen[str]] = {}

    def key(self, environment: dict[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the variables that do something when Python or TensorFlow starts."""
        kept = {name: value for name, value in environment.items() if name.startswith(AT_START)}
        return tuple(sorted((name, value) for name, value in kept.items() if name != "PYTHONPATH"))

    def find(self, environment: dict[str, str]) -> "subprocess.Popen[str]":
        """Return the trainer whose Python was started with these variables."""
        key = self.key(environment)
        if key not in self.trainers or self.trainers[key].poll() is not None:
            self.trainers[key] = subprocess.Popen(
                [*self.prefix, sys.executable, __file__, *self.modules], env=environment, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self.trainers[key]

    def train(self, command: list[str], environment: dict[str, str], root: pathlib.Path) -> int:
        """Run the command of a training process, print what it printed, and return its exit code."""
        with tempfile.TemporaryDirectory() as folder:
            outputs = [pathlib.Path(folder) / name for name in ("output", "errors")]
            code = self.run(command[1:], environment, root, outputs)
            for path, stream in zip(outputs, (sys.stdout, sys.stderr), strict=True):
                stream.write(path.read_text(errors="replace"))
        return code

    def run(
        self, program: list[str], environment: dict[str, str], root: pathlib.Path, outputs: Sequence[pathlib.Path]
    ) -> int:
        """Run a program of Python as a fork, and return its exit code.

        Args:
            program: What follows "python" in its command. The last word of a training's is the process that it ends
                with, which is the trainer.
            environment: Its variables.
            root: Its folder.
            outputs: The files to which it adds its output and its errors.
        """
        trainer = self.find(environment)
        words = [*program[:-1], str(trainer.pid)] if MODULE in program else program
        requests: IO[str] = trainer.stdin  # type: ignore[assignment]
        answers: IO[str] = trainer.stdout  # type: ignore[assignment]
        requests.write(json.dumps([words, environment, str(root), *map(str, outputs)]) + "\n")
        return int(answers.readline() or trainer.wait())

    def close(self) -> None:
        """End every trainer."""
        for trainer in set(self.trainers.values()):
            trainer.communicate()


if __name__ == "__main__":
    serve()
