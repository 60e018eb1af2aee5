"""Comparing two finished attempts record by record."""

import json
import pathlib
from typing import Any

import pytest

from samebits.runs.compare import RESULT_KEYS, first_difference, list_differences, list_nested_differences
from samebits.runs.folder import METRICS, RESULT, TRACE

TRACED = [
    {"epoch": epoch, "step": None, "data": None, "generators": {"python/random": "g"}, "gradients": None,
     "bits": {"loss": "b"}, "weights": "w", "tensors": {"conv/kernel": "w"}}
    for epoch in (0, 1)
]  # fmt: skip
MEASURED = [{"epoch": 1, "step": step, "loss": 0.5, "accuracy": 0.5} for step in (1, 2)]
DIGESTS = dict.fromkeys(RESULT_KEYS, "d")
ENDED: dict[str, Any] = DIGESTS | {
    "metrics": {"val_accuracy": 0.5, "val_loss": 0.5}, "promise": "portable", "fingerprint": "f", "timing": {},
    "resumed_at": None,
}  # fmt: skip


def write(folder: pathlib.Path, trace: Any = TRACED, metrics: Any = MEASURED, result: Any = ENDED) -> pathlib.Path:
    """Write the records of an attempt and return its folder."""
    folder.mkdir()
    for name, rows in ((TRACE, trace), (METRICS, metrics)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / RESULT).write_text(json.dumps(result))
    return folder


def test_equal_attempts_have_no_difference(tmp_path: pathlib.Path) -> None:
    """Equal attempts have no difference, even if their durations differ."""
    a, b = write(tmp_path / "a"), write(tmp_path / "b", result=ENDED | {"timing": {"training_s": 1.0}})

    assert "" == first_difference(a, b, ignore=())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"trace": [TRACED[0], TRACED[1] | {"bits": {"loss": "c"}}]}, "epoch 1, metric loss"),
        ({"trace": TRACED[:1]}, "number of trace records"),
        ({"trace": [*TRACED, TRACED[1]]}, "number of trace records"),
        ({"metrics": [MEASURED[0], MEASURED[1] | {"loss": 0.25}]}, "epoch 1, step 2, metrics"),
        ({"metrics": MEASURED[:1]}, "number of metric records"),
        *(({"result": ENDED | {key: "e"}}, key.replace("_", " ")) for key in RESULT_KEYS if key != "metrics"),
        ({"result": ENDED | {"metrics": {"val_accuracy": 0.5, "val_loss": 0.25}}}, "metrics"),
    ],
)
def test_every_record_counts(changed: dict[str, Any], words: str, tmp_path: pathlib.Path) -> None:
    """One changed value, one extra row or one missing row is a difference with a name."""
    a, b = write(tmp_path / "a"), write(tmp_path / "b", **changed)

    assert words == first_difference(a, b)


def test_a_generator_that_stands_elsewhere_counts_only_on_request(tmp_path: pathlib.Path) -> None:
    """The state of a global generator is ignored by default, and compared on request, e.g. for a resumed run."""
    moved = [TRACED[0] | {"generators": {"python/random": "h"}}, TRACED[1]]
    a, b = write(tmp_path / "a"), write(tmp_path / "b", trace=moved)

    assert "" == first_difference(a, b)
    assert "before training, global generator python/random" == first_difference(a, b, ignore=())


def test_mappings_are_compared_by_key() -> None:
    """A missing key is "absent". Nested data, including lists, is compared by its leaves."""
    assert [("b", 1, 2), ("c", "absent", 3)] == list_differences({"a": 0, "b": 1}, {"a": 0, "b": 2, "c": 3})
    assert [("x.1.y", 1, 2)] == list_nested_differences({"x": [0, {"y": 1}]}, {"x": [0, {"y": 2}]})
