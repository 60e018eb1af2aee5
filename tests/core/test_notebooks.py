"""The code of a notebook: its cells as one script."""

import json
import pathlib

import pytest

from samebits.core.errors import ConfigError
from samebits.core.notebooks import read_code


def code_of(folder: pathlib.Path, *sources: str) -> tuple[str, list[str]]:
    """Return the code of a notebook with these cells, after one of text."""
    cells = [{"cell_type": "markdown", "source": ["# title"]}]
    cells += [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
    path = folder / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return read_code(path)


def test_magics_and_shell_commands_are_left_out(tmp_path: pathlib.Path) -> None:
    """Also inside a block, whose indentation stays. The line numbers stay, too."""
    code, left_out = code_of(
        tmp_path, "%matplotlib inline\nx = 1\nif x:\n    !ls\ny = x", "%%time\nz = 2", "%%bash\nls"
    )

    assert ["%matplotlib inline", "!ls", "%%time", "%%bash", "ls"] == left_out
    assert "y = x" == code.splitlines()[4]
    names: dict[str, int] = {}
    exec(code, names)  # noqa: S102
    assert (1, 1, 2) == (names["x"], names["y"], names["z"])


def test_a_line_of_python_that_starts_with_a_percent_sign_stays(tmp_path: pathlib.Path) -> None:
    """It continues an expression or a text."""
    code, left_out = code_of(tmp_path, "a = (7\n%4)", 'text = """\n%s\n!x"""', "c = (a\n     % a)")

    assert [] == left_out
    assert "%4)" in code
    assert "!x" in code


@pytest.mark.parametrize("text", ["", "[]", '{"worksheets": []}', "\0"])
def test_what_is_no_notebook_is_an_error(text: str, tmp_path: pathlib.Path) -> None:
    """The error says how to save it."""
    path = tmp_path / "a.ipynb"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=r"expected a Python file or a notebook .*nbconvert --to script a.ipynb"):
        read_code(path)
