"""Several processes share a training: the bits of one, and a clear end when one of them is lost."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import HOSTILE, LARGER, QUIET, ROOT, count_rows, digest, finished, run_command, wait_until
from processes import workers

from samebits.core.config import Config, TrainingConfig
from samebits.core.errors import ConfigError
from samebits.launch.team import Member, find_member, free_ports, tasks_per_node

GOLDEN = str(json.loads((ROOT / "golden" / "smoke_shards.json").read_text())["weights_digest"])
SHARDS = ("experiment=smoke_shards", "tracker=none")
LONG = (*SHARDS, *LARGER, "training.shards=4")
SECONDS = 5  # of an exchange, in tests of processes that hang
Start = Callable[..., "subprocess.Popen[str]"]


def command(root: pathlib.Path, *overrides: str) -> list[str]:
    """Return the command of a training."""
    return [sys.executable, "-m", "samebits", f"--root={root}", "train", *overrides]


def has_rows(root: pathlib.Path, count: int) -> bool:
    """Return whether the run of a project has so many rows of metrics."""
    return count_rows(root) >= count


@pytest.fixture
def start(project: pathlib.Path) -> Iterator[Start]:
    """Return a function that starts a training in the background; all are ended after the test."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*overrides: str, prefix: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*prefix, *command(project, *overrides)], env=QUIET | {"PYTHONPATH": str(project / "src")} | variables,
            cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a training, and return its exit code and output."""
    output = process.communicate(timeout=600)[0]
    return process.returncode, output


@pytest.mark.full
def test_any_number_of_workers_and_threads_has_the_bits_of_one(project: pathlib.Path, start: Start) -> None:
    """One to three processes, one core and all, one thread and several, under hostile conditions: one digest."""
    kinds: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        ((), ("training.workers=1",)),
        ((), ("training.workers=2",)),
        (("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))), ("training.workers=3",)),
        ((), ("training.workers=1", "runtime.inter_op_threads=1")),
        ((), ("training.workers=2", "training.steps_per_epoch=null", "training.checkpoint_every=7")),
    ]
    for prefix, overrides in kinds:
        code, output = end(start(*SHARDS, "resume=never", *overrides, prefix=prefix, **HOSTILE))

        assert 0 == code, output
    assert [GOLDEN] * len(kinds) == [digest(attempt) for attempt in finished(project)]
    assert {} == workers(project)


@pytest.mark.full
def test_any_number_of_workers_has_the_bits_of_one_under_machine(project: pathlib.Path, start: Start) -> None:
    """TensorFlow's rewrites of arithmetic, which depend on the whole graph, are off for a split training."""
    for workers_given in (1, 2, 3):
        code, output = end(start(*SHARDS, "resume=never", "runtime=machine", f"training.workers={workers_given}"))

        assert 0 == code, output
    assert 1 == len({digest(attempt) for attempt in finished(project)})
    assert 3 == len(finished(project))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_missing_worker_is_named(number: signal.Signals, project: pathlib.Path, start: Start) -> None:
    """It was killed, or it hangs: the training ends within a bounded time, and no process is left."""
    process = start(*LONG, "training.workers=2", "training.worker_timeout_s=3", "training.log_every=5")
    assert wait_until(functools.partial(has_rows, project, 3))
    began = time.monotonic()
    os.kill(workers(project)[1], number)
    code, output = end(process)

    assert 1 == code, output
    assert "worker 1 " in output
    assert "resumes from the last checkpoint" in " ".join(output.split())
    assert time.monotonic() - began < 60
    assert {} == workers(project)
    assert [] == finished(project)


