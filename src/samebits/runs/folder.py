"""The folder of a run: the names of its files, their required contents, and how to read them.

Reading ignores an incomplete last line.
"""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import yaml

from samebits.core.errors import FolderError, RecordError
from samebits.core.files import storage_error, write_bytes

INPUTS = "inputs.json"
RESULT = "result.json"
CONFIG = "config.yaml"
SOURCE = "source"  # next to inputs.json: a copy of the code, so that an old run can be repeated
SEEDS = "seeds.json"
MACHINE = "machine.json"
METRICS = "metrics.jsonl"
TRACE = "trace.jsonl"
PREDICTIONS = "predictions.arrays"
MODEL = "model.keras"
WEIGHTS = "weights.arrays"  # instead of model.keras, if Keras cannot save the model
FILES = "files.json"  # the digests of the files that a script read
CALLBACKS = "callbacks"  # the folder for the files of Keras callbacks
LOG = "log.txt"
LOCK = "running.lock"
WORKER_LOCK = "worker.lock"
SCRATCH = "samebits-"  # the names of temporary folders start with this

# The keys and types that readers of a run's files rely on. A dot separates nested keys.
NUMBER, OPTIONAL_INT, OPTIONAL_DICT = (int, float), (int, type(None)), (dict, type(None))
SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    INPUTS: {"name": str, "config": dict, "code.digest": str, "code.files": dict, "code.files.*": str, "lock": str},
    RESULT: {
        "metrics": dict, "metrics.*": float, "stopped_early": (bool, type(None)), "epochs_done": OPTIONAL_INT,
        "best_epoch": OPTIONAL_INT, "weights_digest": str, "optimizer_digest": str,
        "data_digest": str, "promise": str, "fingerprint": str, "timing": dict,
        "timing.*": NUMBER, "resumed_at": (dict, type(None)),
    },
    MACHINE: {
        "arithmetic.promise": str, "arithmetic.fingerprint": str, "arithmetic.settings": dict, "cpu": dict,
        "git": dict, "packages": dict,
    },
    SEEDS: {"points": list, "points.*.point": str, "points.*.rests": str},
    METRICS: {"epoch": int, "step": int, "*": NUMBER},
    TRACE: {
        "epoch": int, "step": OPTIONAL_INT, "data": OPTIONAL_DICT, "data.*": str, "generators": OPTIONAL_DICT,
        "gradients": OPTIONAL_DICT, "gradients.*": str, "bits": OPTIONAL_DICT, "bits.*": str, "weights": str,
        "tensors": dict, "tensors.*": str,
    },
    CONFIG: {"name": str, "seed.policy": str, "seed.points": dict, "data": dict, "model": dict, "training": dict},
}  # fmt: skip


def list_leftovers(attempt: pathlib.Path) -> list[pathlib.Path]:
    """Return the leftover files of an attempt: incomplete files, and checkpoints of a finished run."""
    used = ("checkpoint-*.arrays", "stage-*.arrays") if is_finished(attempt) else ()
    return sorted([*attempt.glob(".*partial*"), *(path for pattern in used for path in attempt.glob(pattern))])


def remove_leftovers(attempt: pathlib.Path) -> None:
    """Remove the leftover files of an attempt. The caller must hold its lock."""
    for path in list_leftovers(attempt):
        path.unlink(missing_ok=True)


def _read(path: pathlib.Path, parse: Callable[[bytes], Any], expected: str) -> Any:
    """Return the checked data of a whole file.

    Raises:
        RecordError: The file is missing or damaged.
    """
    try:
        value = parse(path.read_bytes())
        check_shape(value, SHAPES.get(path.name, {}))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unreadable(path, expected, " ".join(str(error).split())) from error
    return value


def _unreadable(path: pathlib.Path, expected: str, received: str) -> RecordError:
    fix = "choose another run, or remove the folder of this one."
    return RecordError(f"{path} could not be read.", expected=expected, received=received, fix=fix)


def read_json(path: pathlib.Path) -> Any:
    """Return the data of a JSON file.

    Raises:
        RecordError: The file is missing or damaged.
    """
    return _read(path, json.loads, "a JSON file written by a run")


def read_yaml(path: pathlib.Path) -> Any:
    """Return the data of a YAML file.

    Raises:
        RecordError: The file is missing or damaged.
    """
    return _read(path, yaml.safe_load, "a YAML file written by a run")


def _members(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return part if isinstance(part, list) else []


def check_shape(value: Any, shape: dict[str, type | tuple[type, ...]]) -> None:
    """Check that data has all keys with the right types. "*" means every member of a list or mapping.

    Raises:
        ValueError: A key is missing or has another type. The message has the key.
    """
    for key, kind in shape.items():
        parts = [value]
        for name in key.split("."):
            if name == "*":
                parts = [inner for part in parts for inner in _members(part)]
            else:
                parts = [part.get(name) if isinstance(part, dict) else None for part in parts]
        if not all(isinstance(part, kind) for part in parts):
            raise ValueError(f"{key} is missing or has the wrong type")


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON-lines file. A missing file has none; an incomplete last line is ignored.

    Raises:
        RecordError: A line other than the last is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, "a file of JSON lines written by a run", error.strerror or str(error)) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            check_shape(row, SHAPES.get(path.name, {}))
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged in line {number}.",
                expected="one JSON object per line",
                received=repr(line[:60]),
                fix="remove the folder of this attempt and run the same command again.",
            ) from error
        rows.append(row)
    return rows


