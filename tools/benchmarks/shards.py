"""Measures trainings whose batches are split, and the exchange between workers: python -m benchmarks.shards [--out=…].

Then computes from these parts how fast a training would be on more cores: a model, which is not measured.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.measuring import ROOT, describe_this_machine, train
from samebits.compose import compose
from samebits.core.terminal import print_table
from samebits.launch.process import child_command
from samebits.launch.team import Member, free_ports
from samebits.runtime.machine import usable_cores

INSIDE = "--inside"  # marks a process of the exchange
COMMON = ("tracker=none", "training.epochs=1", "data.validation_size=1000")
LARGE, SMALL = 240, 30  # rows of a batch
SIZES = (256, 1 << 20, 1 << 22)  # int32 values per process and exchange
REPEATS = 20
CORES = (1, 2, 4, 8, 16, 32, 64)
SHOWN = (4, 16, 64)
DIGEST_SHARDS, DIGEST_WORKERS, DIGEST_CORES = (1, 2, 4, 8), (1, 2, 4), (1, 2)


@dataclass(frozen=True)
class Contender:
    """One way to train: rows of a batch, parts, processes, and the number of cores and threads."""

    name: str
    batch: int
    shards: int = 1
    workers: int = 1
    cores: int = 2
    threads: int | None = None

    def overrides(self) -> list[str]:
        """Return the settings of the training."""
        found = [f"training.batch_size={self.batch}", f"training.shards={self.shards}"]
        found.append(f"training.workers={self.workers}")
        return found + ([f"runtime.inter_op_threads={self.threads}"] if self.threads else [])


CONTENDERS = (
    Contender("K=1, one core", LARGE, cores=1),
    Contender("K=1", LARGE),
    Contender("K=2, one core", LARGE, 2, cores=1),
    Contender("K=2, one thread", LARGE, 2, threads=1),
    Contender("K=2", LARGE, 2),
    Contender("K=4", LARGE, 4),
    Contender("K=4, one core", LARGE, 4, cores=1),
    Contender("K=2, two workers", LARGE, 2, workers=2),
    Contender("batches of 30, K=1, one core", SMALL, cores=1),
    Contender("batches of 30, K=1", SMALL),
    Contender("batches of 30, K=2", SMALL, 2),
)
RATIOS = (  # faster, slower, target
    ("K=2", "K=2, one thread", 1.5),
    ("K=2", "K=1", 1.3),
    ("K=2, two workers", "K=2, one core", 1.3),
    ("batches of 30, K=2", "batches of 30, K=1", None),
)


def loopback_bytes() -> int:
    """Return the bytes that this machine has sent to itself."""
    lines = pathlib.Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def measure(rounds: int, limits: Sequence[str]) -> tuple[dict[str, list[float]], float]:
    """Return the milliseconds per step of each contender by round, and the bytes per step between two workers."""
    found: dict[str, list[float]] = {each.name: [] for each in CONTENDERS}
    digests: dict[tuple[int, int], str] = {}
    sent = 0.0
    for number in range(rounds):
        for each in CONTENDERS:
            before = loopback_bytes()
            done = train([*COMMON, *limits, *each.overrides()], range(min(each.cores, usable_cores())))
            if each.workers > 1:
                sent = (loopback_bytes() - before) / done.result["steps"]
            found[each.name].append(done.step_ms)
            digest = digests.setdefault((each.batch, each.shards), done.result["weights_digest"])
            if digest != done.result["weights_digest"]:
                sys.exit(f"{each.name} has other bits than another number of threads or workers")
            print(f"round {number + 1}: {each.name}: {done.step_ms:.1f} ms", flush=True)
    return found, sent


def exchange_inside(text: str) -> None:
    """Measure exchanges in one of two processes; the first one prints milliseconds by size."""
    import tensorflow as tf  # noqa: PLC0415  in this process only

    from samebits.runtime.pins import apply_pins  # noqa: PLC0415
    from samebits.train.team import PAYLOAD, Team  # noqa: PLC0415

    apply_pins(compose(ROOT, ["tracker=none"]).runtime)
    team = Team.parse(text)
    team.join()
    took = {}
    for number, size in enumerate(SIZES):

        @tf.function
        def many(value: Any, key: int = PAYLOAD + number) -> Any:
            return tf.while_loop(
                lambda step, _: step < REPEATS,
                lambda step, last: (step + 1, team.exchange(value + last, key)[0, 0]),
                [tf.constant(0), tf.constant(0)],
            )[1]

        value = tf.zeros([size], tf.int32)
        many(value)
        began = time.monotonic()
        many(value)
        took[size] = 1e3 * (time.monotonic() - began) / REPEATS
    if team.rank == 0:
        print(json.dumps(took), flush=True)


def measure_exchange() -> dict[int, float]:
    """Return the milliseconds of one exchange of two processes of this machine, by its int32 values per process."""
    config = compose(ROOT, ["tracker=none"])
    hosts = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = child_command(config, folder, ROOT)[1]
        environment["PYTHONPATH"] += f":{ROOT / 'tools'}"
        members = [Member(hosts, rank).describe(config) for rank in range(2)]
        words = [sys.executable, "-m", "benchmarks.shards", INSIDE]
        other = subprocess.Popen([*words, members[1]], env=environment, cwd=ROOT)
        first = subprocess.run(
            [*words, members[0]], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        other.wait()
    return {int(size): took for size, took in json.loads(first.stdout.splitlines()[-1]).items()}


@dataclass(frozen=True)
class Model:
    """The parts of a step's time: of every step, per row, per further part, per exchange and per byte of it, in ms."""

    step: float
    row: float
    part: float
    latency: float
    byte: float
    sent: float  # bytes of one worker per step

    def threads(self, batch: int, cores: int) -> float:
        """Return the milliseconds of a step in one process, with a part for each core."""
        return self.step + self.row * batch / cores + self.part * (cores - 1)

    def processes(self, batch: int, cores: int) -> float:
        """Return the milliseconds of a step with one process for each core, each of which gets what all others send."""
        exchange = 2 * self.latency + self.byte * self.sent * (cores - 1) if cores > 1 else 0.0
        return self.threads(batch, cores) + exchange


