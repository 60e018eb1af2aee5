"""Resuming a stopped run: resume=never, resume=NAME, `samebits resume`; and `samebits torture`."""

import json
import os
import pathlib
import signal

import pytest
from conftest import (
    FAULTY,
    LONG,
    PACKAGE,
    Command,
    TrainHere,
    at_full_speed,
    children,
    digest,
    finished,
    run_command,
    start_and_wait_for_rows,
    train,
)

from samebits.checks import golden, torture
from samebits.compose import compose


def stop(train_here: TrainHere, root: pathlib.Path, *overrides: str) -> pathlib.Path:
    """Start a long run whose training process is killed, and return its attempt."""
    train_here(root, *LONG, *overrides, environment={"FAULT": "row 20 kill"})
    return next((root / "runs").glob("*/*/[0-9]*"))


@pytest.mark.full
def test_resume_never_begins_anew(project: pathlib.Path, train_here: TrainHere) -> None:
    """The stopped run stays unchanged, and the new attempt ends with the same bits as an uninterrupted one."""
    stopped = stop(train_here, project)
    done = train_here(project, *LONG, "resume=never")

    assert 0 == done.returncode, done.stderr
    assert [stopped.parent / "2"] == finished(project)

    again = train_here(project, *LONG)

    assert "resumes" in again.stdout
    assert "same bits as 1 earlier run" in again.stdout


@pytest.mark.full
def test_make_resume_takes_the_runs_own_configuration(
    project: pathlib.Path, train_here: TrainHere, command_here: Command
) -> None:
    """`samebits resume` uses the configuration of the run, and the earlier machine is recorded."""
    words = (FAULTY, "training.learning_rate=0.02")
    train_here(project, *words, environment={"FAULT": "row 4 kill"})
    stopped = next((project / "runs").glob("*/*/1"))
    done = command_here(project, "resume", f"{stopped.parent.name}/1")

    assert 0 == done.returncode, done.stderr
    assert f"resumes {stopped.parent.name}/1" in done.stdout
    machine = json.loads((stopped / "machine.json").read_text())
    assert [machine["arithmetic"]["fingerprint"]] == [each["fingerprint"] for each in machine["earlier"]]

    other = train_here(project, *words)

    assert "same bits as 1 earlier run" in other.stdout

    finished_already = command_here(project, "resume", f"{stopped.parent.name}/1")

    assert 2 == finished_already.returncode
    assert "finished; fix: " in finished_already.stderr


@pytest.mark.full
def test_a_run_of_other_inputs_is_not_gone_on_with(
    project: pathlib.Path, train_here: TrainHere, command_here: Command
) -> None:
    """A run with a different configuration or changed code is not resumed, and stays unchanged."""
    stopped = stop(train_here, project)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    named = train_here(project, *LONG, "training.learning_rate=0.02", f"resume={stopped.parent.name}")

    assert 2 == named.returncode
    assert f"received {stopped.parent.name}/1, with different inputs" in named.stderr

    with (project / "src" / PACKAGE / "model.py").open("a") as stream:
        stream.write("\n# changed\n")
    changed = command_here(project, "resume", "last")

    assert 2 == changed.returncode
    assert (
        "expected the code, package lock and configuration that it was started with, received different inputs"
        in changed.stderr
    )
    assert before == {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}


