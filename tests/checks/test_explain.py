"""Planted faults: verify must turn red, and explain must name each one exactly."""

import json
import pathlib
from collections.abc import Callable

import pytest
from conftest import PACKAGE, copy_project, run_command, train

from samebits.checks import explain
from samebits.runs import effects

Edit = Callable[[pathlib.Path], None]
MODEL, TRAINING, DATA = f"{PACKAGE}/model.py", "samebits/train/loop.py", f"{PACKAGE}/synthetic.py"


def replace(path: str, old: str, new: str, *more: tuple[str, str]) -> Edit:
    """Return an edit of one source file, by pairs of old and new; the old text must be there."""

    def edit(root: pathlib.Path) -> None:
        file = root / "src" / path
        text = file.read_text()
        for before, after in ((old, new), *more):
            if before not in text:
                pytest.fail(f"{path} no longer holds {before!r}")
            text = text.replace(before, after, 1)
        file.write_text(text)

    return edit


def nothing(_root: pathlib.Path) -> None:
    """Edit nothing."""


# After each call of the step; with CALL_S = 0.0 that is after each step.
TRACED = "        is_last = position.step == self.batches.steps\n"
ONE_ULP = """        if (self.position.epoch, self.position.step) == (2, 7):
            v = next(v for v in self.steps.model.weights if "conv/kernel" in v.path)
            values = v.numpy()
            values.flat[3] = np.nextafter(values.flat[3], np.float32(2))
            v.assign(values)
        is_last = position.step == self.batches.steps
"""

# name: (overrides, edit, rows of the inputs table, the sentence)
FAULTS: dict[str, tuple[tuple[str, ...], Edit, tuple[str, ...], str]] = {
    "another order seed": (
        ("seed.points.data.order=57",), nothing, ("seed data/order",), "epoch 1, step 1, order of the data",
    ),
    "another dropout seed": (
        ("seed.points.model.embedding_dropout.dropout=57",), nothing, ("seed model/embedding_dropout/dropout",),
        "epoch 1, step 1, forward loss",
    ),
    "one initialiser's seed": (
        ("seed.points.model.conv.kernel=57",), nothing, ("seed model/conv/kernel",),
        "initial weights of imdb_cnn_lstm/conv/kernel",
    ),
    "one weight moved by one ulp at a step": (
        (), replace(TRAINING, TRACED, ONE_ULP, ("CALL_S = 0.2", "CALL_S = 0.0")), (f"code {TRAINING}",),
        "epoch 2, step 7, weights after the update of imdb_cnn_lstm/conv/kernel",
    ),
    "one review changed": (
        (), replace(DATA, "    train, validation = context.split(labels)\n    return",
                    "    train, validation = context.split(labels)\n    inputs[train[5], 3] += 1\n    return"),
        (f"code {DATA}", "data train/inputs"), "before training, data train/inputs",
    ),
    "another thread count": (
        ("runtime=machine", "runtime.intra_op_threads=2", "data.sequence_length=100", "data.num_words=20000",
         "model=cnn_lstm"), nothing,
        ("config runtime.intra_op_threads",), "epoch 1, step 1, gradient of ",
    ),
}  # fmt: skip


