"""The quick start's notebook is committed without outputs and runs in a fresh kernel."""

import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import nbformat
import pytest
from conftest import QUIET, ROOT, copy_project

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def code_cells(path: pathlib.Path) -> list[Any]:
    """Return the code cells of a valid notebook."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat is half typed
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(root: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    """Run a copy's notebook with the command in its text; the output goes to shown.ipynb."""
    shutil.copytree(NOTEBOOK.parent, root / "docs", ignore=shutil.ignore_patterns("*.png"))
    program = pathlib.Path(sys.executable).parent / "jupyter-execute"
    command = [str(program), "docs/quickstart.ipynb", "--output=shown", "--timeout=1200"]
    environment = QUIET | {"PYTHONPATH": str(root / "src")}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1800, check=False)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the output of each code cell."""
    root = copy_project(tmp_path_factory.mktemp("notebook"))
    done = execute(root)

    assert 0 == done.returncode, done.stderr
    cells = code_cells(root / "docs" / "shown.ipynb")
    return ["".join(output.get("text", str(output.get("data"))) for output in cell.outputs) for cell in cells]


def test_the_notebook_is_committed_without_outputs() -> None:
    """The notebook has no outputs and no execution counts."""
    assert [] == [cell for cell in code_cells(NOTEBOOK) if cell.outputs or cell.execution_count]


@pytest.mark.full
def test_the_notebook_shows_same_bits_other_bits_and_why(shown: list[str]) -> None:
    """Two runs agree, a third does not, explain names the order of the first batch, and a picture follows."""
    _, first, second, moved, explained, picture = shown
    weights = [re.findall(r"^weights (\w+)…", text, re.MULTILINE) for text in (first, second, moved)]

    assert weights[0] == weights[1] != weights[2]
    assert [1, 1, 1] == [len(found) for found in weights]
    assert "same bits as 1 earlier run with the same inputs" in second
    assert all("exit code 0" in text for text in (first, second, moved))
    assert "seed data/order" in explained
    assert re.search(r"first divergence: epoch 1, step 1, order of the data", explained)
    assert "image/png" in picture


@pytest.mark.full
def test_a_cell_that_fails_fails_the_notebook(tmp_path: pathlib.Path) -> None:
    """The command that runs the notebook fails if a cell fails."""
    root = copy_project(tmp_path)
    shutil.rmtree(root / "conf")
    done = execute(root)

    assert 0 != done.returncode
    assert "StopIteration" in done.stderr
