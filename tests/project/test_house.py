"""The project's rules: import layers, entry points, README and links."""

import ast
import pathlib
import re
import subprocess
import sys

import grimp
from conftest import QUIET, ROOT

from samebits.runs.identity import ARITHMETIC_MODULES


def lint_imports(root: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    """Check the import layers of a copy of the project."""
    program = pathlib.Path(sys.executable).parent / "lint-imports"
    environment = QUIET | {"PYTHONPATH": str(root / "src")}
    return subprocess.run(
        [str(program), "--no-cache"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def test_an_import_from_a_higher_line_is_found(project: pathlib.Path) -> None:
    """The import contract holds, and fails if seeds imports launch."""
    assert 0 == lint_imports(project).returncode

    with (project / "src" / "samebits" / "core" / "seeds.py").open("a") as stream:
        stream.write("\nimport samebits.launch.run\n")

    assert 1 == lint_imports(project).returncode


def test_every_module_that_can_change_bits_is_in_a_runs_name() -> None:
    """A run's name covers all modules that training and models import, except those that cannot change bits."""
    graph = grimp.build_graph("samebits", cache_dir=None)
    entrances = {f"samebits.{name}" for name in ("train.worker", "portable.layers", "portable.initializers")}
    reached = entrances.union(*(graph.find_upstream_modules(name) for name in entrances))
    paths = {name.removeprefix("samebits.").replace(".", "/") for name in reached if not graph.find_children(name)}
    others = {
        "core/config", "core/errors", "core/files", "core/old_names", "core/terminal", "portable/graph_check",
        "runs/effects", "runs/folder", "runs/identity", "runtime/lockfile", "runtime/machine", "train/activations",
        "train/cache_keys", "train/checks_of_data", "train/draws", "train/read_ahead",
        "train/constant_draws", "train/recorder", "train/shard_checks", "train/stop",
    }  # fmt: skip

    assert others | set(ARITHMETIC_MODULES) == paths


def test_a_module_outside_the_picture_is_found(project: pathlib.Path) -> None:
    """A module outside the layers is found."""
    (project / "src" / "samebits" / "utils.py").write_text('"""A grab-bag."""\n')

    assert 1 == lint_imports(project).returncode


def test_scripts_are_short() -> None:
    """An entry point has at most 25 lines, except the set-up, which must not import the project."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "scripts").glob("*.py")}

    assert {} == {name: lines for name, lines in lengths.items() if lines > 25 and name != "setup_env.py"}


def test_the_readme_is_at_most_200_lines() -> None:
    """The README has at most 200 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    """Relative links in README and docs/ name existing files."""
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def long_definitions(source: str) -> list[str]:
    """Return the functions of more than 60 lines and the classes of more than 200."""
    limits = {ast.FunctionDef: 60, ast.ClassDef: 200}
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and (node.end_lineno or 0) - node.lineno + 1 > limits[type(node)]
    ]


def test_no_function_has_more_than_60_lines_and_no_class_more_than_200() -> None:
    """Also in tools/ and tests/. A longer function and a longer class are found."""
    files = [path for folder in ("src", "tools", "tests", "scripts") for path in (ROOT / folder).rglob("*.py")]
    found = {path.name: names for path in files if (names := long_definitions(path.read_text()))}

    assert {} == found
    assert [] == long_definitions("def f():\n" + "    f()\n" * 59)
    assert ["f"] == long_definitions("def f():\n" + "    f()\n" * 60)
    assert ["C"] == long_definitions("class C:\n" + "    a = 1\n" * 200)
