"""Starts the processes that share a training: `training.workers` of them, on this machine or one per host of a cluster.

On one machine, the parent process starts them all. On a cluster, the same command runs once per host or Slurm task: the
first one (rank 0) claims the run and writes its record, the others only compute. Never imports TensorFlow.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from samebits.core.config import Config, from_dict, to_dict
from samebits.core.errors import ConfigError
from samebits.core.files import make_folder, write_yaml
from samebits.launch.process import (
    child_command,
    describe_exit,
    exit_code,
    forwarded_signals,
    last_lines,
    stop_group,
)
from samebits.runs.folder import CONFIG, LOG, SCRATCH, read_yaml

KEY = "training.workers"
FIRST_PORT, PORTS, STEPS_OF_A_JOB = 20_000, 10_000, 7
OUTPUT = "output.txt"  # of a process whose output is not shown
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
NO_ANSWER = "does not answer"  # of a process that ended because another one had
POLL_S = 0.2
LAST_WORDS_S = 5.0  # that the others have to notice the end of one and to say so


@dataclass(frozen=True)
class Member:
    """One of the processes that share a training.

    Attributes:
        hosts: "host:port" of each process.
        rank: Its own number, counted from 0.
        record: The folder of the run, if it is on this machine.
    """

    hosts: tuple[str, ...]
    rank: int
    record: str = ""

    def describe(self, config: Config) -> str:
        """Return it as the argument of the training process."""
        timeout_s = config.training.worker_timeout_s
        return json.dumps({"hosts": self.hosts, "rank": self.rank, "record": self.record, "timeout_s": timeout_s})


def find_member(config: Config, environment: Mapping[str, str]) -> Member | None:
    """Return the place of this process in a team on several hosts, or None if all workers are on this machine.

    Args:
        config: The configuration.
        environment: Its TF_CONFIG counts first, then the variables of a Slurm job with several tasks.

    Raises:
        ConfigError: The environment describes another number of workers.
    """
    workers = config.training.workers
    if workers == 1:
        return None
    if "TF_CONFIG" in environment:
        member = from_tf_config(environment["TF_CONFIG"])
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        member = from_slurm(environment)
    else:
        return None
    if len(member.hosts) != workers:
        raise ConfigError(
            KEY, expected=f"{len(member.hosts)}, the number of workers in the environment", received=workers,
            fix=f"set {KEY}={len(member.hosts)}, or start another number of tasks",
        )  # fmt: skip
    return member


def from_tf_config(text: str) -> Member:
    """Return the member that TF_CONFIG describes: {"cluster": {"worker": ["host:port", …]}, "task": {"index": 0}}.

    Raises:
        ConfigError: It is malformed.
    """
    try:
        tree = json.loads(text)
        hosts = tuple(str(host) for host in tree["cluster"]["worker"])
        rank = int(tree["task"]["index"])
        if tree["task"].get("type", "worker") != "worker":
            raise ValueError("a task that is no worker")  # noqa: TRY301  handled below
        if not 0 <= rank < len(hosts) or not all(":" in host for host in hosts):
            raise ValueError(f"task {rank} of {hosts}")  # noqa: TRY301  handled below
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "TF_CONFIG", expected='{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}',
            received=f"{text[:200]} ({type(error).__name__}: {error})", fix="mend it, or unset it",
        ) from error  # fmt: skip
    return Member(hosts, rank)


def from_slurm(environment: Mapping[str, str]) -> Member:
    """Return the member that the variables of a Slurm step describe: one worker per task, at a port of its own.

    Raises:
        ConfigError: Slurm does not tell the addresses of the nodes.
    """
    command = ["scontrol", "show", "node", environment["SLURM_STEP_NODELIST"], "--oneliner"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            KEY, expected="scontrol, which tells the addresses of the nodes", received=str(error),
            fix="install Slurm's programs on the nodes, or set TF_CONFIG",
        ) from error  # fmt: skip
    addresses = re.findall(r"\bNodeAddr=(\S+)", told)
    of_tasks: list[str] = []
    for address, count in zip(addresses, tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"]), strict=True):
        of_tasks += [address] * count
    number = int(environment["SLURM_JOB_ID"]) * STEPS_OF_A_JOB + int(environment.get("SLURM_STEP_ID", "0"))
    first = FIRST_PORT + number * len(of_tasks) % PORTS
    hosts = tuple(f"{address}:{first + rank}" for rank, address in enumerate(of_tasks))
    return Member(hosts, int(environment["SLURM_PROCID"]))


def tasks_per_node(text: str) -> list[int]:
    """Return the tasks of each node of Slurm's short form, e.g. "2(x3),1"."""
    found: list[int] = []
    for part in text.split(","):
        count, _, times = part.rstrip(")").partition("(x")
        found += [int(count)] * int(times or 1)
    return found


