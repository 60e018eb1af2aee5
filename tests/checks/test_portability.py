"""`samebits portability` and the zoo on emulated CPUs: one digest, and a failure if digests differ."""

import concurrent.futures
import json
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT, Command, TrainHere, copy_project
from pinned_trainer import PinnedTrainer
from zoo import run as zoo_run

from samebits.checks import portability as command
from samebits.core.config import RuntimeConfig
from samebits.core.errors import ConfigError, MachineError
from samebits.runtime import emulators, pins
from samebits.runtime.emulators import Job, Machine
from samebits.runtime.machine import usable_cores
from samebits.runtime.pins import cpu_features

SMOKE = ("experiment=smoke", "tracker=none")
SMALL_CACHE, LARGE_CACHE = "Haswell-32K-256K", "Haswell-48K-2M"
HASH_SEED = "seed.points.python.hash=0"  # that of the zoo, so that one Python per CPU runs all
emulated = pytest.mark.emulated
needs_emulator = pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")


class Pythons:
    """Runs jobs as `run_jobs` does, in forks of one Python per CPU: TensorFlow's import takes a minute on some."""

    def __init__(self) -> None:
        self.trainers: dict[tuple[str, ...], PinnedTrainer] = {}

    def run_jobs(self, jobs: list[Job], finished: Callable[[str, int], None]) -> dict[str, int]:
        """Run one job per CPU in parallel, one that a signal killed once more. Returns the exit codes by name."""

        def run(job: Job) -> tuple[str, int]:
            start = job.command.index(sys.executable)
            prefix, program = tuple(job.command[:start]), job.command[start + 1 :]
            trainer = self.trainers.setdefault(prefix, PinnedTrainer(prefix, modules=()))
            for _ in range(2):
                code = trainer.run(program, job.environment, pathlib.Path.cwd(), [job.log, job.log])
                if code >= 0:
                    break
            finished(job.name, code)
            return job.name, code

        with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
            return dict(pool.map(run, jobs))


@pytest.fixture(scope="module")
def all_pythons() -> Iterator[Pythons]:
    """Yield the Pythons of this file."""
    pythons = Pythons()
    yield pythons
    for trainer in pythons.trainers.values():
        trainer.close()


@pytest.fixture
def pythons(all_pythons: Pythons, monkeypatch: pytest.MonkeyPatch) -> Pythons:
    """Let the jobs of a test run in them."""
    for module in (command, zoo_run):
        monkeypatch.setattr(module, "run_jobs", all_pythons.run_jobs)
    return all_pythons


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project with golden files, the zoo, and emulators in its cache."""
    root = copy_project(tmp_path_factory.mktemp("elsewhere"))
    shutil.copytree(ROOT / "golden", root / "golden")
    shutil.copytree(ROOT / "tools" / "zoo", root / "tools" / "zoo")
    return root


@emulated
@needs_emulator
def test_other_cpus_give_the_same_bits(elsewhere: pathlib.Path, pythons: Pythons, command_here: Command) -> None:
    """The smoke experiment has its golden digest on one core, two cores, and two emulated CPUs with other caches."""
    cpus = f"--cpus={SMALL_CACHE},{LARGE_CACHE}"
    done = command_here(elsewhere, "portability", *SMOKE, "--full", cpus, HASH_SEED)

    assert 0 == done.returncode, done.stdout + done.stderr
    rows = 2 + min(2, len(os.sched_getaffinity(0)))
    assert f"PORTABLE: {rows} rows with one digest, equal to the golden digest\n" in done.stdout
    assert "48 KB, 2048 KB" in done.stdout
    assert "32 KB, 256 KB" in done.stdout
    golden = json.loads((ROOT / "golden" / "smoke.json").read_text())["weights_digest"][:12]
    assert rows == done.stdout.count(golden)


@emulated
@needs_emulator
@pytest.mark.skipif(not cpu_features().get("AVX512F"), reason="needs a CPU with AVX-512 to differ from Haswell")
def test_without_the_pins_another_cpu_is_told_apart(project: pathlib.Path, command_here: Command) -> None:
    """Negative control: with runtime=machine an emulated CPU differs, and the first stage that differs is named."""
    done = command_here(project, "portability", *SMOKE, "--cpus=Haswell", "runtime=machine")

    assert 1 == done.returncode
    assert "NOT PORTABLE: Haswell differs; first divergence: epoch 1, step 1, " in done.stdout


@emulated
@needs_emulator
@pytest.mark.skipif(not cpu_features().get("AVX512F"), reason="needs a CPU with AVX-512 to differ from Haswell")
def test_workers_on_other_cpus_are_refused_under_machine(project: pathlib.Path, command_here: Command) -> None:
    """Two workers, one on an emulated CPU: with runtime=machine, parts would have the bits of their CPU."""
    words = "experiment=smoke_shards", "tracker=none", "training.workers=2", "runtime=machine"
    done = command_here(project, "portability", *words, "--cpus=Haswell")

    assert 1 == done.returncode
    assert "Haswell did not finish" in done.stdout
    (log,) = (project / "runs").glob(".portability/*/*/Haswell/log.txt")
    assert re.search(r"worker 1 \S+ has other .*instruction sets", log.read_text())


PRODUCTS = """
import hashlib, os, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
for rows, terms, columns in ((200, 32, 800), (201, 128, 803), (500, 64, 500)):
    a, b = (rng.standard_normal((terms, n), np.float32) for n in (rows, columns))
    print(hashlib.sha256(tf.matmul(a, b, transpose_a=True).numpy().tobytes()).hexdigest(), flush=True)
