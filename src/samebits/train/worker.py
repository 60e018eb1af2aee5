"""The training process: applies the fixed settings, then loads data, builds the model, trains and writes the result.

`samebits.launch.run` starts it as `python -m samebits.train.worker ATTEMPT ROOT PARENT`, in an environment that was
fixed before Python started. Exit codes: 0: done. 1: failed. 2: wrong input, nothing started. 130 or 143: stopped by
SIGINT, by SIGTERM or by the end of the parent, after a checkpoint.
"""

import faulthandler
import fcntl
import functools
import importlib
import inspect
import logging
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from samebits.core import files
from samebits.core.config import Config, from_dict, split_target
from samebits.core.digest import bytes_digest, changed_names, json_digest
from samebits.core.errors import ConfigError, RecordError, SamebitsError, StopRequestedError
from samebits.core.old_names import import_advice
from samebits.core.seeds import Seeds, resolve_points
from samebits.runs.folder import (
    CONFIG,
    INPUTS,
    LOG,
    MACHINE,
    RESULT,
    SEEDS,
    WORKER_LOCK,
    is_finished,
    read_json,
    read_yaml,
    remove_leftovers,
)
from samebits.runs.identity import source_files
from samebits.runtime.pins import end_process
from samebits.train.stop import StopRequests

if TYPE_CHECKING:
    from samebits.train.data import Dataset

logger = logging.getLogger(__name__)

_held: list[Any] = []  # files whose locks this process holds until its end
OUT_OF_MEMORY = ("MemoryError", "_ArrayMemoryError", "ResourceExhaustedError")  # Python's, NumPy's, TensorFlow's


class Trainer(Protocol):
    """Trains a model. Implemented for Keras networks and scikit-learn forests."""

    def check(self) -> None:
        """Check the settings and the model.

        Raises:
            ConfigError: A setting or the model is wrong. The message has the key.
        """

    def take_seeds(self) -> None:
        """Use the seed points of the training, or mark them as unused."""

    def run(self) -> dict[str, Any]:
        """Train to the end. Returns metrics and digests for result.json."""

    def save_model(self) -> None:
        """Write the trained model into the folder of the run."""


def choose_trainer(
    model: Any, dataset: Any, config: Config, seeds: Seeds, attempt: pathlib.Path, stop: StopRequests
) -> Trainer:
    """Return the trainer for a model."""
    import keras  # noqa: PLC0415  after the pins

    if isinstance(model, keras.Model):
        from samebits.train.network import Network  # noqa: PLC0415

        return Network(model, dataset, config, seeds, attempt, stop)
    from samebits.train.forest import Forest  # noqa: PLC0415  takes a second, which networks do not need

    return Forest(model, dataset, config.training, seeds, attempt)


