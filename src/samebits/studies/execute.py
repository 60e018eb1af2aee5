"""Starts the runs of a study with one of Hydra's launchers, each in a fresh process with fixed settings.

    runs/studies/<name>-<digest>/launcher.txt       output of the launcher's process
    runs/studies/<name>-<digest>/hydra/slurm/       submitit's files of the jobs on a cluster

This module does not import Hydra: it starts `samebits.job`, in which Hydra starts the runs.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from samebits.core.errors import ConfigError
from samebits.core.files import hold_lock, make_folder, write_bytes
from samebits.core.terminal import RunsProgress
from samebits.launch.process import answered, parent_command, project_environment, stop_group
from samebits.runtime.machine import usable_cores
from samebits.studies.plan import Study, describe_record

LAUNCHERS = {"basic": "basic", "joblib": "joblib", "submitit_local": "submitit_local", "submitit_slurm": "slurm"}
CLUSTER = "hydra/launcher=slurm"  # the override that makes the runs jobs on a cluster
JOBS = "hydra/slurm"  # as in conf/hydra/launcher/slurm.yaml
LOCK = "study.lock"
MAX_AT_ONCE = 1000  # jobs per launcher call: Slurm's default limit of an array is 1001 jobs
POLL_S = 0.3
STOP_S = 60.0  # a stopped training writes a checkpoint first


@dataclass(frozen=True)
class LauncherOptions:
    """The launcher that starts the runs, and the number of parallel runs, from the command line.

    Attributes:
        launcher: A key of `LAUNCHERS`; "basic": one after another. Empty: joblib.
        jobs: Parallel runs; empty: one per core. The number of threads of a run does not change.
        settings: Overrides for the launcher, e.g. "hydra.launcher.partition=short".
    """

    launcher: str = ""
    jobs: str = ""
    settings: tuple[str, ...] = ()

    def overrides(self) -> list[str]:
        """Return the options as Hydra's overrides.

        Raises:
            ConfigError: The launcher is unknown, or `jobs` is below 1.
        """
        launcher, jobs = self.launcher or "joblib", self.jobs or str(usable_cores())
        if launcher not in LAUNCHERS:
            raise ConfigError(
                "--launcher", expected=" or ".join(LAUNCHERS), received=repr(launcher), fix="choose one of them"
            )
        if not jobs.isdecimal() or int(jobs) < 1:
            raise ConfigError(
                "--jobs", expected="an integer of at least 1", received=repr(jobs), fix="samebits study --jobs 2"
            )
        at_once = {
            "joblib": [f"hydra.launcher.n_jobs={jobs}"],
            "submitit_local": [f"hydra.sweeper.max_batch_size={jobs}"],  # it starts all jobs of a batch at once
            "submitit_slurm": [f"hydra.launcher.array_parallelism={jobs}"] if self.jobs else [],
        }
        return [f"hydra/launcher={LAUNCHERS[launcher]}", *at_once.get(launcher, []), *self.settings]


def run_job(folder: pathlib.Path, number: int, root: pathlib.Path) -> int:
    """Train one prepared run in a fresh process, and write its exit code beside its configuration.

    Does not raise when the run fails, so that the other runs continue.
    """
    job = folder / "jobs" / f"{number}.yaml"
    command, environment = parent_command(job, root), project_environment(root)
    with job.with_suffix(".txt").open("wb") as log:
        done = subprocess.run(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    write_bytes(job.with_suffix(".exit"), f"{done.returncode}\n".encode())
    return done.returncode


@contextlib.contextmanager
def started(study: Study, numbers: Sequence[int], options: LauncherOptions) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Hydra's launcher for some runs; leaving the block early stops the launcher and its runs.

    The launcher holds the other end of a pipe, so it also stops when this process is killed.
    """
    jobs = "job=" + ",".join(map(str, numbers))
    command = [sys.executable, "-m", "samebits.job", str(study.root), "--multirun"]
    command += [f"folder='{study.folder}'", *options.overrides(), jobs]
    environment = project_environment(study.root)
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
            stop_group(process, STOP_S)


def cluster_jobs(folder: pathlib.Path) -> list[Any]:
    """Return a study's Slurm jobs that have no result yet.

    Args:
        folder: The study's folder.
    """
    import submitit  # noqa: PLC0415  slow to import

    names = sorted(path.parent.name for path in (folder / JOBS).glob("*/*_submitted.pkl"))
    found: list[Any] = [submitit.SlurmJob(folder=folder / JOBS / "%j", job_id=name) for name in names]
    return [job for job in found if not job.paths.result_pickle.exists()]


def await_others(folder: pathlib.Path) -> None:
    """Wait for the remaining jobs of a launcher that stopped waiting because one of its jobs was lost."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    for job in cluster_jobs(folder):
        job.wait()


def cancel_jobs(folder: pathlib.Path) -> None:
    """Cancel a study's jobs on the cluster and wait, for a limited time, until they have written a checkpoint."""
    jobs = cluster_jobs(folder)
    arrays = sorted({job.job_id.partition("_")[0] for job in jobs})
    if not jobs or not shutil.which("scancel"):
        return
    subprocess.run(["scancel", *arrays], check=False)
    until = time.monotonic() + STOP_S * 2 / 3
    while time.monotonic() < until and not all(job.done() for job in jobs):
        time.sleep(1)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block like Ctrl-C, so that its runs stop too."""

    def stop(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    try:
        with answered(stop, signal.SIGTERM, signal.SIGHUP):
            yield
    except (KeyboardInterrupt, SystemExit):
        print("stopped; progress is saved, and the same command resumes the runs")
        raise


def train(study: Study, options: LauncherOptions) -> int:
    """Train the unfinished runs and show the progress; returns the number of these runs.

    Raises:
        ConfigError: The launcher is unknown, or another process is training this study.
    """
    options.overrides()
    make_folder(study.folder / "jobs")
    with hold_lock(study.folder / LOCK) as free, stoppable():
        if not free:
            raise ConfigError(
                f"study {study.name}", expected="one process that trains it", received="another process is training it",
                fix="wait for it, or stop it first",
            )  # fmt: skip
        pending = study.missing()
        if pending:
            cancel_jobs(study.folder)  # leftover jobs of a command that was killed together with its launcher
            with RunsProgress(len(pending)) as progress:
                for start in range(0, len(pending), MAX_AT_ONCE):
                    train_some(study, pending[start : start + MAX_AT_ONCE], options, progress)
        return len(pending)


def train_some(study: Study, numbers: Sequence[int], options: LauncherOptions, progress: RunsProgress) -> None:
    """Train some runs of a study with one launcher."""
    shutil.rmtree(study.folder / "hydra", ignore_errors=True)
    for number in numbers:
        study.prepare(number)
    with started(study, numbers, options) as process:
        waiting = set(numbers)
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
    for number in sorted(waiting):
        progress.show(describe_record(study.record(number)))
