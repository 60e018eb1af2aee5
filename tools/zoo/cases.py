"""Trains or computes the cases of `zoo.pieces` in this process, a few steps each.

`zoo.run` starts it as `python -m zoo.cases OUTPUT NAME…`, with the fixed settings of `portable`, on this CPU or an
emulated one. It writes one JSON line per case: digests of every stage, operations that raise an error, all operations.
"""

import functools
import gc
import json
import pathlib
import sys
import traceback
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from zoo.pieces import CLASSES, RAW, SHAPES, WORDS, Case, InitializerCase, MetricCase, all_cases

from samebits.core.config import RuntimeConfig
from samebits.core.digest import bytes_digest, float_bits
from samebits.portable import exact, graph_check
from samebits.portable.initializers import exact_version
from samebits.runtime import pins
from samebits.train import draws

BATCHES, SEED = (32, 7), 56  # rows per batch of the first shape and of the others


def make_inputs(kind: str, rows: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the inputs of a kind: [rows, *shape]."""
    size = (rows, *shape)
    if kind == "words":
        return rng.integers(0, WORDS, size).astype(np.int32)
    if kind == "text":
        return np.array([f"w{number}" for number in rng.integers(0, 30, rows)], object)[:, None]
    if kind == "picture":
        return np.rint(rng.random(size) * 255).astype(np.float32)
    return rng.standard_normal(size).astype(np.float32)


def make_targets(kind: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return labels: 0 or 1, class numbers, one-hot rows, numbers, or sequences of class numbers from 1."""
    if kind == "numbers":
        return rng.random((rows, 1), np.float32)
    if kind == "sequences":
        return rng.integers(1, 6, (rows, 3)).astype(np.int32)
    if kind in ("classes", "rounded"):
        return rng.integers(0, 2, (rows, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, rows)
    return np.eye(CLASSES, dtype=np.float32)[labels] if kind == "one_hot" else labels.astype(np.int32)


def make_predictions(kind: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return predictions for labels of a kind, for a metric."""
    if kind in ("one_hot", "labels"):
        shares = rng.random((rows, CLASSES), np.float32)
        normalized: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
        return normalized
    values = rng.random((rows, 1), np.float32)
    return np.rint(values) if kind == "rounded" else values


def _digest(variables: list[Any]) -> str:
    return bytes_digest(b"".join(np.asarray(variable).tobytes() for variable in variables))


def make_model(case: Case, shape: tuple[int, ...]) -> keras.Model:
    """Return the compiled model of a case for one shape."""
    types = {"words": "int32", "text": "string"}
    body = case.body()
    # With this layer, a case without weights also has something to train, and the layer gets a gradient.
    first = [] if case.shape in RAW else [keras.layers.Dense(shape[-1], name="first")]
    model = keras.Sequential([
        keras.Input(shape, dtype=types.get(case.shape, "float32")), *first,
        *(body if isinstance(body, list) else [body]), keras.layers.Flatten(), case.head(),
    ])  # fmt: skip
    model.compile(case.optimizer(), case.loss(), jit_compile=False)
    return model


def train(case: Case) -> tuple[dict[str, str], list[Any], list[graph_check.Finding]]:
    """Train a case for each of its shapes; returns digests by stage, the nodes of the graphs, and what is refused."""
    stages: dict[str, str] = {}
    nodes: list[Any] = []
    findings: list[graph_check.Finding] = []
    for shape, rows in zip(SHAPES[case.shape][: case.sizes], BATCHES, strict=False):
        rng = np.random.default_rng(SEED)
        model = make_model(case, shape)
        batches = [
            (tf.constant(make_inputs(case.shape, rows, shape, rng)), tf.constant(make_targets(case.targets, rows, rng)))
            for _ in range(case.steps)
        ]
        model.optimizer.build(model.trainable_variables)
        step, predict = (
            tf.function(each, autograph=False) for each in (model.train_step, functools.partial(model, training=False))
        )
        graphs = step.get_concrete_function(batches[0]), predict.get_concrete_function(batches[0][0])
        here = [node for graph in graphs for node in draws.graph_nodes(graph)]
        scopes = graph_check.scopes_of(type(model.loss).__name__, [model.optimizer])
        findings += graph_check.inexact_operations(here, model, scopes)
        nodes += here
        where = "x".join(map(str, (rows, *shape)))
        stages[f"{where}: initial weights"] = _digest(model.variables)
        for number, batch in enumerate(batches):
            logs = step(batch)
            stages[f"{where}: loss of step {number + 1}"] = float_bits(float(logs["loss"]))
            stages[f"{where}: weights after step {number + 1}"] = _digest(model.variables + model.optimizer.variables)
        stages[f"{where}: predictions"] = _digest([predict(batches[0][0])])
    return stages, nodes, findings


def measure(case: MetricCase) -> tuple[dict[str, str], list[Any], list[graph_check.Finding]]:
    """Compute a metric over two batches, for two sizes."""
    stages: dict[str, str] = {}
    nodes: list[Any] = []
    for rows in BATCHES:
        rng = np.random.default_rng(SEED)
        metric = case.make()

        def update(labels: Any, predictions: Any, metric: Any = metric) -> Any:
            arguments = (predictions,) if case.targets == "values" else (labels, predictions)
            metric.update_state(*arguments)
            return metric.result()

        for number in range(2):
            batch = make_targets(case.targets, rows, rng), make_predictions(case.targets, rows, rng)
            if number == 0:
                update(*batch)  # makes the variables
                traced: Any = tf.function(update)
                nodes += draws.graph_nodes(traced.get_concrete_function(*batch))
            stages[f"{rows} rows: result of batch {number + 1}"] = _digest([traced(*batch)])
        stages[f"{rows} rows: state"] = _digest(metric.variables)
    return stages, nodes, list(graph_check.inexact_operations(nodes, keras.Sequential(), {}))


def initialize(case: InitializerCase) -> tuple[dict[str, str], list[Any], list[graph_check.Finding]]:
    """Call an initializer, in the version that a run uses, for each of its shapes."""
    made = {"x".join(map(str, shape)): exact_version(case.make(), "a weight")(shape) for shape in case.shapes}
    return {f"{shape}: values": _digest([values]) for shape, values in made.items()}, [], []


def run_case(name: str, case: Case | MetricCase | InitializerCase) -> dict[str, Any]:
    """Run one case.

    Returns:
        "stages": digests in order of time; "refused": the operations that raise an error in a run; "operations": types
        of operations of all graphs.
    """
    keras.backend.clear_session(free_memory=False)  # collecting garbage takes longer than a case
    keras.utils.set_random_seed(SEED)
    if isinstance(case, MetricCase):
        stages, nodes, findings = measure(case)
    elif isinstance(case, InitializerCase):
        stages, nodes, findings = initialize(case)
    else:
        stages, nodes, findings = train(case)
    return {
        "name": name,
        "stages": stages,
        "refused": sorted({found.what for found in findings}),
        "operations": sorted({node.op for node in nodes}),
    }


def main() -> int:
    """Run the named cases that are not in the output yet, and append one JSON line per case."""
    output, wanted = pathlib.Path(sys.argv[1]), sys.argv[2:]
    done = {json.loads(line)["name"] for line in output.read_text().splitlines()} if output.exists() else set()
    pins.apply_pins(RuntimeConfig())
    exact.install()
    pins.check_pins(RuntimeConfig(), 0, pins.effective_settings())
    cases = all_cases()
    gc.freeze()
    for name in (name for name in wanted if name not in done):
        try:
            row = run_case(name, cases[name])
        except Exception as error:  # noqa: BLE001  one case that fails must not stop the others
            traceback.print_exc()
            row = {"name": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
