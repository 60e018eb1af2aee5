"""The data: the same bytes for the same seed."""

import pathlib

from conftest import load


def test_a_seed_gives_the_same_data(tmp_path: pathlib.Path) -> None:
    """The same root seed gives the same bytes, another seed gives others, and each input has a label."""
    dataset = load(56, tmp_path)

    assert dataset.digest() == load(56, tmp_path).digest()
    assert dataset.digest() != load(57, tmp_path).digest()
    assert 0 < len(dataset.train.inputs) == len(dataset.train.labels)
    assert 0 < len(dataset.validation.inputs) == len(dataset.validation.labels)
