"""Variance by source: which points a source has, what is held, and the shares."""

import pathlib

import pytest
from conftest import ROOT

from samebits import entry
from samebits.config import Config
from samebits.errors import ConfigError
from samebits.seeds import derive_seed, resolve_points
from samebits.study import Sample
from samebits.variance import ALL, PICTURES, draw, make_runs, measure_spreads, sources_of


@pytest.fixture
def config() -> Config:
    """Return the smoke configuration."""
    return entry.compose(ROOT, ["experiment=smoke", "tracker=none"])


def resolved(config: Config) -> dict[str, int | None]:
    """Return the value of every point."""
    points = resolve_points(config.seed.root, config.seed.policy, config.seed.points)
    return {name: point.value for name, point in points.items()}


def test_a_source_moves_its_points_alone(config: Config) -> None:
    """Against the base exactly the points of the source differ, and they have what the other root gives them."""
    base = resolved(config)
    sources = sources_of(list(base))
    for run in make_runs(config, [7]):
        values = resolved(run.config())

        assert set(sources[run.variant]) == {point for point in values if values[point] != base[point]}
        assert all(values[point] == derive_seed(7, point) for point in run.points)


def test_a_source_without_points_is_left_out() -> None:
    """A model without dropout has no such row; all together is what is left."""
    expected = {
        "data/order": ("data/order",),
        "initialisation": ("model/a/kernel",),
        ALL: ("data/order", "model/a/kernel"),
    }

    assert expected == sources_of(["data/order", "model/a/kernel", "data/load"])


def test_points_that_are_not_derived_cannot_be_held(config: Config) -> None:
    """With nothing seeded every run varies by itself."""
    config.seed.policy = "unseeded"
    with pytest.raises(ConfigError, match="expected derived"):
        make_runs(config, [1])


def test_a_share_is_a_ratio_of_variances(tmp_path: pathlib.Path) -> None:
    """Half the spread is a quarter of the variance; equal runs drew a picture twice with the same bytes."""
    values = [0.0, 1.0, 2.0, 4.0]
    whole = Sample([1, 2, 3, 4], {"val_accuracy": values, "val_loss": values})
    half = [value / 2 for value in values]
    spreads = measure_spreads({"data/order": Sample([1, 2, 3, 4], dict.fromkeys(whole.values, half)), ALL: whole})
    pictures = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw(spreads, tmp_path / name)
        pictures.append([(tmp_path / name / picture).read_bytes() for picture in PICTURES])

    assert 0.25 == spreads["data/order"]["val_accuracy"].share
    assert 1.0 == spreads[ALL]["val_loss"].share
    assert pictures[0] == pictures[1]


def test_one_run_has_no_spread() -> None:
    """Nothing is said of what one run cannot show."""
    spreads = measure_spreads({ALL: Sample([1], {"val_accuracy": [0.5], "val_loss": [0.5]})})

    assert (None, None) == (spreads[ALL]["val_accuracy"].sd, spreads[ALL]["val_accuracy"].share)
