"""The processes that share the parts of each batch, and their exchange by TensorFlow's collective operations.

All of them run the same training and hold the same weights. Each computes the gradients of its parts, and gets those
of the others; the sum is made by each, in the same order. The first one (rank 0) writes the record.
"""

import concurrent.futures
import io
import json
import os
import pathlib
import socket
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import tensorflow_server_pb2
from tensorflow.python.eager import context  # no public name (TensorFlow 2.21)

from samebits.core.errors import MachineError, TrainingError, first_line
from samebits.train.parts import own_parts

JOB = "worker"
GROUP = 1
# Instance keys of the exchanges. TEXTS and PAYLOAD are the first of many, one for each length.
AGREE, SIZES, LENGTHS, RECORD, TEXTS, PAYLOAD = 1, 2, 3, 4, 1_000, 1_000_000
STEPS_PER_OCTAVE = 8  # lengths of a payload are rounded up to so many per power of two, each with a key of its own
POWERS = [1 << exponent for exponent in range(31)]
RESUMED_FILES = ("checkpoint-*.arrays", "stage-*.arrays", "*.jsonl", "callbacks")
ANSWER_S = 2.0
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # RFC 9113, 3.4; no settings
POLL_S = 0.2
MAX_SHOWN = 200  # characters of an error
DRIFT = "use no callback or metric that depends on the clock, on the host, or on random numbers without a seed point"
FAILURES = (
    tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError, tf.errors.CancelledError,
    tf.errors.InternalError, tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError, tf.errors.UnknownError,
)  # fmt: skip
SIGNS = ("ollective", "Connection reset", "Socket closed", "failed to connect")


