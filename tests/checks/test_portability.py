"""`samebits portability` on emulated CPUs: one digest, and a failure if digests differ."""

import json
import os
import pathlib
import platform
import re
import shutil
import sys
from typing import Any

import pytest
from conftest import ROOT, Result, run_command, train

from samebits.core.config import RuntimeConfig
from samebits.core.errors import ConfigError, MachineError
from samebits.runtime import emulators, pins
from samebits.runtime.pins import cpu_features

SMOKE = ("experiment=smoke", "tracker=none")
emulated = pytest.mark.emulated
needs_emulator = pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")


def portability(root: pathlib.Path, *arguments: str, **options: Any) -> Result:
    """Run the smoke experiment on this CPU and on emulated CPUs."""
    return run_command(root, "portability", *SMOKE, *arguments, **options)


@emulated
@needs_emulator
def test_other_cpus_give_the_same_bits(project: pathlib.Path) -> None:
    """The smoke experiment has its golden digest on one core, two cores, and two emulated CPUs with other caches."""
    shutil.copytree(ROOT / "golden", project / "golden")
    done = portability(project, "--full", "--cpus=Haswell-32K-256K,Haswell-48K-2M")

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
@pytest.mark.full
def test_without_the_pins_another_cpu_is_told_apart(project: pathlib.Path) -> None:
    """Negative control: with runtime=machine an emulated CPU differs, and the first stage that differs is named."""
    done = portability(project, "--cpus=Haswell", "runtime=machine")

    assert 1 == done.returncode
    assert "NOT PORTABLE: Haswell differs; first divergence: epoch 1, step 1, " in done.stdout


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
def test_threads_that_follow_the_cache_are_told_apart(tmp_path: pathlib.Path) -> None:
    """Why `portable` uses one thread: with four, the number of threads in a product depends on the L2 cache."""
    small, large = emulators.emulated_machines(["Haswell-32K-256K", "Haswell-48K-2M"], tmp_path)
    environment = pins.child_environment(RuntimeConfig(), 0, os.environ)
    jobs = []
    for machine, threads in ((emulators.Machine("this CPU"), 1), (small, 4), (large, 4)):
        name, command = f"{machine.name} {threads}", [*machine.prefix, sys.executable, "-c", PRODUCTS, str(threads)]
        jobs.append(emulators.Job(name, command, environment, tmp_path / f"{name}.txt"))
    codes = emulators.run_jobs(jobs, lambda _name, _code: None)
    logs = [job.log.read_text() for job in jobs]
    assert {0} == set(codes.values()), logs
    one, four, four_elsewhere = (re.findall(r"^[0-9a-f]{64}$", log, re.MULTILINE)[-3:] for log in logs)

    assert 3 == len(set(one)) == len(four_elsewhere)
    assert not set(four) & set(four_elsewhere)
    assert one == four_elsewhere  # everything fits into a cache of 2 MB, so one thread does the work


@emulated
@needs_emulator
@pytest.mark.full
def test_a_block_size_by_the_cache_is_told_apart(project: pathlib.Path) -> None:
    """Negative control: with a decomposition at the start, the CPU with a 48 KB cache differs there."""
    here = emulators.probe(emulators.Machine("this CPU"))["caches"]
    other = "Haswell-32K-256K" if here.startswith("48 KB") else "Haswell-48K-2M"
    fault = "model._target_=faults.model.decompose_at_the_start"
    done = portability(project, f"--cpus={other}", fault, "model.units=70")

    assert 1 == done.returncode, done.stdout
    assert f"{other} differs; first divergence: initial weights of " in done.stdout, done.stdout


@pytest.mark.full
def test_without_an_emulator_the_native_rows_are_compared(project: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Without the emulator, a message and the verdict say that only native rows were compared."""
    for name in ("taskset", "git"):
        found = shutil.which(name)
        if found:
            (tmp_path / name).symlink_to(found)
    done = portability(project, environment={"PATH": str(tmp_path)})

    assert 0 == done.returncode, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("PORTABLE: ")
    assert last.endswith("no CPU was emulated: native rows only)")


@pytest.mark.full
def test_a_failed_row_decides_nothing(project: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A training that fails makes no verdict, with its folder."""
    done = portability(project, "training.learning_rate=1e30", "training.epochs=1", environment={"PATH": str(tmp_path)})

    assert 1 == done.returncode
    assert "NOT DECIDED: this CPU did not finish (exit code 1; " in done.stdout


def test_an_unknown_cpu_is_refused(project: pathlib.Path) -> None:
    """The error lists the known names."""
    done = portability(project, "--cpus=Pentium")

    assert 2 == done.returncode
    assert (
        "--cpus: expected Haswell, Broadwell, Skylake-Client, EPYC, EPYC-Rome, EPYC-Milan, Haswell-32K-256K"
        in done.stderr
    )


@emulated
@needs_emulator
def test_a_cpu_without_avx2_is_refused_under_portable(project: pathlib.Path) -> None:
    """On an emulated CPU of 2011, `portable` is refused before anything starts, with the runtime to use instead."""
    done = train(project, prefix=("qemu-x86_64", "-cpu", "SandyBridge"))

    assert 2 == done.returncode
    said = "expected Linux on an x86-64 CPU with AVX2 and FMA, received Linux on x86_64 without AVX2 and FMA"
    assert f"runtime=portable: {said}" in done.stderr
    assert "runtime=machine" in done.stderr


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
    """A process on an emulated CPU sees AVX2 without AVX-512, and the larger cache if requested."""
    machines = emulators.emulated_machines(["Haswell", "Haswell-48K-2M", "Haswell-32K-256K"], tmp_path)
    seen = [emulators.probe(machine) for machine in machines]

    assert [["AVX2", "FMA3"]] * 3 == [each["sets"] for each in seen]
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
        emulators.Job(
            "crashes once", ["sh", "-c", f"cd {tmp_path}; {script}"], {"PATH": os.environ["PATH"]}, tmp_path / "a"
        ),
        emulators.Job("fails", ["sh", "-c", "exit 3"], {"PATH": os.environ["PATH"]}, tmp_path / "b"),
    ]
    told: list[str] = []

    assert {"crashes once": 0, "fails": 3} == emulators.run_jobs(jobs, lambda name, _: told.append(name))
    assert {"crashes once", "fails"} == set(told)


def test_an_unknown_name_of_a_cpu(tmp_path: pathlib.Path) -> None:
    """The error names it and the known CPUs."""
    with pytest.raises(ConfigError, match="received Pentium"):
        emulators.emulated_machines(["Pentium"], tmp_path)
