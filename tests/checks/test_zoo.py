"""`python -m zoo`: what it compares, what it says about a case, and that a recording has the bits of the training."""

import functools
import inspect
import json
import os
import pathlib
import shutil
import time
from typing import Any

import pytest
from zoo import run
from zoo.rows import OURS, Verdict, describe, judge_case, measured_operations

from samebits.runtime.emulators import Machine

HERE = "this CPU"


def row(**stages: str) -> dict[str, Any]:
    """Return a row as a machine writes it."""
    return {"stages": stages, "refused": [], "operations": ["MatMul"]}


def test_the_first_stage_that_differs_is_found() -> None:
    """The first stage in order of time is reported, with the CPU; the others are named as same."""
    here, other = row(weights="1", step="2", end="3"), row(weights="1", step="3", end="4")
    found = judge_case("A", {HERE: {"A": here}, "Haswell": {"A": here}, "EPYC": {"A": other}})

    assert Verdict("A", ("Haswell",), "step (EPYC)") == found
    assert found.is_hole
    assert not judge_case("A", {HERE: {"A": here}, "Haswell": {"A": here}}).is_hole


def test_what_was_not_tried_is_a_hole() -> None:
    """A case without a result on one CPU, or with an error, is named with the CPU and the reason."""
    here = {"A": row(weights="1")}
    error = {"A": {"name": "A", "error": "ValueError: no"}}
    sides: list[dict[str, Any]] = [{HERE: here, "EPYC": error}, {HERE: here, "EPYC": {}}, {HERE: {}}]
    found = [judge_case("A", side) for side in sides]

    assert [("EPYC: ValueError: no",), ("EPYC: not run",), ("this CPU: not run",)] == [each.missing for each in found]
    assert [True] * 3 == [each.is_hole for each in found]


def test_only_what_another_cpu_confirmed_is_measured() -> None:
    """An operation counts as measured if one CPU has the same bits and none has others."""
    reference = {name: {"operations": [name]} for name in "ABC"}
    verdicts = [Verdict("A", ("Haswell",), missing=("EPYC: not run",)), Verdict("B", missing=("Haswell: not run",)),
                Verdict("C", ("Haswell",), "step (EPYC)")]  # fmt: skip

    assert ["A"] == measured_operations(verdicts, reference)


def test_the_table_says_what_was_compared() -> None:
    """A row has the shapes that were compared, the CPUs, the bits, and what a run does."""
    stages = ["32x300: initial weights", "32x300: loss of step 1", "7x37: predictions"]
    same = Verdict("A", ("Haswell",), missing=("EPYC: not run",))
    refused = Verdict("A", ("EPYC",), "32x4: loss of step 1 (Haswell)", ("Qr",))
    missing = Verdict("A", missing=("Haswell: not run",))

    assert ("32x300, 7x37", "same on Haswell; not compared: EPYC: not run", "**allowed**") == describe(same, stages)
    differs = "same on EPYC; differ from 32x4: loss of step 1 (Haswell)"
    assert ("32x4", differs, "error: Qr") == describe(refused, stages)
    assert ("-", "not compared: Haswell: not run", "-") == describe(missing, stages)
    assert "**NOT REFUSED**" == describe(Verdict("A", (), "32x4: loss (EPYC)"), stages)[2]


KINDS = {"layer": "layers", "loss": "losses", "metric": "metrics", "optimizer": "optimizers",
         "schedule": "optimizers.schedules", "initializer": "initializers"}  # fmt: skip


def untried(kind: str, cases: list[str]) -> set[str]:
    """Return the public classes of Keras of a kind that neither a case nor the list of those left out names."""
    import keras
    from zoo.pieces import LEFT_OUT

    module = functools.reduce(getattr, KINDS[kind].split("."), keras)
    names = {name.removeprefix(f"{kind} ").partition(",")[0] for name in cases if name.startswith(f"{kind} ")}
    named = {getattr(module, name) for name in (*names, *LEFT_OUT[kind]) if not name.startswith(OURS)}
    return {value.__name__ for value in vars(module).values() if inspect.isclass(value) and value not in named}


