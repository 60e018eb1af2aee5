"""Planted faults: verify must fail, and explain must name each one exactly."""

import json
import pathlib

import pytest
from conftest import Command, TrainHere, run_command

from samebits.checks import explain
from samebits.runs import effects

# name: (overrides of the second run, rows of the inputs table, the sentence)
FAULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "another order seed": (
        ("seed.points.data.order=57",), ("seed data/order",), "epoch 1, step 1, order of the data",
    ),
    "another dropout seed": (
        ("seed.points.model.embedding_dropout.dropout=57",), ("seed model/embedding_dropout/dropout",),
        "epoch 1, step 1, forward loss",
    ),
    "one initializer's seed": (
        ("seed.points.model.conv.kernel=57",), ("seed model/conv/kernel",),
        "initial weights of imdb_cnn_lstm/conv/kernel",
    ),
    "one weight moved by one ulp at a step": (
        ("model._target_=faults.model.move_one_ulp",), ("config model._target_",), "epoch 2, step 6, gradient of ",
    ),
    "one review changed": (
        ("data._target_=faults.data.change_one_review",), ("config data._target_", "data train/inputs"),
        "before training, data train/inputs",
    ),
    "another thread count": (
        ("runtime=machine", "runtime.intra_op_threads=2", "data.sequence_length=100", "data.num_words=20000",
         "model=cnn_lstm", "training.epochs=1", "training.steps_per_epoch=1"),
        ("config runtime.intra_op_threads",), "epoch 1, step 1, gradient of ",
    ),
}  # fmt: skip
QUICK = ("one weight moved by one ulp at a step",)  # in `make test`


def attempts(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the finished attempts of a project, oldest first."""
    found = [path.parent for path in (root / "runs").glob("*/*/*/result.json")]
    return sorted(found, key=lambda path: (path / "config.yaml").stat().st_mtime_ns)


def check_explained(name: str, a: pathlib.Path, b: pathlib.Path, said: str) -> None:
    """Check that the table of inputs shows the cause, and the last sentence the first divergence."""
    _, items, sentence = FAULTS[name]
    last = said.strip().splitlines()[-1]

    assert last.startswith(f"first divergence: {sentence}"), said[-3000:]
    assert last.endswith("; everything before it is bit-identical")
    assert set(items) <= {row.item for row in explain.input_differences(a, b)}
    for item in items:
        assert item in said


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in FAULTS]
)
def test_explain_names_the_first_bit_that_differs(
    name: str, own_siblings: pathlib.Path, train_here: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    """Changes one weight by one ulp, one seed, one review, or the number of threads."""
    overrides = FAULTS[name][0]
    shared = [word for word in overrides if word.startswith(("data.s", "data.n", "model=", "runtime=", "training."))]
    if shared:  # the recorded runs have others
        train_here(own_siblings, *shared)
    train_here(own_siblings, *overrides)
    a, b = attempts(own_siblings)[-2:]

    assert 1 == explain.explain(a, b, own_siblings)
    check_explained(name, a, b, capsys.readouterr().out)


@pytest.mark.full
def test_explain_names_a_non_deterministic_operation(
    project: pathlib.Path, train_here: TrainHere, command_here: Command
) -> None:
    """With equal inputs and different bits, explain says that no run repeats itself, and shows the first divergence."""
    words = "model._target_=faults.model.add_noise", "training.allow_python_operations=true", "training.epochs=1"
    first, second = (train_here(project, *words) for _ in range(2))
    done = command_here(project, "explain")

    assert (0, 1) == (first.returncode, second.returncode), first.stderr
    assert "inputs: equal in configuration, seeds, code, lock, data, packages and machine" in done.stdout
    assert "A did not repeat its own recorded bits" in done.stdout
    assert "operations in A's training step that run Python code: PyFunc in imdb_cnn_lstm" in done.stdout
    assert "first divergence: epoch 1, step 1, forward loss" in done.stdout


def test_explain_names_another_package_version(own_siblings: pathlib.Path) -> None:
    """Packages that compute are marked "may change bits"; others matter only if the user's functions use them."""
    a, b = attempts(own_siblings)
    machine = json.loads((b / "machine.json").read_text())
    machine["packages"] |= {"numpy": "2.4.5", "rich": "1.0"}
    (b / "machine.json").write_text(json.dumps(machine))
    found = {row.item: row for row in explain.input_differences(a, b)}

    assert ("2.4.5", effects.MAY) == (found["package numpy"].b, found["package numpy"].effect)
    assert effects.OWN == found["package rich"].effect


def test_explain_of_equal_runs_finds_nothing(own_siblings: pathlib.Path, command_here: Command) -> None:
    """Two attempts of the same run give no divergence, exit code 0, and a picture of both curves."""
    done = command_here(own_siblings, "explain", "last~1", "last")

    assert 0 == done.returncode, done.stderr
    assert "no divergence: every trace record that both have is bit-identical" in done.stdout
    assert 1 == len(list((own_siblings / "runs" / ".explain").glob("*.png")))


def test_explain_refuses_an_unknown_run(own_siblings: pathlib.Path, command_here: Command) -> None:
    """An unknown run gives a one-line error and exit code 2."""
    done = command_here(own_siblings, "explain", "last", "feedbeef")

    assert 2 == done.returncode
    assert "run feedbeef: expected a run's folder" in done.stderr


def test_verify_passes_under_hostile_conditions(own_siblings: pathlib.Path) -> None:
    """Two runs agree in every record, the second in another folder, locale, time zone and on one busy core."""
    done = run_command(own_siblings, "verify", "--runs=2", "experiment=smoke", "tracker=none")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert (
        "VERIFIED: 2 runs of smoke, seed 56, bitwise identical in weights, optimizer and all 9 records" in done.stdout
    )


@pytest.mark.full
def test_verify_turns_red_on_a_planted_leak(project: pathlib.Path) -> None:
    """A run that depends on its environment by one ulp is detected and named."""
    leak = "model._target_=faults.model.move_one_ulp_on_one_core"
    done = run_command(project, "verify", "--runs=2", "experiment=smoke", "tracker=none", "training.epochs=1", leak)

    assert 1 == done.returncode
    found = "first divergence: epoch 1, weights at its end of "
    assert f"NOT VERIFIED: 2 runs of smoke diverged; {found}" in done.stdout


def test_verify_refuses_one_run(own_siblings: pathlib.Path, command_here: Command) -> None:
    """One run is not enough: exit code 2."""
    done = command_here(own_siblings, "verify", "--runs=1", "experiment=smoke")

    assert 2 == done.returncode
    assert "--runs: expected at least 2, received 1" in done.stderr
