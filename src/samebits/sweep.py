"""Many runs: each a fresh pinned process, started by one of Hydra's launchers, and found again by its inputs.

    runs/studies/<name>-<digest>/jobs/<number>.yaml     configuration of a run that was still to do
    runs/studies/<name>-<digest>/jobs/<number>.txt      what it printed; <number>.exit: how it ended

The runs themselves lie where `make train` puts them, so a study shares them with everything else. scripts/job.py is
the process below which Hydra starts them; this module knows no Hydra.
"""

import contextlib
import copy
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from samebits.config import Config, check, to_dict
from samebits.digest import json_digest
from samebits.errors import ConfigError
from samebits.inputs import DIGITS, describe_inputs, source_files
from samebits.launch import own_process
from samebits.progress import RunsProgress
from samebits.record import RESULT, is_finished, list_attempts, make_folder, read_json, write_bytes, write_yaml
from samebits.runtime import check_machine

FOLDER = "studies"
LAUNCHERS = {"basic": "basic", "joblib": "joblib", "submitit_local": "submitit_local", "submitit_slurm": "slurm"}
POLL_S = 0.3
STOP_S = 60.0  # a stopped training writes a checkpoint first


@dataclass(frozen=True)
class Launch:
    """How many runs at once, and by which of Hydra's launchers, as a command line gives it.

    Attributes:
        launcher: A key of `LAUNCHERS`; "basic": one after another. Empty: joblib.
        jobs: Runs at once, empty: one a core; the threads of a run stay what the recipe says.
        settings: Overrides of the launcher's own, e.g. "hydra.launcher.partition=short".
    """

    launcher: str = ""
    jobs: str = ""
    settings: tuple[str, ...] = ()

    def overrides(self) -> list[str]:
        """Return the launcher as Hydra's overrides.

        Raises:
            ConfigError: No such launcher, or less than one run at once.
        """
        launcher, jobs = self.launcher or "joblib", self.jobs or str(len(os.sched_getaffinity(0)))
        if launcher not in LAUNCHERS:
            raise ConfigError(
                "LAUNCHER", expected=" or ".join(LAUNCHERS), received=repr(launcher), fix="choose one of them"
            )
        if not jobs.isdecimal() or int(jobs) < 1:
            raise ConfigError("JOBS", expected="a number, at least 1", received=repr(jobs), fix="JOBS=2: two at once")
        at_once = {
            "joblib": [f"hydra.launcher.n_jobs={jobs}"],
            "submitit_local": [f"hydra.sweeper.max_batch_size={jobs}"],  # it starts all that it is given at once
            "submitit_slurm": [f"hydra.launcher.array_parallelism={jobs}"] if self.jobs else [],
        }
        return [f"hydra/launcher={LAUNCHERS[launcher]}", *at_once.get(launcher, []), *self.settings]


@dataclass(frozen=True)
class Run:
    """One run of a study: its variant and number, and how its configuration differs from the variant's.

    Attributes:
        variant: Name of the configuration that it belongs to.
        seed: The number of what is varied.
        base: The variant's configuration.
        settings: Dotted keys and the values that they have in this run; empty: the root seed is `seed`.
        varied: What is varied: seed, fold or bag.
    """

    variant: str
    seed: int
    base: Config
    settings: tuple[tuple[str, Any], ...] = ()
    varied: str = "seed"

    def config(self) -> Config:
        """Return the run's own configuration."""
        config = copy.deepcopy(self.base)
        for key, value in self.settings or (("seed.root", self.seed),):
            *parents, last = key.split(".")
            part: Any = config
            for parent in parents:
                part = part[parent] if isinstance(part, dict) else getattr(part, parent)
            if isinstance(part, dict):
                part[last] = value
            else:
                setattr(part, last, value)
        return config


@dataclass(frozen=True)
class Record:
    """A run as study.json lists it; attempt None: it did not finish, and `failure` says what is known."""

    variant: str
    seed: int
    inputs: str
    attempt: str | None
    val_accuracy: float | None = None
    val_loss: float | None = None
    weights_digest: str | None = None
    failure: str = ""
    varied: str = "seed"


def name_runs(runs: Sequence[Run], root: pathlib.Path) -> list[str]:
    """Return the inputs digest of every run; the code is read once for each variant.

    Raises:
        ConfigError: A value of a configuration is out of range.
        SeedError: A seed is.
    """
    sources: dict[str, dict[str, bytes]] = {}
    names = []
    for run in runs:
        config = run.config()
        check(config)
        if run.variant not in sources:
            check_machine(config.runtime)
            sources[run.variant] = source_files(config, root)
        names.append(json_digest(describe_inputs(config, root, sources[run.variant]))[:DIGITS])
    return names