def read_metrics(attempt: pathlib.Path) -> list[dict[str, Any]]:
    """Return an attempt's rows of metrics with `global_step`, which counts steps over all epochs.

    Every epoch ends with a row. A row has the metrics that Keras gave until then: not each row has each metric.

    Raises:
        RecordError: The file is damaged.
    """
    rows = read_rows(attempt / METRICS)
    before, epoch, step = 0, 0, 0  # steps before this epoch; the last row's epoch and step
    for row in rows:
        if row["epoch"] != epoch:
            before, epoch = before + step, row["epoch"]
        step = row["step"]
        row["global_step"] = before + step
    return rows


def metric_values(row: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a row, without its place."""
    return {name: value for name, value in row.items() if name not in ("epoch", "step", "global_step")}


def describe_end(result: dict[str, Any], epochs: int | None) -> str:
    """Return where an early-stopped training ended and which epoch was its best, in words; "" if it did not stop early.

    Args:
        result: The contents of result.json.
        epochs: The number of epochs in the configuration, if the result does not say it. With stages it is their sum.
    """
    if not result.get("stopped_early"):
        return ""
    ended = f"stopped at epoch {result.get('epochs_done')} of {result.get('epochs', epochs)}"
    best = result.get("best_epoch")
    return ended if best is None else f"{ended}, best {best}"


def keep_rows(path: pathlib.Path, count: int) -> None:
    """Cut a JSON-lines file to its first `count` rows, for a run that resumes from a checkpoint."""
    rows = read_rows(path)
    if path.exists():
        write_bytes(path, b"".join((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows[:count]))


def is_finished(attempt: pathlib.Path) -> bool:
    """Return whether an attempt has a result, the last file that a run writes."""
    return (attempt / RESULT).is_file()


def list_attempts(inputs_folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the attempts with the same inputs, oldest first."""
    found = [path for path in inputs_folder.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def list_all_attempts(runs: pathlib.Path) -> list[pathlib.Path]:
    """Return all attempts below a folder of runs, sorted by name, digest and number."""
    return [attempt for inputs in sorted(runs.glob("*/*")) for attempt in list_attempts(inputs)]


def find_attempt(runs: pathlib.Path, name: str) -> pathlib.Path:
    """Return the attempt that a user asked for.

    Args:
        runs: The folder of runs.
        name: A path; or the start of an inputs digest, optionally with "/<attempt>" (default: the newest); or "last",
            "last~1", …

    Raises:
        FolderError: No run has this name, or more than one.
    """
    given = pathlib.Path(name)
    if (given / CONFIG).is_file():
        return given.resolve()
    attempts = [attempt for attempt in list_all_attempts(runs) if (attempt / CONFIG).is_file()]
    last = re.fullmatch(r"last(?:~(\d+))?", name)
    if last:
        attempts.sort(key=lambda attempt: ((attempt / CONFIG).stat().st_mtime_ns, attempt.as_posix()))
        back = int(last[1] or 0)
        found = attempts[-1 - back : len(attempts) - back] if back < len(attempts) else []
    else:
        start, _, number = "/".join(
            given.parts[-2:] if given.parts[-1:] and given.parts[-1].isdecimal() else given.parts[-1:]
        ).partition("/")
        found = [a for a in attempts if start and a.parent.name.startswith(start) and number in ("", a.name)]
        if found and not number and len({a.parent for a in found}) == 1:
            found = found[-1:]
    if len(found) != 1:
        raise FolderError(
            f"run {name}",
            expected="a run's folder, the start of its inputs digest (with /attempt), or last",
            received=f"{len(found)} runs of {len(attempts)} in {runs}",
            fix="use a name that samebits train printed",
        )
    return found[0]


def make_attempt(inputs_folder: pathlib.Path) -> pathlib.Path:
    """Create and return the folder of a new attempt. Processes that run at the same time get different numbers."""
    attempts = list_attempts(inputs_folder)
    number = int(attempts[-1].name) if attempts else 0
    while True:
        number += 1
        attempt = inputs_folder / str(number)
        try:
            attempt.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise storage_error(attempt, error) from error
        return attempt


def remove_attempt(attempt: pathlib.Path) -> None:
    """Remove an attempt that never started, and the folders above it if they are empty."""
    shutil.rmtree(attempt, ignore_errors=True)
    inputs_folder = attempt.parent
    if not list_attempts(inputs_folder):
        shutil.rmtree(inputs_folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            inputs_folder.parent.rmdir()
