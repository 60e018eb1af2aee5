"""What bounds a training step on this machine: python tools/benchmarks/roofline.py [--out=…] [key=value …].

The operations and bytes of every piece of the model are counted, this core's rates of both are measured, and so is the
time of every piece alone, forward and backward, with the pins of `runtime=portable` and one thread. No piece can be
faster than the larger of operations / rate and bytes / rate; where most pieces are near it, the step is at its limit.
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
from measuring import ROOT, describe_this_machine, run, train
from rich.table import Table

from samebits.compose import compose
from samebits.core.config import Config
from samebits.core.seeds import Seeds, resolve_points
from samebits.core.terminal import print_table
from samebits.launch.process import child_command
from samebits.runtime.pins import apply_pins, seed_global_generators
from samebits.train.worker import find_function

FLOAT = 4  # bytes
SIDE = 1024  # of the matrices whose product measures the arithmetic
STREAM = 1 << 23  # values of each array whose product measures the memory: none fits a cache
INSIDE = "--inside"  # marks the process that has the pins


@dataclass
class Piece:
    """One piece of a step: what it needs, counted, and what it takes, measured, in ms."""

    name: str
    operations: float
    bytes: float
    took_ms: float

    def least_ms(self, rates: dict[str, float]) -> float:
        """Return the time below which it cannot be at measured rates."""
        return 1e3 * max(self.operations / rates["operations"], self.bytes / rates["bytes"])


def count(layer: Any, shape: tuple[int, ...], output: tuple[int, ...]) -> tuple[float, float]:
    """Return (operations, bytes) that a layer's forward and backward pass need at least.

    A multiply-and-add is two operations. Inputs, outputs, their gradients and the weights are each read or written
    once in each pass; what stays in a cache between two operations is counted all the same.

    Raises:
        SystemExit: It is of a kind that this cannot count.
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
    sys.exit(f"model: expected layers that are counted here, received {kind}; fix: add it to this file")


def milliseconds(action: Callable[[], Any], seconds: float = 1.0) -> float:
    """Return the median time of one call, from as many as go in a second."""
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
    """Return operations and bytes a second, as a matrix product and as a product of long arrays reach them."""
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
    """Return every layer's forward and backward pass, and the optimiser's update."""
    from samebits.train.steps import make_optimizer  # noqa: PLC0415  after the pins

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
    # Weight and two moments are each read and written; ten operations a weight, of which one root and one division.
    pieces.append(Piece("optimiser", 10 * weights, 6 * FLOAT * weights, milliseconds(update)))
    return pieces


def inside(overrides: list[str]) -> None:
    """Measure in the pinned process and print JSON."""
    config = compose(ROOT, overrides)
    seeds = Seeds(resolve_points(config.seed.root, config.seed.policy, config.seed.points))
    apply_pins(config.runtime)
    seed_global_generators(seeds)
    import tensorflow as tf  # noqa: PLC0415  after the pins

    model = find_function("model", config.model)(seeds.for_model())
    pieces = measure_pieces(tf, model, config)
    print(json.dumps({"rates": measure_rates(tf), "pieces": [asdict(piece) for piece in pieces]}))


def draw(pieces: list[Piece], rates: dict[str, float], picture: pathlib.Path) -> None:
    """Draw each piece's rate of operations against its operations for each byte, below the two limits."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    intensities = np.geomspace(0.03, 300, 200)
    axis.loglog(intensities, np.minimum(rates["operations"], intensities * rates["bytes"]) / 1e9, color="0.3")
    for piece in pieces:
        place = piece.operations / piece.bytes, piece.operations / piece.took_ms / 1e6
        axis.plot(*place, "o", label=f"{piece.name}, {piece.took_ms:.1f} ms")
    axis.legend(loc="lower right", fontsize=8)
    axis.set_xlabel("operations for each byte of memory")
    axis.set_ylabel("thousand million operations a second")
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="where the figure goes")
    parser.add_argument("--steps", type=int, default=300, help="of the training whose steps are timed")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of the configuration")
    given = parser.parse_args()
    if given.inside:
        inside(given.overrides)
        return 0
    cores = sorted(os.sched_getaffinity(0))[:2]
    overrides = [*given.overrides, "tracker=none"]
    _, environment = child_command(compose(ROOT, overrides), ROOT, ROOT)
    pinned = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]  # and nothing of this process's
    words = [*pinned, sys.executable, str(pathlib.Path(__file__)), INSIDE, *overrides]
    said = json.loads(run(words, cores[:1]).output.splitlines()[-1])
    pieces, rates = [Piece(**piece) for piece in said["pieces"]], said["rates"]
    table = Table(
        "piece, forward and backward", "million operations", "MB", "ms at least", "by", "ms, alone", "of its limit",
        title=f"One step on one core at {rates['operations'] / 1e9:.0f} thousand million operations and "
        f"{rates['bytes'] / 1e9:.1f} thousand million bytes a second; {describe_this_machine()}",
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
        name = f"a whole step, {number} core{'s' if number > 1 else ''}"
        table.add_row(name, "", "", f"{bound:.1f}", "", f"{step:.1f}", f"{bound / step:.0%}")
    print_table(table)
    if given.out:
        draw(pieces, rates, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
