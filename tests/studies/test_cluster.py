"""Stopped and killed studies, and studies on a cluster: no process is left, and the bits are the same."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from conftest import (
    FAULTY,
    LONG,
    QUIET,
    ROOT,
    Result,
    at_full_speed,
    children,
    copy_project,
    digest,
    finished,
    run_command,
    slowly,
    wait_until,
)
from fake_comet import read_archive
from processes import workers

pytestmark = pytest.mark.full
ASKED_ALONE = ("training.checkpoint_every=100000",)  # checkpoints only when the training is asked to stop
SEEDS = (56, 57)
STUDY = ("--seeds=56..57", "experiment=smoke", *LONG, "tracker.finish_timeout_s=300")
SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch")
PATH = os.environ["PATH"] + ":/usr/sbin"
MISSING = [name for name in SLURM_PROGRAMS if not shutil.which(name, path=PATH)]
# Variables that a node may have set; they must not change a run.
FOREIGN = "export OMP_NUM_THREADS=3 TF_ENABLE_ONEDNN_OPTS=0 PYTHONHASHSEED=5 TZ=Asia/Tokyo ONEDNN_MAX_CPU_ISA=SSE41"


def digests(root: pathlib.Path) -> dict[int, str]:
    """Return seed -> weights digest of the finished runs of the project's study."""
    (path,) = (root / "runs" / "studies").glob("*/study.json")
    return {run["seed"]: run["weights_digest"] for run in json.loads(path.read_text())["runs"] if run["attempt"]}


def rows(root: pathlib.Path, seed: int) -> int:
    """Return the number of metrics rows of a seed's runs."""
    found = [path for path in (root / "runs").glob("smoke/*/1/config.yaml") if f"root: {seed}\n" in path.read_text()]
    metrics = [path.with_name("metrics.jsonl") for path in found]
    return sum(len(path.read_bytes().splitlines()) for path in metrics if path.exists())


def lost_steps(root: pathlib.Path) -> int:
    """Return the steps between the newest checkpoint of the unfinished run and its last metrics row."""
    (newest, *_) = sorted((root / "runs").glob("smoke/*/1/checkpoint-*.arrays"), reverse=True)
    _, epoch, step = newest.stem.split("-")
    told = [json.loads(line) for line in newest.with_name("metrics.jsonl").read_text().splitlines()]
    steps = max(row["step"] for row in told)  # of an epoch
    return abs((int(epoch) - int(told[-1]["epoch"])) * int(steps) + int(step) - int(told[-1]["step"]))


def processes(root: pathlib.Path) -> list[str]:
    """Return the command lines of all processes in a project's folder."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == root and "State:\tZ" not in (process / "status").read_text():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def trainings(root: pathlib.Path) -> list[str]:
    """Return the command lines of the processes that train."""
    return [line for line in processes(root) if "samebits.train.worker" in line]


def wait_until_trained(root: pathlib.Path, least: int) -> bool:
    """Wait until every seed has more rows than a number."""
    return wait_until(lambda: all(rows(root, seed) > least for seed in SEEDS))


def start(root: pathlib.Path, *options: str, **variables: str) -> "subprocess.Popen[str]":
    """Start the study. Its runs wait at each row of metrics, until `at_full_speed`."""
    command = [sys.executable, "-m", "samebits", "study", *STUDY, *options]
    environment = QUIET | {"PYTHONPATH": str(root / "src")} | slowly(root, 1, 0.3) | variables
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Return the digests of an uninterrupted study, trained one run after another."""
    root = copy_project(tmp_path_factory.mktemp("undisturbed"))
    done = run_command(root, "study", *STUDY, "--launcher=basic", "tracker=none")

    assert 0 == done.returncode, done.stdout + done.stderr
    return digests(root)


