"""The look at the source for randomness that no seed point covers."""

import pathlib

import pytest
from conftest import PACKAGE, ROOT

from samebits.checks.source_scan import scan, scan_text


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import random; random.shuffle(rows)", "random.shuffle draws from a global or unseeded generator"),
        ("np.random.rand(3)", "np.random.rand draws from a global or unseeded generator"),
        ("rng = np.random.default_rng()", "np.random.default_rng draws from a global or unseeded generator"),
        ("tf.random.uniform([3])", "tf.random.uniform draws from a global or unseeded generator"),
        ("keras.layers.Dropout(0.5)", "keras.layers.Dropout without seed="),
        ("keras.initializers.HeNormal()", "keras.initializers.HeNormal without seed="),
        ("for name in {1, 2}: pass", "iteration over a set: its order depends on the hash seed"),
        ("words = [w for w in set(text)]", "iteration over a set: its order depends on the hash seed"),
        ("for n, w in enumerate(list(set(text))): pass", "iteration over a set: its order depends on the hash seed"),
        ("for f in pathlib.Path('x').iterdir(): pass", "a folder's order is the file system's: sort it"),
        ("files = [f for f in os.listdir('x')]", "a folder's order is the file system's: sort it"),
        ("from os import urandom as u; u(3)", "os.urandom draws from the operating system"),
        ("import secrets; secrets.randbelow(9)", "secrets.randbelow draws from the operating system"),
        ("import uuid; uuid.uuid4()", "uuid.uuid4 draws from the operating system"),
        ("from random import shuffle; shuffle(rows)", "random.shuffle draws from a global or unseeded generator"),
        ("import numpy; numpy.random.rand(3)", "np.random.rand draws from a global or unseeded generator"),
        ("from numpy import random as r; r.rand(3)", "np.random.rand draws from a global or unseeded generator"),
        ("import tensorflow as t; t.random.normal([3])", "tf.random.normal draws from a global or unseeded generator"),
        ("keras.random.uniform([3])", "keras.random.uniform draws from a global or unseeded generator"),
        ("import time; rng = make(seed=int(time.time()))", "make is seeded by the clock, time.time"),
        (
            "from time import time_ns; r = random.Random(time_ns())",
            "random.Random is seeded by the clock, time.time_ns",
        ),
    ],
)
def test_the_scan_finds_unseeded_randomness(line: str, what: str) -> None:
    """Each kind of loose randomness is found in its line."""
    assert [(2, what)] == list(scan_text(f"\n{line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "keras.layers.Dropout(0.5, seed=seed('drop/dropout'))",
        "rng = np.random.default_rng(seed)",
        "for name in sorted({1, 2}): pass",
        "random.seed(3)",
        "names = sorted(path.name for path in folder.iterdir())",
        "tf.random.stateless_uniform([3], seed=(1, 2))",
        "keras.random.uniform([3], seed=seed)",
        "import time; began = time.monotonic()",
        "class Rows:\n    def shuffle(self): self.random.shuffle(3)",
    ],
)
def test_the_scan_passes_seeded_code(line: str) -> None:
    """Seeded draws and sorted sets are no findings."""
    assert [] == list(scan_text(line))


def test_a_module_with_a_syntax_error_is_a_finding() -> None:
    """It is named with its line, and is no traceback."""
    ((line, what),) = scan_text("x = 1\ndef f(:\n")

    assert 2 == line
    assert what.startswith("cannot be read as Python: ")


def test_the_scan_reads_what_a_training_runs(tmp_path: pathlib.Path) -> None:
    """User's packages wholly, of the harness the modules that can change bits; the project itself has no finding."""
    for name in ("mine/deep/net.py", "samebits/train/data.py", "samebits/checks/torture.py"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import os\nos.urandom(3)\n")

    assert [
        "src/mine/deep/net.py:2: os.urandom draws from the operating system",
        "src/samebits/train/data.py:2: os.urandom draws from the operating system",
    ] == list(scan(tmp_path / "src"))
    assert (ROOT / "src" / PACKAGE).is_dir()
    assert [] == list(scan(ROOT / "src"))
