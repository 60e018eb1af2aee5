"""The random forest is recorded, compared and explained like a network."""

import dataclasses
import importlib
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, ROOT, Command, Result, TrainHere, digest, finished, run_command, run_script

from samebits import compose
from samebits.core.config import TrainingConfig
from samebits.core.digest import array_digest, arrays_digest
from samebits.core.errors import ConfigError
from samebits.core.files import read_arrays
from samebits.core.seeds import Seeds, flatten_points
from samebits.runs.folder import PREDICTIONS, read_json, read_rows
from samebits.studies.variance import ALL, sources_of
from samebits.train.data import DataContext

build_forest = importlib.import_module(f"{PACKAGE}.forest").build_forest
make_synthetic_counts = importlib.import_module(f"{PACKAGE}.synthetic").make_synthetic_counts
Trained = tuple[pathlib.Path, pathlib.Path]


def train(root: pathlib.Path, *overrides: str, **options: Any) -> Result:
    """Train the small forest."""
    experiment = [] if any(word.startswith("experiment=") for word in overrides) else ["experiment=smoke_forest"]
    return run_script(root, "train.py", *experiment, "tracker=none", *overrides, **options)


@pytest.fixture(scope="module")
def trained(forest: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a project with a trained forest, and its attempt."""
    root = pathlib.Path(shutil.copytree(forest, tmp_path_factory.mktemp("forest") / "project"))
    return root, finished(root)[0]


def test_a_forest_leaves_the_record_of_a_run(trained: Trained) -> None:
    """A forest leaves the files of a run and a trace row per tree. Its digest is that of the arrays, and golden."""
    attempt = trained[1]
    names = {path.name for path in attempt.iterdir()}
    rows, result = read_rows(attempt / "trace.jsonl"), read_json(attempt / "result.json")
    arrays = read_arrays(attempt / "model.arrays")

    assert {"config.yaml", "machine.json", "seeds.json", "metrics.jsonl", "model.arrays", PREDICTIONS} <= names
    assert "model.keras" not in names
    assert [None, *range(1, 11), None] == [row.get("step") for row in rows]
    assert arrays_digest({name: array_digest(name, array) for name, array in arrays.items()}) == digest(attempt)
    assert rows[-1]["weights"] == digest(attempt)
    assert {name: value.hex() for name, value in result["metrics"].items()} == rows[-1]["bits"]
    assert json.loads((ROOT / "golden" / "smoke_forest.json").read_text())["weights_digest"] == digest(attempt)


@pytest.mark.slow
def test_the_forest_of_the_reviews_is_as_claimed(trained: Trained) -> None:
    """Seed 56 has this digest and this accuracy on the real reviews."""
    done = train(trained[0], "experiment=imdb_forest")

    assert "val_accuracy 0.8392" in done.stdout
    assert "weights 538b4e481d00" in done.stdout


def test_the_order_of_batches_is_unused_in_a_forest(trained: Trained) -> None:
    """data/order is marked unused with a reason, and the point of the forest is used."""
    points = {row["point"]: row for row in read_json(trained[1] / "seeds.json")["points"]}

    assert "a forest uses all samples at once" == points["data/order"]["rests"]
    assert points["algorithm/forest"]["consumed"]
    assert "bootstrap samples and features of a random forest" == points["algorithm/forest"]["consumer"]


def walk(arrays: dict[str, np.ndarray], tree: int, row: np.ndarray) -> np.ndarray:
    """Return the vote of a tree on one row, only from the saved arrays."""
    part = {key: arrays[f"trees/{tree:03d}/{key}"] for key in ("feature", "threshold", "value")}
    left, right = (arrays[f"trees/{tree:03d}/children_{side}"] for side in ("left", "right"))
    node = 0
    while left[node] >= 0:
        node = (left if row[part["feature"][node]] <= part["threshold"][node] else right)[node]
    return np.asarray(part["value"][node, 0])


def test_the_kept_arrays_are_the_whole_forest(trained: Trained) -> None:
    """The saved arrays alone give the predicted probabilities, bit for bit."""
    _, attempt = trained
    config = compose.compose(ROOT, ["experiment=smoke_forest"])
    seeds = Seeds.of(config.seed)
    keys = ("rows", "num_words", "sequence_length", "positive_share")
    context = DataContext(seeds, config.data, attempt)
    validation = make_synthetic_counts(context, **{key: config.data[key] for key in keys}).validation
    arrays, predicted = read_arrays(attempt / "model.arrays"), read_arrays(attempt / PREDICTIONS)
    votes = np.zeros((len(validation.labels), 2))
    for tree in range(10):
        votes += np.array([walk(arrays, tree, row) for row in validation.inputs])

    assert validation.labels.tobytes() == predicted["labels"].tobytes()
    assert (votes / 10).tobytes() == predicted["probabilities"].tobytes()


@pytest.mark.full
def test_one_core_and_a_killed_fit_change_nothing(trained: Trained, tmp_path: pathlib.Path) -> None:
    """An attempt with half a record restarts, here on one core, and ends with the same bits and rows."""
    root, attempt = trained
    stopped = attempt.parent / "2"
    stopped.mkdir()
    shutil.copy(attempt / "config.yaml", stopped)
    (stopped / "trace.jsonl").write_bytes((attempt / "trace.jsonl").read_bytes()[:3000])
    done = train(root, prefix=("taskset", "--cpu-list", "0"))

    assert f"resumes {attempt.parent.name}/2\n10 trees, 1 in parallel" in done.stdout
    assert "same bits as 1 earlier run" in done.stdout
    for name in ("metrics.jsonl", "trace.jsonl", "model.arrays", PREDICTIONS):
        assert (attempt / name).read_bytes() == (stopped / name).read_bytes()


@pytest.mark.full
def test_explain_names_the_first_tree(trained: Trained, train_here: TrainHere, command_here: Command) -> None:
    """With only another forest seed, the data is equal and the first difference is the first tree."""
    root, attempt = trained
    moved = train_here(root, "seed.points.algorithm.forest=3", experiment="smoke_forest")
    other = moved.stdout.splitlines()[-1]
    done = command_here(root, "explain", f"{attempt.parent.name}/1", other)

    assert 0 == moved.returncode, moved.stderr
    assert 1 == done.returncode, done.stderr
    assert "seed algorithm/forest" in done.stdout
    assert "first divergence: epoch 1, step 1, weights after the update of trees/000/feature" in done.stdout
    assert "data train" not in done.stdout


@pytest.mark.full
def test_a_forest_is_verified(trained: Trained) -> None:
    """Two runs of a forest under different conditions have equal records."""
    done = run_command(trained[0], "verify", "--runs=2", "experiment=smoke_forest", "tracker=none")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "VERIFIED: 2 runs of smoke_forest, seed 56, bitwise identical" in done.stdout


@pytest.mark.full
def test_forests_can_be_bagged(trained: Trained, command_here: Command) -> None:
    """A bagging study of forests has two bags, two digests and one average."""
    done = command_here(trained[0], "bagging", "--bags=2", "experiment=smoke_forest", "tracker=none")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "ensemble of 2: probabilities" in done.stdout


def test_settings_that_a_forest_would_ignore_are_refused(trained: Trained, train_here: TrainHere) -> None:
    """Settings that a forest ignores are errors before the training starts."""
    done = train_here(trained[0], "training.optimizer=sgd", experiment="smoke_forest")

    assert 2 == done.returncode, done.stdout + done.stderr
    assert "training.optimizer: expected None: a forest has no epochs, batches, loss, optimizer" in done.stderr


@pytest.mark.full
def test_what_is_no_forest_is_refused() -> None:
    """Only RandomForestClassifier is accepted, and each setting of the loop is checked."""
    from sklearn.linear_model import LogisticRegression

    from samebits.train.forest import check_forest

    forest = build_forest({"algorithm/forest": 1}.get, trees=1, max_depth=None, min_samples_leaf=1)
    check_forest(forest, TrainingConfig(epochs=1, log_every=3))
    with pytest.raises(ConfigError, match=r"received sklearn\.linear_model\._logistic\.LogisticRegression"):
        check_forest(LogisticRegression(), TrainingConfig(epochs=1))
    others: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 7,
        "loss": "a.b",
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "steps_per_epoch": 3,
    }
    for key, value in others.items():
        with pytest.raises(ConfigError, match=f"training.{key}: expected "):
            check_forest(forest, dataclasses.replace(TrainingConfig(epochs=1), **{key: value}))


def test_the_spread_of_a_forest_has_other_sources() -> None:
    """The algorithm of the forest is a source of variance, and the order of batches is not."""
    points = flatten_points(compose.compose(ROOT, ["experiment=smoke_forest"]).seed.points)

    assert {
        "data/split": ("data/split",),
        "algorithm": ("algorithm/forest",),
        ALL: ("data/split", "algorithm/forest"),
    } == sources_of({point: "" for point, _ in points})
