"""`samebits check-script`: planted causes, each named with its line, and changes that make the script repeat."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import pytest

from samebits.checks.script import check_script
from samebits.checks.script.trial import ScriptError
from samebits.core.errors import UsageError

SAME = "With these changes two runs have the same bits."
REPEATS = "repeats itself"
# ruff: noqa: E501  each case is a line
# The script; the cause and its line; a line of the changes.
CASES = {
    "python": ("import random\nx = [random.random() for _ in range(3)]\n", "Python's global generator", 2, "+random.seed(0)"),
    "numpy": ("import numpy as np\nx = np.random.rand(3)\n", "NumPy's global generator", 2, "+np.random.seed(0)"),
    "default_rng": (
        "import numpy as np\nrng = np.random.default_rng()\nx = rng.normal(size=3)\n",
        "a generator made without a seed", 2, "+rng = np.random.default_rng(0)",
    ),
    "RandomState": (
        "from numpy.random import RandomState\nx = RandomState(None).rand(3)\n",
        "a generator made without a seed", 2, "+x = RandomState(0).rand(3)",
    ),
    "Random": (
        "import random\nx = random.Random().random()\n", "a generator made without a seed", 2, "+x = random.Random(0).random()",
    ),
    "set": (
        "words = set('one two three four five six seven'.split())\nnumbers = {w: n for n, w in enumerate(words)}\n",
        "the order of a set", 2, "enumerate(sorted(words))",
    ),
    "hash": ("names = ['a', 'b']\nseed = hash(names[0]) % 1000\n", "hash()", 2, "PYTHONHASHSEED=0 python script.py"),
    "listdir": (
        "import os\nnames = os.listdir('data')\n", "the order in which a folder lists its files", 2,
        "+names = sorted(os.listdir('data'))",
    ),
    "glob": (
        "import pathlib\nnames = [p.name for p in pathlib.Path('data').glob('*.txt')]\n",
        "the order in which a folder lists its files", 2, "in sorted(pathlib.Path('data').glob('*.txt'))]",
    ),
    "walk": (
        "import os\nfound = []\nfor folder, _, names in os.walk('data'):\n    found += names\n",
        "the order in which a folder lists its files", 3, "in sorted((path, sorted(folders), sorted(files)) for",
    ),
    "clock": (
        "import random, time\nstart = time.time()\nrandom.seed(int(time.time()))\nx = random.random()\nprint('took', time.time() - start)\n",
        "the clock", 3, "+random.seed(int(0.0))",
    ),
    "datetime": (
        "from datetime import datetime\nimport numpy as np\nrng = np.random.default_rng(datetime.now().microsecond)\n",
        "the clock", 3, "datetime(2000, 1, 1).microsecond",
    ),
    "zone": (
        "import datetime\nhour = datetime.datetime.fromtimestamp(1_700_000_000).hour\n",
        "the time zone", 2, "TZ=UTC python script.py",
    ),
    "locale": (
        "import locale\nlocale.setlocale(locale.LC_ALL, '')\nencoding = locale.nl_langinfo(locale.CODESET)\n",
        "the language settings", 3, "LC_ALL=C.UTF-8 python script.py",
    ),
    "urandom": (
        "import os\nx = list(os.urandom(4))\n", "from the operating system", 2, "+x = list(random.Random(0).randbytes(4))",
    ),
    "uuid": ("import uuid\nname = str(uuid.uuid4())\n", "from the operating system", 2, "getrandbits(128)"),
    "too late": (
        "import random\nx = random.random()\nrandom.seed(7)\ny = random.random()\n",
        "line 3 seeds after line 2 has drawn", 2, "+random.seed(7)",
    ),
    "in a function": (
        "import numpy as np\n\n\ndef noise(rows):\n    return rows + np.random.normal(size=rows.shape)\n\n\nx = noise(np.zeros(3))\n",
        "NumPy's global generator", 5, "+np.random.seed(0)",
    ),
    "two in one line": (
        "import random\nimport numpy as np\nx = random.random() + np.random.rand()\n",
        "NumPy's global generator", 3, "+random.seed(0)",
    ),
}  # fmt: skip
REPEATING = """
import os, random, time
import numpy as np