@pytest.mark.full
def test_a_run_does_not_go_on_with_other_data(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A changed data file is an error. After it is restored, the run resumes with the same bits."""
    rows = project / "rows.txt"
    own = "data._target_=faults.data.read_rows"
    rows.write_text("5")
    stopped = stop(train_here, project, own)
    kept = sorted(path.name for path in stopped.glob("checkpoint-*"))
    rows.write_text("6")
    refused = train_here(project, *LONG, own)

    assert 2 == refused.returncode
    assert "expected the same arrays as at its start, received different train/inputs; fix: restore" in refused.stderr
    assert kept == sorted(path.name for path in stopped.glob("checkpoint-*"))

    rows.write_text("5")
    done = train_here(project, *LONG, own)
    anew = train_here(project, *LONG, own, "resume=never")

    assert "resumes" in done.stdout, done.stderr
    assert "same bits as 1 earlier run" in anew.stdout
    assert digest(undisturbed) != digest(stopped)


@pytest.mark.full
def test_a_run_whose_data_are_unseeded_begins_anew(project: pathlib.Path, train_here: TrainHere) -> None:
    """A run with unseeded data restarts, because its split changes, and a resume would validate on training rows."""
    stopped = stop(train_here, project, "seed=none", "runtime=free")
    done = train_here(project, *LONG, "seed=none", "runtime=free")

    assert 0 == done.returncode, done.stderr
    assert "the run restarts: its data is unseeded" in done.stderr
    assert json.loads((stopped / "result.json").read_text())["resumed_at"] is None


@pytest.mark.full
def test_rows_that_were_lost_cost_their_checkpoint(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A checkpoint that counts lost rows (a power cut) is ignored, and bits and rows stay the same."""
    stopped = stop(train_here, project, "training.checkpoint_every=20")
    newest = max(stopped.glob("checkpoint-*"))
    rows = (stopped / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_bytes(b"".join(rows[:-15]))
    done = train_here(project, *LONG, "training.checkpoint_every=20")

    assert 0 == done.returncode, done.stderr
    assert f"checkpoint {newest.name} is ignored: rows were lost from ['metrics.jsonl']" in done.stderr
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert (undisturbed / name).read_bytes() == (stopped / name).read_bytes()


@pytest.mark.full
def test_what_a_run_that_goes_on_keeps_of_its_own_is_said(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A resumed run keeps its tracker, trace and logging interval, and prints the ignored options."""
    stop(train_here, project)
    done = train_here(project, *LONG, "trace.level=step", "training.log_every=1")

    assert "the run keeps its own settings: training.log_every=5, trace.level=epoch" in done.stdout
    assert (undisturbed / "metrics.jsonl").read_bytes() == (finished(project)[0] / "metrics.jsonl").read_bytes()


@pytest.mark.full
def test_verify_and_golden_go_on_with_nothing(project: pathlib.Path, train_here: TrainHere) -> None:
    """Verify and golden never resume a stopped run with the same inputs."""
    smoke = ("experiment=smoke", "tracker=none", *LONG)
    stopped = stop(train_here, project)
    done = run_command(project, "verify", "--runs=2", *smoke)

    assert "VERIFIED: 2 runs" in done.stdout, done.stderr
    assert [None, None] == [
        json.loads((attempt / "result.json").read_text())["resumed_at"] for attempt in finished(project)
    ]
    assert not (stopped / "result.json").exists()

    attempt = golden.train(compose(project, [*smoke, f"resume={stopped.parent.name}"]), project)

    assert stopped.parent / "4" == attempt


@pytest.mark.full
def test_a_running_run_is_not_gone_on_with(project: pathlib.Path) -> None:
    """Resuming a running run is an error, and the running one finishes normally."""
    process = start_and_wait_for_rows(project, 5)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGSTOP)
    attempt = next((project / "runs").glob("*/*/[0-9]*"))
    done = train(project, *LONG, f"resume={attempt.parent.name}/1")
    os.kill(child, signal.SIGCONT)
    at_full_speed(project)
    process.communicate(timeout=600)

    assert 2 == done.returncode
    assert "which is running; fix: wait until it ends, or stop it first" in done.stderr
    assert 0 == process.returncode


@pytest.mark.full
def test_a_run_that_goes_on_with_other_arithmetic_says_so(project: pathlib.Path, train_here: TrainHere) -> None:
    """A run under machine that resumes on another CPU is not compared with others, and logs a warning."""
    stopped = stop(train_here, project)
    machine = json.loads((stopped / "machine.json").read_text())
    machine["arithmetic"]["fingerprint"], machine["cpu"]["model"] = "another", "Another CPU"
    (stopped / "machine.json").write_text(json.dumps(machine))
    done = train_here(project, *LONG)

    assert "the run resumes with different settings or CPU (machine.json); before: Another CPU" in done.stderr
    result = json.loads((stopped / "result.json").read_text())
    now = json.loads((stopped / "machine.json").read_text())
    assert result["fingerprint"] not in ("another", now["arithmetic"]["fingerprint"])


# --- torture ---


@pytest.mark.full
def test_torture_sees_what_a_checkpoint_forgets(project: pathlib.Path) -> None:
    """Negative control: torture finds different bits if a checkpoint has no optimizer state."""
    path = project / "src" / "samebits" / "train" / "checkpoints.py"
    text = path.read_text()
    path.write_text(text.replace("enumerate(variables)}", "enumerate(variables) if 'adam' not in v.path}"))
    # The third kill of this seed is during the write of the fourth checkpoint, so the training resumes from one.
    often = ("experiment=smoke", "data.rows=1200", "training.checkpoint_every=1")
    done = run_command(project, "torture", "--kills=3", "--kill-seed=2", *often)

    assert text != path.read_text()
    assert 1 == done.returncode, done.stdout
    assert "NOT SURVIVED" in done.stdout


def test_the_kills_follow_their_seed() -> None:
    """The same seed gives the same kills, and every kind of kill occurs."""
    plans = torture.make_plans(20, 7)

    assert plans == torture.make_plans(20, 7)
    assert plans != torture.make_plans(20, 8)
    assert set(torture.MOMENTS) == {plan.moment for plan in plans}
    assert {"child", "parent", "both", "tracker"} == {plan.victim for plan in plans}


@pytest.mark.full
def test_a_training_faster_than_its_kill_is_killed_earlier(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a training is faster than expected, the kill comes earlier until it hits."""
    monkeypatch.setattr(torture, "MAX_STARTS", 12)  # however fast it is
    plan, pace = torture.Plan("at start", "parent", 1.0), torture.Pace(start_s=60.0, training_s=1.0)
    attempt, killed_at = torture.train(compose(project, ["experiment=smoke"]), project / "kill", project, plan, pace)

    assert "not killed" != killed_at
    assert attempt in finished(project / "kill")  # the child of the killed process may have finished


def test_an_undisturbed_run_was_never_resumed(siblings: pathlib.Path) -> None:
    """An uninterrupted run has resumed_at = None."""
    assert json.loads((finished(siblings)[0] / "result.json").read_text())["resumed_at"] is None
