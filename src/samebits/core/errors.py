"""All errors that a user can see, with exit codes and how they are printed. Imports only the standard library."""

import re
import sys
from collections.abc import Callable, Sequence

MAX_NAMES = 4  # in a message


class SamebitsError(Exception):
    """Base of all errors of this project. It says what was expected, what was received and how to fix it.

    Args:
        what: The problem in one sentence.
        expected: What was expected.
        received: What was received.
        fix: What the user can do.

    Attributes:
        exit_code: 1: a run failed or bits differ. 2: wrong usage or input.
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
    """The command, the configuration or an input file is wrong, and nothing was started. Printed as one line."""

    exit_code = 2

    def __str__(self) -> str:
        line = f"{self.what}: expected {self.expected}, received {self.received}; fix: {self.fix}"
        return re.sub(r"\s*\n\s*", " ", line)


class ConfigError(UsageError):
    """A value of the configuration is unknown, of the wrong type or out of range."""


class SeedError(UsageError):
    """A seed is not an integer or out of range, or a seed point is unknown or unused."""


class DataError(UsageError):
    """A data file is missing, unreachable, truncated or has the wrong SHA-256."""


class FolderError(UsageError):
    """A folder of runs is missing, is not writable, or is not the expected one."""


class MachineError(UsageError):
    """This machine cannot keep the promise of the runtime level."""


class EngineError(UsageError):
    """No container engine is available, or the container does not support the request."""


class NotPortableError(UsageError):
    """The model, loss or optimizer has operations whose bits depend on the CPU, which `portable` does not allow."""


class RuntimePinError(SamebitsError):
    """A setting that affects bits is not in effect in the training process."""


class UncoveredDrawError(SamebitsError):
    """Some code draws random numbers without a seed point."""


class TrainingError(SamebitsError):
    """The training cannot continue."""


class RecordError(SamebitsError):
    """A file of a run is damaged or could not be written."""


class TrackerError(SamebitsError):
    """The experiment tracker failed. This never stops a training."""


class StopRequestedError(Exception):
    """The training was asked to stop and has saved a checkpoint. Not an error, so it has no message."""


NOISE = re.compile(
    r"(in user code:|Graph execution error:|Detected at node|Traceback |File \"|Stack trace|Arguments received by|"
    r"Exception encountered when calling|Original stack|\* |\^|~)"
)


def first_names(names: Sequence[str]) -> str:
    """Return the first names of a list for a message, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """Return the cause of an error in one line.

    Keras and TensorFlow put tracebacks, the received arguments and the place in the graph around the cause.
    """
    is_key = isinstance(error, KeyError) and len(error.args) == 1 and isinstance(error.args[0], str)  # str() quotes it
    text = re.sub(r"\x1b\[[0-9;]*m", "", error.args[0] if is_key else str(error))
    text = re.sub(r"\s*\[\[\{?\{?node.*", "", text, flags=re.DOTALL)
    if "in user code:" in text:  # a traceback, whose last line without indent has the cause
        matches = re.findall(r"^ *(\w+(?:Error|Exception)): (.+)$", text, flags=re.MULTILINE)
        if matches:
            text = matches[-1][1]
    text = text.partition("Arguments received by")[0]
    lines = [line.strip() for line in text.splitlines()]
    useful = [line for line in lines if line and not NOISE.match(line)]
    if useful:
        return " ".join(useful)[:400]
    if error.__cause__ is not None and error.__cause__ is not error:
        return first_line(error.__cause__)
    return "no message"


def report_errors(action: Callable[[], int]) -> int:
    """Run an action and return its exit code. Errors of this project are printed without a traceback."""
    try:
        return action()
    except SamebitsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