start = time.time()
random.seed(1)
rng = np.random.default_rng(2)
words = sorted({"one", "two", "three"})
names = sorted(os.listdir("data"))
x = rng.normal(size=3) + random.random()
report = {"x": x, "seconds": time.time() - start}
print("took", report["seconds"])
"""

# Causes that only TensorFlow has.
IN_TENSORFLOW = {
    "threads": (
        """import keras
import numpy as np
keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(64, 28, 28, 1)).astype("float32")
layers = [keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
model = keras.Sequential(layers)
model.compile("sgd", "mse")
model.fit(x, x.mean((1, 2, 3)), epochs=1, batch_size=32, verbose=0)
""",
        "the number of threads, which is that of the cores", 8, "+tf.config.threading.set_intra_op_parallelism_threads(4)",
    ),
    "order": (
        """import random, time
import tensorflow as tf
def wait(number):
    time.sleep(random.Random(int(time.time_ns())).random() / 50)
    return number
rows = tf.data.Dataset.range(20)
rows = rows.map(lambda i: tf.py_function(wait, [i], tf.int64), num_parallel_calls=4, deterministic=False)
numbers = [int(number) for number in rows]
""",
        "a tf.data pipeline that may change the order", 7, "deterministic=True)",
    ),
}  # fmt: skip
KERAS = """import keras
import numpy as np
import tensorflow as tf

x = np.arange(120, dtype="float32").reshape(-1, 2) / 120
rows = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).shuffle(60).batch(10)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("sgd", "mse")
keras.utils.set_random_seed(7)
model.fit(rows, epochs=1, verbose=0)
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return the current folder, with some files for scripts that list them."""
    (tmp_path / "data").mkdir()
    for name in ("b.txt", "a.txt", "c.txt"):
        (tmp_path / "data" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(folder: pathlib.Path, text: str, *disabled: str, seconds: float = 60) -> int:
    """Check a script and return the exit code."""
    (folder / "script.py").write_text(text)
    return check_script.check_script(pathlib.Path("script.py"), [], seconds, disabled=disabled)


def full(names: Iterable[str]) -> list[Any]:
    """Return parameters of full tests."""
    return [pytest.param(name, marks=pytest.mark.full) for name in names]


@pytest.mark.parametrize("name", [*CASES, *full(IN_TENSORFLOW)])
def test_a_planted_cause_is_named_and_solved(
    name: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cause, its line and the change are printed, and two runs of the changed script agree."""
    text, cause, line, change = (CASES | IN_TENSORFLOW)[name]

    assert 1 == check(folder, text, seconds=600)
    said = capsys.readouterr().out
    assert cause in said
    assert f"(script.py, line {line})" in said
    assert change in said
    assert SAME in said
    assert text == (folder / "script.py").read_text()


