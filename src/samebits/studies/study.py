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
from samebits.core.metrics import TEST, Monitor, held_out_names, table_names
from samebits.core.terminal import describe_value, print_table, shown_path
from samebits.studies.execute import LauncherOptions, train
from samebits.studies.intervals import PairedComparison, Summary, compare_paired, summarize
from samebits.studies.plan import Record, Run, Study, describe_record

STUDY = "study.json"
BASE = "base"
MAX_SEEDS = 100_000
MAX_ROWS = 25  # of a printed table
SPLITS = {"": False, "test split": True}  # title of a table -> whether it shows the test split


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
    """The finished runs of one variant.

    Attributes:
        runs: Their number.
        values: Metric -> seed -> value, for the runs that have the metric.
    """

    runs: int = 0
    values: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Add the numbers of one finished run."""
        self.runs += 1
        for metric, value in record.metrics.items():
            self.values.setdefault(metric, {})[record.seed] = value

    def of(self, metric: str) -> list[float]:
        """Return the values of a metric, in the order of the runs."""
        return list(self.values.get(metric, {}).values())

    def summary(self, metric: str, monitor: Monitor) -> Summary:
        """Return the statistics of a metric."""
        return summarize(self.of(metric), list(self.values[metric]), higher_is_better=monitor.higher_is_better(metric))

    def missing(self, variant: str, metrics: Iterable[str]) -> list[str]:
        """Return a sentence per metric that some of the runs do not have."""
        without = {metric: self.runs - len(self.of(metric)) for metric in metrics}
        return [
            f"{variant}: {count} of {self.runs} finished runs have no finite {metric}"
            for metric, count in without.items()
            if count
        ]


def compare_samples(a: Sample, b: Sample, metric: str, *, higher_is_better: bool) -> PairedComparison | None:
    """Return how b differs from a, over the seeds for which both have a metric. None: there are no such seeds."""
    values = [sample.values.get(metric, {}) for sample in (a, b)]
    both = sorted(values[0].keys() & values[1].keys())
    if not both:
        return None
    pairs = ([each[seed] for seed in both] for each in values)
    return compare_paired(*pairs, higher_is_better=higher_is_better)


def write_study(
    path: pathlib.Path,
    name: str,
    records: Iterable[Record],
    conclude: Callable[[dict[str, Sample]], dict[str, Any]],
) -> tuple[dict[str, Sample], list[Record]]:
    """Write study.json while reading the records one by one; returns variant -> sample, and the failed runs.

    Args:
        path: The file.
        name: The study's name.
        records: The record of each run.
        conclude: Returns the entries after the runs, from the samples by variant.
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
        rest = conclude(samples).items()
        stream.writelines(
            f",\n {json.dumps(key)}: {json.dumps(value, allow_nan=False)}".encode() for key, value in rest
        )
        stream.write(b"\n}\n")

    write_file(path, write)
    return samples, failed


def choose_metrics(samples: Iterable[Sample], monitor: str) -> list[str]:
    """Return the metrics of a study's tables: the monitored one first, those of the test split last."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.values))
    return table_names(names, monitor) + held_out_names(names)


def conclude(samples: dict[str, Sample], monitor: Monitor) -> dict[str, Any]:
    """Return the summaries by variant and metric, the comparison of the first two variants, and notes in words."""
    done = {variant: sample for variant, sample in samples.items() if sample.runs}
    metrics = choose_metrics(done.values(), monitor.name)
    summaries = {
        variant: {name: dataclasses.asdict(sample.summary(name, monitor)) for name in metrics if sample.of(name)}
        for variant, sample in done.items()
    }
    wanted = dict.fromkeys([monitor.name, *metrics])
    notes = [text for variant, sample in done.items() for text in sample.missing(variant, wanted)]
    comparison: dict[str, Any] = {}
    if len(done) > 1:
        a, b = list(done.values())[:2]
        for name in metrics:
            higher = monitor.higher_is_better(name)
            if higher is None:
                notes.append(f"{name} is not compared: its name does not say whether higher is better")
                continue
            found = compare_samples(a, b, name, higher_is_better=higher)
            if found:
                comparison[name] = dataclasses.asdict(found) | {"higher_is_better": higher}
    return {"monitor": monitor.name, "summary": summaries, "comparison": comparison, "notes": notes}


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

    def keep(samples: dict[str, Sample]) -> dict[str, Any]:
        concluded.update(conclude(samples, study.monitor))
        return concluded | dict(more)

    _, failed = write_study(study.folder / STUDY, study.name, records, keep)
    return concluded, failed


def _interval(interval: Iterable[float] | None) -> str:
    return "-" if interval is None else " to ".join(map(describe_value, interval))


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def show_summaries(concluded: dict[str, Any]) -> None:
    """Print a table of the summaries, one of those of the test split if there is one, and the notes."""
    for title, held_out in SPLITS.items():
        table = Table("configuration", "metric", "n", "mean", "sd", "median", "iq mean", "95 % interval of the mean",
                      "best, worst seed", "3-seed means in interval", title=title)  # fmt: skip
        for variant, metrics in concluded["summary"].items():
            for metric, one in metrics.items():
                if metric.startswith(TEST) != held_out:
                    continue
                means = [describe_value(one[key]) for key in ("mean", "sd", "median", "interquartile_mean")]
                seeds = "-" if one["best_seed"] is None else f"{one['best_seed']}, {one['worst_seed']}"
                end = _interval(one["interval"]), seeds, _share(one["three_seeds"])
                table.add_row(variant, metric, str(one["n"]), *means, *end)
        if table.row_count or not held_out:
            print_table(table)
    show_notes(concluded["notes"])


def show_records(records: list[Record], concluded: dict[str, Any]) -> None:
    """Print a table of the finished runs of one variant, with mean, standard deviation and interval at the end.

    The test split has a table of its own. The notes follow.
    """
    done = [record for record in records if record.attempt is not None]
    if not done:
        return
    for title, held_out in SPLITS.items():
        summary = concluded["summary"][done[0].variant]
        shown = {metric: one for metric, one in summary.items() if metric.startswith(TEST) == held_out}
        if held_out and not shown:
            continue
        table = Table(done[0].varied, *shown, "weights", title=title)
        for record in done[:MAX_ROWS]:
            values = (describe_value(record.metrics.get(metric)) for metric in shown)
            table.add_row(str(record.seed), *values, (record.weights_digest or "")[:12])
        if len(done) > MAX_ROWS:
            table.add_row(f"… {len(done) - MAX_ROWS} more", *("" for _ in shown), f"in {STUDY}")
        table.add_section()
        for key in ("mean", "sd"):
            table.add_row(key, *(describe_value(one[key]) for one in shown.values()), "")
        table.add_row("95 % interval of the mean", *(_interval(one["interval"]) for one in shown.values()), "")
        print_table(table)
    show_notes(concluded["notes"])


def show_notes(notes: Iterable[str]) -> None:
    """Print notes, one per line."""
    for note in notes:
        print(f"note: {note}")


def describe_comparison(metric: str, one: dict[str, Any], variant: str) -> str:
    """Return the verdict on one metric of the second configuration, in one sentence."""
    if one["interval"] is None:
        verdict = "one seed is too few to decide"
    elif one["interval"][0] <= 0 <= one["interval"][1]:
        verdict = "no difference shown with these seeds"
    else:
        better = (one["difference"] > 0) == one["higher_is_better"]
        verdict = f"{variant} is {'better' if better else 'worse'}"
    return (
        f"{metric}: {verdict}; difference {describe_value(one['difference'], '+')} ({_interval(one['interval'])}), "
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
