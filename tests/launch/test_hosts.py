"""Four hosts, as network namespaces of this machine, share a training: one is slow, one has one core, one is cut."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest import LARGER, QUIET, count_rows, digest, finished, run_command, wait_until

HOSTS, PORT = 4, 28_100
SECONDS = 6  # of an exchange
WORDS = ("experiment=smoke_shards", "tracker=none", *LARGER, "training.shards=4", "training.log_every=5")
MISSING = os.geteuid() != 0 or not shutil.which("ip", path=os.environ["PATH"] + ":/usr/sbin")
pytestmark = [pytest.mark.full, pytest.mark.skipif(MISSING, reason="hosts in network namespaces: needs root and ip")]


def ip(*words: str) -> None:
    """Run `ip`.

    Raises:
        CalledProcessError: It failed.
    """
    subprocess.run(
        ["ip", *words], check=True, capture_output=True, env=os.environ | {"PATH": "/usr/sbin:/usr/bin:/bin"}
    )


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Yield the names of four network namespaces that a bridge connects; the third one has 20 megabits per second."""
    tag = f"sb{os.getpid()}"
    names = [f"{tag}h{number}" for number in range(HOSTS)]
    try:
        try:
            ip("netns", "add", tag)
            ip("-n", tag, "link", "add", "bridge", "type", "bridge")
            ip("-n", tag, "link", "set", "bridge", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"hosts in network namespaces: {error.stderr.decode().strip()}")
        for number, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"port{number}", "netns", tag, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", tag, "link", "set", f"port{number}", "master", "bridge", "up")
            ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        slow = "tc qdisc add dev eth0 root tbf rate 20mbit burst 64kbit latency 400ms"
        ip("netns", "exec", names[2], *slow.split())
        yield [tag, *names]
    finally:
        for name in [*names, tag]:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


def start(root: pathlib.Path, name: str, rank: int) -> "subprocess.Popen[str]":
    """Start a worker on a host. The last one has one core."""
    cluster = {"worker": [f"10.77.0.{number + 1}:{PORT}" for number in range(HOSTS)]}
    tf_config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
    one_core = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))] if rank == HOSTS - 1 else []
    command = [
        "ip", "netns", "exec", name, *one_core, sys.executable, "-m", "samebits", f"--root={root}", "train", *WORDS,
        f"training.workers={HOSTS}", f"training.worker_timeout_s={SECONDS}",
    ]  # fmt: skip
    variables = QUIET | {"PYTHONPATH": str(root / "src"), "TF_CONFIG": tf_config}
    variables["PATH"] = f"{os.environ['PATH']}:/usr/sbin"
    return subprocess.Popen(
        command, env=variables, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.timeout(1800)
def test_four_hosts_share_a_training_until_one_is_cut_off(project: pathlib.Path, hosts: list[str]) -> None:
    """All end within a bounded time and say which host does not answer. Then one process resumes to the same bits."""
    hub, *names = hosts
    processes = [start(project, name, rank) for rank, name in enumerate(names)]
    assert wait_until(lambda: count_rows(project) > 3 or processes[0].poll() is not None)
    ip("-n", hub, "link", "set", "port3", "down")
    began = time.monotonic()
    outputs = [process.communicate(timeout=600)[0] for process in processes]

    assert [1] * HOSTS == [process.returncode for process in processes], outputs
    assert time.monotonic() - began < 60 + SECONDS
    named = "worker 3 (10.77.0.4:28100) does not answer, so the training stops"
    assert any(named in output for output in outputs[:3])
    assert named in outputs[0] or "killed by SIGSEGV" in outputs[0]  # TensorFlow sometimes crashes after the timeout
    assert "worker 0 (10.77.0.1:28100)" in outputs[3] or "worker 3 ended: killed by" in outputs[3]  # in TensorFlow
    assert not any("Traceback" in output for output in outputs)
    assert [] == finished(project)

    ip("-n", hub, "link", "set", "port3", "up")
    processes = [start(project, name, rank) for rank, name in enumerate(names)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [0] * HOSTS == [process.returncode for process in processes], outputs
    assert "resumes after epoch" in outputs[0]
    alone = run_command(project, "train", *WORDS, "resume=never")
    assert 0 == alone.returncode, alone.stdout + alone.stderr
    assert 1 == len({digest(attempt) for attempt in finished(project)})
    assert 2 == len(finished(project))
