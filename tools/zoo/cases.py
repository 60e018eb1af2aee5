"""Trains or computes the cases of `zoo.pieces` in this process, a few steps each.

`zoo.run` starts it as `python -m zoo.cases OUTPUT RECORDINGS record|play DEADLINE NAME…`, with the fixed settings of
`portable`. On this CPU it records each case. On an emulated one it plays the recordings, and traces what has none. It
writes one JSON line per case: digests of every stage, operations that raise an error, all operations.
"""

import functools
import gc
import json
import pathlib
import re
import sys
import time
import traceback
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from zoo.pieces import CLASSES, RAW, SHAPES, WORDS, Case, InitializerCase, MetricCase, all_cases
from zoo.recordings import Recorder, play, values_digest
from zoo.rows import read_cases

from samebits.core.config import RuntimeConfig
from samebits.portable import exact, graph_check
from samebits.portable.initializers import exact_version
from samebits.runtime import pins
from samebits.train import draws

BATCHES, SEED = (32, 7), 56  # rows per batch of the first shape and of the others
MAX_STARTS = 2  # of a case that ends the process


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


def train(case: Case, recorder: Recorder) -> tuple[list[Any], list[graph_check.Finding]]:
    """Train a case for each of its shapes; returns the nodes of the graphs, and what is refused."""
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
        recorder.stages[f"{where}: initial weights"] = values_digest(model.variables)
        recorder.begin(graphs, model.variables + model.optimizer.variables)
        for number, batch in enumerate(batches, 1):
            recorder.call(0, [batch], f"{where}: loss of step {number}", f"{where}: weights after step {number}")
        recorder.call(1, [batches[0][0]], f"{where}: predictions")
    return nodes, findings


def measure(case: MetricCase, recorder: Recorder) -> tuple[list[Any], list[graph_check.Finding]]:
    """Compute a metric over two batches, for two sizes."""
    nodes: list[Any] = []
    for rows in BATCHES:
        rng = np.random.default_rng(SEED)
        metric = case.make()

        @tf.function
        def update(labels: Any, predictions: Any, metric: Any = metric) -> Any:
            arguments = (predictions,) if case.targets == "values" else (labels, predictions)
            metric.update_state(*arguments)
            return metric.result()

        batches = [
            tuple(map(tf.constant, (make_targets(case.targets, rows, rng), make_predictions(case.targets, rows, rng))))
            for _ in range(2)
        ]
        update.python_function(*batches[0])  # makes the variables
        traced = update.get_concrete_function(*batches[0])
        nodes += draws.graph_nodes(traced)
        recorder.begin([traced], metric.variables)
        for number, batch in enumerate(batches, 1):
            recorder.call(0, batch, f"{rows} rows: result of batch {number}", f"{rows} rows: state after {number}")
    return nodes, list(graph_check.inexact_operations(nodes, keras.Sequential(), {}))


def initialize(case: InitializerCase, recorder: Recorder) -> tuple[list[Any], list[graph_check.Finding]]:
    """Call an initializer, in the version that a run uses, for each of its shapes."""
    for shape in case.shapes:
        values = exact_version(case.make(), "a weight")(shape)
        recorder.stages[f"{'x'.join(map(str, shape))}: values"] = values_digest([values])
    return [], []


def run_case(name: str, case: Case | MetricCase | InitializerCase) -> tuple[dict[str, Any], Recorder]:
    """Run one case; returns its recording, and its row.

    Returns:
        "stages": digests in order of time; "refused": the operations that raise an error in a run; "operations": types
        of operations of all graphs.
    """
    keras.backend.clear_session(free_memory=False)  # collecting garbage takes longer than a case
    keras.utils.set_random_seed(SEED)
    recorder = Recorder()
    if isinstance(case, MetricCase):
        nodes, findings = measure(case, recorder)
    elif isinstance(case, InitializerCase):
        nodes, findings = initialize(case, recorder)
    else:
        nodes, findings = train(case, recorder)
    row = {
        "name": name,
        "stages": recorder.stages,
        "refused": sorted({found.what for found in findings}),
        "operations": sorted({node.op for node in nodes}),
    }
    return row, recorder


def recording_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file of a case's recording."""
    return folder / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.arrays"


def row_of(name: str, case: Case | MetricCase | InitializerCase, recordings: pathlib.Path, *, record: bool) -> Any:
    """Return the row of a case: record it here, or play its recording, or trace it if it has none."""
    path = recording_path(recordings, name)
    if not record and path.exists():
        return {"name": name, "stages": play(path)}
    row, recorder = run_case(name, case)
    if record:
        recorder.write(path)
    return row


def main() -> int:
    """Run the named cases without a row until a time, and append one JSON line per case.

    A case that ended this process twice gets an error.
    """
    output, recordings, role, deadline = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    started = output.with_suffix(".started")
    begun = started.read_text(encoding="utf-8").splitlines() if started.exists() else []
    done = read_cases(output.parent)
    pins.apply_pins(RuntimeConfig())
    exact.install()
    pins.check_pins(RuntimeConfig(), 0, pins.effective_settings())
    cases = all_cases()
    gc.freeze()
    for name in (name for name in sys.argv[5:] if name not in done):
        if time.time() > float(deadline):
            break
        with started.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        began = time.monotonic()
        try:
            row = {"name": name, "error": "it ended the process twice"}
            if begun.count(name) < MAX_STARTS:
                row = row_of(name, cases[name], recordings, record=role == "record")
        except Exception as error:  # noqa: BLE001  one case that fails must not stop the others
            traceback.print_exc()
            row = {"name": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"duration_s": round(time.monotonic() - began, 1)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
