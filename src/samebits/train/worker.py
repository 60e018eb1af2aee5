"""The training process: applies the fixed settings, then loads data, builds the model, trains and writes the result.

`samebits.launch.run` starts it as `python -m samebits.train.worker ATTEMPT ROOT PARENT [TEAM]`, in an environment that
was fixed before Python started. TEAM describes the processes that share the training; all but the first have a folder
of their own, which is no record. Exit codes: 0: done. 1: failed. 2: wrong input, nothing started. 130 or 143: stopped
by SIGINT, by SIGTERM or by the end of the parent, after a checkpoint.
"""

import atexit
import contextlib
import faulthandler
import fcntl
import importlib
import inspect
import json
import logging
import os
import pathlib
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol

from samebits.core import files
from samebits.core.config import Config, from_dict, runtime_of, split_target
from samebits.core.digest import arrays_digest, bytes_digest, changed_names, json_digest
from samebits.core.errors import ConfigError, RecordError, SamebitsError, StopRequestedError, first_line
from samebits.core.old_names import import_advice
from samebits.core.seeds import Seeds
from samebits.runs.folder import (
    CONFIG,
    INPUTS,
    LOG,
    MACHINE,
    RESULT,
    SCRATCH,
    SEEDS,
    WORKER_LOCK,
    is_finished,
    read_json,
    read_yaml,
    remove_leftovers,
)
from samebits.runs.identity import name_inputs, source_files
from samebits.runtime.pins import end_process
from samebits.train.stages import Stage, list_stages
from samebits.train.stop import StopRequests

if TYPE_CHECKING:
    from samebits.train.data import Dataset
    from samebits.train.team import Team

logger = logging.getLogger(__name__)

_held: list[Any] = []  # files whose locks this process holds until its end
POLL_S = 0.5
OFFERED = ("dataset", "stage", "previous")  # to the model function, if it has parameters with these names
SEED_OR_CONTEXT = {"data": "context", "model": "seed"}  # what the two functions get
SAME_INPUTS = (
    "use the same project, with the same files below src/, and the same command for every worker; under "
    "runtime=machine also the same CPU"
)
SAME_DATA = "give every worker the same data and data function, and draw only with the seeds of the context"
DECISIVE = {  # part of the arithmetic fingerprint -> its name for a user
    "versions": "package versions",
    "architecture": "CPU architecture",
    "settings": "runtime settings (threads, instruction sets in use)",
    "cpu": "CPU (model, instruction sets or caches)",
}
OUT_OF_MEMORY = ("MemoryError", "_ArrayMemoryError", "ResourceExhaustedError")  # Python's, NumPy's, TensorFlow's


class Trainer(Protocol):
    """Trains a model. Implemented for Keras networks and scikit-learn forests.

    Attributes:
        model: The model.
    """

    model: Any

    @property
    def rows(self) -> Mapping[str, int]:
        """How many rows each file of the record has at the end."""

    def check(self) -> None:
        """Check the settings and the model.

        Raises:
            ConfigError: A setting or the model is wrong. The message has the key.
        """

    def take_seeds(self) -> None:
        """Use the seed points of the training, or mark them as unused."""

    def run(self, before: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Train to the end. Returns metrics and digests for result.json.

        Args:
            before: How many rows earlier stages have in each file of the record.
        """

    def end_stage(self) -> None:
        """Save the end of a stage that is not the only one."""

    def init_from(self, runs: pathlib.Path) -> None:
        """Start with the weights of the run or file that the settings name."""

    def continue_from(self, previous: Any) -> None:
        """Start with the weights of the model of the previous stage."""

    def save_model(self) -> None:
        """Write the trained model into the folder of the run."""


def choose_trainer(
    model: Any, dataset: Any, stage: Stage, seeds: Seeds, attempt: pathlib.Path, stop: StopRequests,
    team: "Team | None" = None,
) -> Trainer:  # fmt: skip
    """Return the trainer for a model."""
    import keras  # noqa: PLC0415  after the pins

    if isinstance(model, keras.Model):
        from samebits.train.network import Network  # noqa: PLC0415

        return Network(model, dataset, stage, seeds, attempt, stop, team)
    from samebits.train.forest import Forest  # noqa: PLC0415  takes a second, which networks do not need

    return Forest(model, dataset, stage.config.training, seeds, attempt)


def find_function(key: str, tree: dict[str, Any], offered: dict[str, Any] | None = None) -> Callable[[Any], Any]:
    """Return the function that the configuration names, with all arguments except the seed or the context.

    It gets the seed or the context in the parameter of that name, or else in its first one, or not at all if it has
    no parameter for it.

    Args:
        key: "data" or "model", for the message.
        tree: That part of the configuration.
        offered: Arguments that the function gets if it has parameters with these names.

    Raises:
        ConfigError: The function does not exist, or has other parameters.
    """
    function, arguments = import_function(key, tree)
    parameters = inspect.signature(function).parameters
    arguments |= {name: value for name, value in (offered or {}).items() if name in parameters}
    own = own_parameter(key, function, arguments)

    def call(value: Any) -> Any:
        if own and own == next(iter(parameters)):  # by position: it may have no other way
            return function(value, **arguments)
        return function(**{own: value}, **arguments) if own else function(**arguments)

    try:
        others = {name: parameter for name, parameter in parameters.items() if name != own}
        inspect.Signature(list(others.values())).bind(**arguments)
    except TypeError as error:
        takes = [f"{key}.{name}" for name in others if name not in OFFERED]
        raise ConfigError(
            key, expected=f"the keys {', '.join(takes)}" if takes else "no keys: the function has no parameters",
            received=str(error), fix=f"use the names of the parameters of {tree['_target_']} as keys",
        ) from error  # fmt: skip
    return call


def import_function(key: str, tree: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the function that the configuration names, and its arguments there."""
    target, arguments = split_target(tree)
    module_name, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name), arguments
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}._target_", expected="package.module.function", received=f"{target} ({error})",
            fix=import_advice(error) or "fix the typo",
        ) from error  # fmt: skip


