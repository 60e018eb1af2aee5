"""Distributions of a metric over seeds: runs grouped by configuration, with mean, deviation and interval. Pure."""

import statistics
from collections.abc import Sequence
from typing import Any

from samebits.studies.intervals import bootstrap_interval
from samebits.studies.read_runs import METRIC_NAMES, Run

FEWEST_SEEDS = 3  # for an interval
MOST_KEYS = 4  # in a configuration's label


def _rank(key: str) -> tuple[int, str]:
    """Return a key's place in labels: the runtime's own settings follow from its promise, so they come last."""
    return key.startswith("runtime.") + (key.startswith("runtime.") and key != "runtime.promise"), key


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the mean, as a study gives it; None: too few values."""
    found = bootstrap_interval(values) if len(values) >= FEWEST_SEEDS else None
    return found and (float(f"{found[0]:.6g}"), float(f"{found[1]:.6g}"))


def distribution(runs: Sequence[Run], metric: str) -> dict[str, Any]:
    """Return one metric's mean, deviation and interval over seeds. Repetitions with the same bits count once."""
    once = {(run.key.rsplit("/", 1)[0], run.facts["weights"]): run.metrics[metric] for run in runs}
    values = sorted(once.values())
    return {
        "values": values,
        "mean": float(f"{statistics.fmean(values):.6g}"),
        "sd": float(f"{statistics.stdev(values):.6g}") if len(values) > 1 else None,
        "interval": interval(values),
    }


def label(items: dict[str, str], apart: Sequence[str]) -> str:
    """Return a configuration's name and what sets it apart, as far as it fits into a line."""
    parts = [f"{key.split('.', 1)[-1]}={items.get(key, 'absent')}" for key in apart]
    more = " …" if len(parts) > MOST_KEYS else ""
    return f"{items.get('name', '')} {', '.join(parts[:MOST_KEYS])}{more}".strip()[:140]


def configurations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the groups of runs that differ in seeds only, each labelled by what sets it apart from the others."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.configuration, []).append(index)
    items = {name: runs[members[0]].configuration_items for name, members in groups.items()}
    keys = sorted({key for each in items.values() for key in each if key != "name"})
    apart = [key for key in keys if len({each.get(key) for each in items.values()}) > 1]
    plain = [key for key in apart if not key.startswith("runtime.") or key == "runtime.promise"]
    if len({tuple(each.get(key) for key in ("name", *plain)) for each in items.values()}) == len(items):
        apart = plain
    apart.sort(key=_rank)
    found = [
        {
            "name": name,
            "label": label(items[name], apart),
            "runs": members,
            "metrics": {metric: distribution([runs[i] for i in members], metric) for metric in METRIC_NAMES},
        }
        for name, members in groups.items()
    ]
    return sorted(found, key=lambda group: (group["label"], group["name"]))
