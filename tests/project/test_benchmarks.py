"""The benchmarks run to the end in small sizes, and count correctly."""

import re
import subprocess
import sys
import unittest.mock

import pytest
from benchmarks import measuring
from benchmarks.measuring import Command
from conftest import QUIET, ROOT

from samebits.compose import compose


def run_benchmark(name: str, *words: str) -> str:
    """Run a benchmark as in docs/performance.md and return its output."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    environment = QUIET | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tools'}", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_the_roofline_counts_every_layer() -> None:
    """The count for the small model's convolution equals the multiply-and-adds counted by hand."""
    words = "experiment=smoke", "data.sequence_length=100", "data.num_words=20000"
    shown = run_benchmark("roofline", "--steps=10", *words)
    model = compose(ROOT, list(words)).model
    places = 100 - model["kernel_size"] + 1
    operations = 3 * 2 * 30 * places * model["kernel_size"] * model["embedding_dim"] * model["filters"]
    rows = {
        cells[0]: cells
        for cells in (re.findall(r"[^│ ][^│]*[^│ ]|[^│ ]", line) for line in shown.splitlines())
        if cells
    }

    assert f"{operations / 1e6:.0f}" == rows["conv"][1]
    assert {"embedding", "embedding_dropout", "pool", "lstm", "output", "optimiser", "sum"} <= set(rows)
    assert {"complete step, 1 core", "complete step, 2 cores"} & set(rows)


@pytest.mark.full
def test_many_runs_are_made_and_measured() -> None:
    """The study's summary and the report work with twenty runs."""
    shown = run_benchmark("many_runs", "20")

    assert 3 == shown.count("samebits study")
    assert 3 == shown.count("samebits report")


def test_memory_counts_every_process_of_a_command_and_its_peak() -> None:
    """A shell with two children of 60 MB each has a peak above 120 MB; with one child it does not."""
    hold = f'{sys.executable} -c "import time; held = bytearray(60_000_000); time.sleep(1.5)"'
    both, one = (Command(["sh", "-c", words]).peak_megabytes() for words in (f"{hold} & {hold}; wait", hold))

    assert both > 120 > one > 60


def test_a_timed_command_is_not_observed() -> None:
    """`seconds` does not read memory while it measures time."""
    read: list[int] = []
    with unittest.mock.patch.object(measuring, "memory_of_tree", read.append):
        taken = Command(["sleep", "0.3"]).seconds()

    assert taken >= 0.3
    assert [] == read
