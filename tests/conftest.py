"""Shared fixtures and helpers: a project to run commands in, and runs in fresh processes."""

import fcntl
import functools
import gc
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import pytest
import yaml
from pinned_trainer import PinnedTrainer

from samebits import cli, compose
from samebits.core.config import Config, from_dict
from samebits.core.errors import report_errors
from samebits.core.terminal import RunsProgress
from samebits.launch import process, run
from samebits.runs.folder import read_yaml
from samebits.studies import execute, folds
from samebits.studies.plan import Study, describe_record

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT_FILES = ("conf", "scripts", "src", "requirements.lock", "requirements-dev.lock", "pyproject.toml")
# The package of the data and model functions.
PACKAGE = str(yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["package"])
QUIET = {key: value for key, value in os.environ.items() if not key.startswith("COMET_")}
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as in a training; otherwise TensorFlow decides by the CPU

LONGEST_FILES = (
    "test_train.py",
    "test_faults_in_training.py",
    "test_gallery.py",
    "test_readme.py",
    "test_cluster.py",
    "test_portability.py",
    "test_starter.py",
    "test_container.py",
)
FAULTS = ROOT / "tests" / "faults"
FAULTY = "data._target_=faults.data.load"  # the smoke experiment's data; the variable FAULT says what goes wrong
LARGER = ("data.rows=2000", "training.epochs=8")  # long enough to be killed in the middle
LONG = (*LARGER, FAULTY)
HOSTILE = {  # what a parent may have, and no training may see
    "PYTHONHASHSEED": "4242", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu",
    "TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "1", "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "OMP_NUM_THREADS": "3", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
}  # fmt: skip
FULL = (
    "slow",
    "emulated",
    "slurm",
    "container",
    "browser",
)  # marks of tests that `make test` leaves to `make test-all`

for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs, and nohup's, are started to ignore them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)  # as before for this process, not for those that it starts

Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow kinds of tests as full, and start with the slowest files, so that no worker waits at the end."""
    for item in items:
        if any(item.get_closest_marker(name) for name in FULL):
            item.add_marker(pytest.mark.full)
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the project in a new folder, which a test may change."""
    root = folder / "project"
    root.mkdir()
    for name in PROJECT_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root


def install_faults(root: pathlib.Path, words: Iterable[str]) -> None:
    """Put the package of faults into a project for a command that names one of its functions.

    Equal files are left alone: another command may be starting, and a run refuses code that is written meanwhile.
    """
    if any("faults." in word for word in words):
        for path in FAULTS.glob("*.py"):
            target = root / "src" / "faults" / path.name
            target.parent.mkdir(exist_ok=True)
            if not target.exists() or target.read_bytes() != path.read_bytes():
                shutil.copy(path, target)


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a fresh copy of the project for one test."""
    return copy_project(tmp_path)


def run_script(root: pathlib.Path, script: str, *arguments: str, **options: Any) -> Result:
    """Run one of the project's scripts in a fresh process and return its output and exit code."""
    return run_python(root, [str(root / "scripts" / script)], arguments, **options)


def run_command(root: pathlib.Path, command: str, *arguments: str, **options: Any) -> Result:
    """Run `samebits COMMAND` on a project in a fresh process and return its output and exit code."""
    return run_python(root, ["-m", "samebits", f"--root={root}", command], arguments, **options)


def run_python(
    root: pathlib.Path,
    program: Sequence[str],
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    cwd: pathlib.Path | None = None,
    python: str = sys.executable,
) -> Result:
    """Run a program of Python on a project, with the faults that its arguments name."""
    install_faults(root, arguments)
    return run_words(root, [*prefix, python, *program, *arguments], environment or {}, cwd)


def run_words(
    root: pathlib.Path, words: Sequence[str], environment: Mapping[str, str], cwd: pathlib.Path | None
) -> Result:
    """Run a command line with the modules of a project, and return its output and exit code."""
    variables = QUIET | {"PYTHONPATH": str(root / "src")} | dict(environment)
    return subprocess.run(
        words, cwd=cwd or root, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2400,
        check=False,
    )  # fmt: skip


def train(root: pathlib.Path, *overrides: str, **options: object) -> Result:
    """Train the smoke experiment without a tracker, unless an override changes that."""
    experiment = [] if any(word.startswith("experiment=") for word in overrides) else ["experiment=smoke"]
    return run_script(root, "train.py", *experiment, "tracker=none", *overrides, **options)


