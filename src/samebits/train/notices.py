"""Tells what a script sets itself although the run fixes it, once per kind, and lists the files that it reads."""

import contextlib
import functools
import hashlib
import importlib
import logging
import os
import pathlib
import random
import sys
import sysconfig
from collections.abc import Callable, Iterable
from typing import Any, Self

from samebits.core.config import Config
from samebits.core.errors import TrainingError
from samebits.runtime.pins import KEPT, SCRUBBED_PREFIXES

logger = logging.getLogger(__name__)

HARMLESS = ("TF_CPP_", *KEPT)  # starts of variables that a script may set
NOT_DATA = (".py", ".pyc", ".so")
BETWEEN = (__file__, "<frozen os>", os.__file__)  # of frames between a line and what it calls
SYSTEM = ("/proc/", "/sys/", "/dev/")


def line_of(folder: pathlib.Path) -> str:
    """Return the file and the line of a script that runs now: the innermost one below its folder; "" if none does."""
    frame: Any = sys._getframe(1)  # noqa: SLF001  the public functions read the source of each frame
    while frame is not None:
        if place := _place(folder, frame.f_code.co_filename, frame.f_lineno):
            return place
        frame = frame.f_back
    return ""


def line_of_caller(folder: pathlib.Path) -> str:
    """Return the file and the line below the folder of a script that calls a wrapper here; "" if a library does."""
    frame: Any = sys._getframe(1)  # noqa: SLF001  likewise
    while frame is not None and frame.f_code.co_filename in BETWEEN:
        frame = frame.f_back
    return "" if frame is None else _place(folder, frame.f_code.co_filename, frame.f_lineno)


def line_in_stack(folder: pathlib.Path, stack: Iterable[Any]) -> str:
    """Return the file and the line of a script in the stack of an operation, whose innermost frame is the last one."""
    return next(filter(None, (_place(folder, frame.filename, frame.lineno) for frame in reversed([*stack]))), "")


def _place(folder: pathlib.Path, file: str, line: int) -> str:
    """Return a line of a file below the folder of a script, in words; "" of a library."""
    if not file.startswith(f"{folder}{os.sep}") or f"{os.sep}site-packages{os.sep}" in file:
        return ""
    return f"{pathlib.Path(file).relative_to(folder)}, line {line}"


class Notices:
    """Watches a script while the block runs: seeds of global generators, and settings that the run has fixed.

    Seeds are set as the script asks. The settings are ignored.

    Args:
        script: The script.
        config: The configuration of the run.
    """

    def __init__(self, script: pathlib.Path, config: Config) -> None:
        self._folder, self._promise = script.parent, config.runtime.promise
        self._told: set[str] = set()
        self._inside = False
        self._undo = contextlib.ExitStack()

    def tell(self, kind: str, text: str) -> None:
        """Log a message about a line of the script, the first time."""
        place = line_of_caller(self._folder)
        if place and kind not in self._told:
            self._told.add(kind)
            logger.warning("%s: %s", place, text)

    def __enter__(self) -> Self:
        import keras  # noqa: PLC0415  after the pins
        import numpy as np  # noqa: PLC0415
        import tensorflow as tf  # noqa: PLC0415

        of_tf = importlib.import_module("keras._tf_keras.keras.utils")  # what tf.keras.utils is (Keras 3.15)
        for owner, name in (
            (keras.utils, "set_random_seed"), (of_tf, "set_random_seed"), (random, "seed"), (np.random, "seed"),
            (tf.random, "set_seed"),
        ):  # fmt: skip
            self._wrap(owner, name, self.seed)
        for owner, name in (
            (tf.config.experimental, "enable_op_determinism"), (tf.config.optimizer, "set_jit"),
            (tf.config.threading, "set_intra_op_parallelism_threads"),
            (tf.config.threading, "set_inter_op_parallelism_threads"),
        ):  # fmt: skip
            self._wrap(owner, name, self.ignore)
        self._wrap(type(os.environ), "__setitem__", self.set_variable)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        self._undo.callback(setattr, owner, name, original)
        setattr(owner, name, functools.wraps(original)(lambda *args, **named: wrapper(original, name, *args, **named)))

    def seed(self, original: Callable[..., Any], name: str, *args: Any, **named: Any) -> Any:
        """Seed a global generator as the script asks, and say what that changes."""
        outer, self._inside = self._inside, True
        try:
            if not outer:
                self.tell("seed", f"{name} seeds the global generators only. Weights, layers and the order of fit keep "
                          "the seeds of seed.root, which also is what a study changes")  # fmt: skip
            return original(*args, **named)
        finally:
            self._inside = outer

    def ignore(self, _original: Callable[..., Any], name: str, *_args: Any, **_named: Any) -> None:
        """Ignore a setting that the run has fixed."""
        self.tell(name, f"{name} is ignored: runtime={self._promise} has set threads and determinism")

    def set_variable(self, original: Callable[..., Any], _name: str, environment: Any, key: str, value: str) -> None:
        """Set a variable of the environment, unless the run fixes it.

        Raises:
            TrainingError: It chooses another backend of Keras.
        """
        if key == "KERAS_BACKEND" and value != "tensorflow":
            raise TrainingError(
                f"the script sets KERAS_BACKEND={value}.", expected="tensorflow", received=value,
                fix="samebits knows TensorFlow only; run the script with its own Python",
            )  # fmt: skip
        if not key.startswith(SCRUBBED_PREFIXES) or key.startswith(HARMLESS):
            original(environment, key, value)
        elif line_of_caller(self._folder):
            self.tell(key, f"{key} is ignored: a run sets what changes bits before Python starts")
        else:  # a library
            original(environment, key, value)


class ReadFiles:
    """Lists the files that Python code opens for reading while the block runs. TensorFlow's own readers are not seen.

    Args:
        runs: The folder of runs, whose files do not count.
    """

    def __init__(self, runs: pathlib.Path) -> None:
        paths = sysconfig.get_paths()
        harness = str(pathlib.Path(__file__).resolve().parent.parent)
        ignored = {sys.prefix, sys.base_prefix, paths["stdlib"], paths["purelib"], paths["platlib"], harness, str(runs)}
        self._ignored = (*SYSTEM, *(f"{folder}{os.sep}" for folder in ignored))
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._listens = False

    def __enter__(self) -> Self:
        if not self._read and not self._written:
            sys.addaudithook(self._hear)  # cannot be removed
        self._listens = True
        return self

    def __exit__(self, *_: object) -> None:
        self._listens = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self._listens or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  resolves no link, and is called often
        writes = isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE != os.O_RDONLY
        if not path.startswith(self._ignored) and not path.endswith(NOT_DATA):
            (self._written if writes else self._read).add(path)

    def digests(self, folder: pathlib.Path) -> dict[str, str]:
        """Return the SHA-256 of each file that was read and not written, by its path relative to a folder."""
        found = {}
        for path in map(pathlib.Path, sorted(self._read - self._written)):
            if path.is_file():
                with path.open("rb") as stream:
                    name = path.relative_to(folder) if path.is_relative_to(folder) else path
                    found[name.as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
        return found
