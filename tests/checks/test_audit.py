"""`samebits audit`: verdicts on made-up differences, an unused seed, and a seed that changes too much."""

import json
import pathlib

import pytest
from conftest import Command

from samebits.checks import audit
from samebits.checks.audit import judge
from samebits.core.config import Config
from samebits.core.errors import RecordError
from samebits.launch import run
from samebits.runs.trace_diff import Divergence

CONV, OUTPUT = "imdb_cnn_lstm/conv/kernel", "imdb_cnn_lstm/output/kernel"
WEIGHT, DRAWS = f"weight {CONV}", "draws of layer flip: generator"


@pytest.mark.parametrize(
    ("point", "consumer", "found", "is_right"),
    [
        ("data/order", "", [Divergence(1, 1, "order")], True),
        ("data/order", "", [], False),
        ("data/order", "", [Divergence(1, 2, "order")], False),
        ("data/order", "", [Divergence(0, None, "weights", (CONV,)), Divergence(1, 1, "order")], False),
        ("data/split", "", [Divergence(0, None, "data", ("train/inputs",))], True),
        ("model/conv/kernel", WEIGHT, [Divergence(0, None, "weights", (CONV,))], True),
        ("model/conv/kernel", WEIGHT, [Divergence(0, None, "weights", (f"{CONV}#2",))], True),
        ("model/conv/kernel", WEIGHT, [Divergence(0, None, "weights", (CONV, OUTPUT))], False),
        ("model/conv/kernel", WEIGHT, [Divergence(0, None, "weights", (OUTPUT,))], False),
        ("model/conv/kernel", WEIGHT, [Divergence(1, 1, "loss")], False),
        ("model/mha/kernel", f"weight {OUTPUT}", [Divergence(0, None, "weights", (OUTPUT,))], True),
        ("model/conv/kernel", "layer conv: kernel", [Divergence(0, None, "weights", (CONV,))], True),
        ("model/conv/kernel", "layer conv: kernel", [Divergence(0, None, "weights", (OUTPUT,))], False),
        ("model/embedding_dropout/dropout", DRAWS, [Divergence(1, 1, "loss")], True),
        ("model/flip/generator", DRAWS, [Divergence(1, 1, "loss")], True),
        ("model/flip/generator", DRAWS, [Divergence(1, 3, "gradients", (CONV,))], True),
        ("model/flip/generator", DRAWS, [Divergence(1, 1, "order")], False),
        ("model/flip/generator", DRAWS, [Divergence(0, None, "weights", (CONV,))], False),
        ("model/flip/generator", DRAWS, [], False),
        ("python/random", "", [Divergence(0, None, "generators", ("python/random",))], True),
        ("python/random", "", [], False),
        ("algorithm/forest", "", [Divergence(1, 1, "weights", ("trees/000/feature",))], True),
        ("algorithm/forest", "", [Divergence(1, 2, "weights", ("trees/001/feature",))], False),
        ("algorithm/forest", "", [Divergence(0, None, "data", ("train/inputs",))], False),
        ("python/random", "", [Divergence(0, None, "generators", ("python/random", "numpy/global"))], False),
        (
            "python/random", "",
            [Divergence(0, None, "generators", ("python/random",)), Divergence(0, None, "weights", (CONV,))],
            False,
        ),
    ],
)  # fmt: skip
def test_a_point_is_judged_by_what_it_moves(
    point: str, consumer: str, found: list[Divergence], *, is_right: bool
) -> None:
    """The first change must be in the stage that consumes the point, and in the weight that the run recorded."""
    assert is_right == judge(point, consumer, found).is_right


@pytest.mark.full
def test_live_points_pass_the_audit(project: pathlib.Path, command_here: Command) -> None:
    """The audit of one initializer and of the shuffling ends with LIVE. Oversampling of even classes counts as unused.

    With balanced classes there is nothing to oversample, which is no error.
    """
    path = project / "conf" / "data" / "synthetic.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("positive_share")))
    done = command_here(project, "audit", "model/conv/kernel", "data/order", "data/oversample")

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "LIVE: 3 seed points; each one changes exactly its consumer" in done.stdout
    assert 1 == done.stdout.count("unused in this configuration")


def test_an_unknown_point_is_refused(project: pathlib.Path, command_here: Command) -> None:
    """A typo is an error, not "LIVE: 0 seed points"."""
    done = command_here(project, "audit", "data/ordr")

    assert 2 == done.returncode, done.stdout
    assert "received data/ordr; fix: fix the typo" in done.stderr


@pytest.mark.full
def test_a_dead_seed_and_a_leaking_one_are_found(project: pathlib.Path, command_here: Command) -> None:
    """A seed that the model reads but does not use changes nothing; another changes two tensors. Both are reported."""
    points = "model/conv/kernel", "model/lstm/kernel"
    done = command_here(project, "audit", *points, "model._target_=faults.model.confuse_seeds")

    assert 1 == done.returncode
    assert 1 == done.stdout.count("nothing: the seed has no effect")
    assert "NOT LIVE: 2 seed points; wrong: model/conv/kernel, model/lstm/kernel" in done.stdout


def test_a_seed_that_the_code_fixes_is_not_moved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit takes its points from the record of a run: one per weight, also those that no file lists."""
    rows = [
        {"point": "model/a/kernel", "value": 42, "source": "literal", "consumer": "weight a/kernel", "rests": ""},
        {"point": "model/b/kernel", "value": None, "source": "unseeded", "consumer": "weight b/kernel", "rests": ""},
        {"point": "model/c/kernel", "value": 7, "source": "derived", "consumer": "weight c/kernel", "rests": ""},
    ]
    moved: list[list[str]] = []

    def train(_config: Config, folder: pathlib.Path, _root: pathlib.Path) -> pathlib.Path:
        folder.mkdir(parents=True)
        (folder / "seeds.json").write_text(json.dumps({"points": rows}))
        tensors = {"c/kernel": "moved" if "c-kernel" in folder.name else "base"}
        trace = {"epoch": 0, "weights": str(tensors), "tensors": tensors}
        (folder / "trace.jsonl").write_text(json.dumps(trace) + "\n")
        return folder

    def compose(overrides: list[str]) -> Config:
        moved.append(overrides)
        return Config()

    monkeypatch.setattr(audit, "train_aside", train)
    auditor = audit.Auditor(compose, tmp_path, tmp_path)

    assert [True, False, True] == [auditor.audit(row).is_right for row in auditor.points]
    assert ["seed.points.model.c.kernel=8"] == moved[-1]


@pytest.mark.parametrize(("code", "has_result"), [(1, False), (-9, False), (0, False), (1, True)])
def test_a_run_that_crashed_is_not_judged(
    code: int, has_result: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An incomplete trace could differ in the right place by chance, so the audit ends with an error."""

    def crash(_config: Config, folder: pathlib.Path, *_: object) -> int:
        (folder / "trace.jsonl").write_text("")
        if has_result:
            (folder / "result.json").write_text("{}")
        return code

    monkeypatch.setattr(run, "run_child", crash)

    with pytest.raises(RecordError, match="did not finish, so the command stops"):
        audit.train_traced(Config(), tmp_path / "run", tmp_path)


def test_a_run_that_finished_is_judged(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit can read the trace of this run."""

    def finish(_config: Config, folder: pathlib.Path, *_: object) -> int:
        (folder / "result.json").write_text("{}")
        return 0

    monkeypatch.setattr(run, "run_child", finish)

    assert [] == audit.train_traced(Config(), tmp_path / "run", tmp_path)
