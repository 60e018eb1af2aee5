"""Saved predictions, probabilities with the same bits on every machine, and their average."""

import json
import math
import pathlib

import numpy as np
import pytest

from samebits.core.digest import array_digest
from samebits.core.errors import RecordError
from samebits.core.files import write_json
from samebits.runs.folder import PREDICTIONS
from samebits.runs.predictions import (
    average,
    class_labels,
    read_class_probabilities,
    read_predictions,
    score,
    to_probabilities,
    write_predictions,
)

LABELS = np.array([1, 0, 1], np.int32)
LOGITS = np.array([[0.5], [-3.25], [40.0]], np.float32)


def make_attempt(folder: pathlib.Path, arrays: dict[str, np.ndarray] | None = None) -> pathlib.Path:
    """Write predictions and a result with their digest."""
    digest = write_predictions(folder, arrays or {"labels": LABELS, "logits": LOGITS})
    write = {"metrics": {"loss": 0.5}, "timing": {}, "resumed_at": None}
    names = ("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint")
    write_json(folder / "result.json", write | dict.fromkeys(names, "x") | {"predictions_digest": digest})
    return folder


def test_probabilities_are_right_and_frozen() -> None:
    """Probabilities match the formula, sum to one, and have these bits in every version on every machine."""
    whole = np.random.Generator(np.random.PCG64(1)).integers(-(2**20), 2**20, (500, 1))
    values = (whole / 2**17).astype(np.float32)
    found = to_probabilities(values)

    assert np.allclose(found[:, 1], 1 / (1 + np.exp(-values[:, 0].astype(np.float64))), rtol=1e-14, atol=0)
    assert np.allclose(found.sum(1), 1, rtol=1e-15, atol=0)
    assert "2135d2d5d890d3be" == array_digest("p", found)[:16]


def test_one_output_is_two_classes_against_zero() -> None:
    """A single logit z gives the same as the two logits 0 and z. Extreme logits do not overflow."""
    both = np.array([[0.0, z] for z in (0.5, -3.25, 40.0)], np.float32)
    extreme = to_probabilities(np.array([[1e4, -1e4, 0.0]], np.float32))

    assert to_probabilities(both).tobytes() == to_probabilities(LOGITS).tobytes()
    assert [[1.0, 0.0, 0.0]] == extreme.tolist()


def test_an_average_does_not_depend_on_the_order() -> None:
    """Members in any order give the same bits, because sums are exact. A plain sum does not."""
    members = [to_probabilities(np.array([[i / 7], [-i / 3]], np.float32)) for i in range(30)]
    shuffled = [members[i * 7 % 30] for i in range(30)]

    assert average(members).tobytes() == average(shuffled).tobytes()
    assert sum(members[1:], members[0]).tobytes() != sum(shuffled[1:], shuffled[0]).tobytes()


def test_a_score_is_loss_and_accuracy() -> None:
    """The score is cross-entropy and accuracy. A tie is class 0, and a probability of zero has a finite loss."""
    loss, accuracy = score(np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]), LABELS)

    assert 2 / 3 == accuracy
    assert math.isclose((-math.log(0.75) - math.log(0.5) - math.log(1e-7)) / 3, loss, rel_tol=1e-14)


def test_what_is_read_is_what_was_predicted(tmp_path: pathlib.Path) -> None:
    """Reading returns the written probabilities and labels."""
    probabilities, labels = read_class_probabilities(make_attempt(tmp_path))

    assert to_probabilities(LOGITS).tobytes() == probabilities.tobytes()
    assert LABELS.tolist() == labels.tolist()


@pytest.mark.parametrize("harm", ["missing", "torn", "others"])
def test_predictions_that_are_not_the_runs_are_refused(harm: str, tmp_path: pathlib.Path) -> None:
    """A missing or truncated file, or one from other weights, is an error with its name."""
    path = make_attempt(tmp_path) / PREDICTIONS
    if harm == "missing":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        other = LOGITS.copy()
        other[0, 0] = np.nextafter(other[0, 0], np.float32(1))
        write_predictions(tmp_path, {"labels": LABELS, "logits": other})
    with pytest.raises(RecordError, match="does not match the result of the run") as caught:
        read_predictions(tmp_path)

    assert json.loads((tmp_path / "result.json").read_text())["predictions_digest"] == caught.value.expected


def test_labels_of_any_form_are_class_numbers() -> None:
    """Integers, whole floats, one column and one-hot rows are classes. Other labels are not."""
    forms: list[np.ndarray] = [LABELS, LABELS.astype(np.float32), LABELS[:, None], np.eye(2)[LABELS]]
    others: list[np.ndarray] = [
        np.array([0.5, 1.0]),
        np.array([-1, 0]),
        np.ones((2, 2)),
        np.zeros((2, 3, 1)),
        np.array(["a"]),
        np.array(1),
    ]

    assert [[1, 0, 1]] * 4 == [class_labels(form).tolist() for form in forms]
    assert [[]] * 6 == [class_labels(other).tolist() for other in others]


def test_one_column_of_probabilities_is_class_one_unless_it_is_the_only_class(tmp_path: pathlib.Path) -> None:
    """A sigmoid's probability p gives 1 - p and p. A forest that saw one class has ones."""
    found = []
    for name, column, labels in (("a", [0.25, 1.0], [0, 1]), ("b", [1.0, 1.0], [0, 0])):
        (tmp_path / name).mkdir()
        arrays = {"labels": np.array(labels), "probabilities": np.array(column)[:, None]}
        found.append(read_class_probabilities(make_attempt(tmp_path / name, arrays))[0].tolist())

    assert [[[0.75, 0.25], [0.0, 1.0]], [[1.0], [1.0]]] == found


@pytest.mark.parametrize(
    ("arrays", "received"),
    [
        ({"labels": np.array([1.5, 2.5]), "outputs": np.zeros((2, 1), np.float32)}, "outputs float32[2, 1]"),
        ({"labels": np.array([1.5, 2.5]), "logits": np.zeros((2, 1), np.float32)}, "labels float64[2]"),
        ({"labels": np.array([0, 2]), "logits": np.zeros((2, 1), np.float32)}, "logits float32[2, 1]"),
        ({"labels": np.array([0, 1]), "logits": np.full((2, 1), np.nan, np.float32)}, "logits float32[2, 1]"),
        ({"labels": np.array([0, 1]), "probabilities": np.full((2, 3), 0.9)}, "probabilities float64[2, 3]"),
        ({"labels": np.array([0, 1]), "probabilities": np.array([[1.5], [0.5]])}, "probabilities float64[2, 1]"),
        ({"labels": np.array([0, 1]), "logits": np.zeros((2, 8, 8), np.float32)}, "logits float32[2, 8, 8]"),
        ({"digit": np.zeros((2, 10)), "colour": np.zeros((2, 3))}, "digit float64[2, 10]"),
    ],
)
def test_predictions_that_are_not_of_classes_are_named(
    arrays: dict[str, np.ndarray], received: str, tmp_path: pathlib.Path
) -> None:
    """A regression, several outputs, a segmentation and several labels per row are one error with what they are."""
    with pytest.raises(RecordError, match="are not probabilities of classes") as caught:
        read_class_probabilities(make_attempt(tmp_path, arrays))

    assert received in str(caught.value.received)