def own_parameter(key: str, function: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """Return the parameter for the seed of a model function or the context of a data function."""
    parameters = inspect.signature(function).parameters
    if (name := SEED_OR_CONTEXT[key]) in parameters and name not in arguments:
        return name
    first = next(iter(parameters.values()), None)
    keywords = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return None if first is None or first.name in arguments or first.kind in keywords else first.name


def takes(key: str, tree: dict[str, Any], name: str) -> bool:
    """Return whether the function that the configuration names has a parameter."""
    return name in inspect.signature(import_function(key, tree)[0]).parameters


def fix_settings(config: Config, seeds: Seeds, join: Callable[[], None] | None = None) -> dict[str, Any]:
    """Fix and check the settings of this process, and seed the global generators. Returns the settings in effect.

    Args:
        config: The configuration.
        seeds: Uses the points of the global generators.
        join: Called before TensorFlow's first operation.
    """
    from samebits.runtime import pins  # noqa: PLC0415  after the environment is fixed

    hash_seed, runtime = seeds.take("python/hash"), runtime_of(config)
    pins.check_machine(runtime)
    pins.apply_pins(runtime)
    if join is not None:
        join()
    if runtime.promise == "portable":
        from samebits.portable import exact  # noqa: PLC0415  imports TensorFlow

        exact.install()
    effective = pins.effective_settings()
    pins.check_pins(runtime, hash_seed, effective)
    pins.seed_global_generators(seeds)
    return effective


def apply_runtime(
    config: Config, seeds: Seeds, attempt: pathlib.Path, root: pathlib.Path, join: Callable[[], None] | None = None
) -> str:
    """Fix the settings of this process and record the machine; see `fix_settings`.

    Returns:
        The arithmetic fingerprint.
    """
    from samebits.runtime import machine  # noqa: PLC0415  after the environment is fixed

    effective = fix_settings(config, seeds, join)
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
    """Return the result of the data function of the configuration.

    Raises:
        ConfigError: It is no `Dataset`.
    """
    from samebits.train.data import DataContext, Dataset  # noqa: PLC0415  after the pins

    dataset = find_function("data", config.data)(DataContext(seeds, config.data, root / config.paths.cache))
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            "data._target_", expected="a function that returns a Dataset", received=type(dataset).__name__,
            fix="return Dataset(train, validation) with Split(inputs, labels) each",
        )  # fmt: skip
    return dataset


def build_model(config: Config, seeds: Seeds, dataset: "Dataset | None", stage: str = "", previous: Any = None) -> Any:
    """Return the result of the model function of the configuration.

    It gets the dataset, the name of the stage and the model of the previous stage (None in the first), if it has
    parameters named `dataset`, `stage` and `previous`. Without `previous`, the weights of that model are copied.
    """
    offered = dict(zip(OFFERED, (dataset, stage, previous), strict=True))
    return find_function("model", config.model, offered)(seeds.for_model())