os._exit(0)
"""


@emulated
@needs_emulator
def test_threads_that_follow_the_cache_are_told_apart(
    elsewhere: pathlib.Path, pythons: Pythons, tmp_path: pathlib.Path
) -> None:
    """Why `portable` uses one thread: with four, the number of threads in a product depends on the L2 cache."""
    small, large = emulators.emulated_machines([SMALL_CACHE, LARGE_CACHE], elsewhere / ".cache")
    environment = pins.child_environment(RuntimeConfig(), 0, os.environ) | {"PYTHONPATH": str(elsewhere / "src")}
    jobs = []
    for machine, threads in ((Machine("this CPU"), 1), (small, 4), (large, 4)):
        words = [*machine.prefix, sys.executable, "-c", PRODUCTS, str(threads)]
        jobs.append(Job(machine.name, words, environment, tmp_path / f"{machine.name}.txt"))
    codes = pythons.run_jobs(jobs, lambda _name, _code: None)
    logs = [job.log.read_text() for job in jobs]
    assert {0} == set(codes.values()), logs
    one, four, four_elsewhere = (re.findall(r"^[0-9a-f]{64}$", log, re.MULTILINE)[-3:] for log in logs)

    assert 3 == len(set(one)) == len(four_elsewhere)
    assert not set(four) & set(four_elsewhere)
    assert one == four_elsewhere  # everything fits into a cache of 2 MB, so one thread does the work


@emulated
@needs_emulator
def test_a_block_size_by_the_cache_is_told_apart(
    elsewhere: pathlib.Path, pythons: Pythons, command_here: Command
) -> None:
    """Negative control: with a decomposition at the start, the CPU with a 48 KB cache differs there."""
    here = emulators.probe(Machine("this CPU"))["caches"]
    other = SMALL_CACHE if here.startswith("48 KB") else LARGE_CACHE
    words = "model._target_=faults.model.decompose_at_the_start", "model.units=70", "training.steps_per_epoch=1"
    done = command_here(elsewhere, "portability", *SMOKE, f"--cpus={other}", HASH_SEED, *words)

    assert 1 == done.returncode, done.stdout
    assert f"{other} differs; first divergence: initial weights of " in done.stdout, done.stdout


# Runs the cases of the zoo without the exact operations and without the check of the graph.
WITHOUT_EXACT = """
from samebits.portable import exact, graph_check
exact.install = lambda: None
graph_check.REFUSED.clear()
from zoo import cases
cases.main()
"""


@emulated
@needs_emulator
def test_the_zoo_on_an_emulated_cpu(
    elsewhere: pathlib.Path, pythons: Pythons, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exact operations a case has the same bits; without them the zoo fails and names the case."""
    case = "activation log1p"

    assert 0 == zoo_run.zoo(elsewhere, [LARGE_CACHE], case)
    shutil.rmtree(elsewhere / "runs" / ".zoo")
    monkeypatch.setattr(zoo_run, "PROGRAM", ("-c", WITHOUT_EXACT))
    monkeypatch.setattr(zoo_run, "list_cases", lambda _: [case])  # the list is the same
    assert 1 == zoo_run.zoo(elsewhere, [LARGE_CACHE], case)
    shown = capsys.readouterr().out
    assert "COVERED: 1 cases; 1 allowed" in shown
    assert f"  {case}: 32x300: weights after step 1 ({LARGE_CACHE})" in shown
    assert "NOT COVERED: 1 of 1 cases" in shown