def free_ports(count: int) -> list[int]:
    """Return free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def run_team(
    config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None,
    prefix: Sequence[str] = (),
) -> int:  # fmt: skip
    """Start `training.workers` training processes on this machine, and wait for them.

    Args:
        config: The configuration.
        attempt: The folder with config.yaml.
        root: The project's folder.
        source: Folder of the code to run; None: the code of the project.
        prefix: Words before the command of the first process: an emulator.

    Returns:
        The exit code of the first one; if another one ends first, a message says so, and the code is 1.
    """
    hosts = tuple(f"127.0.0.1:{port}" for port in free_ports(config.training.workers))
    members = [Member(hosts, rank, str(attempt)) for rank in range(len(hosts))]
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:
        others = [pathlib.Path(scratch) / f"{member.rank}" for member in members[1:]]
        for folder in others:
            make_folder(folder)
            write_yaml(folder / CONFIG, to_dict(config))
        folders = [attempt, *others]
        with forwarded_signals() as adopt, started(config, folders, root, source, members, prefix) as children:
            adopt(children[0])
            return exit_code(wait_for_all(children, folders))


@contextlib.contextmanager
def started(
    config: Config,
    folders: list[pathlib.Path],
    root: pathlib.Path,
    source: pathlib.Path | None,
    members: list[Member],
    prefix: Sequence[str] = (),
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start one training process per member while the block runs; whatever is left of them is killed at its end.

    The prefix is for the first one.
    """
    children: list[subprocess.Popen[bytes]] = []
    try:
        for member, folder in zip(members, folders, strict=True):
            children.append(start_member(config, folder, root, source, member, () if children else prefix))
        yield children
    finally:
        for child in children:
            stop_group(child, 0.0)
            child.wait()


def start_member(
    config: Config, folder: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None, member: Member,
    prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":  # fmt: skip
    """Start one training process. The first one shows its progress; the others write to files of their folder."""
    command, environment = child_command(config, folder, root, source)
    with contextlib.ExitStack() as stack:
        output = None
        if member.rank > 0:
            output = stack.enter_context((folder / OUTPUT).open("ab"))
        return subprocess.Popen(
            [*prefix, *command, member.describe(config)], env=environment, cwd=root, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip


def wait_for_all(children: list["subprocess.Popen[bytes]"], folders: list[pathlib.Path]) -> int:
    """Wait until the first process has ended, or shortly after another one has failed.

    Returns:
        The exit code of the first one; 1 if it had to be killed.
    """
    first, *others = children
    while first.poll() is None and all(other.poll() in (None, 0, *STOPPED) for other in others):
        time.sleep(POLL_S)
    with contextlib.suppress(subprocess.TimeoutExpired):
        first.wait(LAST_WORDS_S)
    code = first.poll()
    if code not in (0, *STOPPED):
        time.sleep(POLL_S)
        for rank, (other, folder) in enumerate(zip(others, folders[1:], strict=True), 1):
            ended = other.poll()
            if ended not in (None, 0) and NO_ANSWER not in last_lines(folder / OUTPUT):
                print(describe_loss(rank, ended, folder), flush=True)
    return 1 if code is None else code


def describe_loss(rank: int, code: int, folder: pathlib.Path) -> str:
    """Return what to tell the user about a process that failed with an exit code, with the end of what it wrote."""
    text = last_lines(folder / OUTPUT) + (last_lines(folder / LOG) if code < 0 else "")
    advice = f"the same command, also with another {KEY}, resumes from the last checkpoint"
    return f"worker {rank} ended: {describe_exit(code)}; {advice}{text}"


def run_one(
    config: Config, folder: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None, member: Member
) -> int:
    """Start the training process of a member, wait for it, and return its exit code."""
    with forwarded_signals() as adopt, started(config, [folder], root, source, [member]) as (child,):
        adopt(child)
        return exit_code(child.wait())


def follow(config: Config, root: pathlib.Path, member: Member) -> int:
    """Compute for a training whose record another host writes, in a folder that is deleted at the end.

    Returns:
        The exit code of the training process.
    """
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as name:
        folder = pathlib.Path(name)
        write_yaml(folder / CONFIG, to_dict(config))
        code = run_one(config, folder, root, None, member)
        print((folder / OUTPUT).read_text(errors="replace"), end="", flush=True)
        if code:
            print(describe_loss(member.rank, code, folder).partition("\n")[0], flush=True)
    return 1 if code < 0 else code


def run_member(config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None) -> int:
    """Run the training process of an attempt: alone, with others on this machine, or as the first one of several hosts.

    The arguments and the result are those of `samebits.launch.process.run_child`.
    """
    member = find_member(config, os.environ)
    if member is None:
        return run_team(config, attempt, root, source)
    return run_one(config, attempt, root, source, member)


def main() -> int:
    """Run the workers of an attempt, the first by an emulator: python -m samebits.launch.team ATTEMPT ROOT WORD…."""
    attempt, root, *prefix = sys.argv[1:]
    config = from_dict(read_yaml(pathlib.Path(attempt) / CONFIG))
    return run_team(config, pathlib.Path(attempt), pathlib.Path(root), prefix=prefix)


if __name__ == "__main__":
    sys.exit(main())