class Run:
    """One run: its stages, one after another, and its result.

    Args:
        config: The configuration of the run.
        attempt: The run's folder.
        root: The project's folder.
        stop: Knows whether a stop was requested.
        member: Describes the processes that share the training, as JSON; "": this one is alone.

    Attributes:
        team: These processes, once this one has joined them.
    """

    team: "Team | None" = None

    def __init__(
        self, config: Config, attempt: pathlib.Path, root: pathlib.Path, stop: StopRequests, member: str = ""
    ) -> None:
        self.config, self.attempt, self.root, self.stop, self.member = config, attempt, root, stop, member
        self.seeds = Seeds.of(config.seed)
        self.stages = list_stages(config)
        self.timing = {"start_s": 0.0, "data_s": 0.0, "training_s": 0.0}

    def run(self) -> None:
        """Train all stages, and write result.json last."""
        with self.timed("start_s"):
            join = self.join if self.member else None
            fingerprint = apply_runtime(self.config, self.seeds, self.attempt, self.root, join)
            if self.team is not None:
                from samebits.train.team import copy_record  # noqa: PLC0415  after the pins

                self.team.check_inputs(self.inputs(), SAME_INPUTS)
                copy_record(self.team, self.attempt)
        from samebits.train.seeding import seed_by_path  # noqa: PLC0415  after the pins

        with seed_by_path(self.seeds, exact_initializers=self.config.runtime.promise == "portable") as self.seeding:
            outcomes, data_digest = self.train()
        if self.team is not None and self.team.rank > 0:
            return
        stages = [
            {"name": stage.name, "metrics": outcome["metrics"], "weights_digest": outcome["weights_digest"]}
            for stage, outcome in zip(self.stages, outcomes, strict=False)  # a script may have no stage
            if stage.name
        ]
        result = {
            **outcomes[-1],
            "stages": stages,
            "promise": self.config.runtime.promise,
            "fingerprint": fingerprint,
            "data_digest": data_digest,
            "timing": self.timing,
        }
        files.write_json(self.attempt / RESULT, result)
        remove_leftovers(self.attempt)

    def inputs(self) -> dict[str, str]:
        """Return the digests of what the processes that share the training must have in common, by name."""
        from samebits.runtime import machine  # noqa: PLC0415  after the environment is fixed

        found = {"configuration, code or lock": name_inputs(self.config, self.root)}
        promise, described = self.config.runtime.promise, read_json(self.attempt / MACHINE)
        if promise != "free":
            decides = machine.decisive_parts(described, described["arithmetic"]["settings"], promise)
            found |= {DECISIVE[name]: json_digest(part) for name, part in decides.items()}
        return found

    def join(self) -> None:
        """Join the processes that share the training."""
        from samebits.train.team import Team  # noqa: PLC0415  after the pins

        self.team = Team.parse(self.member)
        self.team.join()
        logger.info("worker %s of %s: %s", self.team.rank, self.team.workers, ", ".join(self.team.hosts))

    def train(self) -> tuple[list[dict[str, Any]], str]:
        """Train all stages, and save the model. Returns the outcome of each stage, and the digest of the data."""
        trainer: Any = None
        dataset: Any = None
        outcomes: list[dict[str, Any]] = []
        for stage in self.stages:
            dataset = self.load(stage, dataset)
            previous, rows = (None, None) if trainer is None else (trainer.model, trainer.rows)
            trainer = self.prepare(stage, dataset, previous)
            if self.team is not None:
                weights = arrays_digest(trainer.steps.weight_digests())
                self.team.check_inputs({"data": dataset.digest(), "first weights": weights}, SAME_DATA)
            with self.timed("training_s"):
                outcomes.append(trainer.run(rows))
                if len(self.stages) > 1:
                    trainer.end_stage()
        trainer.save_model()
        return outcomes, dataset.digest()

    def load(self, stage: Stage, before: "Dataset | None") -> "Dataset":
        """Return the dataset of a stage: the one of the stage before, if both have the same settings of the data."""
        if before is not None and stage.config.data == self.stages[stage.number - 1].config.data:
            return before
        with self.timed("data_s"):
            return load_dataset(stage.config, self.seeds, self.root)

    def prepare(self, stage: Stage, dataset: "Dataset", previous: Any) -> Trainer:
        """Build and check the model of a stage, and check that every seed point is used."""
        from keras.src.utils.naming import reset_uids  # noqa: PLC0415  no public name (Keras 3.15)

        continues = previous is not None and not takes("model", stage.config.model, "previous")
        if continues:
            reset_uids()  # so that layers without a name get the same names again
            self.seeding.forget()
        model = build_model(stage.config, self.seeds, dataset, stage.name, previous)
        self.seeding.place_all(model)
        check_code(self.config, self.attempt, self.root)
        trainer = choose_trainer(model, dataset, stage, self.seeds, self.attempt, self.stop, self.team)
        trainer.check()
        trainer.take_seeds()
        if continues:
            trainer.continue_from(previous)
        if stage.number == 0 and stage.config.training.init_from is not None:
            trainer.init_from(self.root / self.config.paths.runs)
        if stage is self.stages[-1]:
            self.seeds.check_consumed()
        points = {"root": self.config.seed.root, "policy": self.config.seed.policy, "points": self.seeds.table()}
        files.write_json(self.attempt / SEEDS, points)
        return trainer

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the duration of the block to a part of the timing."""
        began = time.monotonic()
        yield
        self.timing[part] += time.monotonic() - began


def wait_for_predecessor(attempt: pathlib.Path) -> None:
    """Lock the attempt, after an earlier process of it ends. That one may first finish a step and save."""
    held = (attempt / WORKER_LOCK).open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    _held.append(held)
    remove_leftovers(attempt)


def make_run(
    config: Config, attempt: pathlib.Path, root: pathlib.Path, stop: StopRequests, terminal: IO[str],
    member: str = "",
) -> Run:  # fmt: skip
    """Return the run of a configuration, or of its script."""
    if not config.script.path:
        return Run(config, attempt, root, stop, member)
    from samebits.train.script import ScriptRun  # noqa: PLC0415  it imports this module

    run: Run = ScriptRun(config, attempt, root, stop, terminal)
    return run


def describe_exception(error: Exception) -> str:
    """Return the line for the terminal about an error that is not one of this project."""
    name, cause = type(error).__name__, first_line(error)
    if name in OUT_OF_MEMORY:
        fix = "use a smaller model, training.batch_size or data set, or more memory"
        return f"{name}: out of memory ({cause}); fix: {fix}"
    return f"{name}: {cause}; the traceback is in {LOG}"


def main() -> int:
    """Train the attempt that the command line names, and write all messages to its log."""
    attempt, root, parent = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    member = sys.argv[4] if len(sys.argv) > 4 else ""  # noqa: PLR2004  TEAM
    run: Run | None = None
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
    if member and json.loads(member)["rank"] > 0:
        atexit.register(remove_orphan, attempt, stop)
        threading.Thread(target=end_orphan, args=(attempt, stop), daemon=True).start()
    wait_for_predecessor(attempt)
    if is_finished(attempt):  # by an earlier process
        return 0
    try:
        if stop.requested():
            raise StopRequestedError  # noqa: TRY301  handled below, like a stop during the training
        run = make_run(from_dict(read_yaml(attempt / CONFIG)), attempt, root, stop, terminal, member)
        run.run()
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
        lost = run.team.explain(error) if run is not None and run.team is not None else None
        print(f"{type(lost).__name__}: {lost}" if lost else describe_exception(error), file=terminal)
        return 1
    return 0


def remove_orphan(attempt: pathlib.Path, stop: StopRequests) -> None:
    """Remove the temporary folder of a worker whose parent was killed and cannot do it."""
    if stop.is_orphan():
        shutil.rmtree(attempt, ignore_errors=True)
        with contextlib.suppress(OSError):  # others still have theirs in it
            if attempt.parent.name.startswith(SCRATCH):
                attempt.parent.rmdir()


def end_orphan(attempt: pathlib.Path, stop: StopRequests) -> None:
    """End this worker after its parent was killed, also if it waits for another worker that never started.

    In the training all workers stop together, after a checkpoint.
    """
    while stop.waits() or not stop.is_orphan():
        time.sleep(POLL_S)
    remove_orphan(attempt, stop)
    os._exit(stop.exit_code())


if __name__ == "__main__":
    end_process(main())
