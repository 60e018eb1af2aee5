"""Reads run folders into plain data for the report. Only reads; draws nothing."""

import json
import math
import pathlib
from dataclasses import dataclass, field
from typing import Any

from samebits.core.config import flatten
from samebits.core.digest import json_digest
from samebits.core.errors import SamebitsError
from samebits.core.metrics import VALIDATION, Monitor
from samebits.runs.compare import PROMISED, Comparison, compare_with_siblings
from samebits.runs.effects import PLACES, machine_items
from samebits.runs.folder import (
    CONFIG,
    INPUTS,
    MACHINE,
    METRICS,
    RESULT,
    SEEDS,
    describe_end,
    is_finished,
    list_all_attempts,
    metric_values,
    read_json,
    read_metrics,
)

POINTS = "seed.points."
FIGURES = 6  # significant digits of a curve's numbers


@dataclass
class Run:
    """One finished attempt.

    Attributes:
        key: "<name>/<inputs digest>/<attempt>", the end of the run's folder.
        seed: The root seed.
        metrics: The last finite values, not rounded.
        monitor: The metric that ranks the run.
        not_finite: The metrics with a value that is not a finite number, which is not shown.
        verdict: "held", "broken", "alone", "elsewhere", "same" or "differs" (nothing promised), or "unknown".
        verdict_text: The verdict in words.
        configuration: Digest of the inputs without the seeds' values, but with the names of separately set points.
        curves: Metric -> its points: pairs of step (training) or epoch (validation) and value.
        inputs: Item -> value as text, for everything in which two runs can differ.
        facts: Further columns of the table.
    """

    key: str
    seed: Any
    metrics: dict[str, float]
    monitor: Monitor
    not_finite: list[str]
    verdict: str
    verdict_text: str
    configuration: str
    configuration_items: dict[str, str]
    curves: dict[str, list[list[float]]]
    inputs: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """An attempt that looks finished but cannot be read."""

    key: str
    reason: str


def run_key(attempt: pathlib.Path) -> str:
    """Return the last three parts of an attempt's folder, which name it independently of the runs folder."""
    return "/".join(attempt.parts[-3:])


def finished_attempts(runs: pathlib.Path) -> list[pathlib.Path]:
    """Return every finished attempt in a folder of runs, sorted by name, digest and number."""
    return [attempt for attempt in list_all_attempts(runs) if is_finished(attempt)]


def as_text(value: Any) -> str:
    """Return a value of a configuration as one line of text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def judge(comparison: Comparison, promise: str) -> tuple[str, str]:
    """Return whether a run's promise held, as a verdict and in words."""
    promised = promise in PROMISED
    if comparison.different:
        names = ", ".join(comparison.different)
        text = f"different bits from attempt {names}; first divergence: {comparison.first_difference}"
        return ("broken", text) if promised else ("differs", f"{text} ({promise} promises nothing)")
    if comparison.equal:
        text = f"same bits as attempt {', '.join(comparison.equal)}"
        return ("held", text) if promised else ("same", f"{text} (though {promise} promises nothing)")
    if comparison.elsewhere:
        return "elsewhere", f"not compared with attempts on other kinds of machine: {', '.join(comparison.elsewhere)}"
    if comparison.unreadable:
        return "unknown", f"other runs with these inputs cannot be read: {', '.join(comparison.unreadable)}"
    return "alone", "the only finished run with these inputs: train it again to compare"


def _judge(attempt: pathlib.Path, promise: str) -> tuple[str, str]:
    try:
        return judge(compare_with_siblings(attempt), promise)
    except SamebitsError as error:
        return "unknown", f"another run with these inputs cannot be read: {_reason(error)}"


def _reason(error: Exception) -> str:
    """Return an error's reason without the folder, so that copies of the same runs give the same text."""
    if isinstance(error, SamebitsError):
        what = pathlib.PurePath(error.what.split(" could not")[0].split(" is damaged")[0]).name
        return " ".join(f"{what}: expected {error.expected}, received {error.received}".split())
    return f"{type(error).__name__}: {error}"


def _without_folder(text: str, attempt: pathlib.Path) -> str:
    return text.replace(str(attempt.resolve()), "…").replace(str(attempt), "…").replace(str(attempt.parent), "…")