class Team:
    """The processes of a training, as one of them sees them.

    Args:
        hosts: "host:port" of each process.
        rank: The number of this process, counted from 0.
        timeout_s: How long an exchange waits for the others.
    """

    def __init__(self, hosts: Sequence[str], rank: int, timeout_s: float) -> None:
        self.hosts, self.rank, self.timeout_s = list(hosts), rank, timeout_s
        self.workers = len(hosts)
        self._agree: Any = None

    @staticmethod
    def parse(text: str) -> "Team":
        """Return the team that `samebits.launch.team` describes."""
        tree = json.loads(text)
        return Team(tree["hosts"], tree["rank"], tree["timeout_s"])

    def join(self) -> None:
        """Start TensorFlow's server of this process. Must come before TensorFlow's first operation.

        Raises:
            MachineError: The port is in use.
        """
        now = context.context()
        now.configure_collective_ops(
            collective_leader=f"/job:{JOB}/replica:0/task:0", scoped_allocator_enabled_ops=(), device_filters=()
        )
        server = tensorflow_server_pb2.ServerDef(
            cluster=tf.train.ClusterSpec({JOB: self.hosts}).as_cluster_def(), default_session_config=now.config,
            job_name=JOB, task_index=self.rank, protocol="grpc",
        )  # fmt: skip
        # A proxy would be asked for the other processes.
        os.environ |= {"no_proxy": "*", "no_grpc_proxy": "*"}
        now.enable_collective_ops(server)
        try:
            now.ensure_initialized()
        except (tf.errors.OpError, RuntimeError) as error:
            raise MachineError(
                f"worker {self.rank}", expected=f"to listen at {self.hosts[self.rank]}", received=str(error)[:200],
                fix="run the same command again; with TF_CONFIG, choose another port",
            ) from error  # fmt: skip

    # --- in a graph ---

    def exchange(self, value: tf.Tensor, key: Any) -> tf.Tensor:
        """Return the vectors of all processes as int32[workers, length], given the one of this process."""
        gathered = tf.raw_ops.CollectiveGatherV2(
            input=value, group_size=self.workers, group_key=GROUP, instance_key=key, ordering_token=[],
            communication_hint="auto", timeout_seconds=self.timeout_s,
        )  # fmt: skip
        return tf.reshape(gathered, [self.workers, -1])

    def gather(self, parts: Mapping[int, list[Any]], count: int) -> list[list[Any]]:
        """Return the tensors of all parts, given those of this process: first their sizes, if they vary, then all."""
        example = next(iter(parts.values()))
        words = [as_words(tensor) for tensors in parts.values() for tensor in tensors]
        own = tf.stack([tf.size(word) for word in words])
        most = -(-count // self.workers) * len(example)
        if all(tensor.shape.is_fully_defined() for tensor in example):
            sizes = tf.tile(own[: len(example)][tf.newaxis], [count, 1])
        else:
            received = self.exchange(tf.pad(own, [[0, most - len(words)]]), SIZES)
            rows = [received[rank, : len(mine) * len(example)] for rank, mine in enumerate(self._owners(count))]
            sizes = tf.reshape(tf.concat(rows, 0), [count, len(example)])
        totals = tf.stack([tf.reduce_sum(sizes[mine.start : mine.stop]) for mine in self._owners(count)])
        length, key = rounded_up(tf.reduce_max(totals))
        payload = tf.concat(words, 0)
        received = self.exchange(tf.pad(payload, [[0, length - tf.size(payload)]]), key)
        found: list[list[Any]] = []
        for rank, mine in enumerate(self._owners(count)):
            place = tf.constant(0)
            for number in mine:
                if number in parts:
                    found.append(parts[number])
                    continue
                pieces = tf.split(
                    tf.slice(received[rank], [place], [tf.reduce_sum(sizes[number])]), sizes[number], num=len(example)
                )
                place += tf.reduce_sum(sizes[number])
                found.append([from_words(piece, tensor) for piece, tensor in zip(pieces, example, strict=True)])
        return found

    def _owners(self, count: int) -> list[range]:
        return [own_parts(count, self.workers, rank) for rank in range(self.workers)]

    # --- between steps ---

    def agree(self, count: int, stop_requested: Callable[[], bool]) -> tuple[int, bool]:
        """Return the smallest number of steps that a process can take now, and whether one was asked to stop.

        Raises:
            TrainingError: Some end the epoch (0 steps), and others do not.
        """
        if self._agree is None:
            self._agree = tf.function(
                lambda value: self.exchange(value, AGREE), input_signature=[tf.TensorSpec([2], tf.int32)],
                autograph=False,
            )  # fmt: skip
        mine = tf.constant([count, int(stop_requested())], tf.int32)
        all_of_them = self._agree(mine).numpy()  # not by `wait`: an error in another thread crashes TensorFlow
        counts = all_of_them[:, 0]
        if counts.min() == 0 < counts.max():
            self._refuse(int(counts.argmin()), "stop_training in the middle of an epoch", "the others go on", DRIFT)
        return int(counts.min()), bool(all_of_them[:, 1].any())

    def share(self, text: bytes, run: Callable[[Callable[[], Any]], Any] | None = None) -> list[bytes]:
        """Return the bytes of every process, given those of this one.

        Args:
            text: The bytes.
            run: Runs an exchange; None: `wait`.
        """
        run = run or self.wait
        padded = np.frombuffer(text + bytes(-len(text) % 4), np.int32)
        lengths = run(lambda: self.exchange(tf.constant([len(text)], tf.int32), LENGTHS).numpy()[:, 0])
        bits = (int(lengths.max()) // 4).bit_length()
        most, key = 1 << bits, TEXTS + bits
        mine = tf.constant(np.pad(padded, (0, most - len(padded))))
        values = run(lambda: self.exchange(mine, key).numpy())
        return [values[rank].tobytes()[: lengths[rank]] for rank in range(self.workers)]

    def check_inputs(self, evidence: Mapping[str, str], fix: str) -> None:
        """Check before a training that all processes have the same digests, by name.

        Raises:
            TrainingError: They differ. The message has the process and the name.
        """
        self._compare(self.share(json.dumps(dict(evidence)).encode()), fix)

    def check_same(self, evidence: Mapping[str, str]) -> None:
        """Check during a training that all processes have the same digests; see `check_inputs`."""
        # Not by `wait`: an error in another thread crashes TensorFlow.
        self._compare(self.share(json.dumps(dict(evidence)).encode(), lambda call: call()), DRIFT)

    def _compare(self, texts: Sequence[bytes], fix: str) -> None:
        first, *others = map(json.loads, texts)
        for rank, other in enumerate(others, 1):
            changed = [name for name in first if other.get(name) != first[name]]
            if changed:
                values = (f"{str(other.get(name))[:12]}… instead of {first[name][:12]}…" for name in changed)
                self._refuse(rank, f"other {', '.join(changed)}", ", ".join(values), fix)

    def _refuse(self, rank: int, what: str, received: str, fix: str) -> NoReturn:
        raise TrainingError(
            f"worker {rank} ({self.hosts[rank]}) has {what}.",
            expected="the same in every worker", received=received, fix=fix,
        )  # fmt: skip

    @staticmethod
    def wait(call: Callable[[], Any]) -> Any:
        """Return the result of a call that may wait for other processes, and meanwhile answer signals.

        Python handles them in the main thread, which TensorFlow would block.
        """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            while not concurrent.futures.wait([future], POLL_S).done:
                pass
            return future.result()

    # --- failures ---

    def explain(self, error: Exception) -> TrainingError | None:
        """Return what to tell the user if an error means that another process does not answer, else None."""
        if not isinstance(error, FAILURES) or not any(sign in str(error) for sign in SIGNS):
            return None
        lost = [f"worker {rank} ({host})" for rank, host in enumerate(self.hosts) if not self.answers(rank)]
        return TrainingError(
            f"{', '.join(lost) or 'another worker'} does not answer, so the training stops.",
            expected=f"every one of {self.workers} workers to take part in a step within {self.timeout_s:g} s",
            received=f"{type(error).__name__}: {first_line(error)}"[:MAX_SHOWN],
            fix="see why it ended; then run the same command again, with any number of workers: it resumes from the "
            "last checkpoint. If steps take longer than that, raise training.worker_timeout_s",
        )

    def answers(self, rank: int) -> bool:
        """Return whether a process answers."""
        if rank == self.rank:
            return True
        # TensorFlow's own check of a peer may wait forever.
        host, _, port = self.hosts[rank].rpartition(":")
        try:
            with socket.create_connection((host, int(port)), ANSWER_S) as connection:
                connection.sendall(HTTP2_GREETING)
                connection.settimeout(ANSWER_S)
                return bool(connection.recv(1))
        except OSError:
            return False


def copy_record(team: Team, attempt: pathlib.Path) -> None:
    """Give the files that a resumed run starts from to the others, which put them into a folder of their own."""
    packed = io.BytesIO()
    if team.rank == 0:
        with tarfile.open(fileobj=packed, mode="w") as archive:  # its size is a multiple of 512 bytes
            for pattern in RESUMED_FILES:
                for path in sorted(attempt.glob(pattern)):
                    archive.add(path, path.relative_to(attempt))
    words = np.frombuffer(packed.getvalue(), np.int32)
    count = int(team.share(json.dumps(len(words)).encode())[0])
    received = team.wait(lambda: broadcast(team, words, count))
    if team.rank > 0:
        with tarfile.open(fileobj=io.BytesIO(received.tobytes())) as archive:
            archive.extractall(attempt, filter="data")


def broadcast(team: Team, words: np.ndarray, count: int) -> np.ndarray:
    """Return the int32[count] of the first process, which alone has them."""
    common = {
        "group_size": team.workers, "group_key": GROUP, "instance_key": RECORD, "timeout_seconds": team.timeout_s
    }  # fmt: skip
    if team.rank == 0:
        tf.raw_ops.CollectiveBcastSendV2(input=tf.constant(words), **common)
        return words
    received: np.ndarray = tf.raw_ops.CollectiveBcastRecvV2(shape=[count], T=tf.int32, **common).numpy()
    return received


def as_words(tensor: tf.Tensor) -> tf.Tensor:
    """Return the bits of a tensor as int32[words]. Half-precision floats are widened, which loses nothing."""
    if tensor.dtype in (tf.float16, tf.bfloat16):
        tensor = tf.cast(tensor, tf.float32)
    if tensor.dtype.size < 4:  # noqa: PLR2004  bytes of an int32
        tensor = tf.cast(tensor, tf.int32)
    return tf.reshape(tensor if tensor.dtype == tf.int32 else tf.bitcast(tensor, tf.int32), [-1])


def from_words(words: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Return the tensor that `as_words` was given, which has the type and the shape of another one."""
    is_half, is_small = like.dtype in (tf.float16, tf.bfloat16), like.dtype.size < 4  # noqa: PLR2004
    dtype = tf.float32 if is_half else tf.int32 if is_small else like.dtype
    if dtype.size == 8:  # noqa: PLR2004  two words for each number
        words = tf.reshape(words, [-1, 2])
    value = words if dtype == tf.int32 else tf.bitcast(words, dtype)
    shape = [-1 if size is None else size for size in like.shape]
    return tf.cast(tf.reshape(value, shape), like.dtype)


def rounded_up(length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a length that is not below another one, and the key of the exchange of that length.

    TensorFlow fixes the length for each key, so few lengths are used.
    """
    length = tf.maximum(length, STEPS_PER_OCTAVE)
    exponent = tf.reduce_sum(tf.cast(length >= POWERS, tf.int32)) - 1
    unit = tf.gather(POWERS, exponent) // STEPS_PER_OCTAVE
    steps = -(-length // unit)
    return steps * unit, PAYLOAD + exponent * 4 * STEPS_PER_OCTAVE + steps
