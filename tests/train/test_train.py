"""`samebits train` end to end on the smoke experiment: same bits in fresh processes, and clear errors."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import (
    FAULTY,
    PACKAGE,
    ROOT,
    Command,
    Result,
    TrainHere,
    check_continued,
    children,
    digest,
    finished,
    run_command,
    run_script,
    start_and_wait_for_rows,
    train,
)

from samebits.core.config import RuntimeConfig
from samebits.core.errors import RuntimePinError
from samebits.core.seeds import derive_seed, dotted_key
from samebits.runtime.pins import OPTIONAL_FOR_KERAS, check_pins, expected_settings


def test_a_run_ends_with_metrics_digest_and_folder(siblings: pathlib.Path) -> None:
    """The last lines have accuracy, loss, time, digest, comparison and folder."""
    attempt = finished(siblings)[0]
    last = (siblings.parent / "1.txt").read_text().splitlines()[-3:]

    assert last[0].startswith("val_accuracy 0.9")
    comparison = "first run with these inputs (configuration, seed, code, lock); run it again to compare"
    assert last[1] == f"weights {digest(attempt)[:12]}…   {comparison}"
    assert last[2] == attempt.relative_to(siblings).as_posix()


def test_a_run_folder_holds_its_whole_record(siblings: pathlib.Path) -> None:
    """A run has inputs, configuration, machine, seeds, metrics, trace, model, result and log, and no checkpoint."""
    attempt = finished(siblings)[0]
    names = {
        "config.yaml",
        "machine.json",
        "seeds.json",
        "metrics.jsonl",
        "trace.jsonl",
        "model.keras",
        "predictions.arrays",
        "result.json",
        "log.txt",
    }

    assert names <= {path.name for path in attempt.iterdir()}
    assert [] == list(attempt.glob("checkpoint-*"))
    assert {"inputs.json", "source"} <= {path.name for path in attempt.parent.iterdir()}


def test_the_parents_environment_does_not_reach_the_bits(siblings: pathlib.Path) -> None:
    """Variables, folder, locale and time zone of the parent (`HOSTILE`) do not change the record of the run."""
    one, other = finished(siblings)

    assert "same bits as 1 earlier run" in (siblings.parent / "2.txt").read_text()
    assert digest(one) == digest(other)


def test_another_seed_gives_other_bits(project: pathlib.Path, siblings: pathlib.Path, train_here: TrainHere) -> None:
    """SEED=57 ends with another digest than SEED=56."""
    train_here(project, "seed.root=57")

    assert digest(finished(siblings)[0]) != digest(finished(project)[0])


def test_a_result_says_where_the_seconds_went(siblings: pathlib.Path) -> None:
    """The phases in the result add up to the time of the training, but for the preparation before it."""
    result = json.loads((finished(siblings)[0] / "result.json").read_text())
    phases = result["phases"]

    assert {"prepare_s", "first_step_s", "steps_s", "evaluate_s", "record_s", "finish_s"} == set(phases)
    assert all(seconds > 0 for seconds in phases.values())
    assert 0.8 < (sum(phases.values()) - phases["prepare_s"]) / result["timing"]["training_s"] <= 1


@pytest.mark.parametrize("script", ["setup_env.py", "train.py"])
def test_every_script_says_what_it_does(script: str, project: pathlib.Path) -> None:
    """`--help` of every script prints its description, has exit code 0 and starts nothing."""
    before = sorted(path for path in project.rglob("*") if "__pycache__" not in path.parts)
    done = run_script(project, script, "--help")

    assert 0 == done.returncode, done.stderr
    assert len(done.stdout.splitlines()) >= 1
    assert before == sorted(path for path in project.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.full
@pytest.mark.parametrize("level", ["machine", "article"])
def test_every_runtime_level_trains_and_records_its_promise(
    level: str, project: pathlib.Path, train_here: TrainHere
) -> None:
    """Every runtime level trains, and the record has its promise."""
    done = train_here(project, f"runtime={level}", "training.epochs=1")

    assert 0 == done.returncode, done.stderr
    assert level == promise_of(finished(project)[0])


def promise_of(attempt: pathlib.Path) -> str:
    """Return the promise in the record."""
    return str(json.loads((attempt / "machine.json").read_text())["arithmetic"]["promise"])


@pytest.mark.full
def test_nothing_seeded_gives_other_bits_each_time_and_is_no_error(
    project: pathlib.Path, train_here: TrainHere
) -> None:
    """Two runs with seed=none and runtime=free differ, and report that without an error."""
    first, second = (train_here(project, "seed=none", "runtime=free", "training.epochs=1") for _ in range(2))

    assert (0, 0) == (first.returncode, second.returncode)
    assert digest(finished(project)[0]) != digest(finished(project)[1])
    assert "free" == promise_of(finished(project)[0])
    assert "DIFFERENT BITS" in second.stdout
    assert "free promises nothing" in second.stdout


# --- killed and stopped ---


def test_a_run_whose_child_was_killed_goes_on_to_the_same_bits(
    project: pathlib.Path, siblings: pathlib.Path, train_here: TrainHere
) -> None:
    """SIGKILL of the training process has exit code 1 and the reason. The same command ends with the same bits."""
    process = start_and_wait_for_rows(project, 4, words=[FAULTY])
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    output = process.communicate()[0].decode()

    assert 1 == process.returncode
    assert "killed by SIGKILL (out of memory, or kill -9)" in output
    check_continued(project, finished(siblings)[0], again=train_here, words=[FAULTY])


def test_a_stopped_run_saves_and_goes_on(project: pathlib.Path, siblings: pathlib.Path, train_here: TrainHere) -> None:
    """SIGTERM gives a checkpoint and exit code 143, and the same command resumes."""
    process = start_and_wait_for_rows(project, 4, words=[FAULTY])
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0].decode()

    assert 143 == process.returncode
    assert "stopped; progress is saved, and the same command resumes the run" in output
    check_continued(project, finished(siblings)[0], again=train_here, words=[FAULTY])


@pytest.mark.full
def test_a_crash_says_its_reason_and_the_log(project: pathlib.Path, train_here: TrainHere) -> None:
    """A native crash in the model has exit code 1, the name of the signal and the path of the log."""
    done = train_here(project, "model._target_=faults.model.abort")

    assert 1 == done.returncode
    assert "killed by SIGABRT; log: " in done.stdout
    assert "Fatal Python error: Aborted" in next((project / "runs").glob("*/*/1/log.txt")).read_text()


ENDING = """
import atexit, importlib, pathlib, sys

