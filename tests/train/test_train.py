"""`samebits train` end to end on the smoke experiment: same bits in fresh processes, and clear errors."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
from conftest import (
    LONG,
    PACKAGE,
    QUIET,
    ROOT,
    Result,
    TrainHere,
    check_continued,
    children,
    copy_project,
    digest,
    finished,
    is_gone,
    run_command,
    run_script,
    start_and_wait_for_rows,
    train,
    wait_until,
)

from samebits.core.seeds import derive_seed, dotted_key
from samebits.runtime.pins import OPTIONAL_FOR_KERAS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Result]:
    """Return a project with one run of the smoke experiment, and its output."""
    root = copy_project(tmp_path_factory.mktemp("trained"))
    return root, train(root)


def test_a_run_ends_with_metrics_digest_and_folder(trained: tuple[pathlib.Path, Result]) -> None:
    """The last lines have accuracy, loss, time, digest, comparison and folder, and the exit code is 0."""
    root, done = trained
    last = done.stdout.splitlines()[-3:]

    assert 0 == done.returncode
    assert last[0].startswith("val_accuracy 0.9")
    comparison = "first run with these inputs (configuration, seed, code, lock); run it again to compare"
    assert last[1] == f"weights {digest(finished(root)[0])[:12]}…   {comparison}"
    assert last[2] == finished(root)[0].relative_to(root).as_posix()


def test_a_run_folder_holds_its_whole_record(trained: tuple[pathlib.Path, Result]) -> None:
    """A run has inputs, configuration, machine, seeds, metrics, trace, model, result and log, and no checkpoint."""
    root, _ = trained
    attempt = finished(root)[0]
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


HOSTILE = {
    "another working directory, locale and time zone": {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    "another hash seed": {"PYTHONHASHSEED": "4242"},
    "oneDNN off, one thread and XLA in the parent": {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
        "OMP_NUM_THREADS": "3",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3",
    },
}
ALL = "all at once"
HOSTILE[ALL] = {name: value for variables in HOSTILE.values() for name, value in variables.items()}


@pytest.mark.parametrize(
    "name", [ALL, *(pytest.param(each, marks=pytest.mark.full) for each in HOSTILE if each != ALL)]
)
def test_the_parents_environment_does_not_reach_the_bits(
    name: str, trained: tuple[pathlib.Path, Result], tmp_path: pathlib.Path
) -> None:
    """Variables, folder, locale and time zone of the parent do not change the record of the run."""
    root, _ = trained
    done = train(root, environment=HOSTILE[name], cwd=tmp_path)

    assert 0 == done.returncode, done.stderr
    assert "same bits as" in done.stdout
    assert digest(finished(root)[0]) == digest(finished(root)[-1])


@pytest.mark.full
def test_one_busy_core_gives_the_same_bits(trained: tuple[pathlib.Path, Result]) -> None:
    """A run on one busy core ends with the same digest as a run on all cores."""
    root, _ = trained
    core = str(min(os.sched_getaffinity(0)))
    with subprocess.Popen(["taskset", "-c", core, sys.executable, "-c", "while True: pass"]) as busy:
        try:
            done = train(root, prefix=("taskset", "-c", core))
        finally:
            busy.kill()

    assert 0 == done.returncode, done.stderr
    assert digest(finished(root)[0]) == digest(finished(root)[-1])


def test_another_seed_gives_other_bits(
    project: pathlib.Path, trained: tuple[pathlib.Path, Result], train_here: TrainHere
) -> None:
    """SEED=57 ends with another digest than SEED=56."""
    train_here(project, "seed.root=57")

    assert digest(finished(trained[0])[0]) != digest(finished(project)[0])


def test_a_result_says_where_the_seconds_went(trained: tuple[pathlib.Path, Result]) -> None:
    """The phases in the result add up to the time of the training, but for the preparation before it."""
    root, _ = trained
    result = json.loads((finished(root)[0] / "result.json").read_text())
    phases = result["phases"]

    assert {"prepare_s", "first_step_s", "steps_s", "evaluate_s", "record_s"} == set(phases)
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


@pytest.mark.parametrize("level", ["machine", "article", "free"])
@pytest.mark.full
def test_every_runtime_level_trains_and_records_its_promise(level: str, project: pathlib.Path) -> None:
    """Every runtime level trains, and the record has its promise."""
    done = train(project, f"runtime={level}", "training.epochs=1")
    machine = json.loads((finished(project)[0] / "machine.json").read_text())

    assert 0 == done.returncode, done.stderr
    assert level == machine["arithmetic"]["promise"]


@pytest.mark.full
def test_nothing_seeded_gives_other_bits_each_time_and_is_no_error(project: pathlib.Path) -> None:
    """Two runs with seed=none and runtime=free differ, and report that without an error."""
    first = train(project, "seed=none", "runtime=free", "training.epochs=1")
    second = train(project, "seed=none", "runtime=free", "training.epochs=1")

    assert (0, 0) == (first.returncode, second.returncode)
    assert digest(finished(project)[0]) != digest(finished(project)[1])
    assert "DIFFERENT BITS" in second.stdout
    assert "free promises nothing" in second.stdout


@pytest.mark.full
def test_different_bits_under_a_promise_are_an_error_that_names_the_record(
    project: pathlib.Path, train_here: TrainHere
) -> None:
    """A model with random numbers from the operating system has exit code 1 and the first differing tensor."""
    override = "model._target_=faults.model.draw_from_the_system"
    first, second = (train_here(project, override, "training.epochs=1") for _ in range(2))

    assert 0 == first.returncode
    assert 1 == second.returncode
    assert "DIFFERENT BITS than attempt 1 with the same inputs (portable promises the same bits)" in second.stdout
    assert "first divergence: initial weights of imdb_cnn_lstm/output/kernel" in second.stdout


# --- killed and stopped ---


def test_a_run_whose_child_was_killed_goes_on_to_the_same_bits(
    project: pathlib.Path, undisturbed: pathlib.Path
) -> None:
    """SIGKILL of the training process has exit code 1 and the reason. The same command ends with the same bits."""
    process = start_and_wait_for_rows(project, 20)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    output = process.communicate()[0].decode()

    assert 1 == process.returncode
    assert "killed by SIGKILL (out of memory, or kill -9)" in output
    check_continued(project, undisturbed)


@pytest.mark.full
def test_a_run_whose_parent_was_killed_leaves_no_orphan_and_goes_on(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """After SIGKILL of the parent the training process saves and ends, and the same command resumes."""
    process = start_and_wait_for_rows(project, 20)
    (child,) = children(process.pid)
    process.kill()
    process.communicate()

    assert wait_until(lambda: is_gone(child))
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.full)]
)
def test_a_stopped_run_saves_and_goes_on(
    number: signal.Signals, code: int, project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """SIGTERM and Ctrl-C give a checkpoint and exit code 143 or 130, and the same command resumes."""
    process = start_and_wait_for_rows(project, 20)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0].decode()

    assert code == process.returncode
    assert "stopped; progress is saved, and the same command resumes the run" in output
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "empty"])
@pytest.mark.full
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A damaged newest checkpoint is reported, and costs some steps but no bits."""
    train_here(project, *LONG, environment={"FAULT": "row 60 kill"})
    newest = max((project / "runs").glob("*/*/*/checkpoint-*"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"a flipped bit": bytes(data), "cut short": bytes(data[:1000]), "empty": b""}[damage])

    check_continued(project, undisturbed, again=train_here)
    assert f"checkpoint {newest.name} is damaged" in (finished(project)[0] / "log.txt").read_text()


