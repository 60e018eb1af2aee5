"""Every training of the gallery has the same bits in another process and after a kill, and is portable or refused."""

import ast
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence

import pytest
from conftest import Result, TrainHere, copy_project, install_faults, run_script

from samebits.runs.folder import METRICS, RESULT, read_json, read_rows

HERE = pathlib.Path(__file__).parent
QUICK = ("multi_task", "gan", "image_augmentation")  # in `make test` too
KILLED_AT = {"epoch": 2, "step": 4}  # a checkpoint is one step older
RECORDS = ("metrics.jsonl", "trace.jsonl", "predictions.arrays")
HOSTILE = {"PYTHONHASHSEED": "4242", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "MALLOC_ARENA_MAX": "1"}
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__init__", "test_gallery"))


def gallery_words(name: str) -> list[str]:
    """Return the overrides of one training: those that its file has, and its name."""
    tree = ast.parse((HERE / f"{name}.py").read_text())
    (own,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OVERRIDES"
    )
    return [f"name={name}", *own]


def install_gallery(root: pathlib.Path) -> None:
    """Put the gallery, its configuration and the faults into a project."""
    install_faults(root, ["data._target_=faults.data.load"])
    shutil.copytree(HERE / "conf", root / "conf", dirs_exist_ok=True)
    (root / "src" / "gallery").mkdir()
    for name in ("__init__", *NAMES):
        shutil.copy(HERE / f"{name}.py", root / "src" / "gallery")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project with the gallery."""
    root = copy_project(tmp_path_factory.mktemp("gallery"))
    install_gallery(root)
    return root


def attempts_of(root: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Return the attempts of one training, oldest first."""
    return sorted((root / "runs" / name).glob("*/[0-9]*"), key=lambda path: int(path.name))


def check_equal(first: pathlib.Path, second: pathlib.Path) -> None:
    """Check that two attempts have the same digests and the same rows, bit for bit."""
    kept = ("weights_digest", "optimizer_digest", "predictions_digest", "metrics", "steps", "epochs")
    one, two = (read_json(attempt / RESULT) for attempt in (first, second))

    assert [one[key] for key in kept] == [two[key] for key in kept]
    for name in RECORDS:
        if (first / name).exists():
            assert (first / name).read_bytes() == (second / name).read_bytes()


def check_done(done: Result, said: str) -> None:
    """Check that a training finished and said something."""
    assert 0 == done.returncode, done.stdout + done.stderr
    assert said in done.stdout, done.stdout


def fresh(root: pathlib.Path, name: str, folder: pathlib.Path, *words: str) -> Result:
    """Train in fresh processes, in another working directory, locale and time zone."""
    words = ("experiment=gallery", *gallery_words(name), *words)
    return run_script(root, "train.py", *words, "tracker=none", environment=HOSTILE, cwd=folder)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in NAMES]
)
def test_a_training_has_the_same_bits_again_and_after_a_kill(
    name: str, gallery: pathlib.Path, tmp_path: pathlib.Path, train_here: TrainHere
) -> None:
    """Two hostile processes, and one that is killed in the middle of an epoch and resumed, have the same bits."""
    words = gallery_words(name)
    check_done(train_here(gallery, *words, experiment="gallery"), "first run with these inputs")
    whole = attempts_of(gallery, name)[0]
    if name in QUICK:
        again = train_here(gallery, *words, experiment="gallery", environment=HOSTILE)
    else:
        again = fresh(gallery, name, tmp_path)
    check_done(again, "same bits as")
    row = next(i for i, row in enumerate(read_rows(whole / METRICS), 1) if row.items() >= KILLED_AT.items())
    killed = train_here(gallery, *words, experiment="gallery", environment={"FAULT": f"row {row} kill", **HOSTILE})

    assert 1 == killed.returncode, killed.stdout + killed.stderr
    assert "killed by SIGKILL" in killed.stdout + killed.stderr
    check_done(train_here(gallery, *words, experiment="gallery"), "resumes after epoch 2, step 3")
    attempts = attempts_of(gallery, name)
    assert 3 == len(attempts)
    for attempt in attempts[1:]:
        check_equal(whole, attempt)
