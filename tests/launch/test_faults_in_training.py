"""Faults inside the training process (tests/faults): a clear end, and the same bits after resume."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import FAULTY, TrainHere, copy_project, digest, finished

from samebits.core.files import write_arrays
from samebits.launch.process import forwarded_signals
from samebits.runs.folder import read_json

STOPPED = "row 4 kill"  # epoch 2, step 5; the checkpoints are those of step 10 and of the end of epoch 1
FAULTS = {  # each meets the training that resumes after the one before; fault: exit code and message
    "row 2 stop": (143, "stopped; progress is saved, and the same command resumes the run"),
    "row 3 limit_files 4096": (1, "could not be written"),
    STOPPED: (1, "killed by SIGKILL (out of memory, or kill -9)"),
    "row 4 limit_cpu": (1, "killed by SIGKILL"),
    "row 4 limit_files": (1, "could not be written"),
    "checkpoint 1 kill": (1, "killed by SIGKILL"),
    "row 4 interrupt": (130, "stopped; progress is saved"),
    "row 5 lose_parent": (143, "stopped; progress is saved"),
    "row 6 block_model": (1, "model.keras could not be written"),
}
RECORDS = ("metrics.jsonl", "trace.jsonl", "predictions.arrays")


@pytest.fixture(scope="module")
def whole(siblings: pathlib.Path) -> pathlib.Path:
    """Return the attempt of an uninterrupted run."""
    return finished(siblings)[0]


def check_resumed(root: pathlib.Path, whole: pathlib.Path, train_here: TrainHere, *, anew: bool = False) -> str:
    """Run the command again, check that the same attempt ends with the same bits and rows, and return its log."""
    done = train_here(root, FAULTY)
    (attempt,) = finished(root)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "resumes" in done.stdout
    assert digest(whole) == digest(attempt)
    assert anew == (read_json(attempt / "result.json")["resumed_at"] is None)
    for name in RECORDS:
        assert (whole / name).read_bytes() == (attempt / name).read_bytes()
    assert [] == [path.name for path in attempt.iterdir() if "partial" in path.name or "checkpoint" in path.name]
    return (attempt / "log.txt").read_text()


def test_a_training_that_meets_a_fault_resumes_to_the_same_bits(
    project: pathlib.Path, whole: pathlib.Path, train_here: TrainHere
) -> None:
    """Each fault has its exit code and message. After all of them, the same command ends with the same bits."""
    for number, (fault, (code, said)) in enumerate(FAULTS.items()):
        done = train_here(project, FAULTY, environment={"FAULT": fault})
        output = fault + done.stdout + done.stderr

        assert code == done.returncode, output
        assert said in output, output
        assert (number > 0) == ("   resumes " in output), output
        assert "Traceback" not in output
        assert [] == finished(project)
    shutil.rmtree(next((project / "runs").glob("*/*/1")) / "model.keras")
    check_resumed(project, whole, train_here)


@pytest.mark.parametrize("what", ["delete_attempt", "delete_runs", "delete_metrics"])
def test_a_record_that_is_deleted_under_a_training_is_an_error(
    what: str, project: pathlib.Path, train_here: TrainHere
) -> None:
    """The error has the name of the file, and there is no result."""
    done = train_here(project, FAULTY, environment={"FAULT": f"row 1 {what}"})

    assert 1 == done.returncode, done.stdout
    assert "RecordError: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [] == finished(project)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Return a list that holds the project with a killed training, which is trained once and copied."""
    return []


@pytest.fixture
def stopped(
    stopped_once: list[pathlib.Path], tmp_path_factory: pytest.TempPathFactory, train_here: TrainHere,
    tmp_path: pathlib.Path,
) -> pathlib.Path:  # fmt: skip
    """Return a project whose training was killed in its second epoch."""
    if not stopped_once:
        root = copy_project(tmp_path_factory.mktemp("stopped"))

        assert 1 == train_here(root, FAULTY, environment={"FAULT": STOPPED}).returncode
        stopped_once.append(root)
    return pathlib.Path(shutil.copytree(stopped_once[0], tmp_path / "project"))


def newest_checkpoint(root: pathlib.Path) -> pathlib.Path:
    """Return the newest checkpoint of the only attempt."""
    return max((root / "runs").glob("*/*/1/checkpoint-*"))


