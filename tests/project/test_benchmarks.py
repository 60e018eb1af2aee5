"""The benchmarks' commands, small: that they run to their end and count what they say they count."""

import re
import subprocess
import sys

from conftest import QUIET, ROOT

from samebits.compose import compose


def run_benchmark(name: str, *words: str) -> str:
    """Run a benchmark as its reader does and return what it printed."""
    command = [sys.executable, str(ROOT / "tools" / "benchmarks" / name), *words]
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_the_roofline_counts_every_layer() -> None:
    """Of the small model, with the default's sizes of words: the convolution's multiply-and-adds, counted by hand."""
    words = "experiment=smoke", "data.sequence_length=100", "data.num_words=20000"
    shown = run_benchmark("roofline.py", "--steps=10", *words)
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
    assert {"a whole step, 1 core", "a whole step, 2 cores"} & set(rows)


def test_many_runs_are_made_and_measured() -> None:
    """Twenty runs: the study's summary and the report end well over them."""
    shown = run_benchmark("many_runs.py", "20")

    assert 3 == shown.count("samebits study, all finished")
    assert 3 == shown.count("samebits report")
