"""Going on with a stopped run by choice: resume=never, resume=NAME, `samebits resume`; and `samebits torture`."""

import json
import os
import pathlib
import signal

import pytest
from conftest import (
    FAULTY,
    LONG,
    PACKAGE,
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


def stop(root: pathlib.Path, *overrides: str) -> pathlib.Path:
    """Begin a long run, kill its training process in the middle, and return its attempt."""
    process = start_and_wait_for_rows(root, 20, *overrides)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    process.communicate()
    return next((root / "runs").glob("*/*/[0-9]*"))


@pytest.mark.full
def test_resume_never_begins_anew(project: pathlib.Path) -> None:
    """A stopped run is left alone; the new attempt ends with the bits that the stopped one would have had."""
    stopped = stop(project)
    done = train(project, *LONG, "resume=never")

    assert 0 == done.returncode, done.stderr
    assert [stopped.parent / "2"] == finished(project)

    again = train(project, *LONG)

    assert "goes on with" in again.stdout
    assert "same bits as 1 earlier run" in again.stdout


def test_make_resume_takes_the_runs_own_configuration(project: pathlib.Path, train_here: TrainHere) -> None:
    """Named alone, a run goes on with what it was begun with; where it was trained before is recorded."""
    words = (FAULTY, "training.learning_rate=0.02")
    train_here(project, *words, environment={"FAULT": "row 4 kill"})
    stopped = next((project / "runs").glob("*/*/1"))
    done = run_command(project, "resume", f"{stopped.parent.name}/1")

    assert 0 == done.returncode, done.stderr
    assert f"goes on with {stopped.parent.name}/1" in done.stdout
    machine = json.loads((stopped / "machine.json").read_text())
    assert [machine["arithmetic"]["fingerprint"]] == [each["fingerprint"] for each in machine["earlier"]]

    other = train_here(project, *words)

    assert "same bits as 1 earlier run" in other.stdout

    finished_already = run_command(project, "resume", f"{stopped.parent.name}/1")

    assert 2 == finished_already.returncode
    assert "finished; fix: " in finished_already.stderr


@pytest.mark.full
def test_a_run_of_other_inputs_is_not_gone_on_with(project: pathlib.Path) -> None:
    """Neither by name under another configuration, nor after the code has changed; nothing is touched."""
    stopped = stop(project)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    named = train(project, *LONG, "training.learning_rate=0.02", f"resume={stopped.parent.name}")

    assert 2 == named.returncode
    assert f"received {stopped.parent.name}/1, of other inputs" in named.stderr

    with (project / "src" / PACKAGE / "model.py").open("a") as stream:
        stream.write("\n# changed\n")
    changed = run_command(project, "resume", "last")

    assert 2 == changed.returncode
    assert "expected the code, lock and configuration that it was begun with, received other inputs" in changed.stderr
    assert before == {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}


@pytest.mark.full
def test_a_run_does_not_go_on_with_other_data(project: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """A file that the data function reads is in no name: changed, it is refused; brought back, the bits are right."""
    rows = project / "rows.txt"
    own = "data._target_=faults.data.read_rows"
    rows.write_text("5")
    stopped = stop(project, own)
    kept = sorted(path.name for path in stopped.glob("checkpoint-*"))
    rows.write_text("6")
    refused = train(project, *LONG, own)

    assert 2 == refused.returncode
    assert "expected the arrays that it began with, received others as train/inputs; fix: bring back" in refused.stderr
    assert kept == sorted(path.name for path in stopped.glob("checkpoint-*"))

    rows.write_text("5")
    done = train(project, *LONG, own)
    anew = train(project, *LONG, own, "resume=never")

    assert "goes on with" in done.stdout, done.stderr
    assert "same bits as 1 earlier run" in anew.stdout
    assert digest(undisturbed) != digest(stopped)


@pytest.mark.full
def test_a_run_whose_data_are_unseeded_begins_anew(project: pathlib.Path) -> None:
    """Its split is another one at every start: to go on would validate on rows that were trained on."""
    stopped = stop(project, "seed=none", "runtime=free")
    done = train(project, *LONG, "seed=none", "runtime=free")

    assert 0 == done.returncode, done.stderr
    assert "the run begins anew: its data are unseeded" in done.stderr
    assert json.loads((stopped / "result.json").read_text())["resumed_at"] is None


@pytest.mark.full
def test_rows_that_were_lost_cost_their_checkpoint(project: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """A checkpoint that counts rows which are gone (a power cut) is left out; the bits and rows are those of always."""
    stopped = stop(project, "training.checkpoint_every=20")
    newest = max(stopped.glob("checkpoint-*"))
    rows = (stopped / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_bytes(b"".join(rows[:-15]))
    done = train(project, *LONG, "training.checkpoint_every=20")

    assert 0 == done.returncode, done.stderr
    assert f"checkpoint {newest.name} is left out: rows before it are lost in ['metrics.jsonl']" in done.stderr
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert (undisturbed / name).read_bytes() == (stopped / name).read_bytes()


@pytest.mark.full
def test_what_a_run_that_goes_on_keeps_of_its_own_is_said(project: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Tracker, trace and how often is recorded are those it was begun with; a command with others is told."""
    stop(project)
    done = train(project, *LONG, "trace.level=step", "training.log_every=1")

    assert "as it was begun, not as this command says: training.log_every=5, trace.level=epoch" in done.stdout
    assert (undisturbed / "metrics.jsonl").read_bytes() == (finished(project)[0] / "metrics.jsonl").read_bytes()


@pytest.mark.full
def test_verify_and_golden_go_on_with_nothing(project: pathlib.Path) -> None:
    """A stopped run of the same inputs was trained under other conditions: it is left as it is."""
    smoke = ("experiment=smoke", "tracker=none", *LONG)
    stopped = stop(project)
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
    """A name whose run is being trained is refused; the running one ends undisturbed."""
    process = start_and_wait_for_rows(project, 5)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGSTOP)
    attempt = next((project / "runs").glob("*/*/[0-9]*"))
    done = train(project, *LONG, f"resume={attempt.parent.name}/1")
    os.kill(child, signal.SIGCONT)
    at_full_speed(project)
    process.communicate(timeout=600)

    assert 2 == done.returncode
    assert "which is running; fix: wait for it, or stop it first" in done.stderr
    assert 0 == process.returncode


@pytest.mark.full
def test_a_run_that_goes_on_with_other_arithmetic_says_so(project: pathlib.Path) -> None:
    """The bits of a run under machine that moved to another CPU are compared with nobody's, and the log says why."""
    stopped = stop(project)
    machine = json.loads((stopped / "machine.json").read_text())
    machine["arithmetic"]["fingerprint"], machine["cpu"]["model"] = "another", "Another CPU"
    (stopped / "machine.json").write_text(json.dumps(machine))
    done = train(project, *LONG)

    assert "the run resumes with another arithmetic (machine.json): Another CPU" in done.stderr
    result = json.loads((stopped / "result.json").read_text())
    now = json.loads((stopped / "machine.json").read_text())
    assert result["fingerprint"] not in ("another", now["arithmetic"]["fingerprint"])


# --- torture ---


@pytest.mark.full
def test_torture_sees_what_a_checkpoint_forgets(project: pathlib.Path) -> None:
    """Without the optimiser's state in the checkpoint, a training that went on is told apart (the README's is not)."""
    path = project / "src" / "samebits" / "train" / "checkpoints.py"
    text = path.read_text()
    path.write_text(text.replace("[*model.variables, *optimizer.variables]", "[*model.variables]"))
    # The third kill of this seed is inside the fourth checkpoint's write, so that the training goes on from one.
    often = ("experiment=smoke", "data.rows=1200", "training.checkpoint_every=1")
    done = run_command(project, "torture", "--kills=3", "--kill-seed=2", *often)

    assert text != path.read_text()
    assert 1 == done.returncode, done.stdout
    assert "NOT SURVIVED" in done.stdout


def test_the_kills_follow_their_seed() -> None:
    """The same seed gives the same moments, victims and places; every moment comes up."""
    plans = torture.make_plans(20, 7)

    assert plans == torture.make_plans(20, 7)
    assert plans != torture.make_plans(20, 8)
    assert set(torture.MOMENTS) == {plan.moment for plan in plans}
    assert {"child", "parent", "both", "tracker"} == {plan.victim for plan in plans}


@pytest.mark.full
def test_a_training_faster_than_its_kill_is_killed_earlier(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pace was taken on a slower machine, the kill moves to the front until it strikes."""
    monkeypatch.setattr(torture, "MAX_STARTS", 12)  # however fast it is
    plan, pace = torture.Plan("at start", "parent", 1.0), torture.Pace(start_s=60.0, training_s=1.0)
    attempt, killed_at = torture.train(compose(project, ["experiment=smoke"]), project / "kill", project, plan, pace)

    assert "not killed" != killed_at
    assert attempt in finished(project / "kill")  # the killed one's child may have come to its end all the same


def test_an_undisturbed_run_was_never_resumed(siblings: pathlib.Path) -> None:
    """A run that nobody disturbed has no place where it was resumed."""
    assert json.loads((finished(siblings)[0] / "result.json").read_text())["resumed_at"] is None
