"""Every error that a user can meet, with its exit code, and how it is printed. Imports only the standard library."""

import re
import sys
from collections.abc import Callable


class SamebitsError(Exception):
    """Base of all errors of this project; says what was expected, what came and what to do.

    Args:
        what: The fact in one sentence.
        expected: What would have been right.
        received: What came instead.
        fix: What the reader can do now.

    Attributes:
        exit_code: 1, a run failed or bits differ; 2, wrong usage or unusable input.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: object, received: object, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.received = received
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  Expected: {self.expected}   Received: {self.received}\n  Fix: {self.fix}"


class UsageError(SamebitsError):
    """The command, the configuration or an input file is wrong; nothing was begun. One line."""

    exit_code = 2

    def __str__(self) -> str:
        line = f"{self.what}: expected {self.expected}, received {self.received}; fix: {self.fix}"
        return re.sub(r"\s*\n\s*", " ", line)


class ConfigError(UsageError):
    """A value of the configuration is unknown, of the wrong type or out of range."""


class SeedError(UsageError):
    """A seed is no integer or out of range, a seed point is unknown, or nothing consumes it."""


class DataError(UsageError):
    """A data file is missing, unreachable, cut short or not the pinned one."""


class FolderError(UsageError):
    """A folder of runs cannot be written, or is not what it should be."""


class MachineError(UsageError):
    """This machine cannot keep the promise that the runtime level makes."""


class EngineError(UsageError):
    """No container engine answers, or the container cannot do what it is asked to."""


class NotPortableError(UsageError):
    """Model, loss or optimiser has operations whose bits depend on the CPU, under a level that promises otherwise."""


class RuntimePinError(SamebitsError):
    """A setting that decides bits is not in effect in the training process."""


class UncoveredDrawError(SamebitsError):
    """Something draws random numbers that no seed point covers."""


class TrainingError(SamebitsError):
    """The training itself cannot go on."""


class RecordError(SamebitsError):
    """A file of a run could not be written or is damaged."""


class TrackerError(SamebitsError):
    """The experiment tracker could not be used. Never ends a training."""


class StopRequestedError(Exception):
    """The training was asked to stop and has saved a checkpoint. No error: it carries no message."""


def report_errors(action: Callable[[], int]) -> int:
    """Run an action and return its exit code; an error of this project is printed as a message, without a traceback."""
    try:
        return action()
    except SamebitsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
