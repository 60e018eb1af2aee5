"""Trains the same run several times under different conditions and compares all records, bit by bit."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.table import Table

from samebits.core.config import Config, fewest_and_most_parts, to_dict
from samebits.core.config_rules import check
from samebits.core.errors import ConfigError
from samebits.core.files import write_yaml
from samebits.core.terminal import print_table
from samebits.launch.process import parent_command, project_environment
from samebits.runs.compare import first_difference
from samebits.runs.folder import METRICS, RESULT, TRACE, is_finished, list_attempts, read_json, read_rows
from samebits.runs.identity import prepare_inputs_folder

BUSY_LOOP = "while True: pass"


@dataclass(frozen=True)
class Conditions:
    """The conditions of one run. None of them may change bits.

    Attributes:
        name: In words, for the table.
        environment: Variables of the parent process.
        elsewhere: Whether it starts in another working directory, with another temporary folder.
        one_core: Whether it may only use one core.
        busy_processes: The number of other processes that keep cores busy.
        other_workers: Whether another number of processes computes the parts of a batch, if it has several.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    elsewhere: bool = False
    one_core: bool = False
    busy_processes: int = 0
    other_workers: bool = False

    def changed(self, config: Config) -> Config:
        """Return the configuration of the run."""
        training = config.training
        if not self.other_workers or fewest_and_most_parts(config)[0] == 1:
            return config
        return dataclasses.replace(config, training=dataclasses.replace(training, workers=training.workers % 2 + 1))

    def describe(self, config: Config) -> str:
        """Return the name with the number of workers, if it is not that of the configuration."""
        workers = self.changed(config).training.workers
        return self.name + (f"; {workers} workers" if workers != config.training.workers else "")


CONDITIONS = (
    Conditions("default"),
    Conditions(
        "other folder, TMPDIR, hash seed, time zone, locale; one busy core",
        {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "OMP_NUM_THREADS": "3"},
        elsewhere=True,
        one_core=True,
        busy_processes=1,
        other_workers=True,
    ),
    Conditions("hash seed 0; TensorFlow, NumPy, OpenBLAS and XLA variables", {
        "PYTHONHASHSEED": "0", "TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": "Prescott", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }),
    Conditions(
        "all cores busy", {"PYTHONHASHSEED": "random", "TZ": "Pacific/Chatham"}, busy_processes=4,
        other_workers=True,
    ),
    Conditions("one core", {"PYTHONHASHSEED": "77"}, elsewhere=True, one_core=True),
)  # fmt: skip


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_under(conditions: Conditions, config: Config, root: pathlib.Path) -> int:
    """Train once in a fresh parent process under these conditions, and return its exit code."""
    with tempfile.TemporaryDirectory(prefix="samebits verify ") as name, _busy(conditions.busy_processes):
        folder = pathlib.Path(name)
        write_yaml(folder / "run.yaml", to_dict(conditions.changed(config)))
        environment = project_environment(root) | conditions.environment
        if conditions.elsewhere:
            (folder / "tmp").mkdir()
            environment["TMPDIR"] = str(folder / "tmp")
        command = parent_command(folder / "run.yaml", root)
        if conditions.one_core and shutil.which("taskset"):
            core = min(os.sched_getaffinity(0))
            command = ["taskset", "--cpu-list", str(core), *command]
        return subprocess.run(
            command, cwd=folder if conditions.elsewhere else root, env=environment, check=False
        ).returncode


def verify(config: Config, root: pathlib.Path, runs: int) -> int:
    """Train the same run `runs` times, and print a table and one verdict.

    Args:
        config: The configuration of every run.
        root: The project's folder.
        runs: The number of trainings, at least 2.

    Returns:
        0: bitwise identical; 1: different, or a run failed.

    Raises:
        ConfigError: Fewer than two runs.
    """
    config = dataclasses.replace(config, resume="never")  # each run starts from the beginning
    check(config)
    if runs < 2:  # noqa: PLR2004
        raise ConfigError("--runs", expected="at least 2", received=runs, fix="samebits verify --runs 2")
    folder = prepare_inputs_folder(config, root)
    attempts: list[tuple[Conditions, pathlib.Path]] = []
    for number in range(runs):
        conditions = CONDITIONS[number % len(CONDITIONS)]
        print(f"--- run {number + 1} of {runs}: {conditions.describe(config)}", flush=True)
        before = {attempt for attempt in list_attempts(folder) if is_finished(attempt)}
        code = run_under(conditions, config, root)
        new = [attempt for attempt in list_attempts(folder) if is_finished(attempt) and attempt not in before]
        if not new:
            print(f"NOT VERIFIED: run {number + 1} did not finish (exit code {code})")
            return 1
        attempts.append((conditions, new[-1]))

    first, monitor = attempts[0][1], config.training.monitor
    table = Table("run", "conditions", "weights", "optimizer", "monitored (bits)", "compared with the first")
    verdicts = []
    for conditions, attempt in attempts:
        result, last = read_json(attempt / RESULT), read_rows(attempt / TRACE)[-1]
        difference = first_difference(first, attempt) if attempt != first else ""
        verdicts.append(difference)
        said = difference or ("every record bit-identical" if attempt != first else "-")
        digests = (result["weights_digest"][:12], result["optimizer_digest"][:12])
        bits = f"{monitor} {(last.get('bits') or {}).get(monitor, 'not recorded')}"
        table.add_row(attempt.name, conditions.describe(config), *digests, bits, said)
    print_table(table)
    different = next((difference for difference in verdicts if difference), "")
    records = len(read_rows(first / TRACE)) + len(read_rows(first / METRICS))
    if different:
        print(f"NOT VERIFIED: {runs} runs of {config.name} diverged; first divergence: {different}")
        return 1
    what = f"{runs} runs of {config.name}, seed {config.seed.root}, bitwise identical in weights, optimizer"
    print(f"VERIFIED: {what} and all {records} records ({config.runtime.promise}, on this machine)")
    return 0