loaded = [name for name in ("IPython", "matplotlib", "sklearn") if name in sys.modules]
usable = importlib.import_module("sklearn.base") is not None


def report():
    pathlib.Path("ending.txt").write_text(f"loaded {loaded} usable {usable}")


atexit.register(report)
"""


@pytest.mark.full
def test_the_training_process_runs_what_the_users_code_wants_at_its_end(project: pathlib.Path) -> None:
    """The training process runs atexit functions, and does not import the optional packages of Keras."""
    path = project / "src" / PACKAGE / "model.py"
    path.write_text(path.read_text() + ENDING)
    done = train(project, "training.epochs=1")

    assert 0 == done.returncode, done.stderr
    assert "loaded [] usable True" == (project / "ending.txt").read_text()


@pytest.mark.full
def test_a_layer_without_a_seed_has_a_point_of_its_own(
    project: pathlib.Path, train_here: TrainHere, command_here: Command
) -> None:
    """The point of a Dropout without a seed is recorded, and can be set alone."""
    model, point = "model._target_=faults.model.add_unseeded_dropout", "model/imdb_cnn_lstm/loose/seed_generator"
    done = train_here(project, model, "training.epochs=1", f"{dotted_key(point)}=5")
    rows = json.loads((finished(project)[0] / "seeds.json").read_text())["points"]
    shown = command_here(project, "seeds", "experiment=smoke", model)

    assert 0 == done.returncode, done.stderr
    assert [("set", 5)] == [(row["source"], row["value"]) for row in rows if row["point"] == point]
    assert f" {derive_seed(56, point)} " in shown.stdout


def test_a_run_that_stops_early_says_so(project: pathlib.Path, train_here: TrainHere) -> None:
    """The last lines and the result have the last and the best epoch, counted over all stages."""
    stop = "training.callbacks=[{class: keras.callbacks.EarlyStopping, min_delta: 10, patience: 1}]"
    stages = "training.stages=[{name: a, epochs: 1, callbacks: []}, {name: b, epochs: 5}]"
    done = train_here(project, stop, stages)
    result = json.loads((finished(project)[0] / "result.json").read_text())

    assert 0 == done.returncode, done.stderr
    assert "stopped at epoch 3 of 6, best 2" in done.stdout.splitlines()
    assert (6, 3, True, 2) == tuple(result[key] for key in ("epochs", "epochs_done", "stopped_early", "best_epoch"))


# --- bad input ---

BAD = {
    "seed.root=abc": "seed.root: expected an integer from 0 to 4294967295, received 'abc' (str)",
    "seed.root=-1": "seed.root: expected an integer from 0 to 4294967295, received -1 (int)",
    "seed.root=1.5": "seed.root: expected an integer from 0 to 4294967295, received 1.5 (float)",
    "seed.root=2**40": "seed.root: expected an integer from 0 to 4294967295, received '2**40' (str)",
    "seed.root=1099511627776": "received 1099511627776 (int)",
    "seed.root=true": "received True (bool)",
    "seed.points.data.order=1.5": "seed.points.data.order: expected an integer from 0 to 2147483645",
    "seed.points.data.ordr=3": "Could not override 'seed.points.data.ordr'",
    "foo=1": "Could not override 'foo'",
    "+foo=1": "foo: expected one of package, name, resume, confirm, seed, data",
    "+training.foo=1": "training.foo: expected one of training.epochs",
    "data=imdb_revews": "Could not find 'data/imdb_revews'",
    "modle=tiny": "Could not override 'modle'",
    "training.epochs=0": "training.epochs: expected an integer of at least 1, received 0",
    "training.epochs=two": "Value 'two' of type 'str' could not be converted to Integer",
    "training.batch_size=0": "training.batch_size: expected an integer of at least 1, received 0",
    "runtime.promise=perhaps": "runtime.promise: expected portable or machine or article or free",
    "runtime.op_determinism=false": "fixed threads and op_determinism under portable",
    "data._target_=os.system": "data._target_: expected a function in a package of your own below src/",
    "paths.runs=/dev/null/runs": "folder /dev/null/runs",
    "model.dropout_rate=nan": "model.dropout_rate: expected a finite number, received nan",
    # from here on the training process finds it
    "model.dropout_rate=1.5": "model.dropout_rate: expected a number of at least 0 and below 1, received 1.5",
    "+model.foo=1": "got an unexpected keyword argument 'foo'",
    "training.callbacks=[faults.callbacks.Locked]": "callback Locked: expected attributes that a checkpoint can save",
    "seed.points.model.conf.kernel=3": "seed point model/conf/kernel: expected code that uses it, received none",
}


def check_multirun(project: pathlib.Path, run: Callable[..., Result], launcher: str) -> None:
    """Train a wrong and a right combination. The exit code is the one of the wrong, and the right one finishes."""
    files = set(project.iterdir())
    words = ("experiment=smoke", "tracker=none", f"hydra/launcher={launcher}", "training.epochs=0,1")
    done = run(project, "train", "--multirun", *words)

    assert 2 == done.returncode, done.stdout
    assert "training.epochs: expected an integer of at least 1, received 0" in done.stderr
    assert 1 == len(finished(project))
    assert {"runs", ".cache"} >= {path.name for path in set(project.iterdir()) - files}


def test_a_multirun_ends_with_the_code_of_one_that_failed(
    project: pathlib.Path, command_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A multirun has the exit code of a failed run, finishes the others, and writes nothing into the project root."""
    monkeypatch.setattr(sys, "argv", ["samebits"])  # Hydra reads it
    check_multirun(project, command_here, "basic")