@pytest.mark.full
def test_a_crash_says_its_reason_and_the_log(project: pathlib.Path) -> None:
    """A native crash in the model has exit code 1, the name of the signal and the path of the log."""
    done = train(project, "model._target_=faults.model.abort")

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
def test_keras_imports_what_the_training_process_leaves_out() -> None:
    """Keras imports the packages in `runtime.OPTIONAL_FOR_KERAS` if they are installed."""
    installed = {name for name in OPTIONAL_FOR_KERAS if importlib.util.find_spec(name)}

    assert installed <= set(imported_modules("import keras"))
    assert "sklearn" in installed


@pytest.mark.full
def test_a_layer_without_a_seed_has_a_point_of_its_own(project: pathlib.Path, train_here: TrainHere) -> None:
    """A Dropout without a seed has the same bits again; its point is recorded and can be set alone."""
    model, point = "model._target_=faults.model.add_unseeded_dropout", "model/imdb_cnn_lstm/loose/seed_generator"
    for words in ((), ("resume=never",), (f"{dotted_key(point)}=5",)):
        done = train_here(project, model, "training.epochs=1", *words)
        assert 0 == done.returncode, done.stderr
    first, again, moved = finished(project)
    rows = json.loads((moved / "seeds.json").read_text())["points"]
    shown = run_command(project, "seeds", "experiment=smoke", model)

    assert digest(first) == digest(again)
    assert digest(first) != digest(moved)
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
    # from here on the training process finds it
    "training.batch_size=481": "training.batch_size: expected 1 to 480, the number of training samples, received 481",
    "model.dropout_rate=nan": "model.dropout_rate: expected a finite number, received nan",
    "model.dropout_rate=1.5": "model.dropout_rate: expected a number of at least 0 and below 1, received 1.5",
    "+model.foo=1": "got an unexpected keyword argument 'foo'",
    "training.callbacks=[keras.losses.MeanSquaredError]": "training.callbacks[0]: expected a Keras callback",
    "training.callbacks=[EarlyStopping]": "fix: write the module too, e.g. keras.callbacks.EarlyStopping",
    "training.callbacks=[faults.callbacks.Locked]": "callback Locked: expected attributes that a checkpoint can save",
    "data.validation_size=600": "data.validation_size: expected 1 to 599",
    "seed.points.data.folds=3": "seed point data/folds: expected code that uses it, received none: data.folds is 0",
    "seed.points.model.conf.kernel=3": "seed point model/conf/kernel: expected code that uses it, received none",
}


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.full)])
def test_a_multirun_ends_with_the_code_of_one_that_failed(launcher: str, project: pathlib.Path) -> None:
    """A multirun has the exit code of a failed run, finishes the others, and writes nothing into the project root."""
    files = set(project.iterdir())
    words = ("experiment=smoke", "tracker=none", f"hydra/launcher={launcher}", "training.epochs=0,1")
    done = run_script(project, "train.py", "--multirun", *words)

    assert 2 == done.returncode, done.stdout
    assert "training.epochs: expected an integer of at least 1, received 0" in done.stderr
    assert 1 == len(finished(project))
    assert {"runs", ".cache"} >= {path.name for path in set(project.iterdir()) - files}


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
def test_a_truncated_data_file_is_refused(project: pathlib.Path) -> None:
    """A truncated CSV is an error with its digest and size, before anything starts."""
    short = project / "short.csv"
    short.write_text("text,label,source\nfine,1,imdb\n")
    done = run_script(project, "train.py", "tracker=none", f"data.path={short}")

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