@pytest.mark.full
def test_the_causes_in_a_keras_script_are_named(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first difference is in a weight, the next in a step of `fit`. The seed that comes too late moves up."""
    assert 1 == check(folder, KERAS, seconds=600)
    said = capsys.readouterr().out
    assert "first part that differs: sequential/dense/kernel" in said
    assert "Python's global generator (script.py, line 7)" in said
    assert "line 9 seeds after line 7 has drawn" in said
    assert "the two runs agree up to script.py, line 10, fit 1, epoch 1, step 1, loss." in said
    assert "TensorFlow's global generator (script.py, line 10)" in said
    assert "-keras.utils.set_random_seed(7)" in said
    assert "+keras.utils.set_random_seed(7)" in said
    assert SAME in said


def test_a_script_that_repeats_is_said_to_repeat(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sorted sets and folders, seeds, and times that are only measured are no fault."""
    assert 0 == check(folder, REPEATING)
    assert REPEATS in capsys.readouterr().out


def test_a_cause_needs_its_proof(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control: without the pin, the cause is not named, and the difference is said to be unexplained."""
    assert 1 == check(folder, CASES["numpy"][0], "numpy")
    said = capsys.readouterr().out
    assert "NumPy's global generator" not in said
    assert "Not explained: script.py, line 2, x" in said
    assert SAME not in said


def test_a_notebook_is_checked_as_the_script_of_its_cells(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines are counted through the code cells. What is no Python is left out, and named."""
    cells = [
        ("code", "%matplotlib inline\nimport numpy as np"),
        ("markdown", "A text."),
        ("code", "x = np.random.rand(3)\ndisplay(x.shape)"),
    ]
    content = {"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells], "nbformat": 4}
    (folder / "notebook.ipynb").write_text(json.dumps(content))

    assert 1 == check_script.check_script(pathlib.Path("notebook.ipynb"), [], 60)
    said = capsys.readouterr().out
    assert "left out: %matplotlib inline" in said
    assert "NumPy's global generator (notebook.ipynb, line 3)" in said
    assert SAME in said
    assert json.dumps(content) == (folder / "notebook.ipynb").read_text()


def test_a_notebook_in_a_folder_of_too_many_files_to_copy(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs work in the folder itself, and the names in the report are relative to it."""
    monkeypatch.setattr("samebits.checks.script.trial.MAX_FILES", 0)
    cell = {"cell_type": "code", "source": ["import numpy as np\n", "x = np.random.rand(3)"]}
    (folder / "data" / "notebook.ipynb").write_text(json.dumps({"cells": [cell], "nbformat": 4}))

    assert 1 == check_script.check_script(pathlib.Path("data/notebook.ipynb"), [], 60)
    said = capsys.readouterr().out
    assert "NumPy's global generator (data/notebook.ipynb, line 2)" in said
    assert SAME in said


def test_a_script_outside_of_the_current_folder(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run where it is, and the changes are those of its own folder's file."""
    (folder / "script.py").write_text(CASES["numpy"][0])
    monkeypatch.chdir(folder / "data")

    assert 1 == check_script.check_script(pathlib.Path("../script.py"), [], 60)
    said = capsys.readouterr().out
    assert "NumPy's global generator (script.py, line 2)\n    x = np.random.rand(3)" in said
    assert SAME in said


def test_a_script_that_computes_nothing_is_not_said_to_repeat(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a recorded value nothing was compared."""
    assert 1 == check(folder, "pass\n")
    said = capsys.readouterr().out
    assert "nothing was compared" in said
    assert REPEATS not in said


def test_a_cause_in_an_imported_file_is_changed_there(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The changes have one part per file of the script's folder."""
    (folder / "helper.py").write_text("import numpy as np\nrng = np.random.default_rng()\nW = rng.normal()\n")

    assert 1 == check(folder, "from helper import W\nx = W + 1\n")
    said = capsys.readouterr().out
    assert "+++ helper.py (changed)" in said
    assert SAME in said


def test_times_that_are_only_printed_are_no_fault(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script is said to print times, and the exit code is 0."""
    assert 0 == check(
        folder, "import time\ndef now():\n    return time.time()\ndef show():\n    print(now())\nshow()\n"
    )
    assert "These are times" in capsys.readouterr().out


def test_a_script_that_fails_reads_or_hangs_is_named(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each gets clear words. The output of a failed script is shown."""
    with pytest.raises(ScriptError, match="failed in run 1"):
        check(folder, "print('before')\nraise ValueError('planted')\n")
    assert "ValueError: planted" in capsys.readouterr().err
    with pytest.raises(UsageError, match="line 1 reads it"):
        check(folder, "name = input()\n")
    with pytest.raises(ScriptError, match="did not end"):
        check(folder, "import time\ntime.sleep(60)\n", seconds=1)
