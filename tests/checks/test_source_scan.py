"""The search of source code for randomness that no seed point covers."""

import pathlib

import pytest
from conftest import PACKAGE, ROOT

from samebits.checks.source_scan import scan, scan_script, scan_text


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import random; random.shuffle(rows)", "random.shuffle uses a global generator"),
        ("np.random.rand(3)", "np.random.rand uses a global generator"),
        ("rng = np.random.default_rng()", "np.random.default_rng without a seed gets one from the operating system"),
        ("tf.random.uniform([3])", "tf.random.uniform uses a global generator"),
        ("for name in {1, 2}: pass", "iteration over a set, whose order depends on the hash seed"),
        ("words = [w for w in set(text)]", "iteration over a set, whose order depends on the hash seed"),
        ("for n, w in enumerate(list(set(text))): pass", "iteration over a set, whose order depends on the hash seed"),
        ("for f in pathlib.Path('x').iterdir(): pass", "the order of files depends on the file system: sort them"),
        ("files = [f for f in os.listdir('x')]", "the order of files depends on the file system: sort them"),
        ("import os; names = os.listdir('x')", "the order of files depends on the file system: sort them"),
        (
            "names = os.listdir('x'); print(len(names)); use(names)",
            "the order of files depends on the file system: sort them",
        ),
        ("from os import urandom as u; u(3)", "os.urandom gets randomness from the operating system"),
        ("import secrets; secrets.randbelow(9)", "secrets.randbelow gets randomness from the operating system"),
        ("import uuid; uuid.uuid4()", "uuid.uuid4 gets randomness from the operating system"),
        ("from random import shuffle; shuffle(rows)", "random.shuffle uses a global generator"),
        ("import numpy; numpy.random.rand(3)", "np.random.rand uses a global generator"),
        ("from numpy import random as r; r.rand(3)", "np.random.rand uses a global generator"),
        ("import tensorflow as t; t.random.normal([3])", "tf.random.normal uses a global generator"),
        ("keras.random.uniform([3])", "keras.random.uniform uses a global generator"),
        ("import time; rng = make(seed=int(time.time()))", "make is seeded from the clock, time.time"),
        (
            "from time import time_ns; r = random.Random(time_ns())",
            "random.Random is seeded from the clock, time.time_ns",
        ),
    ],
)
def test_the_scan_finds_unseeded_randomness(line: str, what: str) -> None:
    """Each kind of unseeded randomness is found, with its line."""
    assert [(2, what)] == list(scan_text(f"\n{line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "keras.layers.Dropout(0.5)",
        "keras.initializers.HeNormal()",
        "keras.random.SeedGenerator()",
        "rng = np.random.default_rng(seed)",
        "for name in sorted({1, 2}): pass",
        "random.seed(3)",
        "names = sorted(path.name for path in folder.iterdir())",
        "tf.random.stateless_uniform([3], seed=(1, 2))",
        "names = os.listdir('x'); names.sort()",
        "names = os.listdir('x'); print(len(names))",
        "names = glob.glob('x'); use(sorted(names))",
        "keras.random.uniform([3], seed=seed)",
        "import time; began = time.monotonic()",
        "class Rows:\n    def shuffle(self): self.random.shuffle(3)",
    ],
)
def test_the_scan_passes_seeded_code(line: str) -> None:
    """Seeded generators and sorted sets are not findings."""
    assert [] == list(scan_text(line))


def test_the_scan_of_a_script_leaves_out_what_its_run_fixes() -> None:
    """Global generators and the hash seed are fixed; the clock, the system's entropy and the order of files are not."""
    code = b"""
import os, time
import numpy as np
np.random.seed(int(time.time()))
x = np.random.rand(3) + np.random.default_rng().normal()
names = os.listdir("data")
for name in {"a", "b"}:
    print(name)
"""

    assert [
        "a.py, line 4: np.random.seed is seeded from the clock, time.time",
        "a.py, line 5: np.random.default_rng without a seed gets one from the operating system",
        "a.py, line 6: the order of files depends on the file system: sort them",
    ] == list(scan_script({"a.py": code}))


def test_a_module_with_a_syntax_error_is_a_finding() -> None:
    """A file with a syntax error is a finding with its line, not a traceback."""
    ((line, what),) = scan_text("x = 1\ndef f(:\n")

    assert 2 == line
    assert what.startswith("cannot be read as Python: ")


def test_the_scan_reads_what_a_training_runs(tmp_path: pathlib.Path) -> None:
    """The scan covers all user packages and the samebits modules that can change bits; the project has no findings."""
    for name in ("mine/deep/net.py", "samebits/train/data.py", "samebits/checks/torture.py"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import os\nos.urandom(3)\n")

    assert [
        "src/mine/deep/net.py:2: os.urandom gets randomness from the operating system",
        "src/samebits/train/data.py:2: os.urandom gets randomness from the operating system",
    ] == list(scan(tmp_path / "src"))
    assert (ROOT / "src" / PACKAGE).is_dir()
    assert [] == list(scan(ROOT / "src"))
