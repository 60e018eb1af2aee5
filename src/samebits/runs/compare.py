"""Compares a finished run with the other attempts of its inputs: under a promise they must have the same bits."""

import dataclasses
import pathlib
from dataclasses import dataclass

from samebits.core.errors import RecordError
from samebits.runs.folder import RESULT, TRACE, is_finished, list_attempts, read_json, read_rows
from samebits.runs.trace_diff import first_divergence

PROMISED = ("portable", "machine")  # the levels under which other bits are an error


@dataclass(frozen=True)
class Comparison:
    """What a finished run has to do with the earlier attempts of its inputs.

    Attributes:
        equal: Attempts that ended with the same weights digest.
        different: Attempts that did not, although nothing that decides the arithmetic differs.
        elsewhere: Attempts left out, made where the promise does not reach.
        unreadable: Attempts left out, whose results are damaged.
        first_difference: The first trace record that differs from the newest of `different`, in words.
    """

    equal: list[str]
    different: list[str]
    elsewhere: list[str]
    first_difference: str = ""
    unreadable: tuple[str, ...] = ()


def first_difference(a: pathlib.Path, b: pathlib.Path) -> str:
    """Return in words the first trace record in which two attempts differ."""
    found = first_divergence(read_rows(a / TRACE), read_rows(b / TRACE))
    return str(found) if found else "nothing in their traces"


def compare_with_siblings(attempt: pathlib.Path) -> Comparison:
    """Compare a finished attempt with every other finished attempt of its inputs."""
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
    first = first_difference(attempt.parent / different[-1], attempt) if different else ""
    return Comparison(equal, different, elsewhere, first, tuple(unreadable))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe_comparison(comparison: Comparison, promise: str) -> tuple[str, bool]:
    """Return one line about the siblings, and whether a promise was broken."""
    if comparison.unreadable:
        line, broken = describe_comparison(dataclasses.replace(comparison, unreadable=()), promise)
        return f"{line}; not compared with damaged results: {', '.join(comparison.unreadable)}", broken
    if comparison.different:
        broken = promise in PROMISED
        names = ", ".join(comparison.different)
        scope = f"{promise} promises the same bits" if broken else f"{promise} promises nothing"
        first = comparison.first_difference
        return f"DIFFERENT BITS than attempt {names} of these inputs ({scope}); first divergence: {first}", broken
    if comparison.equal:
        return f"same bits as {_count(len(comparison.equal), 'earlier run')} of these inputs", False
    if comparison.elsewhere:
        return f"not compared with {_count(len(comparison.elsewhere), 'run')} on other kinds of machine", False
    return "first run of these inputs; run it again to compare", False
