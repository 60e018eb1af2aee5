"""Groups runs that differ only in seeds, and labels each group with the settings that differ. Pure: no I/O."""

from collections.abc import Sequence
from typing import Any

from samebits.studies.intervals import describe_sample
from samebits.studies.read_runs import Run

MAX_KEYS = 4  # in a configuration's label
MAX_LABEL = 140


def _rank(key: str) -> tuple[int, str]:
    """Return a key's sort order in labels. The runtime's settings follow from its promise, so they come last."""
    return key.startswith("runtime.") + (key.startswith("runtime.") and key != "runtime.promise"), key


def distribution(runs: Sequence[Run], metric: str) -> dict[str, Any]:
    """Return the statistics over seeds of a metric that runs may lack. Repetitions with the same bits count once."""
    having = (run for run in runs if metric in run.metrics)
    once = {(run.key.rsplit("/", 1)[0], run.facts["weights"]): run.metrics[metric] for run in having}
    return describe_sample(sorted(once.values()))


def label(items: dict[str, str], apart: Sequence[str]) -> str:
    """Return a configuration's name and the settings that differ, shortened to one line."""
    parts = [f"{key.split('.', 1)[-1]}={items.get(key, 'absent')}" for key in apart]
    more = " …" if len(parts) > MAX_KEYS else ""
    return f"{items.get('name', '')} {', '.join(parts[:MAX_KEYS])}{more}".strip()[:MAX_LABEL]


def distinguishing_keys(items: Sequence[dict[str, str]]) -> list[str]:
    """Return the keys that differ between configurations, in the order of a label.

    The runtime's settings are left out if the other keys are enough to distinguish the configurations.
    """
    keys = sorted({key for each in items for key in each if key != "name"})
    apart = [key for key in keys if len({each.get(key) for each in items}) > 1]
    plain = [key for key in apart if not key.startswith("runtime.") or key == "runtime.promise"]
    if len({tuple(each.get(key) for key in ("name", *plain)) for each in items}) == len(items):
        apart = plain
    return sorted(apart, key=_rank)


def configurations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the groups of runs that differ only in seeds, each labelled with the settings that differ."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.configuration, []).append(index)
    items = {name: runs[members[0]].configuration_items for name, members in groups.items()}
    apart = distinguishing_keys(list(items.values()))
    found = []
    for name, places in groups.items():
        members = [runs[place] for place in places]
        metrics = dict.fromkeys(metric for run in members for metric in run.metrics)
        distributions = {metric: distribution(members, metric) for metric in metrics}
        found.append({"name": name, "label": label(items[name], apart), "runs": places, "metrics": distributions})
    return sorted(found, key=lambda group: (group["label"], group["name"]))
