"""Runs scripts that know nothing of samebits, in training processes that are forks, and reads what they gave."""

import pathlib

import pytest
from conftest import ROOT, Result, call_here, digest, finished

from samebits import cli
from samebits.core.digest import json_digest
from samebits.runs.folder import METRICS, TRACE, read_rows


def run_foreign(
    monkeypatch: pytest.MonkeyPatch, script: pathlib.Path, checkpoint_every: int, environment: dict[str, str]
) -> Result:
    """Run a script in its folder, without a tracker."""
    words = [
        "run",
        script.name,
        "tracker=none",
        f"training.checkpoint_every={checkpoint_every}",
        "training.log_every=2",
    ]
    variables = {"PYTHONPATH": str(ROOT / "src"), **environment}
    return call_here(monkeypatch, script.parent, words, lambda: cli.main(words), variables)


def went_on(done: Result) -> bool:
    """Return whether a run resumed in a call of `fit`, or restored one that had ended."""
    return "resumes after" in done.stdout or "ended before: restored" in done.stdout


def facts_of(folder: pathlib.Path) -> str:
    """Return the digest of what must be equal in two runs of a script: weights and records."""
    (attempt,) = finished(folder)
    rows = [(attempt / name).read_text() for name in (TRACE, METRICS) if (attempt / name).exists()]
    return json_digest([digest(attempt), *rows])


def middle_row(folder: pathlib.Path) -> int:
    """Return the number of the row of metrics in the middle of a run, counted from 1."""
    return len(read_rows(finished(folder)[0] / METRICS)) // 2 + 1
