"""Measures how much variance of the validation metrics each source of randomness causes.

Varies the seed points of one source at a time, with the values that other root seeds would give them. All other seed
points stay fixed. Prints a table, and writes study.json and a picture.

Source: Bouthillier et al. (2021), "Accounting for variance in machine learning benchmarks".
"""

import copy
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from samebits.core.config import Config
from samebits.core.config_rules import check
from samebits.core.errors import ConfigError
from samebits.core.metrics import TEST
from samebits.core.seeds import DRAWS, MODEL, derive_seed, dotted_key, flatten_points
from samebits.core.terminal import describe_value, print_table, shown_path
from samebits.launch.run import train_aside
from samebits.runs.folder import SEEDS, read_json
from samebits.runs.identity import recorded_points
from samebits.studies.execute import LauncherOptions, train
from samebits.studies.intervals import (
    MIN_FOR_A_SHARE,
    Interval,
    bootstrap_interval,
    standard_deviation,
    variance_ratio,
)
from samebits.studies.plan import Run, Study
from samebits.studies.study import STUDY, Sample, choose_metrics, parse_seeds, show_failed, show_notes, write_study

ALL = "all together"
PICTURES = ("variance.svg", "variance.png")


@dataclass(frozen=True)
class Deviation:
    """The standard deviation of one metric that one source causes.

    Attributes:
        n: The number of runs.
        sd: Standard deviation with n - 1 (None: fewer than two runs).
        interval: The 95 % bootstrap interval of `sd` (None: fewer than two runs).
        share: The variance as a share of the variance of all sources together (None: too few runs, or no variance).
        share_interval: The 95 % bootstrap interval of `share` (None: `share` is None).
    """

    n: int
    sd: float | None
    interval: Interval | None
    share: float | None = None
    share_interval: Interval | None = None