@pytest.mark.timeout(3600)
def test_a_stopped_study_leaves_no_process_and_goes_on(project: pathlib.Path, undisturbed: dict[int, str]) -> None:
    """SIGKILL, SIGTERM and Ctrl-C: each ends all processes, and the last command gives the uninterrupted bits.

    In Comet the runs share a group and a variant's tag, and each has its seed.
    """
    kinds = (
        "samebits study",
        "samebits.job",
        "samebits.launch.run",
        "samebits.train.worker",
        "samebits.launch.tracker",
    )
    begun = 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(project, "--jobs=2")

        assert wait_until_trained(project, begun + 5)
        before = processes(project)
        assert all(any(kind in line for line in before) for kind in kinds), before
        process.send_signal(number)
        output = process.communicate(timeout=600)[0]
        assert code == process.returncode, output
        assert wait_until(lambda: not processes(project)), processes(project)
        assert "Traceback" not in output
        assert [] == finished(project)
        begun = max(rows(project, seed) for seed in SEEDS)
    done = run_command(project, "study", *STUDY, "--jobs=2")
    (study,) = (project / "runs" / "studies").iterdir()
    archives = sorted((project / "runs").glob("smoke/*/1/comet/*.zip"))
    told = [read_archive(path) for path in archives]

    assert 0 == done.returncode, done.stdout + done.stderr
    assert undisturbed == digests(project)
    assert {study.name} == {one.others["group"] for one in told}
    assert all({"base", "smoke"} < set(one.tags) for one in told)
    assert set(SEEDS) == {one.others["random seed"] for one in told}


@pytest.fixture(scope="module")
def slurm() -> Iterator[str]:
    """Start Slurm with two nodes on this machine; yields its configuration."""
    if MISSING or os.geteuid() != 0:
        pytest.skip(f"a real Slurm: {', '.join(MISSING) or 'root'} is missing (tools/slurm.sh)")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm"))
    script = str(ROOT / "tools" / "slurm.sh")
    try:
        subprocess.run([script, "start", str(folder / "s"), "2"], check=True)
        yield str(folder / "s" / "slurm.conf")
    finally:
        subprocess.run([script, "stop", str(folder / "s")], check=True)
        left = [
            path.name
            for path in (folder / "s").glob("*.pid")
            if pathlib.Path("/proc", path.read_text().strip()).exists()
        ]
        shutil.rmtree(folder)
    assert [] == left


