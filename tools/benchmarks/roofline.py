"""Measures what limits a training step on this machine: python -m benchmarks.roofline [override …] [--out=…].

Counts the operations and bytes of every layer and of the optimizer. Measures the rates of this core, and the time of
each layer alone, forward and backward, with the settings of `runtime=portable` and one thread. A layer cannot be faster
than the larger of operations / rate and bytes / rate. If most layers are near this limit, the step cannot get faster.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.measuring import ROOT, Command, describe_this_machine, train
from samebits.compose import compose
from samebits.core.config import Config
from samebits.core.seeds import Seeds
from samebits.core.terminal import print_table
from samebits.launch.process import child_command
from samebits.runtime.pins import apply_pins, seed_global_generators
from samebits.train.worker import build_model

FLOAT = 4  # bytes
SIDE = 1024  # size of the matrices whose product measures the arithmetic
STREAM = 1 << 23  # values per array whose product measures the memory: too large for a cache
INSIDE = "--inside"  # marks the process with the fixed settings


@dataclass
class Piece:
    """One part of a step: its counted operations and bytes, and its measured time in ms."""

    name: str
    operations: float
    bytes: float
    took_ms: float

    def least_ms(self, rates: dict[str, float]) -> float:
        """Return the minimum time in ms at the measured rates."""
        return 1e3 * max(self.operations / rates["operations"], self.bytes / rates["bytes"])


def count(layer: Any, shape: tuple[int, ...], output: tuple[int, ...]) -> tuple[float, float]:
    """Return the minimum (operations, bytes) of a layer's forward and backward pass.

    A multiply-and-add is two operations. Each pass reads or writes inputs, outputs, their gradients and the weights
    once. Data that stays in a cache between two operations is counted too.

    Raises:
        SystemExit: This function cannot count this kind of layer.
    """
    values, results = math.prod(shape), math.prod(output)
    weights = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
    kind = type(layer).__name__
    through = FLOAT * 3 * (values + results)  # forward: in, out; backward: in, gradient of out, gradient of in
    if kind == "Embedding":
        return results, FLOAT * 5 * results  # gather: read, write; the sum of slices: read, and read and write
    if kind == "Dropout":
        return 3 * values, through + 2 * 2 * values  # 16 random bits each, written and read
    if kind == "Conv1D":
        return 3 * 2 * results / layer.filters * weights, through + FLOAT * 3 * weights
    if kind == "MaxPooling1D":
        return 2 * values, through
    if kind == "LSTM":
        steps = shape[0] * shape[1]
        return 3 * 2 * steps * weights, through + FLOAT * 3 * weights + FLOAT * 2 * 6 * steps * layer.units
    if kind == "Dense":
        return 3 * 2 * results / layer.units * weights, through + FLOAT * 3 * weights
    sys.exit(f"model: expected layers that this file counts, received {kind}; fix: add it to this file")


def milliseconds(action: Callable[[], Any], seconds: float = 1.0) -> float:
    """Return the median time of one call, measured for one second."""
    for _ in range(3):
        action()
    taken: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        action()
        taken.append(1e3 * (time.monotonic() - began))
    return statistics.median(taken)


def measure_rates(tf: Any) -> dict[str, float]:
    """Return operations and bytes per second, measured with a matrix product and a product of long arrays."""
    one = tf.ones((SIDE, SIDE))
    multiply = tf.function(lambda: tf.linalg.matmul(one, one))
    first, second, third = (np.ones(STREAM, np.float32) for _ in range(3))
    return {
        "operations": 2 * SIDE**3 / milliseconds(multiply) * 1e3,
        "bytes": 3 * FLOAT * STREAM / milliseconds(lambda: np.multiply(first, second, out=third)) * 1e3,
    }


def both_passes(tf: Any, layer: Any, values: Any) -> tuple[Callable[[], Any], Any]:
    """Return a traced function of a layer's forward and backward pass on an input, and the layer's output."""
    result = layer(values, training=True)
    ones, watched = tf.ones_like(result), values.dtype.is_floating

    @tf.function(jit_compile=False)
    def both() -> Any:
        with tf.GradientTape() as tape:
            if watched:
                tape.watch(values)
            output = layer(values, training=True)
        sources = [weight.value for weight in layer.trainable_weights] + ([values] if watched else [])
        return output, tape.gradient(output, sources, output_gradients=ones)

    return both, result


def measure_pieces(tf: Any, model: Any, config: Config) -> list[Piece]:
    """Return every layer's forward and backward pass, and the optimizer's update."""
    from samebits.train.compiling import make_optimizer  # noqa: PLC0415  after the pins

    rows, words = (config.training.batch_size, *model.input_shape[1:]), model.layers[0].input_dim
    values, pieces = tf.constant(np.random.default_rng(0).integers(0, words, rows), tf.int32), []
    gradients: dict[str, Any] = {}
    for layer in model.layers:
        both, result = both_passes(tf, layer, values)
        gradients |= dict(zip((weight.path for weight in layer.trainable_weights), both()[1], strict=False))
        counted = count(layer, tuple(values.shape), tuple(result.shape))
        pieces.append(Piece(layer.name, *counted, milliseconds(both)))
        values = result
    optimizer = make_optimizer(config.training)
    optimizer.build(model.trainable_variables)
    of_weights = [gradients[weight.path] for weight in model.trainable_variables]
    update = tf.function(lambda: optimizer.apply(of_weights, model.trainable_variables), jit_compile=False)
    weights = sum(math.prod(weight.shape) for weight in model.trainable_variables)
    # Reads and writes each weight and its two moments; ten operations per weight, with one root and one division.
    pieces.append(Piece("optimiser", 10 * weights, 6 * FLOAT * weights, milliseconds(update)))
    return pieces


def inside(overrides: list[str]) -> None:
    """Measure in the process with the fixed settings and print JSON."""
    config = compose(ROOT, overrides)
    seeds = Seeds.of(config.seed)
    apply_pins(config.runtime)
    seed_global_generators(seeds)
    import tensorflow as tf  # noqa: PLC0415  after the pins

    from samebits.train.seeding import seed_by_path  # noqa: PLC0415

    with seed_by_path(seeds):
        pieces = measure_pieces(tf, build_model(config, seeds, dataset=None), config)
    print(json.dumps({"rates": measure_rates(tf), "pieces": [asdict(piece) for piece in pieces]}))


def draw(pieces: list[Piece], rates: dict[str, float], picture: pathlib.Path) -> None:
    """Draw each part's operations per second against its operations per byte, with the two limits."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    intensities = np.geomspace(0.03, 300, 200)
    axis.loglog(intensities, np.minimum(rates["operations"], intensities * rates["bytes"]) / 1e9, color="0.3")
    for piece in pieces:
        place = piece.operations / piece.bytes, piece.operations / piece.took_ms / 1e6
        axis.plot(*place, "o", label=f"{piece.name}, {piece.took_ms:.1f} ms")
    axis.legend(loc="lower right", fontsize=8)
    axis.set_xlabel("operations per byte of memory")
    axis.set_ylabel("billion operations per second")
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="path of the figure")
    parser.add_argument("--steps", type=int, default=300, help="steps of the timed training")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="settings of the configuration, key=value")
    given = parser.parse_args()
    if given.inside:
        inside(given.overrides)
        return 0
    cores = sorted(os.sched_getaffinity(0))[:2]
    overrides = [*given.overrides, "tracker=none"]
    _, environment = child_command(compose(ROOT, overrides), ROOT, ROOT)
    environment["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'tools'}"
    pinned = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]  # and nothing else
    words = [*pinned, sys.executable, "-m", "benchmarks.roofline", INSIDE, *overrides]
    said = json.loads(Command(words, cores[:1]).run().splitlines()[-1])
    pieces, rates = [Piece(**piece) for piece in said["pieces"]], said["rates"]
    table = Table(
        "forward and backward", "million operations", "MB", "min (ms)", "limited by", "alone (ms)", "share of limit",
        title=f"One step on one core with {rates['operations'] / 1e9:.0f} billion operations/s and "
        f"{rates['bytes'] / 1e9:.1f} GB/s; {describe_this_machine()}",
    )  # fmt: skip
    for piece in pieces:
        least = piece.least_ms(rates)
        by = "arithmetic" if piece.operations / rates["operations"] > piece.bytes / rates["bytes"] else "memory"
        numbers = f"{piece.operations / 1e6:.0f}", f"{piece.bytes / 1e6:.1f}", f"{least:.2f}", by
        table.add_row(piece.name, *numbers, f"{piece.took_ms:.2f}", f"{least / piece.took_ms:.0%}")
    least, took = (sum(each) for each in ((piece.least_ms(rates) for piece in pieces), (p.took_ms for p in pieces)))
    table.add_row("sum", "", "", f"{least:.1f}", "", f"{took:.1f}", f"{least / took:.0%}", end_section=True)
    for number in range(1, len(cores) + 1):
        step = train(
            [*overrides, "training.epochs=1", f"training.steps_per_epoch={given.steps}"], cores[:number]
        ).step_ms
        bound = least / number
        name = f"complete step, {number} core{'s' if number > 1 else ''}"
        table.add_row(name, "", "", f"{bound:.1f}", "", f"{step:.1f}", f"{bound / step:.0%}")
    print_table(table)
    if given.out:
        draw(pieces, rates, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