@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_the_parents_modules_do_not_import_tensorflow(module: str) -> None:
    """The parent imports no TensorFlow, Keras, Comet or scikit-learn, so it starts fast."""
    loaded = set(imported_modules(f"import samebits.{module}"))

    assert set() == loaded & {"tensorflow", "keras", "comet_ml", "sklearn", "matplotlib"}


@pytest.mark.full
def test_the_import_check_can_fail() -> None:
    """Negative control: the same check finds Keras in a module that imports it."""
    assert "keras" in imported_modules("import keras")


def test_help_and_completion_and_seeds_answer_without_training(project: pathlib.Path) -> None:
    """--help shows groups and examples, -sc installs completion, and seeds prints every point with its use."""
    shown = run_script(project, "train.py", "--help")
    completion = run_script(project, "train.py", "-sc", "install=bash")
    seeds = run_command(project, "seeds", "seed.root=56")

    assert "samebits train seed.root=57 training.epochs=3" in shown.stdout
    assert ", ".join(sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml"))) in shown.stdout
    assert "complete -o nospace" in completion.stdout
    assert "model/lstm/recurrent" in seeds.stdout
    assert "batches of each epoch" in seeds.stdout


def test_the_worker_refuses_an_environment_that_is_not_pinned(trained: tuple[pathlib.Path, Result]) -> None:
    """A training process that is started by hand reports the missing setting."""
    root, _ = trained
    attempt = root / "by hand"
    attempt.mkdir()
    shutil.copy(finished(root)[0] / "config.yaml", attempt)
    environment: dict[str, Any] = QUIET | {"PYTHONPATH": str(root / "src")}
    environment.pop("PYTHONHASHSEED", None)
    command = [sys.executable, "-m", "samebits.train.worker", str(attempt), str(root), str(os.getpid())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "RuntimePinError: PYTHONHASHSEED must be set before Python starts." in done.stderr
    assert "Received: unset" in done.stderr