def find_finished(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the first finished attempt of some inputs, if there is one."""
    return next((attempt for attempt in list_attempts(folder) if is_finished(attempt)), None)


class Study:
    """The runs of a study, their names and its folder.

    Args:
        name: What people call it; the tracker's group too, with the digest.
        runs: What to run; two with equal inputs are one training.
        root: The project's folder.

    Raises:
        ConfigError: There is no run, or a configuration is wrong.
    """

    def __init__(self, name: str, runs: Sequence[Run], root: pathlib.Path) -> None:
        if not runs:
            raise ConfigError("study", expected="at least one run", received="none", fix="make study SEEDS=1..20")
        self.runs, self.root, self.inputs = list(runs), root, name_runs(runs, root)
        rows = [[run.variant, run.seed, inputs] for run, inputs in zip(self.runs, self.inputs, strict=True)]
        self.name = f"{name}-{json_digest(rows)[:DIGITS]}"
        self.folder = root / runs[0].base.paths.runs / FOLDER / self.name

    def inputs_folder(self, number: int) -> pathlib.Path:
        """Return where the attempts of a run lie."""
        base = self.runs[number].base
        return self.root / base.paths.runs / base.name / self.inputs[number]

    def missing(self) -> list[int]:
        """Return the numbers of the runs that nobody has finished; equal inputs count once."""
        found: dict[pathlib.Path, int] = {}
        for number in range(len(self.runs)):
            found.setdefault(self.inputs_folder(number), number)
        return [number for folder, number in found.items() if find_finished(folder) is None]

    def record(self, number: int) -> Record:
        """Return what became of a run, from its files."""
        run, inputs = self.runs[number], self.inputs[number]
        attempt = find_finished(self.inputs_folder(number))
        if attempt is None:
            log = self.folder / "jobs" / f"{number}.txt"
            lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            reason = next((line for line in lines if "Error" in line), lines[-1] if lines else "it was not begun")
            return Record(run.variant, run.seed, inputs, None, failure=reason, varied=run.varied)
        result = read_json(attempt / RESULT)
        accuracy, loss = (float(result["metrics"][key]) for key in ("val_accuracy", "val_loss"))
        digest = result["weights_digest"]
        return Record(run.variant, run.seed, inputs, attempt.name, accuracy, loss, digest, varied=run.varied)

    def records(self) -> Iterator[Record]:
        """Yield what became of every run, one result file at a time."""
        return (self.record(number) for number in range(len(self.runs)))

    def prepare(self, number: int) -> None:
        """Write the configuration of a run that is to be started."""
        run = self.runs[number]
        config = run.config()
        config.tracker.group = config.tracker.group or self.name
        config.tracker.tags = [*config.tracker.tags, run.variant]
        for ending in ("exit", "txt"):
            (self.folder / "jobs" / f"{number}.{ending}").unlink(missing_ok=True)
        write_yaml(self.folder / "jobs" / f"{number}.yaml", to_dict(config))


def run_job(folder: pathlib.Path, number: int, root: pathlib.Path) -> int:
    """Train one prepared run in a fresh process, and leave its exit code beside its configuration.

    Never raises what a run may raise: one run that fails does not stop the others.
    """
    job = folder / "jobs" / f"{number}.yaml"
    command, environment = own_process(job, root)
    with job.with_suffix(".txt").open("wb") as log:
        done = subprocess.run(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    write_bytes(job.with_suffix(".exit"), f"{done.returncode}\n".encode())
    return done.returncode


@contextlib.contextmanager
def started(study: Study, numbers: Sequence[int], launch: Launch) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Hydra's launcher on some runs while the block runs; on leaving early, stop it and them.

    The launcher holds the other end of a pipe: it also stops when this process is killed.
    """
    script = str(study.root / "scripts" / "job.py")
    jobs = "job=" + ",".join(map(str, numbers))
    command = [sys.executable, script, "--multirun", f"folder='{study.folder}'", *launch.overrides(), jobs]
    environment = os.environ | {"PYTHONPATH": str(study.root / "src")}
    with (
        (study.folder / "launcher.txt").open("wb") as log,
        subprocess.Popen(
            command, cwd=study.root, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def train(study: Study, launch: Launch) -> int:
    """Train what is not finished, showing progress; returns how many runs there were to do.

    Raises:
        ConfigError: The launcher is unknown.
    """
    launch.overrides()
    make_folder(study.folder / "jobs")
    pending = study.missing()
    total = len(pending)
    if not pending:
        return 0
    for number in pending:
        study.prepare(number)
    with RunsProgress(total) as progress, started(study, pending, launch) as process:
        waiting = set(pending)
        while waiting:
            is_over = process.poll() is not None
            for path in sorted((study.folder / "jobs").glob("*.exit")):
                number = int(path.stem)
                if number in waiting:
                    waiting.discard(number)
                    progress.show(describe_record(study.record(number)))
            if is_over:
                break
            time.sleep(POLL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    return total


def describe_record(record: Record) -> str:
    """Return a finished or failed run in one line."""
    title = f"{record.variant}  {record.varied} {record.seed}"
    if record.attempt is None or record.weights_digest is None:
        return f"{title}  FAILED: {record.failure}"
    numbers = f"val_accuracy {record.val_accuracy:.4f}  val_loss {record.val_loss:.4f}"
    return f"{title}  {numbers}  weights {record.weights_digest[:12]}"