@pytest.mark.full
def test_without_an_emulator_the_native_rows_are_compared(
    elsewhere: pathlib.Path, pythons: Pythons, command_here: Command, tmp_path: pathlib.Path
) -> None:
    """Without the emulator, a message and the verdict say that only native rows were compared."""
    for name in ("taskset", "git"):
        found = shutil.which(name)
        if found:
            (tmp_path / name).symlink_to(found)
    done = command_here(elsewhere, "portability", *SMOKE, HASH_SEED, environment={"PATH": str(tmp_path)})

    assert 0 == done.returncode, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("PORTABLE: ")
    assert last.endswith("no CPU was emulated: native rows only)")


@pytest.mark.full
def test_a_failed_row_decides_nothing(project: pathlib.Path, command_here: Command, tmp_path: pathlib.Path) -> None:
    """A training process that fails makes no verdict, with its folder."""
    words = *SMOKE, "training.learning_rate=1e30", "training.epochs=1"
    done = command_here(project, "portability", *words, environment={"PATH": str(tmp_path)})

    assert 1 == done.returncode
    assert "NOT DECIDED: this CPU did not finish (exit code 1; " in done.stdout


def test_an_unknown_cpu_is_refused(project: pathlib.Path, command_here: Command) -> None:
    """The error lists the known names."""
    done = command_here(project, "portability", *SMOKE, "--cpus=Pentium")

    assert 2 == done.returncode
    assert (
        "--cpus: expected Haswell, Broadwell, Skylake-Client, EPYC, EPYC-Rome, EPYC-Milan, Haswell-32K-256K"
        in done.stderr
    )


def test_a_cpu_without_avx2_is_refused_under_portable(
    project: pathlib.Path, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU of 2011, `portable` is refused before anything starts, with the runtime to use instead."""
    monkeypatch.setattr(pins, "cpu_features", dict)
    done = train_here(project)

    assert 2 == done.returncode
    said = "expected Linux on an x86-64 CPU with AVX2 and FMA, received Linux on x86_64 without AVX2 and FMA"
    assert f"runtime=portable: {said}" in done.stderr
    assert "runtime=machine" in done.stderr
    assert not (project / "runs").exists()


@pytest.mark.parametrize(("system", "architecture"), [("Linux", "aarch64"), ("Darwin", "arm64"), ("Darwin", "x86_64")])
def test_other_systems_are_refused_under_portable(
    system: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Arm and macOS, the error names the runtime that works there, and it does work."""
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    with pytest.raises(MachineError, match=f"received {system} on {architecture}.*choose runtime=machine"):
        pins.check_machine(RuntimeConfig())
    pins.check_machine(RuntimeConfig(promise="machine"))


# --- emulators ---


@emulated
@needs_emulator
def test_emulated_cpus_are_what_they_are_called(tmp_path: pathlib.Path) -> None:
    """A process sees AVX2 without AVX-512, neither AVX2 nor FMA on a CPU of 2011, and the cache that is requested."""
    machines = emulators.emulated_machines(["Haswell", LARGE_CACHE, SMALL_CACHE], tmp_path)
    seen = [emulators.probe(machine) for machine in machines]

    assert [["AVX2", "FMA3"]] * 3 == [each["sets"] for each in seen]
    assert [] == emulators.probe(Machine("", ("qemu-x86_64", "-cpu", "SandyBridge")))["sets"]
    assert ["32 KB, 4096 KB", "48 KB, 2048 KB", "32 KB, 256 KB"] == [each["caches"] for each in seen]


def test_an_emulator_without_the_tables_is_refused(tmp_path: pathlib.Path) -> None:
    """Another version of qemu has another layout, which is an error."""
    (tmp_path / "qemu").write_bytes(bytes(1000))
    with pytest.raises(MachineError, match=r"expected the cache tables of qemu 7\.2"):
        emulators.write_emulator(tmp_path / "qemu", tmp_path / "copy", 48, 2048)


def test_a_job_that_a_signal_killed_is_run_once_more(tmp_path: pathlib.Path) -> None:
    """A crash is tried a second time; an ordinary failure is not."""
    script = "echo try >> count; [ $(wc -l < count) -ge 2 ] || kill -SEGV $$"
    jobs = [
        Job("crashes once", ["sh", "-c", f"cd {tmp_path}; {script}"], {"PATH": os.environ["PATH"]}, tmp_path / "a"),
        Job("fails", ["sh", "-c", "exit 3"], {"PATH": os.environ["PATH"]}, tmp_path / "b"),
    ]
    told: list[str] = []

    assert {"crashes once": 0, "fails": 3} == emulators.run_jobs(jobs, lambda name, _: told.append(name))
    assert {"crashes once", "fails"} == set(told)


def test_an_unknown_name_of_a_cpu(tmp_path: pathlib.Path) -> None:
    """The error names it and the known CPUs."""
    with pytest.raises(ConfigError, match="received Pentium"):
        emulators.emulated_machines(["Pentium"], tmp_path)