def test_every_class_of_keras_is_a_case() -> None:
    """Each layer, loss, metric, optimizer, schedule, initializer and activation has a case or a reason for none."""
    import keras
    from zoo.pieces import all_cases

    cases = list(all_cases())
    activations = {value.__name__ for value in vars(keras.activations).values() if inspect.isfunction(value)}
    activations -= {"get", "serialize", "deserialize", "linear"}

    assert {} == {kind: missing for kind in KINDS if (missing := untried(kind, cases))}
    assert set() == activations - {name.removeprefix("activation ").partition(",")[0] for name in cases}


def test_a_class_without_a_case_is_found() -> None:
    """Negative control: without its case, a layer is named."""
    from zoo.pieces import all_cases

    cases = [name for name in all_cases() if not name.startswith(("layer Conv2D", "metric AUC"))]

    assert ({"Conv2D", "Conv2DTranspose"}, {"AUC"}) == (untried("layer", cases), untried("metric", cases))


@pytest.fixture
def recorded(tmp_path: pathlib.Path, exact_operations: None) -> Any:
    """Return a function that records a case, and returns its row, its recorder and the recording's file."""
    from zoo import cases, pieces

    def record(name: str) -> Any:
        made, recorder = cases.run_case(name, pieces.all_cases()[name])
        recorder.write(path := cases.recording_path(tmp_path, name))
        return made, recorder, path

    return record


@pytest.mark.full
@pytest.mark.parametrize("name", ["layer SimpleRNN", "layer RandomFlip", "metric F1Score", "optimizer Adam"])
def test_a_recording_has_the_bits_of_the_training(name: str, recorded: Any) -> None:
    """Every stage after the initial weights has the same digest, also if it is played twice in one process."""
    from zoo.recordings import play

    made, _, path = recorded(name)
    again = shutil.copyfile(path, path.with_name("again.arrays"))
    stages = {stage: digest for stage, digest in made["stages"].items() if "initial" not in stage}

    assert stages == play(path) == play(again)


def test_another_weight_gives_other_bits(recorded: Any) -> None:
    """Negative control: one unit in the last place of one recorded weight changes the stages."""
    import numpy as np
    from zoo.recordings import HEADER, play

    from samebits.core.files import read_arrays, write_arrays

    made, _, path = recorded("layer Dense, one unit")
    arrays = read_arrays(path)
    weights = arrays[json.loads(arrays[HEADER].tobytes())[0]["variables"][0]]
    weights.flat[0] = np.nextafter(weights.flat[0], np.float32(9))
    write_arrays(path, arrays)
    played = play(path)

    assert made["stages"]["32x300: weights after step 1"] != played["32x300: weights after step 1"]
    assert made["stages"]["7x37: predictions"] == played["7x37: predictions"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("layer StringLookup", "text"),
        ("layer IntegerLookup", "a captured tensor"),
        ("activation divided by a constant", "constants that Python computes"),
    ],
)
def test_what_a_recording_cannot_hold_is_traced_everywhere(name: str, reason: str, recorded: Any) -> None:
    """A case with text, a table or computed constants has no recording, so that each CPU traces it."""
    _, recorder, path = recorded(name)

    assert reason == recorder.traced_only
    assert not path.exists()


def test_a_row_is_not_measured_twice(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call runs the cases without a row alone; with no time left it runs none, and says what is missing."""
    program = (
        "import sys, json; out = open(sys.argv[1], 'a');"
        "[print(json.dumps({'name': n, 'stages': {}, 'refused': [], 'operations': []}), file=out)"
        " for n in sys.argv[5:]]"
    )
    monkeypatch.setattr(run, "PROGRAM", ("-c", program))
    work = run.Work(tmp_path / "zoo", dict(os.environ), time.time() + 60)
    here = Machine(HERE)
    work.run([here], ["A", "B"], 1)
    work.run([here], ["A", "B", "C"], 2)
    run.Work(tmp_path / "zoo", dict(os.environ), 0).run([here], ["D"], 1)
    lines = [
        line for path in (tmp_path / "zoo" / here.folder).glob("*.jsonl") for line in path.read_text().splitlines()
    ]

    assert ["A", "B", "C"] == sorted(json.loads(line)["name"] for line in lines)