def sources_of(consumers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return source -> its seed points, and all of them together.

    Args:
        consumers: What uses each seed point of the configuration, by point.
    """
    model = [point for point in consumers if point.startswith(MODEL)]
    algorithm = tuple(point for point in consumers if point.startswith("algorithm/"))
    dropout = tuple(point for point in model if point.endswith("/dropout") or consumers[point].startswith(DRAWS))
    found = {
        "data/split": tuple(point for point in consumers if point == "data/split"),
        # An algorithm that uses all samples at once has no batches.
        "data/order": tuple(point for point in consumers if point == "data/order" and (model or not algorithm)),
        "initialisation": tuple(point for point in model if point not in dropout),
        "dropout": dropout,
        "algorithm": algorithm,
    }
    found = {source: members for source, members in found.items() if members}
    return found | {ALL: tuple(point for members in found.values() for point in members)}


def find_consumers(config: Config, root: pathlib.Path) -> dict[str, str]:
    """Return what uses each seed point, by point. If no run has recorded the points of the model, train one step.

    Raises:
        RecordError: That step failed.
    """
    listed = dict(flatten_points(config.seed.points))
    rows = recorded_points(config, root)
    if not rows and not any(point.startswith("algorithm/") for point in listed):
        print("training one step, to see which seed points the model has …", flush=True)
        short = copy.deepcopy(config)
        short.training.epochs = short.training.steps_per_epoch = 1
        rows = read_json(train_aside(short, root / config.paths.runs / ".points", root) / SEEDS)["points"]
    found = {row["point"]: row["consumer"] for row in rows if row["source"] != "literal"}
    return {point: found.get(point, "") for point in {**listed, **found}}


def make_runs(config: Config, seeds: list[int], consumers: Mapping[str, str]) -> list[Run]:
    """Return the runs of every source. Its points are derived from each seed, all others from `seed.root`."""
    base = copy.deepcopy(config)
    return [
        Run(source, seed, base, tuple((dotted_key(point), derive_seed(seed, point)) for point in members))
        for source, members in sources_of(consumers).items()
        for seed in seeds
    ]


def check_policy(config: Config) -> None:
    """Check that points that are not varied stay fixed.

    Raises:
        ConfigError: The seed policy does not derive the points from the root seed.
    """
    if config.seed.policy != "derived":
        raise ConfigError(
            "seed.policy", expected="derived, so that one source can vary alone", received=config.seed.policy,
            fix="seed=all",
        )  # fmt: skip


def measure_deviations(samples: dict[str, Sample], metrics: Sequence[str]) -> dict[str, dict[str, Deviation]]:
    """Return source -> metric -> standard deviation, with its share of the variance of all sources together.

    Args:
        samples: The finished runs of each source.
        metrics: The metrics to measure. A run may lack one.
    """
    found: dict[str, dict[str, Deviation]] = {}
    for source, sample in samples.items():
        found[source] = {}
        for metric in metrics:
            values = sample.of(metric)
            interval = bootstrap_interval(values, standard_deviation)
            sd = None if interval is None else float(standard_deviation(np.sort(values)))
            found[source][metric] = Deviation(len(values), sd, interval)
    for source, deviations in found.items():
        for metric, deviation in deviations.items():
            if source == ALL or ALL not in samples:
                continue
            ratio = variance_ratio(samples[source].of(metric), samples[ALL].of(metric))
            if ratio:
                deviations[metric] = dataclasses.replace(deviation, share=ratio[0], share_interval=ratio[1])
    return found


def list_deviations(deviations: dict[str, dict[str, Deviation]], samples: dict[str, Sample]) -> list[dict[str, Any]]:
    """Return the rows for study.json and the report, one per source and metric."""
    return [
        {
            "source": source, "metric": metric, "sd": one.sd, "low": one.interval and one.interval[0],
            "high": one.interval and one.interval[1], "share": one.share, "share_interval": one.share_interval,
            "values": samples[source].of(metric),
        }
        for source, by in deviations.items()
        for metric, one in by.items()
    ]  # fmt: skip


def draw(deviations: dict[str, dict[str, Deviation]], folder: pathlib.Path) -> None:
    """Draw the standard deviation by source with its interval, one panel per metric, as SVG and PNG."""
    import matplotlib as mpl  # noqa: PLC0415  slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    metrics = list(next(iter(deviations.values()), {}))
    if not metrics:
        return
    with mpl.rc_context({"svg.hashsalt": "samebits"}):  # so the same runs give the same bytes
        figure = Figure(figsize=(5 * len(metrics), 3.2), layout="constrained")
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            rows = [(source, one[metric]) for source, one in reversed(deviations.items()) if one[metric].sd is not None]
            for source, deviation in rows:
                axis.barh(source, deviation.sd, color="#9aa7b8" if source == ALL else "#3b6ea5")
                if deviation.interval is not None:
                    axis.plot(deviation.interval, [source, source], color="black", linewidth=1.5, marker="|")
            axis.set_xlabel(f"standard deviation of {metric}")
        for name in PICTURES:
            metadata = {"Date": None} if name.endswith("svg") else {"Software": None}
            figure.savefig(folder / name, dpi=110, metadata=metadata)


def show(deviations: dict[str, dict[str, Deviation]]) -> None:
    """Print the table."""
    title = "share of the variance of all together (95 % interval)"
    table = Table("varied alone", "metric", "runs", "standard deviation", "95 % interval", title)
    for source, metrics in deviations.items():
        for metric, one in metrics.items():
            sd = describe_value(one.sd)
            interval = "-" if one.interval is None else " to ".join(map(describe_value, one.interval))
            share = "-"
            if one.share is not None and one.share_interval is not None:
                share = "{:.0%} ({:.0%} to {:.0%})".format(one.share, *one.share_interval)
            table.add_row(source, metric, str(one.n), sd, interval, share)
    print_table(table)
    fewest = min((one.n for metrics in deviations.values() for one in metrics.values()), default=0)
    if fewest < MIN_FOR_A_SHARE:
        print(f"{fewest} runs per source are too few for shares: use at least {MIN_FOR_A_SHARE}, better --seeds 1..10")


def run_variance(
    compose: Callable[[list[str]], Config], root: pathlib.Path, seeds: str, options: LauncherOptions
) -> int:  # fmt: skip
    """Vary each source alone and all together, print the table, and write study.json and the pictures.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        seeds: As `parse_seeds` takes them.
        options: How to start the runs.

    Returns:
        0: all runs finished; 1: some did not.

    Raises:
        ConfigError: Seeds, launcher or the configuration are wrong; nothing was started.
        RecordError: The one step that finds the points of the model failed.
    """
    config, chosen = compose([]), parse_seeds(seeds)
    check(config)
    check_policy(config)
    runs = make_runs(config, chosen, find_consumers(config, root))
    study = Study(f"variance-{config.name}", runs, root)
    train(study, options)
    monitor = study.monitor.name
    deviations: dict[str, dict[str, Deviation]] = {}

    notes: list[str] = []

    def conclude(samples: dict[str, Sample]) -> dict[str, Any]:
        done = {source: sample for source, sample in samples.items() if sample.runs}
        metrics = [name for name in choose_metrics(done.values(), monitor) if not name.startswith(TEST)]
        deviations.update(measure_deviations(done, metrics))
        wanted = dict.fromkeys([monitor, *metrics])
        notes.extend(text for source, sample in done.items() for text in sample.missing(source, wanted))
        return {"monitor": monitor, "variance": list_deviations(deviations, samples), "notes": notes}

    _, failed = write_study(study.folder / STUDY, study.name, study.records(), conclude)
    show(deviations)
    show_notes(notes)
    draw(deviations, study.folder)
    pictures = ", ".join(PICTURES) if any(deviations.values()) else "no picture: no run has metrics"
    print(f"variance: {shown_path(study.folder / STUDY, root)}, {pictures}")
    return show_failed(failed, len(runs))