@pytest.mark.parametrize("at_start", [True, False])
def test_workers_of_a_killed_command_end_and_leave_no_files(
    at_start: bool, project: pathlib.Path, start: Start, tmp_path: pathlib.Path
) -> None:
    """The command itself gets SIGKILL, so nobody ends its workers or removes their folders: they do it themselves."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = start(*LONG, "training.workers=3", "training.log_every=5", TMPDIR=str(scratch))
    if at_start:
        assert wait_until(lambda: len(workers(project)) == 3)
        first = workers(project)[0]
        os.kill(first, signal.SIGSTOP)
        time.sleep(8)  # the others wait for it
        os.kill(first, signal.SIGKILL)
    else:
        assert wait_until(functools.partial(has_rows, project, 3))
    assert list(scratch.glob("samebits-*/2"))
    process.kill()

    assert wait_until(lambda: not workers(project))
    assert wait_until(lambda: not list(scratch.glob("samebits-*")))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_lost_worker_ends_the_training_and_another_number_resumes(project: pathlib.Path, start: Start) -> None:
    """Killed, hanging, or stopped by a signal: a clear end within a bounded time, then the same bits."""
    losses: list[tuple[str, int, int, int, str]] = [  # of how many, which one, by which signal, exit code, message
        ("training.workers=2", 1, signal.SIGKILL, 1, "worker 1 ended: killed by SIGKILL (out of memory, or kill -9)"),
        ("training.workers=3", 0, signal.SIGKILL, 1, "the training process failed: killed by SIGKILL"),
        ("training.workers=2", 1, signal.SIGSTOP, 1, "worker 1 (127.0.0.1:"),
        ("training.workers=4", -1, signal.SIGTERM, 143, "stopped; progress is saved"),
    ]
    for count, rank, number, code, said in losses:
        enough = count_rows(project) + 3
        process = start(*LONG, count, f"training.worker_timeout_s={SECONDS}", "training.log_every=5")
        assert wait_until(functools.partial(has_rows, project, enough))
        lost = process.pid if rank < 0 else workers(project)[rank]
        began = time.monotonic()
        os.kill(lost, number)
        found, output = end(process)

        assert code == found, output
        assert said in output, output
        assert "Traceback" not in output
        assert time.monotonic() - began < 60 + SECONDS
        assert {} == workers(project)
    resumed, output = end(start(*LONG))

    assert 0 == resumed, output
    assert "resumes after epoch" in output
    (attempt,) = finished(project)
    alone, output = end(start(*LONG, "resume=never"))
    assert 0 == alone, output
    assert digest(attempt) == digest(finished(project)[1])
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert (attempt / name).read_bytes() == (finished(project)[1] / name).read_bytes()


def tf_config(ports: list[int], rank: int, address: str = "127.0.0.1") -> str:
    """Return TF_CONFIG for a worker."""
    cluster = {"worker": [f"{address}:{port}" for port in ports]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})


@pytest.mark.full
def test_the_same_command_on_each_host_shares_a_training(
    project: pathlib.Path, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With TF_CONFIG, the first one has the record; the other host has a copy of the project, or an error names it."""
    other = tmp_path_factory.mktemp("host") / "project"
    shutil.copytree(project, other, symlinks=True)
    ports = free_ports(2)
    first = start(*SHARDS, "training.workers=2", TF_CONFIG=tf_config(ports, 0))
    second = subprocess.run(
        command(other, *SHARDS, "training.workers=2"), cwd=other, text=True, capture_output=True, check=False,
        env=QUIET | {"PYTHONPATH": str(other / "src"), "TF_CONFIG": tf_config(ports, 1)},
    )  # fmt: skip
    code, output = end(first)

    assert (0, 0) == (code, second.returncode), output + second.stdout + second.stderr
    assert [GOLDEN] == [digest(attempt) for attempt in finished(project)]
    assert [] == finished(other)

    ports = free_ports(2)
    first = start(*SHARDS, "training.workers=2", "resume=never", TF_CONFIG=tf_config(ports, 0))
    (other / "src" / "imdb_cnn_lstm" / "added.py").write_text("# another version\n")
    second = subprocess.run(
        command(other, *SHARDS, "training.workers=2"), cwd=other, text=True, capture_output=True, check=False,
        env=QUIET | {"PYTHONPATH": str(other / "src"), "TF_CONFIG": tf_config(ports, 1)},
    )  # fmt: skip
    code, output = end(first)

    assert (1, 1) == (code, second.returncode), output + second.stdout
    assert f"worker 1 (127.0.0.1:{ports[1]}) has other configuration, code or lock" in output


