"""`samebits run script.py` in training processes: a script of somebody else, in a folder that is no project."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import QUIET, ROOT, TrainHere, digest, finished

from samebits import cli
from samebits.compose import compose_script
from samebits.core.config import Config
from samebits.core.errors import ConfigError
from samebits.runs.identity import name_inputs

SCRIPT = """
import argparse, os, random, signal, sys
os.environ["TF_DETERMINISTIC_OPS"] = "1"
import numpy as np
import tensorflow as tf
from tensorflow import keras
from helper import UNITS

tf.keras.utils.set_random_seed(42)
tf.config.threading.set_intra_op_parallelism_threads(7)
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
epochs = parser.parse_args().epochs
rows = np.loadtxt("rows.csv", delimiter=",", dtype="float32")
x, y = rows[:, :4], (rows[:, 4] > 0).astype("float32")
x = x + 0.1 * np.random.normal(size=x.shape).astype("float32")


class Kill(keras.callbacks.Callback):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def on_train_batch_end(self, batch, logs=None):
        self.batch = f"{self.name} {len(self.model.history.epoch) + 1} {batch + 1}"
        if os.environ.get("KILL") == self.batch and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


model = keras.Sequential(
    [keras.Input((4,)), keras.layers.Dense(UNITS, activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
)
model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
stopping = keras.callbacks.EarlyStopping()
history = model.fit(x, y, epochs=epochs, batch_size=8, validation_split=0.2, callbacks=[stopping])
print("first", history.epoch, len(history.history["val_loss"]))
for learning_rate in (0.01, 0.001):
    model.optimizer.learning_rate = learning_rate
    history = model.fit(x, y, epochs=3, initial_epoch=1, batch_size=8, verbose=0, callbacks=[Kill(learning_rate)])
print("last", history.epoch, model.evaluate(x, y, verbose=0), random.random(), file=sys.stderr)
names = os.listdir(".")
"""


RUN_FOR_KILLS = ("run", "script.py", "tracker=none", "training.checkpoint_every=2")


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return the folder of a script, which is the current one and no project."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("UNITS = 6\n")
    rows = [
        "{:.3f},{:.3f},{:.3f},{:.3f},{:.3f}".format(*((i * k % 7 - 3) / 3 for k in (1, 2, 3, 5, 4))) for i in range(40)
    ]
    (folder / "rows.csv").write_text("\n".join(rows))
    monkeypatch.chdir(folder)
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(train_here: TrainHere, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command line of `samebits`, whose training processes are forks."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        return code, *capfd.readouterr()

    return run


def read(attempt: pathlib.Path, name: str) -> Any:
    """Return a JSON file of a run."""
    return json.loads((attempt / name).read_text())


def test_a_script_runs_as_it_is(run: Run, folder: pathlib.Path) -> None:
    """It gets its arguments, prints to the terminal, is told what it cannot set, and leaves a whole record in runs/."""
    before = {path.name for path in folder.iterdir()}
    code, printed, errors = run("run", "script.py", "tracker=none", "--", "--epochs", "1")
    (attempt,) = finished(folder)
    result = read(attempt, "result.json")

    assert 0 == code, errors
    assert "first [0] 1" in printed
    assert "last [1, 2]" in errors
    assert "script.py, line 3: TF_DETERMINISTIC_OPS is ignored" in errors
    assert "script.py, line 9: set_random_seed seeds the global generators only" in errors
    assert "script.py, line 10: set_intra_op_parallelism_threads is ignored" in errors
    assert f"script.py, line {len(SCRIPT.splitlines())}: the order of files depends on the file system" in errors
    assert before | {"runs"} == {path.name for path in folder.iterdir()}
    assert ["fit 1", "fit 2", "fit 3"] == [stage["name"] for stage in result["stages"]]
    assert ["rows.csv"] == list(read(attempt, "files.json"))
    assert {"script.py", "helper.py"} < set(read(attempt.parent, "inputs.json")["code"]["files"])
    assert (attempt.parent / "source" / "helper.py").exists()


@pytest.mark.parametrize(
    ("kill", "again"),
    [("0.001 2 3", ("resume", "last")), pytest.param("0.01 1 1", RUN_FOR_KILLS, marks=pytest.mark.full)],
)
def test_a_script_killed_in_any_call_of_fit_resumes_to_the_same_bits(
    run: Run, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kill: str, again: tuple[str, ...]
) -> None:
    """The same command, or `samebits resume last`, goes on where it was.

    `explain` finds the records equal, and unequal to another seed's.
    """
    monkeypatch.setenv("KILL", kill)
    words = RUN_FOR_KILLS
    code, printed, _ = run(*words)

    assert 1 == code
    assert "SIGKILL" in printed
    code, printed, errors = run(*again)
    assert 0 == code, errors
    assert "resumes" in printed
    assert 0 == run(*words, "resume=never")[0]
    killed, whole = finished(folder)
    for name in ("metrics.jsonl", "trace.jsonl", "files.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    assert digest(whole) == digest(killed)
    assert read(killed, "result.json")["stages"] == read(whole, "result.json")["stages"]
    assert 0 == run("explain", "last~1", "last")[0]
    assert 0 == run(*words, "seed.root=57")[0]
    assert 1 == run("explain", "last~1", "last")[0]


@pytest.mark.full
def test_explain_runs_a_script_again(run: Run, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs are repeated up to the epoch that differs. What an unrecorded variable changed does not repeat."""
    changing = "os.environ.get('CHANGE') and model.layers[0].kernel.assign(model.layers[0].kernel * 1.001)"
    model, fit = SCRIPT.split("stopping = ", 1)
    change = f"change = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch == 1 and {changing})\n"
    fit = fit.replace("callbacks=[stopping]", "callbacks=[stopping, change]")
    (folder / "script.py").write_text(f"{model}{change}stopping = {fit}")
    words = ("run", "script.py", "tracker=none", "--", "--epochs", "3")
    assert 0 == run(*words)[0]
    monkeypatch.setenv("CHANGE", "1")
    assert 1 == run(*words)[0]
    code, printed, errors = run("explain", "last~1", "last")

    assert 1 == code, errors
    assert "running A again with epoch 2 traced by stage" in printed
    assert "note: A did not repeat its own recorded bits (epoch 2" in printed
    assert "first divergence: epoch 2" in printed


@pytest.mark.parametrize("caller", ["the script", "a library"])
def test_a_variable_is_ignored_if_the_script_sets_it_and_not_a_library(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, caller: str
) -> None:
    """A line of the script is named; scikit-learn sets a variable while a script imports it, and reads it at once."""
    from samebits.train.notices import Notices

    monkeypatch.delenv("OMP_OF_A_TEST", raising=False)
    own = "import os\nos.environ['OMP_OF_A_TEST'] = '1'"
    library = compile("import os\nos.environ.setdefault('OMP_OF_A_TEST', '1')", "site-packages/library.py", "exec")
    text = own if caller == "the script" else "exec(library)"
    with Notices(tmp_path / "script.py", Config()):
        exec(compile(text, str(tmp_path / "script.py"), "exec"), {"library": library})  # noqa: S102
    is_set = os.environ.pop("OMP_OF_A_TEST", None)

    assert ("1" if caller == "a library" else None) == is_set
    assert (caller == "the script") == ("script.py, line 2: OMP_OF_A_TEST is ignored" in caplog.text)


def test_a_run_is_named_by_what_decides_its_bits(folder: pathlib.Path) -> None:
    """The script, a module that it imports, and its arguments are in the name; another file of its folder is not."""

    def name(*arguments: str) -> str:
        return name_inputs(compose_script(["tracker=none"], pathlib.Path("script.py"), arguments), folder)

    first = name()
    (folder / "unrelated.py").write_text("A = 1\n")

    assert first == name()
    assert first != name("--epochs", "3")
    (folder / "helper.py").write_text("UNITS = 7\n")
    second = name()
    assert first != second
    (folder / "script.py").write_text(SCRIPT + "\n")
    assert second != name()


@pytest.mark.parametrize("word", ["training.epochs=3", "data.rows=4", "script.path=x.py", "+training.batch_size=2"])
def test_what_the_script_decides_cannot_be_set(folder: pathlib.Path, word: str) -> None:
    """The error has the key and says what to do."""
    with pytest.raises(ConfigError, match="a setting that a script does not decide"):
        compose_script([word], pathlib.Path("script.py"), [])


def test_an_error_of_the_script_is_shown_from_its_line_on(run: Run, folder: pathlib.Path) -> None:
    """The terminal gets the traceback of the script without the harness, and the run fails."""
    (folder / "script.py").write_text("import helper\nhelper.missing()\n")
    code, _, errors = run("run", "script.py", "tracker=none")

    assert 1 == code
    assert 'script.py", line 2, in <module>' in errors
    assert "samebits" not in errors.partition("AttributeError")[0].partition("Traceback")[2]


@pytest.mark.full
def test_verify_trains_a_script_under_different_conditions(folder: pathlib.Path) -> None:
    """Two runs in fresh processes are identical; with a draw from the operating system they are not."""
    command = [sys.executable, "-m", "samebits", "verify", "script.py", "tracker=none"]
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    done = verify()
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "VERIFIED" in done.stdout
    (folder / "script.py").write_text(SCRIPT.replace("0.1 *", "0.1 * (os.urandom(1)[0] + 1) *"))
    done = verify()
    assert 1 == done.returncode
    assert "NOT VERIFIED" in done.stdout
    assert "data train/inputs" in done.stdout


@pytest.mark.full
def test_a_study_and_the_tracker_take_a_script(run: Run, folder: pathlib.Path) -> None:
    """A study trains it with each seed. A run that Comet follows has the bits of the study's run, and an archive."""
    script = ("script.py", "--", "--epochs", "1")
    code, printed, errors = run("study", "--seeds", "1..2", "tracker=none", *script)

    assert 0 == code, printed + errors
    one, two = finished(folder)
    assert digest(one) != digest(two)
    code, printed, errors = run("run", "seed.root=2", *script)
    assert 0 == code, printed + errors
    assert "Comet: offline archive" in printed + errors
    assert "same bits as 1 earlier run" in printed
    (archive,) = finished(folder)[-1].glob("comet/*.zip")
    assert archive.stat().st_size
