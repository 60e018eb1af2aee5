"""Reads the Python code of a script or of a notebook's cells."""

import ast
import json
import pathlib
import re
from collections.abc import Iterator

from samebits.core.config import ScriptConfig
from samebits.core.errors import ConfigError

NOTEBOOK = ".ipynb"
FOREIGN = re.compile("%%?[A-Za-z]|!")  # the start of a line that is a magic or a shell command
RUN_THE_REST = ("%%time", "%%timeit", "%%capture", "%%prun")  # magics of a cell whose other lines are Python


def code_path(script: ScriptConfig) -> pathlib.Path:
    """Return the path of the code: the script itself, or its copy in a record, which has a notebook as a script."""
    path = pathlib.Path(script.path)
    return pathlib.Path(script.code) / path.with_suffix(".py").name if script.code else path


def read_code(path: pathlib.Path) -> tuple[str, list[str]]:
    """Return the code of a script, or of all cells of a notebook, one below the other.

    Returns:
        The code, and the lines that are left out: magics (%) and shell commands (!). A comment stands in their place.

    Raises:
        ConfigError: There is no such file, or it is no notebook.
    """
    try:
        if path.suffix != NOTEBOOK:
            return path.read_text(encoding="utf-8"), []
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except OSError as error:
        received = f"{path} ({error.strerror})"
        raise ConfigError("script", expected="a Python file", received=received, fix="fix the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "script", expected="a Python file or a notebook of Jupyter's format 4", received=str(path),
            fix=f"save it anew, or as a script: jupyter nbconvert --to script {path.name}",
        ) from error  # fmt: skip
    left_out: list[str] = []
    lines = [line for source in sources for line in python_lines(source, left_out)]
    return "\n".join([*lines, ""]), left_out


def parses(source: str) -> bool:
    """Return whether a text is Python."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def python_lines(source: str, left_out: list[str]) -> Iterator[str]:
    """Yield the lines of a cell, with a comment in place of those that are no Python, which `left_out` gets."""
    is_foreign = source.startswith("%%") and not source.startswith(RUN_THE_REST)
    is_python = not is_foreign and parses(source)  # then a line that starts with % continues an expression
    for line in source.splitlines():
        text = line.lstrip()
        if is_foreign or (not is_python and FOREIGN.match(text)):
            left_out.append(text)
            yield f"{line[: len(line) - len(text)]}pass  # {text}"
        else:
            yield line