def attempts(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the finished attempts of a project, oldest first."""
    found = [path.parent for path in (root / "runs").glob("*/*/*/result.json")]
    return sorted(found, key=lambda path: (path / "config.yaml").stat().st_mtime_ns)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project with one healthy run of the smoke experiment."""
    root = copy_project(tmp_path_factory.mktemp("healthy"))
    train(root)
    return root


@pytest.mark.parametrize("name", FAULTS)
def test_explain_names_a_planted_fault(name: str, project: pathlib.Path) -> None:
    """The inputs table holds the cause, and the last sentence the first place where the runs part."""
    overrides, edit, items, sentence = FAULTS[name]
    common = tuple(word for word in overrides if word.startswith(("data.", "model=", "runtime=")))
    train(project, *common)
    edit(project)
    train(project, *overrides)
    a, b = attempts(project)
    done = run_command(project, "explain", str(a), str(b))
    last = done.stdout.strip().splitlines()[-1]

    assert 1 == done.returncode, done.stderr
    assert last.startswith(f"first divergence: {sentence}"), done.stdout[-3000:]
    assert last.endswith("; everything before it is bit-identical")
    assert set(items) <= {row.item for row in explain.input_differences(a, b)}
    for item in items:
        assert item in done.stdout


def test_explain_names_a_non_deterministic_operation(project: pathlib.Path) -> None:
    """Equal inputs, different bits: explain says that neither run repeats itself, and where the forward pass parts."""
    replace(MODEL, "import keras\n", "import os\n\nimport keras\nimport numpy as np\nimport tensorflow as tf\n")(
        project
    )
    noise = '            keras.layers.MaxPooling1D(pool_size, name="pool"),\n'
    drawn = "lambda: np.float32(os.urandom(1)[0] / 1e4)"
    layer = (
        "            keras.layers.Lambda(\n"
        f"                lambda x: x + tf.ensure_shape(tf.numpy_function({drawn}, [], tf.float32), []),\n"
        '                output_shape=lambda shape: shape, name="noise"),\n'
    )
    replace(MODEL, noise, noise + layer)(project)
    first, second = train(project, "training.epochs=1"), train(project, "training.epochs=1")
    done = run_command(project, "explain")

    assert (0, 1) == (first.returncode, second.returncode), first.stderr
    assert "inputs: equal in configuration, seeds, code, lock, data, packages and machine" in done.stdout
    assert "A did not repeat its own recorded bits" in done.stdout
    assert "operations in A's step that run Python code: PyFunc in imdb_cnn_lstm_1/noise" in done.stdout
    assert "first divergence: epoch 1, step 1, forward loss" in done.stdout


def test_explain_names_another_package_version(healthy: pathlib.Path, project: pathlib.Path) -> None:
    """A package that decides arithmetic is marked so; of any other only the user's own functions can make use."""
    a = attempts(healthy)[0]
    train(project)
    b = attempts(project)[0]
    machine = json.loads((b / "machine.json").read_text())
    machine["packages"] |= {"numpy": "2.4.5", "rich": "1.0"}
    (b / "machine.json").write_text(json.dumps(machine))
    found = {row.item: row for row in explain.input_differences(a, b)}

    assert ("2.4.5", effects.MAY) == (found["package numpy"].b, found["package numpy"].effect)
    assert effects.OWN == found["package rich"].effect


def test_explain_of_equal_runs_finds_nothing(healthy: pathlib.Path) -> None:
    """Two attempts of the same inputs: no divergence, exit code 0, and a picture of both curves."""
    train(healthy)
    done = run_command(healthy, "explain", "last~1", "last")

    assert 0 == done.returncode, done.stderr
    assert "no divergence: every trace record that both have is bit-identical" in done.stdout
    assert 1 == len(list((healthy / "runs" / ".explain").glob("*.png")))


def test_explain_refuses_an_unknown_run(healthy: pathlib.Path) -> None:
    """A name that no run has is one line and exit code 2."""
    done = run_command(healthy, "explain", "last", "feedbeef")

    assert 2 == done.returncode
    assert "run feedbeef: expected a run's folder" in done.stderr


def test_verify_passes_under_hostile_conditions(healthy: pathlib.Path) -> None:
    """Two runs, the second in another folder, locale, time zone and on one busy core, agree in every record."""
    done = run_command(healthy, "verify", "--runs=2", "experiment=smoke", "tracker=none")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert (
        "VERIFIED: 2 runs of smoke, seed 56, bitwise identical in weights, optimizer and all 9 records" in done.stdout
    )


CORES = "len(os.sched_getaffinity(0))"
ORDER = 'return seeds.rng("data/order", epoch).permutation(rows)'
IMPORTED = '__import__("os").'
KERNEL = 'seed=seed("output/kernel")'
NUDGE = f"""        if {CORES.replace("os.", IMPORTED)} == 1:
            self.steps.model.weights[-1].assign(np.nextafter(self.steps.model.weights[-1].numpy(), np.float32(9)))
        is_last = position.step == self.batches.steps
"""
LEAKS: dict[str, tuple[Edit, str]] = {
    "the order follows the number of cores": (
        replace(
            "samebits/train/data.py", ORDER, f"import os\n    {ORDER.replace('return ', 'return np.roll(')}, {CORES})"
        ),
        "epoch 1, order of the data",
    ),
    "a weight follows the number of cores": (
        replace(MODEL, KERNEL, f"{KERNEL} + {CORES.replace('os.', IMPORTED)}"),
        "initial weights of imdb_cnn_lstm/output/kernel",
    ),
    "one ulp in one weight on one core": (replace(TRAINING, TRACED, NUDGE), "epoch 1, metric "),
}


@pytest.mark.parametrize("name", LEAKS)
def test_verify_turns_red_on_a_planted_leak(name: str, project: pathlib.Path) -> None:
    """What the surroundings change by the smallest amount is seen and named."""
    edit, said = LEAKS[name]
    edit(project)
    done = run_command(project, "verify", "--runs=2", "experiment=smoke", "tracker=none", "training.epochs=1")

    assert 1 == done.returncode
    assert f"NOT VERIFIED: 2 runs of smoke diverged; first divergence: {said}" in done.stdout, done.stdout[-2000:]


def test_verify_refuses_one_run(healthy: pathlib.Path) -> None:
    """One run proves nothing: exit code 2."""
    done = run_command(healthy, "verify", "--runs=1", "experiment=smoke")

    assert 2 == done.returncode
    assert "--runs: expected at least 2, received 1" in done.stderr