def find_function(key: str, tree: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the function that the configuration names, with all arguments except the first.

    Args:
        key: "data" or "model", for the message.
        tree: That part of the configuration.

    Raises:
        ConfigError: The function does not exist, or has other parameters.
    """
    target, arguments = split_target(tree)
    module_name, _, name = target.rpartition(".")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}._target_", expected="package.module.function", received=f"{target} ({error})",
            fix=import_advice(error) or "fix the typo",
        ) from error  # fmt: skip
    try:
        inspect.signature(function).bind(None, **arguments)
    except TypeError as error:
        takes = [f"{key}.{name}" for name in list(inspect.signature(function).parameters)[1:]]
        raise ConfigError(
            key, expected="the keys " + ", ".join(takes), received=str(error), fix="fix the keys"
        ) from error
    return functools.partial(function, **arguments)


def apply_runtime(config: Config, seeds: Seeds, attempt: pathlib.Path, root: pathlib.Path) -> str:
    """Fix and check the settings, seed the global generators and record the machine.

    Returns:
        The arithmetic fingerprint.
    """
    from samebits.runtime import machine, pins  # noqa: PLC0415  after the environment is fixed

    hash_seed = seeds.take("python/hash")
    pins.check_machine(config.runtime)
    pins.apply_pins(config.runtime)
    if config.runtime.promise == "portable":
        from samebits.portable import exact  # noqa: PLC0415  imports TensorFlow

        exact.install()
    effective = pins.effective_settings()
    pins.check_pins(config.runtime, hash_seed, effective)
    pins.seed_global_generators(seeds)
    described = machine.describe_machine(root)
    fingerprint = machine.arithmetic_fingerprint(described, effective, config.runtime.promise)
    arithmetic = {"promise": config.runtime.promise, "fingerprint": fingerprint, "settings": effective}
    earlier = earlier_machines(attempt)
    if any(machine["fingerprint"] != fingerprint for machine in earlier):
        to_user = logging.getLogger(
            "samebits.train.worker"
        )  # this module runs as __main__, whose messages stay in the log
        to_user.warning("the run resumes with different settings or CPU (machine.json); before: %s", earlier[-1]["cpu"])
        fingerprint = json_digest([*(machine["fingerprint"] for machine in earlier), fingerprint])
    files.write_json(attempt / MACHINE, {"arithmetic": arithmetic, **described, "earlier": earlier})
    return fingerprint


def earlier_machines(attempt: pathlib.Path) -> list[dict[str, Any]]:
    """Return fingerprint, CPU and git commit of each earlier start of a resumed run."""
    try:
        before = read_json(attempt / MACHINE)
        mine = {
            "fingerprint": before["arithmetic"]["fingerprint"],
            "cpu": before["cpu"]["model"],
            "git": before["git"],
        }
        return [*before["earlier"], mine]
    except (RecordError, KeyError, TypeError):
        return []


def check_code(config: Config, attempt: pathlib.Path, root: pathlib.Path) -> None:
    """Check that no code was changed between naming the run and importing the code in this process.

    Raises:
        ConfigError: Code was changed. The message has the files.
    """
    if not (attempt.parent / INPUTS).exists():
        return  # a temporary run of another command
    named = read_json(attempt.parent / INPUTS)["code"]["files"]
    changed = changed_names(named, {path: bytes_digest(data) for path, data in source_files(config, root).items()})
    if changed:
        raise ConfigError(
            "src/", expected="code that does not change while the run starts", fix="run the same command again",
            received=f"changes in {', '.join(changed)}",
        )  # fmt: skip


def load_dataset(config: Config, seeds: Seeds, root: pathlib.Path) -> "Dataset":
    """Return the result of the data function of the configuration."""
    from samebits.train.data import DataContext  # noqa: PLC0415  after the pins

    dataset: Dataset = find_function("data", config.data)(DataContext(seeds, config.data, root / config.paths.cache))
    return dataset


def build_model(config: Config, seeds: Seeds) -> Any:
    """Return the result of the model function of the configuration."""
    return find_function("model", config.model)(seeds.for_model())


def run(attempt: pathlib.Path, root: pathlib.Path, stop: StopRequests) -> None:
    """Train with the config.yaml of the attempt, and write result.json last."""
    began = time.monotonic()
    config = from_dict(read_yaml(attempt / CONFIG))
    seeds = Seeds(resolve_points(config.seed.root, config.seed.policy, config.seed.points))
    fingerprint = apply_runtime(config, seeds, attempt, root)

    data_began = time.monotonic()
    dataset = load_dataset(config, seeds, root)
    data_s = time.monotonic() - data_began
    model = build_model(config, seeds)
    check_code(config, attempt, root)
    trainer = choose_trainer(model, dataset, config, seeds, attempt, stop)
    trainer.check()
    trainer.take_seeds()
    seeds.check_consumed()
    files.write_json(attempt / SEEDS, {"root": config.seed.root, "policy": config.seed.policy, "points": seeds.table()})

    # --- training ---
    training_began = time.monotonic()
    outcome = trainer.run()
    training_s = time.monotonic() - training_began

    # --- result ---
    trainer.save_model()
    timing = {"start_s": data_began - began, "data_s": data_s, "training_s": training_s}
    result = {
        **outcome,
        "promise": config.runtime.promise,
        "fingerprint": fingerprint,
        "data_digest": dataset.digest(),
        "timing": timing,
    }
    files.write_json(attempt / RESULT, result)
    remove_leftovers(attempt)


def wait_for_predecessor(attempt: pathlib.Path) -> None:
    """Lock the attempt, after an earlier process of it ends. That one may first finish a step and save."""
    held = (attempt / WORKER_LOCK).open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    _held.append(held)
    remove_leftovers(attempt)


def describe_exception(error: Exception) -> str:
    """Return the line for the terminal about an error that is not one of this project."""
    name = type(error).__name__
    lines = str(error).splitlines()
    if name in OUT_OF_MEMORY:
        what = f"out of memory ({lines[0] if lines else name})"
        return f"{name}: {what}; fix: use a smaller model, training.batch_size or data set, or more memory"
    return f"{name}: {lines[0] if lines else 'no message'}; the traceback is in {LOG}"


def main() -> int:
    """Train the attempt that the command line names, and write all messages to its log."""
    attempt, root, parent = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    log = os.open(attempt / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 2)  # TensorFlow's own messages and any crash go to the log
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    to_terminal = logging.StreamHandler(terminal)
    to_terminal.setLevel(logging.WARNING)
    to_terminal.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("samebits").addHandler(to_terminal)
    stop = StopRequests(parent)
    stop.listen()
    wait_for_predecessor(attempt)
    if is_finished(attempt):  # by an earlier process
        return 0
    try:
        if stop.requested():
            raise StopRequestedError  # noqa: TRY301  handled below, like a stop during the training
        run(attempt, root, stop)
    except SamebitsError as error:
        text = f"{type(error).__name__}: {error}"
        logger.error(text)  # noqa: TRY400  the message is for a user; a traceback would hide it
        print(text, file=terminal)
        return error.exit_code
    except SystemExit as error:
        print(f"the data or model function called sys.exit({error.code!r})", file=terminal)
        traceback.print_exc()
        return 1
    except StopRequestedError:
        return stop.exit_code()
    except Exception as error:  # noqa: BLE001  every failure must reach the log
        traceback.print_exc()
        print(describe_exception(error), file=terminal)
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