def _figure(value: Any) -> float:
    """Return a number of a curve, rounded to six digits.

    Raises:
        ValueError: It is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{METRICS} has {value!r} instead of a number")
    return float(f"{value:.{FIGURES}g}")


def thin(points: list[list[float]], most: int) -> list[list[float]]:
    """Return at most `most` points, evenly spaced, including the first and the last."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def read_curves(rows: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Return the finite points of each metric: training by step over all epochs, validation by epoch.

    Args:
        rows: As of `read_metrics`. A row may lack a metric.

    Raises:
        ValueError: There are no rows.
    """
    if not rows:
        raise ValueError(f"{METRICS} is missing or empty")
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        for name, value in metric_values(row).items():
            place = row["epoch"] if name.startswith(VALIDATION) else row["global_step"]
            points = curves.setdefault(name, [])
            if math.isfinite(value):
                points.append([place, _figure(value)])
    return curves


def _input_items(inputs: dict[str, Any], machine: dict[str, Any], seeds: dict[str, Any]) -> dict[str, str]:
    items = {f"config {key}": value for key, value in flatten(inputs["config"]).items() if not key.startswith(POINTS)}
    items |= {f"seed {row['point']}": row["value"] for row in seeds["points"]}
    items |= {f"code {path}": digest[:12] for path, digest in inputs["code"]["files"].items()}
    items |= {"lock requirements.lock": inputs["lock"][:12]} | machine_items(machine)
    return {key: as_text(value) for key, value in items.items() if key not in PLACES}


def _read(attempt: pathlib.Path) -> Run:
    result, inputs = read_json(attempt / RESULT), read_json(attempt.parent / INPUTS)
    machine, seeds = read_json(attempt / MACHINE), read_json(attempt / SEEDS)
    if not (attempt / CONFIG).is_file():
        raise ValueError(f"{CONFIG} is missing")
    rows = read_metrics(attempt)
    verdict, words = _judge(attempt, result["promise"])
    config = flatten(inputs["config"])
    fixed = {key: as_text(value) for key, value in config.items() if not key.startswith(("seed.root", POINTS))}
    # Runs in which the same points were set separately form their own distribution.
    alone = [key for key, value in config.items() if key.startswith(POINTS) and value is not None]
    fixed["seed.alone"] = " ".join(key.removeprefix(POINTS) for key in alone) or "none"
    fixed |= {"code": inputs["code"]["digest"][:8], "requirements.lock": inputs["lock"][:8]}
    values = [pair for each in (*rows, result["metrics"]) for pair in metric_values(each).items()]
    cpu = machine["cpu"]
    return Run(
        key=run_key(attempt),
        seed=config.get("seed.root"),
        metrics={name: value for name, value in result["metrics"].items() if math.isfinite(value)},
        monitor=Monitor.of(inputs["config"]["training"]),
        not_finite=list(dict.fromkeys(name for name, value in values if not math.isfinite(value))),
        verdict=verdict,
        verdict_text=_without_folder(words, attempt),
        configuration=json_digest(fixed)[:12],
        configuration_items=fixed,
        curves=read_curves(rows),
        inputs=_input_items(inputs, machine, seeds),
        facts={
            "promise": result["promise"],
            "weights": result["weights_digest"],
            "data": result["data_digest"],
            "fingerprint": result["fingerprint"],
            "epochs": max(row["epoch"] for row in rows),
            "stopped": describe_end(result, inputs["config"]["training"]["epochs"]),
            "steps": result.get("steps"),
            "resumed": result["resumed_at"] is not None,
            "training_s": result["timing"].get("training_s"),
            "machine": f"{cpu['model']}, {cpu.get('cores_usable')} cores, Python {machine['python']}",
            "consumers": {row["point"]: [row["source"], row["consumer"], row["rests"]] for row in seeds["points"]},
        },
    )


def read_run(attempt: pathlib.Path) -> Run | Unreadable:
    """Return a finished attempt's data, or the reason why it cannot be read."""
    try:
        return _read(attempt)
    except (SamebitsError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else _reason(error)
        return Unreadable(run_key(attempt), _without_folder(reason, attempt))


def read_variance(runs: pathlib.Path) -> list[dict[str, Any]]:
    """Return the results of the variance studies in runs/studies; damaged files are left out."""
    found = []
    for path in sorted((runs / "studies").glob("*/study.json")):
        try:
            parts = read_json(path)["variance"]
            rows = [
                {
                    "study": path.parent.name,
                    "source": str(part["source"]),
                    "metric": str(part["metric"]),
                    **{key: _figure(part[key]) for key in ("sd", "low", "high") if part.get(key) is not None},
                    "values": [_figure(value) for value in part.get("values") or []],
                }
                for part in parts
            ]
        except (SamebitsError, ValueError, TypeError, KeyError, AttributeError):
            continue
        found += [row for row in rows if "sd" in row]
    return found
