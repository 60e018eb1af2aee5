"""`samebits predict` writes what the model of a finished run outputs."""

import csv
import pathlib

import numpy as np
import pytest
from conftest import finished, run_command, train

from samebits.core.errors import ConfigError
from samebits.core.files import read_arrays
from samebits.launch.predict import parse_data

SHORT = ("data.rows=120", "data.validation_size=40")
# In the last stage, the data and the batch are others than in the configuration.
STAGES = (
    "training.stages=[{name: first, epochs: 1}, "
    "{name: second, epochs: 1, validation_batch_size: 30, data: {validation_size: 30}}]"
)


def test_words_are_arguments_of_the_data_function() -> None:
    """data.key=value is an argument with a value as in YAML; another word is an error that shows it."""
    assert {"path": "new.csv", "rows": 7} == parse_data(["data.path=new.csv", "data.rows=7"])

    for word in ("seed.root=7", "data.path", "data.a.b=1"):
        with pytest.raises(ConfigError, match=rf"^{word}: expected data\.key=value"):
            parse_data([word])


@pytest.mark.full
def test_predictions_are_those_of_the_run(project: pathlib.Path) -> None:
    """The table has the run's own predictions, bit for bit, also of a last stage with its own data; or of new data."""
    assert 0 == train(project, *SHORT, STAGES).returncode
    (attempt,) = finished(project)
    own = run_command(project, "predict")
    new = run_command(project, "predict", "data.validation_size=20", f"--out={project / 'new.npz'}")

    assert (0, "") == (own.returncode, own.stderr)
    assert f"{attempt / 'predictions_validation.csv'}\n" == own.stdout
    recorded = read_arrays(attempt / "predictions.arrays")
    with (attempt / "predictions_validation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert 30 == len(rows)
    assert recorded["logits"].ravel().tolist() == [float(row["logits"]) for row in rows]
    assert recorded["labels"].tolist() == [int(row["labels"]) for row in rows]
    assert 0 == new.returncode, new.stderr
    with np.load(project / "new.npz") as arrays:
        assert 20 == len(arrays["logits"])


@pytest.mark.full
def test_a_missing_split_is_named_in_one_line(project: pathlib.Path) -> None:
    """A split that the data function does not return is an error without TensorFlow's messages."""
    assert 0 == train(project, *SHORT, "training.epochs=1").returncode
    done = run_command(project, "predict", "last", "--split", "test")

    expected = (
        "ConfigError: --split: expected train, validation, received test, which the data function does not return; "
        "fix: choose another split, or return this one too\n"
    )
    assert (2, expected) == (done.returncode, done.stderr)