def test_a_damaged_checkpoint_costs_some_steps_and_files_from_the_future_nothing(
    stopped: pathlib.Path, whole: pathlib.Path, train_here: TrainHere
) -> None:
    """The run resumes from the checkpoint before the damaged one, although a clock was set back since its files."""
    newest = newest_checkpoint(stopped)
    data = bytearray(newest.read_bytes())
    data[5000] ^= 1
    newest.write_bytes(data)
    later = time.time() + 10 * 86400
    for path in (stopped / "runs").rglob("*"):
        os.utime(path, (later, later))

    assert f"checkpoint {newest.name} is damaged" in check_resumed(stopped, whole, train_here)


def test_rows_that_are_lost_and_arrays_of_another_model_are_no_checkpoint(
    stopped: pathlib.Path, whole: pathlib.Path, train_here: TrainHere
) -> None:
    """A checkpoint that counts lost rows, and one of another model, are reported, and the run restarts."""
    newest = newest_checkpoint(stopped)
    (before,) = set(newest.parent.glob("checkpoint-*")) - {newest}
    metrics = newest.with_name("metrics.jsonl")
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:2]))
    write_arrays(before, {"state": np.zeros(3, np.uint8)})
    log = check_resumed(stopped, whole, train_here, anew=True)

    assert f"checkpoint {newest.name} is ignored: rows were lost from ['metrics.jsonl']" in log
    assert f"checkpoint {before.name} does not fit this model and is ignored" in log


def test_a_training_resumes_with_the_data_that_it_began_with(project: pathlib.Path, train_here: TrainHere) -> None:
    """A changed data file is an error. After it is restored, the run resumes."""
    own, rows = "data._target_=faults.data.read_rows", project / "rows.txt"
    rows.write_text("5")
    train_here(project, own, environment={"FAULT": STOPPED})
    rows.write_text("6")
    refused = train_here(project, own)

    assert 2 == refused.returncode
    assert "expected the same arrays as at its start, received different train/inputs; fix: restore" in refused.stderr

    rows.write_text("5")
    done = train_here(project, own)

    assert 0 == done.returncode, done.stderr
    assert read_json(finished(project)[0] / "result.json")["resumed_at"] is not None


def test_what_a_kill_left_beside_a_result_goes_with_the_next_start(
    own_siblings: pathlib.Path, train_here: TrainHere
) -> None:
    """The next start, even one that is refused, removes a leftover checkpoint and an incomplete file only."""
    attempt = finished(own_siblings)[0]
    names = sorted(path.name for path in attempt.iterdir())
    (attempt / "checkpoint-00001-00000005.arrays").write_bytes(b"x")
    (attempt / ".result.json.1.partial").write_bytes(b"x")
    done = train_here(own_siblings, "resume=last")

    assert "expected an unfinished run" in done.stderr
    assert names == sorted(path.name for path in attempt.iterdir())


@pytest.mark.parametrize(("number", "sent"), [(signal.SIGHUP, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_signal_reaches_the_training_process(number: signal.Signals, sent: signal.Signals) -> None:
    """A signal before the start of the training process reaches it too. SIGHUP is a request to stop."""
    with forwarded_signals() as adopt:
        os.kill(os.getpid(), number)
        child = subprocess.Popen(["sleep", "600"])
        adopt(child)

        assert -sent == child.wait(60)


# --- functions of the user that are wrong ---

WRONG = {  # override: exit code and message
    "data._target_=faults.data.need_much_memory": (1, "out of memory"),
    "data._target_=faults.data.be_stopped": (143, "the same command resumes the run"),
    "data._target_=faults.data.leave": (1, "the data or model function called sys.exit(2)"),
    "data._target_=faults.data.save_code": (2, "received changes in faults/data.py; fix: run the"),
    "model._target_=faults.model.abort": (1, "killed by SIGABRT; log: "),
    "data._target_=faults.data.limit_memory model.embedding_dim=2000000000": (1, "out of memory"),
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_function_of_the_user_is_a_clear_end(
    override: str, project: pathlib.Path, train_here: TrainHere
) -> None:
    """A wrong function has its exit code and message, no traceback and no result."""
    code, said = WRONG[override]
    done = train_here(project, *override.split())

    assert code == done.returncode, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert [] == finished(project)


def test_a_draw_from_the_system_is_seen_by_the_second_run(project: pathlib.Path, train_here: TrainHere) -> None:
    """A broken promise has exit code 1 and the first tensor that differs."""
    override = "model._target_=faults.model.draw_from_the_system"
    first, second = (train_here(project, override, "training.epochs=1") for _ in range(2))

    assert (0, 1) == (first.returncode, second.returncode), first.stderr
    assert "DIFFERENT BITS than attempt 1 with the same inputs (portable promises the same bits)" in second.stdout
    assert "first divergence: initial weights of imdb_cnn_lstm/output/kernel" in second.stdout
