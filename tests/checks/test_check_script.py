"""`samebits check-script`: planted causes, each named with its line, and changes that make the script repeat."""

import pathlib

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


@pytest.mark.parametrize("name", CASES)
def test_a_planted_cause_is_named_and_solved(
    name: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cause, its line and the change are printed, and two runs of the changed script agree."""
    text, cause, line, change = CASES[name]

    assert 1 == check(folder, text)
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
