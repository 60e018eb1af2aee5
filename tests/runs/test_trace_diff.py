"""The first difference of two traces, on hand-made rows."""

import copy
from typing import Any

from samebits.runs.trace_diff import Divergence, differences, first_divergence

TRACE: list[dict[str, Any]] = [
    {
        "epoch": 0,
        "generators": {"python/random": "g"},
        "data": {"train/inputs": "d"},
        "weights": "w0",
        "tensors": {"conv/kernel": "c0", "lstm/kernel": "l0"},
    },
    {
        "epoch": 1, "step": 1, "order": "o1", "batch": "b1", "loss": "0x1p+0",
        "gradients": {"conv/kernel": "gc", "lstm/kernel": "gl"}, "weights": "w1",
        "tensors": {"conv/kernel": "c1", "lstm/kernel": "l1"},
    },
    {
        "epoch": 1, "order": "o", "bits": {"loss": "0x1p+0", "val_loss": "0x1p+1"}, "weights": "w", "optimizer": "m",
        "tensors": {"conv/kernel": "c", "lstm/kernel": "l"},
    },
]  # fmt: skip


def changed(row: int, *path: str) -> list[dict[str, Any]]:
    """Return the trace with one changed value."""
    rows = copy.deepcopy(TRACE)
    part = rows[row]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = "moved"
    return rows


def test_equal_traces_have_no_divergence() -> None:
    """A trace does not differ from itself."""
    assert first_divergence(TRACE, copy.deepcopy(TRACE)) is None


def test_every_stage_is_named_in_words() -> None:
    """Each kind of difference has a place and a stage in words."""
    said = {
        "before training, data train/inputs": changed(0, "data", "train/inputs"),
        "epoch 1, step 1, order of the data": changed(1, "order"),
        "epoch 1, step 1, batch contents": changed(1, "batch"),
        "epoch 1, step 1, forward loss": changed(1, "loss"),
        "epoch 1, step 1, gradient of lstm/kernel": changed(1, "gradients", "lstm/kernel"),
        "epoch 1, metric val_loss": changed(2, "bits", "val_loss"),
        "epoch 1, state of the optimizer": changed(2, "optimizer"),
    }

    assert list(said) == [str(first_divergence(TRACE, rows)) for rows in said.values()]


def test_weights_are_named_by_tensor() -> None:
    """A changed tensor is named before training, after a step and at the end of an epoch."""
    expected = (
        "initial weights of conv/kernel",
        "epoch 1, step 1, weights after the update of conv/kernel",
        "epoch 1, weights at its end of conv/kernel",
    )
    for row, text in enumerate(expected):
        rows = changed(row, "tensors", "conv/kernel")
        rows[row]["weights"] = "moved"

        assert text == str(first_divergence(TRACE, rows))


def test_a_sentence_names_the_first_of_many() -> None:
    """A message has four names and the number of further ones."""
    assert str(Divergence(1, 2, "weights", tuple("abcdef"))).endswith("the update of a, b, c, d and 2 more")
    assert str(Divergence(1, 2, "weights", tuple("abcd"))).endswith("the update of a, b, c, d")


def test_the_earlier_of_two_differences_comes_first() -> None:
    """A later difference does not hide an earlier one."""
    rows = changed(1, "loss")
    rows[2]["optimizer"] = "moved"

    assert ["epoch 1, step 1, forward loss", "epoch 1, state of the optimizer"] == [
        str(found) for found in differences(TRACE, rows)
    ]


def test_a_global_generator_alone_is_no_divergence() -> None:
    """The state of a global generator is ignored, unless requested, as by the audit."""
    rows = changed(0, "generators", "python/random")

    assert first_divergence(TRACE, rows) is None
    assert ["before training, global generator python/random"] == [
        str(found) for found in differences(TRACE, rows, ignore=())
    ]


def test_a_coarse_trace_is_compared_with_a_fine_one() -> None:
    """Traces of different detail are compared only at their common places."""
    assert first_divergence([TRACE[0], TRACE[2]], TRACE) is None
