"""`samebits predict`: the outputs of a finished run's model for a split or for new data, and its model in a script."""

import csv
import pathlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Result, TrainHere, finished, run_command

from samebits.core.errors import ConfigError, FolderError
from samebits.core.files import read_arrays
from samebits.launch.predict import parse_data, predict
from samebits.train.predict import choose_split

SCRIPT = """
import sys, keras, numpy
import samebits.portable.layers, samebits.portable.losses, samebits.portable.lstm, samebits.portable.optimizers
inputs = numpy.load(sys.argv[2])["inputs"]
numpy.savez(sys.argv[3], outputs=keras.models.load_model(sys.argv[1]).predict(inputs, batch_size=250, verbose=0))
"""
OWN = """
import keras, numpy
from samebits import Dataset, Split

def load(context, *, rows):
    inputs = context.rng("data/load").standard_normal((rows, 4)).astype("float32")
    labels = (inputs.sum(1, keepdims=True) > 0).astype("float32")
    train, validation = context.split(labels)
    numpy.savez("inputs.npz", inputs=inputs[validation])
    return Dataset(*(Split(inputs[part], labels[part]) for part in (train, validation, train[:30])))

def build(seed):
    layers = keras.layers
    model = keras.Sequential([layers.Dense(3, activation="relu"), layers.Dropout(0.5), layers.Dense(1)])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["mae"])
    return model
"""
DATA = "_target_: own_case.load\nrows: 100\nvalidation_size: 40\n"
EXPERIMENT = """# @package _global_
defaults: [{override /data: own_case}, {override /model: own_case}, {override /tracker: none}]
name: own_case
training: {epochs: 2, batch_size: 20}
"""

SHORT = ("data.rows=120", "data.validation_size=40")
# In the last stage, the data and the batch are others than in the configuration.
STAGES = (
    "training.stages=[{name: first, epochs: 1}, "
    "{name: second, epochs: 1, validation_batch_size: 30, data: {validation_size: 30}}]"
)
MISSING = (
    "ConfigError: --split: expected train, validation, received test, which the data function does not return; "
    "fix: choose another split, or return this one too\n"
)


@pytest.fixture
def trained(project: pathlib.Path, train_here: TrainHere) -> pathlib.Path:
    """Return a project with a finished run of a model without keras.Input."""
    conf = project / "conf"
    (project / "src" / "own_case").mkdir()
    (project / "src" / "own_case" / "__init__.py").write_text(OWN)
    (conf / "data" / "own_case.yaml").write_text(DATA)
    (conf / "model" / "own_case.yaml").write_text("# @package _global_\nmodel: {_target_: own_case.build}\n")
    (conf / "experiment" / "own_case.yaml").write_text(EXPERIMENT)
    done = train_here(project, experiment="own_case")

    assert 0 == done.returncode, done.stderr
    return project


def predicted(root: pathlib.Path, *words: str) -> dict[str, np.ndarray]:
    """Return what `samebits predict` writes."""
    out = root / "out.npz"
    done = run_command(root, "predict", "last", *words, "--out", str(out))

    assert 0 == done.returncode, done.stdout + done.stderr
    assert str(out) == done.stdout.strip()
    return dict(np.load(out))


def refused(root: pathlib.Path, *words: str) -> Result:
    """Return the result of a prediction that fails."""
    done = run_command(root, "predict", "last", *words)

    assert 2 == done.returncode, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.full
def test_predictions_are_those_of_the_run(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The validation rows have the bits of the run, and a script loads the model."""
    (attempt,) = finished(trained)
    recorded = read_arrays(attempt / "predictions.arrays")
    validation = predicted(trained)

    assert recorded["logits"].tobytes() == validation["logits"].tobytes()
    assert recorded["labels"].tobytes() == validation["labels"].tobytes()

    files = [attempt / "model.keras", trained / "inputs.npz", tmp_path / "script.npz"]
    script = [sys.executable, "-c", SCRIPT, *map(str, files)]
    subprocess.run(script, check=True, env={"PYTHONPATH": str(trained / "src")}, capture_output=True)

    assert np.abs(np.load(files[2])["outputs"] - validation["logits"]).max() < 1e-6  # without the pins

    more = predicted(trained, "data.rows=200", "--split=train")

    assert (160, 160) == (len(more["logits"]), len(more["labels"]))
    assert "data.row" in refused(trained, "data.row=200").stderr


def test_a_split_that_does_not_exist_is_refused() -> None:
    """The error lists the splits of the data function."""
    dataset: Any = SimpleNamespace(splits=lambda: {"train": 1, "validation": 2})

    assert 2 == choose_split(dataset, "validation")
    with pytest.raises(ConfigError, match="--split: expected train, validation, received test"):
        choose_split(dataset, "test")


def test_a_run_that_is_not_finished_cannot_predict(tmp_path: pathlib.Path) -> None:
    """The error says how to finish it."""
    with pytest.raises(FolderError, match="expected a finished run") as error:
        predict(tmp_path, tmp_path, "validation", {}, None)

    assert "the same command that started it resumes it" in str(error.value)


@pytest.mark.parametrize("word", ["rows=3", "data.rows", "training.epochs=2", "data.a.b=1"])
def test_other_data_is_named_as_in_the_configuration(word: str) -> None:
    """Anything but data.key=value is an error."""
    assert {"rows": 3, "path": "a.csv"} == parse_data(["data.rows=3", "data.path=a.csv"])
    with pytest.raises(ConfigError, match=r"expected data\.key=value"):
        parse_data([word])


@pytest.mark.full
def test_the_data_of_the_last_stage_are_predicted(project: pathlib.Path, train_here: TrainHere) -> None:
    """The table has the run's own predictions, bit for bit, also of a last stage with its own data.

    A split that the data function does not return is an error without TensorFlow's messages.
    """
    assert 0 == train_here(project, *SHORT, STAGES).returncode
    (attempt,) = finished(project)
    own = run_command(project, "predict")

    assert (0, "") == (own.returncode, own.stderr)
    assert f"{attempt / 'predictions_validation.csv'}\n" == own.stdout
    recorded = read_arrays(attempt / "predictions.arrays")
    with (attempt / "predictions_validation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert 30 == len(rows)
    assert recorded["logits"].ravel().tolist() == [float(row["logits"]) for row in rows]
    assert recorded["labels"].tolist() == [int(row["labels"]) for row in rows]
    assert MISSING == refused(project, "--split=test").stderr
