"""A study: trains one or two configurations with many seeds, summarizes them and compares them.

    runs/studies/<name>-<digest>/study.json     every run with its digests, the summaries, the comparison

Result files are read one at a time, and only a run's numbers are kept.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO

from rich.table import Table

from samebits.core.config import Config
from samebits.core.errors import ConfigError
from samebits.core.files import write_file
from samebits.core.terminal import print_table, shown_path
from samebits.studies.execute import LauncherOptions, train
from samebits.studies.intervals import PairedComparison, Summary, compare_paired, summarize
from samebits.studies.plan import Record, Run, Study, describe_record

STUDY = "study.json"
BASE = "base"
MAX_SEEDS = 100_000
MAX_ROWS = 25  # of a printed table
METRICS = {"val_accuracy": True, "val_loss": False}  # whether higher is better


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of "1..20", "1,5,9" or "1..3,7", each once, in the order given.

    Raises:
        ConfigError: The text has another form, or a range is reversed.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})(?:\.\.(\d{1,10}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not first <= last < first + MAX_SEEDS:
            raise ConfigError(
                "--seeds",
                expected=f"numbers and ranges of at most {MAX_SEEDS}, such as 1..20 or 1..3,7",
                received=repr(text),
                fix="samebits study --seeds 1..20",
            )
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


@dataclass
class Sample:
    """The finished runs of one variant: seeds, and the values of each metric in the same order."""

    seeds: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})

    def add(self, record: Record) -> None:
        """Add the numbers of one finished run."""
        self.seeds.append(record.seed)
        for metric in METRICS:
            self.values[metric].append(getattr(record, metric))

    def summary(self, metric: str) -> Summary:
        """Return the statistics of a metric."""
        return summarize(self.values[metric], self.seeds, higher_is_better=METRICS[metric])


def compare_samples(a: Sample, b: Sample, metric: str) -> PairedComparison | None:
    """Return how b differs from a, over the seeds that both finished. None: there are no such seeds."""
    values = [dict(zip(sample.seeds, sample.values[metric], strict=True)) for sample in (a, b)]
    both = sorted(values[0].keys() & values[1].keys())
    if not both:
        return None
    pairs = ([each[seed] for seed in both] for each in values)
    return compare_paired(*pairs, higher_is_better=METRICS[metric])


def write_study(
    path: pathlib.Path,
    name: str,
    records: Iterable[Record],
    conclude: Callable[[dict[str, Sample], list[Record]], dict[str, Any]],
) -> tuple[dict[str, Sample], list[Record]]:
    """Write study.json while reading the records one by one; returns variant -> sample, and the failed runs.

    Args:
        path: The file.
        name: The study's name.
        records: The record of each run.
        conclude: Returns the entries after the runs, from the samples by variant and the failed runs.
    """
    samples: dict[str, Sample] = {}
    failed: list[Record] = []

    def write(stream: BinaryIO) -> None:
        stream.write(f'{{\n "name": {json.dumps(name)},\n "runs": [\n'.encode())
        for number, record in enumerate(records):
            sample = samples.setdefault(record.variant, Sample())
            if record.attempt is None:
                failed.append(record)
            else:
                sample.add(record)
            comma = ",\n" if number else ""
            stream.write(f"{comma}  {json.dumps(dataclasses.asdict(record), ensure_ascii=False)}".encode())
        stream.write(b"\n ]")
        rest = conclude(samples, failed).items()
        stream.writelines(
            f",\n {json.dumps(key)}: {json.dumps(value, allow_nan=False)}".encode() for key, value in rest
        )
        stream.write(b"\n}\n")

    write_file(path, write)
    return samples, failed


def conclude(samples: dict[str, Sample], _failed: list[Record]) -> dict[str, Any]:
    """Return the summaries by variant and metric, and the comparison of the first two variants."""
    done = {variant: sample for variant, sample in samples.items() if sample.seeds}
    summaries = {
        variant: {metric: dataclasses.asdict(sample.summary(metric)) for metric in METRICS}
        for variant, sample in done.items()
    }
    comparison: dict[str, Any] = {}
    if len(done) > 1:
        a, b = list(done.values())[:2]
        found = {metric: compare_samples(a, b, metric) for metric in METRICS}
        comparison = {metric: dataclasses.asdict(one) for metric, one in found.items() if one}
    return {"summary": summaries, "comparison": comparison}


def write_summary(
    study: Study, records: Iterable[Record], more: Mapping[str, Any] = MappingProxyType({})
) -> tuple[dict[str, Any], list[Record]]:
    """Write a study's study.json with its summaries; returns the summaries and the failed runs.

    Args:
        study: The study.
        records: The record of each run.
        more: Further entries of the file.
    """
    concluded: dict[str, Any] = {}

    def keep(samples: dict[str, Sample], failed: list[Record]) -> dict[str, Any]:
        concluded.update(conclude(samples, failed))
        return concluded | dict(more)

    _, failed = write_study(study.folder / STUDY, study.name, records, keep)
    return concluded, failed


def _interval(interval: Iterable[float] | None) -> str:
    return "-" if interval is None else "{:.4f} to {:.4f}".format(*interval)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def show_summaries(concluded: dict[str, Any]) -> None:
    """Print the table of the summaries."""
    table = Table("configuration", "metric", "n", "mean", "sd", "median", "iq mean", "95 % interval of the mean",
                  "best, worst seed", "3-seed means in interval")  # fmt: skip
    for variant, metrics in concluded["summary"].items():
        for metric, one in metrics.items():
            sd = "-" if one["sd"] is None else f"{one['sd']:.4f}"
            means = f"{one['mean']:.4f}", sd, f"{one['median']:.4f}", f"{one['interquartile_mean']:.4f}"
            seeds = f"{one['best_seed']}, {one['worst_seed']}"
            table.add_row(
                variant, metric, str(one["n"]), *means, _interval(one["interval"]), seeds, _share(one["three_seeds"])
            )
    print_table(table)


def show_records(records: list[Record], concluded: dict[str, Any]) -> None:
    """Print a table of the finished runs of one variant, with mean, standard deviation and interval at the end."""
    done = [record for record in records if record.attempt is not None]
    if not done:
        return
    table = Table(done[0].varied, *METRICS, "weights")
    for record in done[:MAX_ROWS]:
        values = (f"{getattr(record, metric):.4f}" for metric in METRICS)
        table.add_row(str(record.seed), *values, (record.weights_digest or "")[:12])
    if len(done) > MAX_ROWS:
        table.add_row(f"… {len(done) - MAX_ROWS} more", *("" for _ in METRICS), f"in {STUDY}")
    table.add_section()
    summaries = concluded["summary"][done[0].variant].values()
    table.add_row("mean", *(f"{one['mean']:.4f}" for one in summaries), "")
    table.add_row("sd", *("-" if one["sd"] is None else f"{one['sd']:.4f}" for one in summaries), "")
    table.add_row("95 % interval of the mean", *(_interval(one["interval"]) for one in summaries), "")
    print_table(table)


def describe_comparison(metric: str, one: dict[str, Any], variant: str) -> str:
    """Return the verdict on one metric of the second configuration, in one sentence."""
    if one["interval"] is None:
        verdict = "one seed is too few to decide"
    elif one["interval"][0] <= 0 <= one["interval"][1]:
        verdict = "no difference shown with these seeds"
    else:
        better = (one["difference"] > 0) == METRICS[metric]
        verdict = f"{variant} is {'better' if better else 'worse'}"
    return (
        f"{metric}: {verdict}; difference {one['difference']:+.4f} ({_interval(one['interval'])}), "
        f"P(improvement) {one['probability_of_improvement']:.2f} ({_interval(one['probability_interval'])}), "
        f"{one['wins']} wins, {one['ties']} ties, {one['losses']} losses; "
        f"three-seed subsets with the same sign: {_share(one['three_seeds'])}"
    )


def show_failed(failed: list[Record], runs: int) -> int:
    """Print the runs that did not finish; returns 1 if there are any, else 0."""
    for record in failed:
        print(describe_record(record))
    if failed:
        print(f"INCOMPLETE: {len(failed)} of {runs} runs did not finish; the same command tries them again")
    return int(bool(failed))


def run_study(
    compose: Callable[[list[str]], Config], root: pathlib.Path, seeds: str, versus: list[str], options: LauncherOptions
) -> int:
    """Train every seed of one or two configurations, print the summary, and write study.json.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        seeds: As `parse_seeds` takes them.
        versus: Overrides of the second configuration; empty: there is none.
        options: How to start the runs.

    Returns:
        0: all runs finished; 1: some did not.

    Raises:
        ConfigError: Seeds, launcher or a configuration are wrong; nothing was started.
    """
    variants = {BASE: compose([])} | ({" ".join(versus): compose(versus)} if versus else {})
    runs = [Run(variant, seed, base) for seed in parse_seeds(seeds) for variant, base in variants.items()]
    study = Study(variants[BASE].name, runs, root)
    started = train(study, options)
    print(f"{len(runs)} runs: {started} started, {len(runs) - started} already finished")
    concluded, failed = write_summary(study, study.records())
    show_summaries(concluded)
    for metric, one in concluded["comparison"].items():
        print(describe_comparison(metric, one, " ".join(versus)))
    print(f"study: {shown_path(study.folder / STUDY, root)}")
    return show_failed(failed, len(runs))
