"""Any contents of a configuration, checkpoint or record give a result or a documented error, never a traceback."""

import contextlib
import copy
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, finished
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samebits.checks import explain
from samebits.compose import compose
from samebits.core.config import Config, from_dict, to_dict
from samebits.core.config_rules import check
from samebits.core.errors import SamebitsError
from samebits.core.files import read_arrays, write_arrays
from samebits.launch import run
from samebits.runs import prune
from samebits.runs.compare import compare_with_siblings
from samebits.runs.folder import find_attempt, read_json, read_rows, read_yaml
from samebits.runs.identity import identity

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same examples in every run of the tests
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def paths_of(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every node of nested data, including the root."""
    found = [prefix]
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in steps:
        found += paths_of(value, (*prefix, key))
    return found


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of nested data with another value at one place."""
    if not path:
        return value
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """Draw nested data with one node replaced by anything."""
    return replaced(tree, draw(st.sampled_from(paths_of(tree))), draw(PLAIN))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw bytes that are truncated, partly overwritten or completely different."""
    kind = draw(st.sampled_from(["cut", "overwritten", "other"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data) - 1))]
    if kind == "other":
        return draw(st.binary(max_size=200))
    place, patch = draw(st.integers(0, len(data) - 1)), draw(st.binary(min_size=1, max_size=8))
    return data[:place] + patch + data[place + len(patch) :]


def documented(action: Callable[[], object]) -> None:
    """Run an action, and allow only errors of this project with a complete message."""
    try:
        action()
    except SamebitsError as error:
        text = str(error)
        assert "expected" in text.lower()
        assert "fix" in text.lower()


# --- configuration ---

CONFIG = to_dict(compose(ROOT, ["experiment=smoke", "tracker=none"]))


@FUZZ
@given(mutated(CONFIG))
def test_any_configuration_is_used_or_refused(tree: Any) -> None:
    """Any configuration is checked without a traceback, and an accepted one has an identity."""

    def use() -> None:
        config = from_dict(tree)
        check(config)
        json.dumps(identity(config))

    documented(use)


def test_an_unchanged_configuration_is_used() -> None:
    """Negative control: the unchanged configuration is accepted."""
    config = from_dict(CONFIG)
    check(config)

    assert isinstance(config, Config)


@settings(FUZZ, max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            ["seed.root", "training.epochs", "data.rows", "model", "+x", "~seed", "tracker.tags", "name"]
        ).flatmap(lambda key: st.text(max_size=10).map(lambda value: f"{key}={value}"))
        | st.text(max_size=12),
        max_size=3,
    )
)
def test_any_command_line_is_used_or_refused(overrides: list[str]) -> None:
    """Any override composes or is a documented error."""

    def use() -> None:
        check(compose(ROOT, overrides))

    documented(use)


# --- files ---


@pytest.fixture(scope="module")
def trained(siblings: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project in which a run was trained twice."""
    return pathlib.Path(shutil.copytree(siblings, tmp_path_factory.mktemp("fuzzed") / "project"))


@contextlib.contextmanager
def other_contents(path: pathlib.Path, data: bytes) -> Any:
    """Replace the bytes of a file while the block runs."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def read_everything(root: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Call all readers of finished runs, and those of a start."""
    runs = root / "runs"
    attempts = sorted(runs.glob("*/*/[12]"))
    documented(lambda: compare_with_siblings(attempts[0]))
    documented(lambda: run.show_result(attempts[1], root, compare_with_siblings(attempts[1])))
    documented(lambda: explain.input_differences(*attempts))
    documented(lambda: find_attempt(runs, "last"))
    documented(lambda: run.resume(attempts[0], root))
    documented(lambda: prune.prune(runs, 1, confirmed=False))
    capsys.readouterr()


FILES = ["1/result.json", "1/machine.json", "1/seeds.json", "1/config.yaml", "1/trace.jsonl", "1/metrics.jsonl",
         "inputs.json"]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_a_record_is_a_documented_error(
    name: str, trained: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Truncated, overwritten or other bytes in any file of a run give a result or a documented error."""
    path = next((trained / "runs").glob("*/*/inputs.json")).parent / name

    @settings(FUZZ, max_examples=30)
    @given(damaged(path.read_bytes()))
    def look(data: bytes) -> None:
        with other_contents(path, data):
            read_everything(trained, capsys)

    look()
    assert 2 == len(finished(trained))


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_any_other_data_in_a_record_is_a_documented_error(
    name: str, trained: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Valid files with wrong data give a result or a documented error."""
    path = next((trained / "runs").glob("*/*/inputs.json")).parent / name
    text = path.read_text()
    load: dict[str, Callable[[str], Any]] = {".yaml": yaml.safe_load, ".json": json.loads}
    dump: dict[str, Callable[[Any], str]] = {".yaml": yaml.safe_dump, ".json": json.dumps}
    lines = path.suffix == ".jsonl"
    tree = [json.loads(line) for line in text.splitlines()] if lines else load[path.suffix](text)

    @settings(FUZZ, max_examples=30)
    @given(mutated(tree))
    def look(value: Any) -> None:
        rows = value if isinstance(value, list) else [value]
        new = "".join(json.dumps(row) + "\n" for row in rows) if lines else dump[path.suffix](value)
        with other_contents(path, new.encode(errors="surrogatepass")):
            read_everything(trained, capsys)

    look()


@FUZZ
@given(st.data())
def test_any_damage_to_arrays_is_seen(tmp_path: pathlib.Path, data: st.DataObject) -> None:
    """Any damage to a checkpoint or cache is an error, and no array of it is used."""
    path = tmp_path / "a.arrays"
    write_arrays(path, {"a": np.arange(5), "b": np.ones((2, 2), np.float32)})
    whole = path.read_bytes()
    harmed = data.draw(damaged(whole))
    path.write_bytes(harmed)
    if harmed == whole:
        assert 2 == len(read_arrays(path))
        return
    with pytest.raises(SamebitsError, match="is damaged"):
        read_arrays(path)


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path: pathlib.Path, data: bytes) -> None:
    """The readers of JSON, YAML, rows and arrays give a result or a documented error for any bytes."""
    path = tmp_path / "x.json"
    path.write_bytes(data)
    for read in (read_json, read_yaml, read_rows, read_arrays):

        def use(read: Callable[[pathlib.Path], object] = read) -> None:
            read(path)

        documented(use)


def test_deeply_nested_files_are_refused(tmp_path: pathlib.Path) -> None:
    """Nesting that is too deep is a documented error."""
    for name, opening in (("x.json", "["), ("x.yaml", "["), ("x.jsonl", "[")):
        (tmp_path / name).write_text(opening * 100_000 + "\n")
    documented(lambda: read_json(tmp_path / "x.json"))
    documented(lambda: read_yaml(tmp_path / "x.yaml"))
    documented(lambda: read_rows(tmp_path / "x.jsonl"))


def test_the_look_can_fail() -> None:
    """Negative control: other errors fail the check."""
    with pytest.raises(KeyError):
        documented(lambda: dict[str, int]()["missing"])


def test_names_of_runs_are_any_text(siblings: pathlib.Path) -> None:
    """Any name of a run is found or is a documented error."""

    @settings(FUZZ, max_examples=100)
    @given(st.text(max_size=20))
    def look(name: str) -> None:
        documented(lambda: find_attempt(siblings / "runs", name))

    look()