DRIFTING = '''"""Callbacks that do other things in another worker."""

import json
import os
import sys

import keras

IS_FIRST = json.loads(sys.argv[-1])["rank"] == 0


class Weights(keras.callbacks.Callback):
    """Changes a weight of the second worker in its second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and not IS_FIRST:
            self.model.trainable_weights[0].assign_add(self.model.trainable_weights[0] * 1e-6)


class End(keras.callbacks.Callback):
    """Kills the second worker between two epochs."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and not IS_FIRST:
            os.kill(os.getpid(), 9)


class Stop(keras.callbacks.Callback):
    """Ends the training of the first worker after a few steps."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 3 and IS_FIRST:
            self.model.stop_training = True
'''


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Weights", "has other weights after epoch 2"),
        ("Stop", "worker 0 (127.0.0.1: has stop_training in the middle"),
        ("End", "worker 1 "),
    ],
)
def test_workers_that_drift_apart_are_found(kind: str, said: str, project: pathlib.Path, start: Start) -> None:
    """A callback that does other things in one worker is an error by the end of the epoch."""
    (project / "src" / "imdb_cnn_lstm" / "drifting.py").write_text(DRIFTING)
    code, output = end(
        start(*SHARDS, "training.workers=2", f"training.callbacks=[imdb_cnn_lstm.drifting.{kind}]", "training.epochs=3")
    )

    assert 1 == code, output
    assert said in re.sub(r":\d+\)", ":", " ".join(output.split())), output
    assert [] == finished(project)


def test_wrong_numbers_of_workers_are_errors(project: pathlib.Path) -> None:
    """The message has the key, what was expected and what came."""
    for words, message in (
        (("training.workers=4",), "training.workers: expected 1 to 3, the value of training.shards"),
        (("training.workers=0",), "training.workers: expected an integer of at least 1"),
        (("training.shards=0",), "training.shards: expected an integer of at least 1"),
        (("training.worker_timeout_s=0",), "training.worker_timeout_s: expected a number of seconds above 0"),
    ):
        done = run_command(project, "train", *SHARDS, *words)

        assert 2 == done.returncode, done.stdout
        assert message in done.stderr + done.stdout, words


def test_a_place_in_a_team_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF_CONFIG, then Slurm; neither counts for a training of one worker."""
    config = Config(training=TrainingConfig(shards=3, workers=3))
    text = tf_config([1, 2, 3], 2, "host")
    slurm = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "1", "SLURM_JOB_ID": "1000", "SLURM_STEP_ID": "2",
             "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2,1"}  # fmt: skip
    told: Any = subprocess.CompletedProcess(
        [], 0, "NodeName=n1 NodeAddr=10.0.0.1 Port=1\nNodeName=n2 NodeAddr=n2\n", ""
    )
    monkeypatch.setattr("samebits.launch.team.subprocess.run", lambda *_, **__: told)

    assert Member(("host:1", "host:2", "host:3"), 2) == find_member(config, {"TF_CONFIG": text})
    assert Member(("10.0.0.1:21006", "10.0.0.1:21007", "n2:21008"), 1) == find_member(config, slurm)
    assert None is find_member(config, {})
    assert None is find_member(Config(), {"TF_CONFIG": "nonsense"})
    assert [2, 2, 2, 1] == tasks_per_node("2(x3),1")
    for wrong in ("nonsense", "{}", tf_config([1, 2, 3], 3)):
        with pytest.raises(ConfigError, match="TF_CONFIG"):
            find_member(config, {"TF_CONFIG": wrong})
    with pytest.raises(ConfigError, match=r"training\.workers: expected 2"):
        find_member(config, {"TF_CONFIG": tf_config([1, 2], 0)})
