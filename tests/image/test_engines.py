"""Real container engines: stop, kill, limits, owners and networks. `.ci/image` starts them and builds the image."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from conftest import LARGER, QUIET, ROOT, Result, digest, finished, wait_until

from samebits.image import build_context
from samebits.image.engines import FOLDERS, capture

ENGINES = os.environ.get("SAMEBITS_ENGINES", "").split()
STRANGER = 12345  # a user without a name, a home or root's rights
TRAIN = ("train", "experiment=smoke", "tracker=none")

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(not ENGINES, reason="needs SAMEBITS_ENGINES=docker and the image samebits in it (.ci/image)"),
]


@dataclass
class Host:
    """A user's project on a machine with an engine: root with podman, another user of docker's group with docker."""

    engine: str
    root: pathlib.Path
    user: int

    def words(self, *rest: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the command line of `samebits image` in the system's Python, which every user may run."""
        given = [f"--engine={self.engine}", "--as-is", f"--mounts={self.root}"]
        given += [f"--option={option}" for option in options]
        return ["/usr/bin/python3", "-m", "samebits", f"--root={self.root}", "image", rest[0], *given, *rest[1:]]

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command as the user."""
        own = {"PYTHONPATH": f"{self.root}/src", "HOME": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        groups = [self.socket.stat().st_gid] if self.engine == "docker" else []
        return subprocess.Popen(
            words, cwd=self.root, env=QUIET | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            user=self.user, group=self.user, extra_groups=groups,
        )  # fmt: skip

    @property
    def socket(self) -> pathlib.Path:
        """Docker's socket."""
        return pathlib.Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))

    def run(self, *words: str, options: tuple[str, ...] = ()) -> Result:
        """Run `samebits image` to its end; all output is in `stdout`."""
        process = self.start(*self.words(*words, options=options))
        said, _ = process.communicate(timeout=1200)
        return subprocess.CompletedProcess(process.args, process.returncode, said, "")

    def interrupt(self, how: str, rows: int, *words: str) -> tuple[int, str]:
        """Train until the record has more rows, then `docker stop` or `docker kill`; returns exit code and output."""
        name = f"samebits-test-{os.getpid()}-{how}"
        process = self.start(*self.words(*words, options=(f"--name={name}",)))
        assert wait_until(lambda: self.rows() > rows or process.poll() is not None)
        patience = ["--time=60"] if how == "stop" else []
        done = capture([self.engine, how, *patience, name], timeout_s=120)
        said, _ = process.communicate(timeout=120)

        assert 0 == done.returncode, said + done.stderr
        return process.returncode, said

    def rows(self) -> int:
        """Return how many rows of metrics the project's runs have."""
        return sum(len(path.read_bytes().splitlines()) for path in self.root.glob("runs/*/*/*/metrics.jsonl"))


@pytest.fixture(params=ENGINES)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a project of its own, in a folder that any user can reach."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="samebits-"))
    user = STRANGER if request.param == "docker" else os.geteuid()
    build_context.copy_context(ROOT, root)
    for name in FOLDERS:
        (root / name).mkdir()
    for path in (root, *root.rglob("*")):
        os.chown(path, user, user)
    yield Host(request.param, root, user)
    shutil.rmtree(root)


def test_a_container_that_was_stopped_and_killed_ends_with_the_bits_from_outside(
    host: Host, undisturbed: pathlib.Path
) -> None:
    """`stop` saves a checkpoint and ends with 143. `kill` loses nothing. The files belong to the caller."""
    stopped = host.interrupt("stop", 4, *TRAIN, *LARGER)
    killed = host.interrupt("kill", host.rows() + 4, *TRAIN, *LARGER)
    last = host.run(*TRAIN, *LARGER)

    assert 143 == stopped[0], stopped[1]
    assert 137 == killed[0], killed[1]
    assert 0 == last.returncode, last.stdout
    assert "resumes after" in killed[1]
    assert "resumes after" in last.stdout
    (attempt,) = finished(host.root)
    assert digest(undisturbed) == digest(attempt)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (host.root / "runs").rglob("*")}
    assert {(host.user, host.user)} == owners
    recorded = json.loads((attempt / "machine.json").read_text())["image_digest"]
    inspected = capture([host.engine, "image", "inspect", "--format={{.Id}}", "samebits"]).stdout.strip()
    assert inspected.removeprefix("sha256:") == recorded.removeprefix("sha256:")


def test_limits_of_memory_and_cpu_change_no_bits(host: Host, undisturbed: pathlib.Path) -> None:
    """Without enough memory the kernel kills the training, and the error says so. Half a core gives the same bits."""
    limits = ("--memory=200m", "--memory-swap=200m")
    small = host.run(*TRAIN, *LARGER, options=limits)
    slow = host.run(*TRAIN, *LARGER, options=("--cpus=0.5",))

    assert 1 == small.returncode, small.stdout
    assert "SIGKILL" in small.stdout
    assert 0 == slow.returncode, slow.stdout
    assert digest(undisturbed) == digest(finished(host.root)[0])


def test_a_container_has_no_network_and_writes_nowhere_else(host: Host) -> None:
    """Inside are the loopback interface, a read-only root, and no capabilities."""
    code = (
        "import os, socket\n"
        "print([name for _, name in socket.if_nameindex() if name not in ('tunl0', 'sit0')])\n"
        "print(socket.socket().connect_ex(('192.0.2.1', 80)))\n"
        "print([line for line in open('/proc/self/status') if line.startswith('CapEff')])\n"
        "for path in ('/app/x', '/opt/venv/x', '/etc/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = host.run("run", "/opt/venv/bin/python", "-c", code)

    assert 0 == done.returncode, done.stdout
    assert ["['lo']", "101", "['CapEff:\\t0000000000000000\\n']", "30", "30", "30"] == done.stdout.splitlines()[-6:]


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[None]:
    """Mount a file system of this size, in memory, on a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_and_a_read_only_one_are_errors_and_nothing_is_lost(host: Host, undisturbed: pathlib.Path) -> None:
    """The error names the file. With free space the same command resumes. A read-only folder is refused at once."""
    runs = host.root / "runs"
    with small_disk(runs, "400k"):
        full = host.run(*TRAIN, *LARGER)
        subprocess.run(["mount", "-o", "remount,size=64m", str(runs)], check=True)
        again = host.run(*TRAIN, *LARGER)
        bits = digest(finished(host.root)[0]) if finished(host.root) else again.stdout
        subprocess.run(["mount", "-o", "remount,ro", str(runs)], check=True)
        refused = host.run(*TRAIN, "seed.root=57")

    assert 1 == full.returncode, full.stdout
    assert "disk" in full.stdout
    assert 0 == again.returncode, again.stdout
    assert digest(undisturbed) == bits
    assert 2 == refused.returncode, refused.stdout
    assert "Traceback" not in full.stdout + refused.stdout
