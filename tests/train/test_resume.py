"""Resuming a stopped run: resume=never, resume=NAME, `samebits resume`; and `samebits torture`."""

import json
import pathlib
import signal
import subprocess

import pytest
from conftest import FAULTY, PACKAGE, Command, TrainHere, finished

from samebits.checks import golden, torture, verify
from samebits.compose import compose
from samebits.core.config import Config
from samebits.core.files import hold_lock
from samebits.launch import run
from samebits.runs.folder import LOCK


def stop(train_here: TrainHere, root: pathlib.Path, *overrides: str) -> pathlib.Path:
    """Start a run whose training process is killed in its second epoch, and return its attempt."""
    train_here(root, FAULTY, *overrides, environment={"FAULT": "row 4 kill"})
    return next((root / "runs").glob("*/*/[0-9]*"))


@pytest.mark.full
def test_resume_never_begins_anew(project: pathlib.Path, train_here: TrainHere) -> None:
    """The stopped run stays unchanged, and the new attempt ends with the same bits as an uninterrupted one."""
    stopped = stop(train_here, project)
    done = train_here(project, FAULTY, "resume=never")

    assert 0 == done.returncode, done.stderr
    assert [stopped.parent / "2"] == finished(project)

    again = train_here(project, FAULTY)

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
    named = train_here(project, FAULTY, "training.learning_rate=0.02", f"resume={stopped.parent.name}")

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
def test_what_a_run_that_goes_on_keeps_of_its_own_is_said(
    project: pathlib.Path, siblings: pathlib.Path, train_here: TrainHere
) -> None:
    """A resumed run keeps its tracker, trace and logging interval, and prints the ignored options."""
    stop(train_here, project)
    done = train_here(project, FAULTY, "trace.level=step", "training.log_every=1")

    assert "the run keeps its own settings: training.log_every=5, trace.level=epoch" in done.stdout
    assert (finished(siblings)[0] / "metrics.jsonl").read_bytes() == (
        finished(project)[0] / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.full
def test_verify_and_golden_go_on_with_nothing(
    project: pathlib.Path, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verify and golden never resume a stopped run with the same inputs."""
    stopped = stop(train_here, project)
    config = compose(project, ["experiment=smoke", "tracker=none", FAULTY, f"resume={stopped.parent.name}"])
    monkeypatch.setattr(verify, "run_under", lambda _, config, root: run.run(config, root).exit_code)

    assert 0 == verify.verify(config, project, 2), capsys.readouterr()
    assert stopped.parent / "4" == golden.train(config, project)
    assert [None, None, None] == [
        json.loads((attempt / "result.json").read_text())["resumed_at"] for attempt in finished(project)
    ]
    assert not (stopped / "result.json").exists()


@pytest.mark.full
def test_a_running_run_is_not_gone_on_with(project: pathlib.Path, train_here: TrainHere) -> None:
    """Resuming a running run is an error, and its files stay."""
    attempt = stop(train_here, project)
    before = {path: path.read_bytes() for path in attempt.iterdir() if path.is_file()}
    with hold_lock(attempt / LOCK):  # as the parent of a running one does
        done = train_here(project, FAULTY, f"resume={attempt.parent.name}/1")

    assert 2 == done.returncode
    assert "which is running; fix: wait until it ends, or stop it first" in done.stderr
    assert before == {path: path.read_bytes() for path in attempt.iterdir() if path.is_file()}


@pytest.mark.full
def test_a_run_that_goes_on_with_other_arithmetic_says_so(project: pathlib.Path, train_here: TrainHere) -> None:
    """A run under machine that resumes on another CPU is not compared with others, and logs a warning."""
    stopped = stop(train_here, project)
    machine = json.loads((stopped / "machine.json").read_text())
    machine["arithmetic"]["fingerprint"], machine["cpu"]["model"] = "another", "Another CPU"
    (stopped / "machine.json").write_text(json.dumps(machine))
    done = train_here(project, FAULTY)

    assert "the run resumes with different settings or CPU (machine.json); before: Another CPU" in done.stderr
    result = json.loads((stopped / "result.json").read_text())
    now = json.loads((stopped / "machine.json").read_text())
    assert result["fingerprint"] not in ("another", now["arithmetic"]["fingerprint"])


# --- torture ---


@pytest.mark.full
def test_torture_sees_what_a_checkpoint_forgets(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative control: torture finds different bits if a checkpoint has no optimizer state."""
    path = project / "src" / "samebits" / "train" / "checkpoints.py"
    text = path.read_text()
    path.write_text(text.replace("enumerate(variables)}", "enumerate(variables) if 'adam' not in v.path}"))
    plan = torture.Plan("inside a checkpoint's write", "child", 0.5)  # of the third one, so that it has one to resume
    monkeypatch.setattr(torture, "make_plans", lambda *_: [plan])
    code = torture.torture(compose(project, ["experiment=smoke", "training.checkpoint_every=1"]), project, 1, 1)
    output = capsys.readouterr().out

    assert text != path.read_text()
    assert 1 == code, output
    assert "NOT SURVIVED" in output


def test_the_kills_follow_their_seed() -> None:
    """The same seed gives the same kills, and every kind of kill occurs."""
    plans = torture.make_plans(20, 7)

    assert plans == torture.make_plans(20, 7)
    assert plans != torture.make_plans(20, 8)
    assert set(torture.MOMENTS) == {plan.moment for plan in plans}
    assert {"child", "parent", "both", "tracker"} == {plan.victim for plan in plans}


SHORT = "sleep 0.2; mkdir -p runs/smoke/abc/1; cd runs/smoke/abc/1; echo {} > config.yaml; echo {} > result.json"


def test_a_training_faster_than_its_kill_is_killed_earlier(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a training is faster than expected, the kill comes earlier until it hits."""
    starts: list[subprocess.Popen[bytes]] = []

    def start(_config: Config, folder: pathlib.Path, _root: pathlib.Path) -> "subprocess.Popen[bytes]":
        starts.append(subprocess.Popen(["sh", "-c", SHORT], cwd=folder))
        return starts[-1]

    monkeypatch.setattr(torture, "_start", start)
    plan, pace = torture.Plan("at start", "parent", 1.0), torture.Pace(start_s=0.6, training_s=1.0)
    attempt, killed_at = torture.train(Config(), tmp_path / "kill", tmp_path, plan, pace)

    assert "before the first checkpoint" == killed_at
    assert [attempt] == finished(tmp_path / "kill")
    assert [0, 0, -signal.SIGKILL, 0] == [process.returncode for process in starts]


def test_an_undisturbed_run_was_never_resumed(siblings: pathlib.Path) -> None:
    """An uninterrupted run has resumed_at = None."""
    assert json.loads((finished(siblings)[0] / "result.json").read_text())["resumed_at"] is None