def finished(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the attempts with a result below a project's runs, oldest first."""
    results = (root / "runs").glob("*/*/*/result.json")
    return [path.parent for path in sorted(results, key=lambda path: path.stat().st_mtime_ns)]


def digest(attempt: pathlib.Path) -> str:
    """Return an attempt's weights digest."""
    return str(json.loads((attempt / "result.json").read_text())["weights_digest"])


def wait_until(reached: Callable[[], object], seconds: float = 600) -> bool:
    """Wait until a condition holds, and return whether it does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.02)
    return False


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    return not pathlib.Path(f"/proc/{pid}").exists()


def count_rows(root: pathlib.Path) -> int:
    """Return how many rows of metrics a project's one run has recorded."""
    found = list((root / "runs").glob("*/*/*/metrics.jsonl"))
    return len(found[0].read_bytes().splitlines()) if found else 0


def slowly(root: pathlib.Path, first: int, wait_s: float = 0.5, fast: pathlib.Path | None = None) -> dict[str, str]:
    """Return the variables that let a run of `FAULTY` wait at each row of metrics from one on, until a file is there.

    The file is the one of `at_full_speed` unless another is named.
    """
    install_faults(root, LONG)
    return {"FAULT": f"row {first} wait {wait_s} {fast or root / 'fast'}"}


def start_and_wait(
    root: pathlib.Path,
    reached: Callable[[], object],
    *overrides: str,
    variables: Mapping[str, str] | None = None,
    words: Sequence[str] = LONG,
) -> "subprocess.Popen[bytes]":
    """Start a long run, and return when a condition holds."""
    install_faults(root, (*words, *overrides))
    command = [
        sys.executable,
        str(root / "scripts" / "train.py"),
        "experiment=smoke",
        "tracker=none",
        *words,
        *overrides,
    ]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=QUIET | {"PYTHONPATH": str(root / "src")} | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if reached():
            return process
        time.sleep(0.02)
    process.kill()
    pytest.fail("the run never came so far: " + process.communicate()[0].decode())


def start_and_wait_for_rows(
    root: pathlib.Path, rows: int, *overrides: str, words: Sequence[str] = LONG
) -> "subprocess.Popen[bytes]":
    """Start a long run, and return when it has this many rows of metrics; it continues slowly (`at_full_speed`)."""
    variables = slowly(root, rows)
    return start_and_wait(root, lambda: count_rows(root) >= rows, *overrides, variables=variables, words=words)


def at_full_speed(root: pathlib.Path) -> None:
    """Let a slow run finish at full speed."""
    (root / "fast").touch()


def check_continued(
    root: pathlib.Path,
    undisturbed: pathlib.Path,
    *overrides: str,
    again: Callable[..., Result] = train,
    words: Sequence[str] = LONG,
) -> None:
    """Run the command of the long run again; it must resume the same attempt and end with the same bits and rows."""
    done = again(root, *words, *overrides)

    assert 0 == done.returncode, done.stderr
    assert "resumes" in done.stdout
    assert 1 == len(finished(root))
    attempt = finished(root)[0]
    assert digest(undisturbed) == digest(attempt)
    for name in ("metrics.jsonl", "trace.jsonl", "predictions.arrays"):
        assert (undisturbed / name).read_bytes() == (attempt / name).read_bytes()


# --- trainings without a start of TensorFlow: launched in this process, trained by a fork of a pinned one ---


@pytest.fixture(scope="session")
def trainer() -> Iterator[PinnedTrainer]:
    """Yield the processes that train for `train_here`, and end them after the tests."""
    trainer = PinnedTrainer()
    yield trainer
    trainer.close()


TrainHere = Callable[..., Result]


def fork_trainings(monkeypatch: pytest.MonkeyPatch, trainer: PinnedTrainer) -> None:
    """Let every training that this process starts be a fork of a pinned one, also the runs of a study."""

    def run_child(config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None) -> int:
        command, environment = process.child_command(config, attempt, root, source)
        return trainer.train(command, environment, root)

    started_fresh = process.run_child
    for module in [module for name, module in sys.modules.items() if name.startswith("samebits.")]:
        for name, value in list(vars(module).items()):
            if value is started_fresh:
                monkeypatch.setattr(module, name, run_child)
    monkeypatch.setattr(execute, "train_some", train_some)
    # Hydra's would close the handlers of this process, and the one of absl closes the file that pytest captures in.
    monkeypatch.setattr("logging.config.DictConfigurator.configure", lambda _: None)


def train_some(study: Study, numbers: Sequence[int], _options: object, progress: RunsProgress) -> None:
    """Train runs of a study one after another in this process."""
    for number in numbers:
        train_job(study, number)
        progress.show(describe_record(study.record(number)))


def train_job(study: Study, number: int) -> None:
    """Train one run of a study in this process, and leave the files of a launcher's job."""
    study.prepare(number)
    job = study.folder / "jobs" / f"{number}.yaml"
    with job.with_suffix(".txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        code = report_errors(lambda: run.run(from_dict(read_yaml(job)), study.root).exit_code)
    job.with_suffix(".exit").write_text(f"{code}\n")


@contextmanager
def forks(trainer: PinnedTrainer) -> Iterator[pytest.MonkeyPatch]:
    """Fork the trainings of a block, for fixtures of a module: see `train_in_process` and `command_in_process`."""
    with pytest.MonkeyPatch.context() as patch:
        fork_trainings(patch, trainer)
        yield patch


@pytest.fixture
def forked(trainer: PinnedTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training of the test that this process starts be a fork of a pinned one, in a tenth of the time."""
    fork_trainings(monkeypatch, trainer)


def call_here(
    monkeypatch: pytest.MonkeyPatch,
    root: pathlib.Path,
    words: Sequence[str],
    call: Callable[[], int],
    environment: Mapping[str, str] | None,
) -> Result:
    """Call a command of a project in this process, in its folder, and return its output and exit code."""
    install_faults(root, words)
    output, errors = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.chdir(root)
        for name, value in ({"PYTHONPATH": str(root / "src")} | dict(environment or {})).items():
            patch.setenv(name, value)
        code = call()
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())


def train_in_process(
    monkeypatch: pytest.MonkeyPatch,
    root: pathlib.Path,
    *overrides: str,
    experiment: str = "smoke",
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Train like `train`, without its two starts of Python."""
    words = [f"experiment={experiment}", "tracker=none", *overrides]

    def call() -> int:
        return report_errors(lambda: folds.train(compose.compose(root, words), root))

    return call_here(monkeypatch, root, words, call, environment)


def command_in_process(
    monkeypatch: pytest.MonkeyPatch,
    root: pathlib.Path,
    command: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command like `run_command`, without its starts of Python. Commands that start processes still do."""
    words = [f"--root={root}", command, *arguments]
    return call_here(monkeypatch, root, words, lambda: cli.main(words), environment)


@pytest.fixture
def train_here(forked: None, monkeypatch: pytest.MonkeyPatch) -> TrainHere:
    """Return `train_in_process`, whose trainings are forks."""
    return functools.partial(train_in_process, monkeypatch)


@pytest.fixture
def command_here(forked: None, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return `command_in_process`, whose trainings are forks."""
    return functools.partial(command_in_process, monkeypatch)


# --- exact operations, which a portable training process installs ---


@pytest.fixture
def exact_operations() -> Iterator[None]:
    """Install the exact operations, and give TensorFlow its own back after the test."""
    from samebits.portable import exact

    exact.install()
    yield
    for function in gc.get_referrers(exact._redirect.__code__):
        if isinstance(function, types.FunctionType) and function is not exact._redirect:
            partial: Any = (function.__kwdefaults__ or {})["exact"]
            function.__code__ = exact._originals[partial.args[0]].__code__
            function.__kwdefaults__ = None
    exact._originals.clear()


# --- recorded runs: each is trained once per suite, by whichever worker needs it first ---


def record(factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """Return a read-only project with recorded runs, made by the first worker that needs it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "recorded" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder / "project", ignore_errors=True)  # of a worker that failed at it
            make(copy_project(folder))
            (folder / "made").touch()
    return folder / "project"


def train_whole(root: pathlib.Path, *overrides: str, times: int = 1) -> None:
    """Train in fresh processes, all of which must finish."""
    for _ in range(times):
        done = train(root, *overrides)

        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the attempt of an uninterrupted long run."""
    return finished(record(tmp_path_factory, "undisturbed", lambda root: train_whole(root, *LONG)))[0]


def train_siblings(root: pathlib.Path) -> None:
    """Train twice, under a hostile parent the second time; what each printed is beside the project."""
    for number, options in enumerate(({}, {"environment": HOSTILE, "cwd": root.parent}), 1):
        done = train(root, **options)

        assert 0 == done.returncode, done.stdout + done.stderr
        (root.parent / f"{number}.txt").write_text(done.stdout)


@pytest.fixture(scope="session")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project with two finished attempts of the smoke experiment."""
    return record(tmp_path_factory, "siblings", train_siblings)


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project with one finished run of the small forest."""
    return record(tmp_path_factory, "forest", lambda root: train_whole(root, "experiment=smoke_forest"))


@pytest.fixture
def own_siblings(siblings: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a copy of the two attempts, for a test that changes or adds something."""
    return pathlib.Path(shutil.copytree(siblings, tmp_path / "project"))


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in out.split()]
