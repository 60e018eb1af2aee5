"""Variance by source: the points of each source, the fixed points, and the shares."""

import json
import pathlib

import pytest
from conftest import ROOT

from samebits import compose
from samebits.core.config import Config
from samebits.core.errors import ConfigError
from samebits.core.seeds import derive_seed, dotted_key, resolve_points
from samebits.studies.read_runs import read_variance
from samebits.studies.study import Sample
from samebits.studies.variance import (
    ALL,
    PICTURES,
    check_policy,
    draw,
    list_deviations,
    make_runs,
    measure_deviations,
    show,
    sources_of,
)

METRICS = ("val_accuracy", "val_loss")


def sample_of(seeds: list[int], values: list[float]) -> Sample:
    """Return a sample with the same values for each metric."""
    return Sample(len(seeds), {metric: dict(zip(seeds, values, strict=True)) for metric in METRICS})


@pytest.fixture
def config() -> Config:
    """Return the smoke configuration."""
    return compose.compose(ROOT, ["experiment=smoke", "tracker=none"])


def resolved(config: Config) -> dict[str, int | None]:
    """Return the value of every point."""
    points = resolve_points(config.seed.root, config.seed.policy, config.seed.points)
    return {name: point.value for name, point in points.items()}


def test_a_source_moves_its_points_alone(config: Config) -> None:
    """Only the points of the source differ from the base, and they have the values of the other root seed."""
    base = resolved(config)
    consumers = dict.fromkeys(base, "") | {"model/aug/generator": "draws of layer aug: generator"}
    sources = sources_of(consumers)
    for run in make_runs(config, [7], consumers):
        values = resolved(run.config())

        assert set(sources[run.variant]) == {point for point in values if values[point] != base.get(point)}
        assert [(dotted_key(point), derive_seed(7, point)) for point in sources[run.variant]] == list(run.settings)
        assert all(values[point] == derive_seed(7, point) for point in sources[run.variant])


def test_a_source_without_points_is_left_out() -> None:
    """A model without dropout has no such source; all together contains the others."""
    expected = {
        "data/order": ("data/order",),
        "initialisation": ("model/a/kernel",),
        ALL: ("data/order", "model/a/kernel"),
    }

    assert expected == sources_of(dict.fromkeys(("data/order", "model/a/kernel", "data/load"), ""))


def test_a_layer_that_draws_is_a_source_like_dropout() -> None:
    """A point that a run recorded as the draws of a layer belongs to dropout, whatever its name is."""
    consumers = {"model/flip/generator": "draws of layer flip: generator", "model/a/kernel": "weight a/kernel"}

    assert ("model/flip/generator",) == sources_of(consumers)["dropout"]
    assert ("model/a/kernel",) == sources_of(consumers)["initialisation"]


def test_points_that_are_not_derived_cannot_be_held(config: Config) -> None:
    """With the policy unseeded, all points vary, so the study is refused."""
    config.seed.policy = "unseeded"
    with pytest.raises(ConfigError, match="expected derived"):
        check_policy(config)


def test_a_share_is_a_ratio_of_variances(tmp_path: pathlib.Path) -> None:
    """Half the standard deviation is a quarter of the variance; the same runs draw the same picture bytes."""
    values, seeds = [0.0, 1.0, 2.0, 4.0, 8.0], [1, 2, 3, 4, 5]
    whole = sample_of(seeds, values)
    half = [value / 2 for value in values]
    deviations = measure_deviations({"data/order": sample_of(seeds, half), ALL: whole}, METRICS)
    pictures = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw(deviations, tmp_path / name)
        pictures.append([(tmp_path / name / picture).read_bytes() for picture in PICTURES])

    part = deviations["data/order"]["val_accuracy"]
    assert 0.25 == part.share
    assert part.share_interval is not None
    assert part.share_interval[0] < 0.25 < part.share_interval[1]
    assert deviations[ALL]["val_loss"].share is None
    assert pictures[0] == pictures[1]


def test_few_seeds_have_no_shares(capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs per source are too few for shares, and a line says how many are needed."""
    two, five = sample_of([1, 2], [0.5, 0.9]), sample_of([1, 2, 3, 4, 5], [0.5, 0.6, 0.7, 0.8, 0.85])
    for samples in ({"data/order": two, ALL: two}, {"data/order": two, ALL: five}, {"data/order": five, ALL: two}):
        show(measure_deviations(samples, METRICS))
        said = capsys.readouterr().out

        assert "%" not in said.replace("95 %", "")
        assert "2 runs per source are too few for shares" in said
    show(measure_deviations({"data/order": five, ALL: five}, METRICS))

    assert "100% (" in capsys.readouterr().out


def test_one_run_has_no_spread() -> None:
    """One run has no standard deviation."""
    deviations = measure_deviations({ALL: sample_of([1], [0.5])}, METRICS)

    assert (None, None) == (deviations[ALL]["val_accuracy"].sd, deviations[ALL]["val_accuracy"].share)


def test_the_report_reads_what_is_written(tmp_path: pathlib.Path) -> None:
    """The report's reader finds every source and metric with a standard deviation in study.json."""
    sample = sample_of([1, 2, 3], [0.5, 0.75, 1.0])
    samples = {"data/order": sample, ALL: sample}
    folder = tmp_path / "studies" / "one"
    folder.mkdir(parents=True)
    rows = list_deviations(measure_deviations(samples, METRICS), samples)
    (folder / "study.json").write_text(json.dumps({"variance": rows}))
    found = read_variance(tmp_path)

    assert 4 == len(found)
    assert [(row["source"], row["metric"], row["values"]) for row in rows] == [
        (each["source"], each["metric"], each["values"]) for each in found
    ]
    assert {"sd", "low", "high"} <= set(found[0])