def jobs(slurm: str, *options: str) -> list[str]:
    """Return the queued and running jobs."""
    command = ["squeue", "--noheader", "--array", "--format=%i", *options]
    done = subprocess.run(command, env=QUIET | {"SLURM_CONF": slurm}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def set_partition(slurm: str, state: str) -> None:
    """Let Slurm start new jobs (UP) or not (DOWN); running jobs continue."""
    command = ["scontrol", "update", "PartitionName=main", f"State={state}"]
    subprocess.run(command, env=QUIET | {"SLURM_CONF": slurm}, check=True)


def array_process(number: int) -> int:
    """Return the process that srun started for a job of the array."""
    task = f"SLURM_ARRAY_TASK_ID={number}".encode()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            is_job = words[0] == sys.executable and "submitit.core._submit" in words
            if is_job and task in (process / "environ").read_bytes().split(b"\0"):
                return int(process.name)
    pytest.fail("no such job is running")


@pytest.mark.slurm
@pytest.mark.timeout(3600)
def test_slurm_gives_the_local_bits_whatever_befalls_its_jobs(
    slurm: str, project: pathlib.Path, undisturbed: dict[int, str]
) -> None:
    """A killed study, and a lost, a preempted and a cancelled job, end with the same bits."""
    options = ("--launcher=submitit_slurm", "tracker=none", "hydra.launcher.cpus_per_task=1", *ASKED_ALONE,
               f"hydra.launcher.setup=['{FOREIGN}']")  # fmt: skip
    environment = {"SLURM_CONF": slurm}

    # Killed: its jobs are cancelled, and write a checkpoint.
    killed = start(project, *options, **environment)
    assert wait_until_trained(project, 5)
    assert 2 == len(jobs(slurm, "--states=RUNNING"))
    killed.kill()
    killed.communicate()
    assert wait_until(lambda: not jobs(slurm) and not processes(project)), jobs(slurm)
    assert [] == finished(project)

    # Lost without a message: it is listed, and the other jobs continue.
    study = start(project, *options, **environment)
    assert wait_until_trained(project, max(rows(project, seed) for seed in SEEDS) + 5)
    job = array_process(0)
    for process in (job, *children(job)):
        with contextlib.suppress(ProcessLookupError):  # Slurm ends the rest of the job
            os.kill(process, signal.SIGKILL)
    at_full_speed(project)
    output = study.communicate(timeout=900)[0]
    (project / "fast").unlink()
    assert 1 == study.returncode, output
    assert "base  seed 56  FAILED: its job was killed, cancelled or lost" in output
    assert {57: undisturbed[57]} == digests(project)

    # Preempted: Slurm queues the job again, and it resumes. Cancelled: it writes a checkpoint.
    reached = rows(project, 56)
    study = start(project, *options, **environment)
    assert wait_until(lambda: rows(project, 56) > reached + 5)
    (name,) = jobs(slurm, "--states=RUNNING")
    set_partition(slurm, "DOWN")  # it is queued, and does not start
    subprocess.run(["scancel", "--signal=USR2", name], env=QUIET | environment, check=True)
    assert wait_until(lambda: jobs(slurm, "--states=PENDING") and not trainings(project))  # it saves first
    assert lost_steps(project) < 5
    preempted = rows(project, 56)
    set_partition(slurm, "UP")
    assert wait_until(lambda: rows(project, 56) > preempted + 5)
    subprocess.run(["scancel", name], env=QUIET | environment, check=True)
    output = study.communicate(timeout=900)[0]
    assert 1 == study.returncode, output
    assert "base  seed 56  FAILED: stopped; progress is saved" in output
    assert lost_steps(project) < 5

    # The same command trains only the rest.
    done: Result = run_command(project, "study", *STUDY, *options, environment=environment)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "2 runs: 1 started, 1 already finished" in done.stdout
    assert undisturbed == digests(project)
    assert ["1", "1"] == [attempt.name for attempt in finished(project)]


@pytest.mark.slurm
@pytest.mark.timeout(1800)
def test_a_training_on_two_nodes_has_the_bits_of_one_process(slurm: str, project: pathlib.Path) -> None:
    """A job with a task on each node; then one that loses a task, and is resumed by a single process."""
    golden = str(json.loads((ROOT / "golden" / "smoke_shards.json").read_text())["weights_digest"])
    words = ("experiment=smoke_shards", "tracker=none", "training.workers=2")
    options = ("--launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.cpus_per_task=1")
    done = run_command(project, "study", "--seeds=56..56", *words, *options, environment={"SLURM_CONF": slurm})
    (attempt,) = finished(project)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert golden == digest(attempt)
    assert "worker 0 of 2: 127.0.0.1:" in (attempt / "log.txt").read_text()

    command = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "bash", "-c"]
    environment = QUIET | {"PYTHONPATH": str(project / "src"), "SLURM_CONF": slurm} | slowly(project, 2, 0.5)
    slow_words = (*words, FAULTY, "training.worker_timeout_s=20")
    script = f"{sys.executable} -m samebits train {' '.join(slow_words)}"
    job = subprocess.Popen(
        [*command, script], cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert wait_until(lambda: 1 in workers(project))
    assert wait_until(lambda: count_unfinished_rows(project) > 2)
    os.kill(workers(project)[1], signal.SIGKILL)
    output = job.communicate(timeout=600)[0]

    assert job.returncode != 0, output
    assert "worker 1 (127.0.0.1:" in output
    assert "does not answer, so the training stops" in output
    done = run_command(project, "train", *slow_words, "training.workers=1")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "resumes after epoch" in done.stdout
    assert [golden, golden] == [digest(attempt) for attempt in finished(project)]


def count_unfinished_rows(root: pathlib.Path) -> int:
    """Return the number of metrics rows of the runs that have not finished."""
    paths = [path for path in (root / "runs").glob("*/*/*/metrics.jsonl") if not (path.parent / "result.json").exists()]
    return sum(len(path.read_bytes().splitlines()) for path in paths)
