"""The example of docs/your-own.md, with its own data and model, in a copy of the project."""

import json
import pathlib
import re
import shutil
import sys

import pytest
from conftest import (
    ROOT,
    Command,
    Result,
    TrainHere,
    copy_project,
    digest,
    finished,
    run_command,
    run_words,
)

EXAMPLE = ROOT / "tests" / "own_example"
DIGITS = ("experiment=digits", "tracker=none")
EXPORT = """
model.export("exported")
import tensorflow
exported = tensorflow.saved_model.load("exported")
print(exported.serve(images.astype("float32")).numpy().argmax(axis=1))
"""
AUDITED = ("data/split", "data/oversample", "model/digits/conv/kernel", "model/digits/drop/seed_generator")


def files() -> dict[str, str]:
    """Return path -> text of the example's files."""
    paths = sorted(path for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".yaml"})
    return {path.relative_to(EXAMPLE).as_posix(): path.read_text() for path in paths}


def snippets(text: str) -> dict[str, str]:
    """Return the files in a document: a path on its own line, then a block."""
    return dict(re.findall(r"^`(\S+)`\n\n```(?:python|yaml)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def test_the_document_shows_the_example() -> None:
    """The document contains every file of the example and nothing else; one changed letter is detected."""
    text = (ROOT / "docs" / "your-own.md").read_text()

    assert files() == snippets(text)
    assert files() != snippets(text.replace('name="conv"', 'name="cone"'))


def read_diff(text: str) -> dict[str, str]:
    """Return the files that the document's diff makes: the lines below each `+++ path` that it adds or keeps."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    parts = re.split(r"^\+\+\+ (\S+)\n", diff, flags=re.MULTILINE)[1:]
    return {
        path: "".join(line[1:] + "\n" for line in part.splitlines() if line[:1] != "-")
        for path, part in zip(parts[::2], parts[1::2], strict=True)
    }


def test_the_diff_has_ten_new_lines_and_one_in_place_of_fit() -> None:
    """The document says how many lines a script needs."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "docs" / "your-own.md").read_text(), re.DOTALL | re.MULTILINE)

    assert 11 == len(re.findall(r"^\+(?!\+\+)", diff, re.MULTILINE))


@pytest.mark.full
def test_the_diff_trains(tmp_path: pathlib.Path, train_here: TrainHere) -> None:
    """The files of the document's diff are a whole experiment."""
    root = copy_project(tmp_path)
    for path, text in read_diff((ROOT / "docs" / "your-own.md").read_text()).items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    done = train_here(root, experiment="mine")
    result = json.loads((finished(root)[0] / "result.json").read_text())

    assert 0 == done.returncode, done.stderr
    assert {"loss", "mae", "val_loss", "val_mae"} == set(result["metrics"])
    assert result["metrics"]["val_mae"] < 1.2


def test_the_example_is_less_than_50_lines() -> None:
    """Data, model and configuration together have the length that the document gives."""
    lines = sum(len(text.splitlines()) for text in files().values())

    assert lines < 50
    assert f" {lines} lines." in (ROOT / "docs" / "your-own.md").read_text()


def own_project(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the project with the example added."""
    root = copy_project(folder)
    shutil.copytree(EXAMPLE, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Result]:
    """Return a project with the example, which verify trained twice in fresh processes."""
    root = own_project(tmp_path_factory.mktemp("own"))
    return root, run_command(root, "verify", "--runs=2", *DIGITS)


@pytest.mark.full
def test_the_example_verifies_green(verified: tuple[pathlib.Path, Result]) -> None:
    """Two runs under different conditions have the same bits, and no untested operations."""
    root, done = verified
    first, second = finished(root)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "VERIFIED: 2 runs of digits" in done.stdout
    assert digest(first) == digest(second)
    assert "never measured" not in done.stdout + done.stderr


@pytest.mark.full
def test_the_trained_model_is_used_as_the_document_shows(verified: tuple[pathlib.Path, Result]) -> None:
    """The document's last Python block recognizes five digits with the newest model, and so does its SavedModel."""
    text = (ROOT / "docs" / "your-own.md").read_text()
    program = re.findall(r"```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[-1]
    done = run_words(verified[0], [sys.executable, "-c", program + EXPORT], {}, None)

    assert 0 == done.returncode, done.stderr
    assert 2 == done.stdout.count("[0 1 2 3 4]")


@pytest.mark.full
def test_another_root_seed_gives_other_bits(verified: tuple[pathlib.Path, Result], train_here: TrainHere) -> None:
    """Root seed 57 gives other weights than 56, and the accuracy is at least 0.9."""
    root, _ = verified
    done = train_here(root, "seed.root=57", experiment="digits")
    accuracy = re.search(r"^val_accuracy (0\.\d+)", done.stdout, re.MULTILINE)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert digest(finished(root)[0]) != digest(finished(root)[-1])
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9


@pytest.mark.full
def test_a_moved_point_of_the_example_moves_its_own_part_alone(
    verified: tuple[pathlib.Path, Result], command_here: Command
) -> None:
    """The audit changes each point by one: the data, one initial tensor or the first forward loss changes first."""
    done = command_here(verified[0], "audit", *AUDITED, *DIGITS)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"LIVE: {len(AUDITED)} seed points; each one changes exactly its consumer" in done.stdout
    assert "unused in this configuration" not in done.stdout


@pytest.mark.full
def test_the_example_becomes_golden(verified: tuple[pathlib.Path, Result], command_here: Command) -> None:
    """Without a golden file `samebits golden` is an error; --update writes one, and the check then passes."""
    root, _ = verified
    none = command_here(root, "golden")
    update = command_here(root, "golden", "--update", "digits")
    done = command_here(root, "golden")

    assert (1, True) == (none.returncode, "no experiment has a file in golden/." in none.stderr)
    assert 0 == update.returncode, update.stderr
    assert (0, True) == (done.returncode, "GOLDEN digits: seed 56" in done.stdout), done.stdout