def fit_model(times: dict[str, float], exchange: dict[int, float], sent: float) -> Model:
    """Return the parts of a step from the measured times."""
    row = (times["K=1, one core"] - times["batches of 30, K=1, one core"]) / (LARGE - SMALL)
    step = max(0.0, times["K=1, one core"] - row * LARGE)
    part = max(0.0, (times["K=4, one core"] - times["K=1, one core"]) / 3)
    byte = (exchange[SIZES[-1]] - exchange[SIZES[0]]) / (4 * (SIZES[-1] - SIZES[0]))
    return Model(step, row, part, exchange[SIZES[0]], byte, sent / 2)


def draw(model: Model, times: dict[str, float], path: pathlib.Path) -> None:
    """Draw rows per second against cores: computed lines, and the measured points."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for batch, style in ((LARGE, "-"), (8 * LARGE, "--")):
        for name, took in (("threads", model.threads), ("processes", model.processes)):
            y = [1e3 * batch / took(batch, cores) for cores in CORES]
            axis.plot(CORES, y, style, marker=".", label=f"{name}, batches of {batch} (computed)")
    points = ((1, "K=1, one core", "o"), (2, "K=2", "o"), (2, "K=2, two workers", "s"))
    for cores, name, marker in points:
        axis.plot([cores], [1e3 * LARGE / times[name]], marker, color="black", label=f"{name} (measured)")
    axis.set_xscale("log", base=2)
    axis.set_xticks(CORES, [str(cores) for cores in CORES])
    axis.set_xlabel("cores, with one part of the batch for each")
    axis.set_ylabel("rows per second")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def show(found: dict[str, list[float]], exchange: dict[int, float], model: Model) -> None:
    """Print the tables."""
    table = Table("training", "ms per step: median (range)", "rows per second")
    for each in CONTENDERS:
        took = found[each.name]
        middle = statistics.median(took)
        table.add_row(
            each.name, f"{middle:.1f} ({min(took):.1f} to {max(took):.1f})", f"{1e3 * each.batch / middle:.0f}"
        )
    print_table(table)
    table = Table("ratio within a round", "median (range)", "target")
    for fast, slow, target in RATIOS:
        ratios = [b / a for a, b in zip(found[fast], found[slow], strict=True)]
        said = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(f"{fast} to {slow}", said, str(target or "-"))
    print_table(table)
    for size, took_ms in exchange.items():
        print(f"an exchange of {4 * size / 1e6:.3g} MB per process: {took_ms:.2f} ms")
    print(
        f"a step: {model.step:.1f} ms, {1e3 * model.row:.0f} µs per row, {model.part:.1f} ms per further part; "
        f"an exchange: {model.latency:.2f} ms and {1e6 * model.byte:.2f} ms per MB; "
        f"sent by each of two workers per step: {model.sent / 1e6:.2f} MB"
    )
    for batch in (LARGE, 8 * LARGE):
        for cores in SHOWN:
            one = model.threads(batch, 1)
            threads, processes = (one / took(batch, cores) for took in (model.threads, model.processes))
            print(f"computed: batches of {batch}, {cores} cores: threads {threads:.1f}, processes {processes:.1f}x")


def show_digests() -> None:
    """Train the smoke experiment with each number of parts, workers and cores, and print the digests."""
    table = Table("parts", "workers", *(f"{cores} cores" for cores in DIGEST_CORES))
    for shards in DIGEST_SHARDS:
        for workers in (number for number in DIGEST_WORKERS if number <= shards):
            words = ["experiment=smoke", "tracker=none", f"training.shards={shards}", f"training.workers={workers}"]
            trained = [train(words, range(cores)) for cores in DIGEST_CORES]
            table.add_row(str(shards), str(workers), *(each.result["weights_digest"][:12] for each in trained))
    print_table(table)


def main() -> None:
    """Measure, print the tables and draw the figure."""
    if sys.argv[1:2] == [INSIDE]:
        exchange_inside(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--digests", action="store_true", help="only train small ones, and print their digests")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    print(describe_this_machine())
    if given.digests:
        show_digests()
        return
    exchange = measure_exchange()
    found, sent = measure(given.rounds, given.overrides)
    times = {name: statistics.median(took) for name, took in found.items()}
    model = fit_model(times, exchange, sent)
    show(found, exchange, model)
    if given.out:
        draw(model, times, given.out)


if __name__ == "__main__":
    main()