@pytest.mark.full
def test_a_multirun_in_other_processes_ends_with_the_code_of_one_that_failed(project: pathlib.Path) -> None:
    """The exit code comes from joblib's processes too."""
    check_multirun(project, run_command, "joblib")


@pytest.mark.parametrize("override", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(override: str, project: pathlib.Path, train_here: TrainHere) -> None:
    """Wrong input has exit code 2, one line with expected, received and fix, and no file of a run."""
    done = train_here(project, override)

    assert 2 == done.returncode
    assert 1 == len(done.stderr.strip().splitlines()), done.stderr
    assert BAD[override] in done.stderr
    assert "; fix: " in done.stderr
    assert [] == [path for path in (project / "runs").rglob("*") if path.is_file()]


@pytest.mark.full
def test_a_truncated_data_file_is_refused(project: pathlib.Path, train_here: TrainHere) -> None:
    """A truncated CSV is an error with its digest and size, before anything starts."""
    short = project / "short.csv"
    short.write_text("text,label,source\nfine,1,imdb\n")
    done = train_here(project, f"data.path={short}", experiment=PACKAGE)

    assert 2 == done.returncode
    assert f"data file {short}: expected SHA-256 d4acac55fe7f…, received" in done.stderr
    assert not (project / "runs" / PACKAGE).exists()


# --- set-up and imports ---


def test_a_python_outside_the_range_is_refused(tmp_path: pathlib.Path, project: pathlib.Path) -> None:
    """The setup with an unsupported Python stops with one line before it creates anything."""
    path = project / "scripts" / "setup_env.py"
    path.write_text(path.read_text().replace("(3, 11), (3, 13)", "(3, 8), (3, 10)"))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert 2 == done.returncode
    assert done.stderr.startswith("error: Python 3.8 to 3.10 expected, received 3.")
    assert not (project / ".venv").exists()


WITHOUT_TENSORFLOW = ("cli", "compose", "job", "launch.run", "launch.tracker", "launch.comet", "checks.verify",
                      "checks.explain", "checks.rounds", "checks.golden", "checks.audit", "checks.portability",
                      "studies.study")  # fmt: skip


def imported_modules(statement: str) -> list[str]:
    """Return the names of all modules after a statement in a fresh process."""
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_the_parents_modules_do_not_import_tensorflow() -> None:
    """The parent imports no TensorFlow, Keras, Comet or scikit-learn, so it starts fast."""
    loaded = set(imported_modules("import " + ", ".join(f"samebits.{module}" for module in WITHOUT_TENSORFLOW)))

    assert set() == loaded & {"tensorflow", "keras", "comet_ml", "sklearn", "matplotlib"}


@pytest.mark.full
def test_keras_imports_what_the_training_process_leaves_out() -> None:
    """Keras imports the packages in `OPTIONAL_FOR_KERAS` if they are installed. Negative control of the test above."""
    installed = {name for name in OPTIONAL_FOR_KERAS if importlib.util.find_spec(name)}

    assert {"keras", *installed} <= set(imported_modules("import keras"))
    assert "sklearn" in installed


def test_help_and_completion_and_seeds_answer_without_training(project: pathlib.Path, command_here: Command) -> None:
    """--help shows groups and examples, -sc installs completion, and seeds prints every point with its use."""
    shown = command_here(project, "train", "--help")
    completion = run_script(project, "train.py", "-sc", "install=bash")
    seeds = command_here(project, "seeds", "seed.root=56")

    assert "samebits train seed.root=57 training.epochs=3" in shown.stdout
    assert ", ".join(sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml"))) in shown.stdout
    assert "complete -o nospace" in completion.stdout
    assert "model/lstm/recurrent" in seeds.stdout
    assert "batches of each epoch" in seeds.stdout


def test_an_environment_that_is_not_pinned_is_refused() -> None:
    """A training process that is started by hand reports the missing setting."""
    effective = expected_settings(RuntimeConfig(), 1)
    check_pins(RuntimeConfig(), 1, effective)
    del effective["environment"]["PYTHONHASHSEED"]

    with pytest.raises(RuntimePinError, match=r"PYTHONHASHSEED must be set before Python starts\.\s+.*1.*unset"):
        check_pins(RuntimeConfig(), 1, effective)
