"""Compares runs: two attempts record by record, one attempt with all others of the same inputs, two descriptions.

Under `portable` and `machine`, attempts with the same inputs must have the same bits.
"""

import dataclasses
import pathlib
from dataclasses import dataclass
from typing import Any

from samebits.core.config import flatten
from samebits.core.errors import RecordError
from samebits.runs.folder import METRICS, RESULT, TRACE, is_finished, list_attempts, read_json, read_rows
from samebits.runs.trace_diff import differences, first_divergence

PROMISED = ("portable", "machine")  # promises under which different bits are an error
RESULT_KEYS = ("data_digest", "weights_digest", "optimizer_digest", "predictions_digest", "metrics")


@dataclass(frozen=True)
class Comparison:
    """The result of comparing a finished run with the earlier attempts with the same inputs.

    Attributes:
        equal: Attempts that ended with the same weights digest.
        different: Attempts with another weights digest, although the promise covers both.
        elsewhere: Attempts not compared, from another kind of machine that the promise does not cover.
        unreadable: Attempts not compared, because their results are damaged.
        first_difference: The first trace record that differs from the newest of `different`, in words.
    """

    equal: list[str]
    different: list[str]
    elsewhere: list[str]
    first_difference: str = ""
    unreadable: tuple[str, ...] = ()


def first_difference(a: pathlib.Path, b: pathlib.Path, ignore: tuple[str, ...] = ("generators",)) -> str:
    """Return the first difference of two finished attempts in words, "" if there is none.

    Compares the traces, the metrics, and then the digests and metrics of the results. Both attempts must have the
    same trace level.

    Args:
        a: One attempt.
        b: The other.
        ignore: Stages of the trace to skip; see `samebits.runs.trace_diff.differences`.
    """
    trace_a, trace_b = read_rows(a / TRACE), read_rows(b / TRACE)
    found = next(differences(trace_a, trace_b, ignore), None)
    if found is not None:
        return str(found)
    if len(trace_a) != len(trace_b):
        return "number of trace records"
    metrics_a, metrics_b = read_rows(a / METRICS), read_rows(b / METRICS)
    for row_a, row_b in zip(metrics_a, metrics_b, strict=False):
        if row_a != row_b:
            return f"epoch {row_a['epoch']}, step {row_a['step']}, metrics"
    if len(metrics_a) != len(metrics_b):
        return "number of metric records"
    result_a, result_b = read_json(a / RESULT), read_json(b / RESULT)
    return next((key.replace("_", " ") for key in RESULT_KEYS if result_a.get(key) != result_b.get(key)), "")


def list_differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, value in a, value in b) for every key that differs. A missing value is "absent"."""
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [(key, a.get(key, "absent"), b.get(key, "absent")) for key in keys]


def list_nested_differences(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """Return the differences of nested data, by dotted keys; see `list_differences`."""
    return list_differences(flatten(_keyed(a)), flatten(_keyed(b)))


def _keyed(value: Any) -> Any:
    """Return nested data with lists as mappings, so that they can be flattened."""
    if isinstance(value, list):
        return {str(number): _keyed(part) for number, part in enumerate(value)}
    if isinstance(value, dict):
        return {key: _keyed(part) for key, part in value.items()}
    return value


def compare_with_siblings(attempt: pathlib.Path) -> Comparison:
    """Compare a finished attempt with every other finished attempt with the same inputs."""
    result = read_json(attempt / RESULT)
    equal, different, elsewhere, unreadable = [], [], [], []
    for sibling in list_attempts(attempt.parent):
        if sibling == attempt or not is_finished(sibling):
            continue
        try:
            other = read_json(sibling / RESULT)
        except RecordError:
            unreadable.append(sibling.name)
            continue
        if other["weights_digest"] == result["weights_digest"]:
            equal.append(sibling.name)
        elif result["promise"] in ("machine", "article") and other["fingerprint"] != result["fingerprint"]:
            elsewhere.append(sibling.name)
        else:
            different.append(sibling.name)
    first = ""
    if different:
        traces = (read_rows(folder / TRACE) for folder in (attempt.parent / different[-1], attempt))
        first = str(first_divergence(*traces) or "nothing in their traces")
    return Comparison(equal, different, elsewhere, first, tuple(unreadable))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe_comparison(comparison: Comparison, promise: str) -> tuple[str, bool]:
    """Return one line about the comparison, and whether a promise was broken."""
    if comparison.unreadable:
        line, broken = describe_comparison(dataclasses.replace(comparison, unreadable=()), promise)
        return f"{line}; not compared with damaged results: {', '.join(comparison.unreadable)}", broken
    if comparison.different:
        broken = promise in PROMISED
        names = ", ".join(comparison.different)
        scope = f"{promise} promises the same bits" if broken else f"{promise} promises nothing"
        first = comparison.first_difference
        return f"DIFFERENT BITS than attempt {names} with the same inputs ({scope}); first divergence: {first}", broken
    if comparison.equal:
        return f"same bits as {_count(len(comparison.equal), 'earlier run')} with the same inputs", False
    if comparison.elsewhere:
        return f"not compared with {_count(len(comparison.elsewhere), 'run')} on other kinds of machine", False
    return "first run with these inputs (configuration, seed, code, lock); run it again to compare", False
