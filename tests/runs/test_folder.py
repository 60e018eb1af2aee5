"""The folder of a run: damaged files are errors, attempts are numbered, and users find them by name."""

import json
import os
import pathlib
import re

import pytest
from processes import start_at_once

from samebits.core.errors import FolderError, RecordError
from samebits.core.files import append_row
from samebits.runs.folder import (
    CONFIG,
    find_attempt,
    keep_rows,
    list_attempts,
    make_attempt,
    read_json,
    read_rows,
    read_yaml,
    remove_attempt,
)


def names_in(folder: pathlib.Path) -> list[str]:
    """Return the names in a folder, including hidden ones."""
    return sorted(path.name for path in folder.iterdir())


ATTEMPTS = """
import pathlib, sys
from samebits.core import files
from samebits.runs import folder
print("ready", flush=True)
sys.stdin.readline()
print(*(folder.make_attempt(pathlib.Path(sys.argv[1])).name for _ in range(int(sys.argv[2]))))
"""


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        *(("result.json", contents) for contents in (None, b"", b'{"a": 1', b"\xff")),
        *(("config.yaml", contents) for contents in (None, b"a: [", b"\xff", b"!!python/object/apply:os.getcwd []")),
    ],
)
def test_a_damaged_file_is_a_record_error(tmp_path: pathlib.Path, name: str, contents: bytes | None) -> None:
    """A missing, empty, truncated or invalid JSON or YAML file is an error with its name, and runs no code."""
    path = tmp_path / name
    if contents is not None:
        path.write_bytes(contents)
    read = read_json if name == "result.json" else read_yaml

    with pytest.raises(RecordError, match=f"{re.escape(name)} could not be read"):
        read(path)


def result_with(**more: object) -> str:
    """Return a result with the given entries."""
    texts = dict.fromkeys(("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint"), "0")
    return json.dumps({"metrics": {}, "timing": {}, "resumed_at": None} | texts | more)


@pytest.mark.parametrize("more", [{}, {"metrics": {"val_mae": 0.5, "digit_auc": 1.0}}, {"best_epoch": 3}])
def test_a_result_may_have_any_metrics(more: dict[str, object], tmp_path: pathlib.Path) -> None:
    """No name is required; the end of an early-stopped training is optional."""
    (tmp_path / "result.json").write_text(result_with(**more))

    assert more.get("metrics", {}) == read_json(tmp_path / "result.json")["metrics"]


@pytest.mark.parametrize(
    "more", [{"metrics": {"loss": "low"}}, {"metrics": {"loss": None}}, {"metrics": [0.5]}, {"stopped_early": 1}]
)
def test_a_result_has_numbers_as_metrics(more: dict[str, object], tmp_path: pathlib.Path) -> None:
    """A metric that is no number is damage."""
    (tmp_path / "result.json").write_text(result_with(**more))

    with pytest.raises(RecordError, match="could not be read"):
        read_json(tmp_path / "result.json")


def test_a_torn_last_line_is_dropped(tmp_path: pathlib.Path) -> None:
    """An incomplete last line is ignored, wherever it was cut."""
    path = tmp_path / "rows.jsonl"
    append_row(path, {"step": 1})
    append_row(path, {"step": 2, "name": "ä"})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])

        assert read_rows(path) == [{"step": 1}]

    path.write_bytes(whole)

    assert read_rows(path) == [{"step": 1}, {"step": 2, "name": "ä"}]


@pytest.mark.parametrize("damaged", [b'{"step": 2', b"", b"\xff\xfe", b'{"step": 2}{"step": 3}', b"\0\0\0"])
def test_a_damaged_middle_line_is_an_error(tmp_path: pathlib.Path, damaged: bytes) -> None:
    """An invalid line before the last is an error with its number."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n')

    with pytest.raises(RecordError) as caught:
        read_rows(path)

    assert f"{path} is damaged in line 2." == caught.value.what
    assert repr(damaged) == caught.value.received


def test_a_missing_file_has_no_rows(tmp_path: pathlib.Path) -> None:
    """A missing record has no rows."""
    assert read_rows(tmp_path / "rows.jsonl") == []


def test_an_unreadable_file_is_a_record_error(tmp_path: pathlib.Path) -> None:
    """A record that exists but is unreadable is an error, not empty."""
    with pytest.raises(RecordError, match="could not be read"):
        read_rows(tmp_path)


@pytest.mark.parametrize("torn", [b"", b'{"step": 4, "lo'])
def test_rows_are_cut_back_to_a_count(tmp_path: pathlib.Path, torn: bytes) -> None:
    """A resumed run keeps the rows of its checkpoint byte for byte, and drops an incomplete line before appending."""
    path, twin = tmp_path / "rows.jsonl", tmp_path / "twin.jsonl"
    rows = [{"step": step, "loss": 1 / step, "name": "ä"} for step in (1, 2, 3)]
    for row in rows:
        append_row(path, row)
    for row in rows[:2]:
        append_row(twin, row)
    with path.open("ab") as stream:
        stream.write(torn)
    keep_rows(path, 2)

    assert twin.read_bytes() == path.read_bytes()

    append_row(path, rows[2])

    assert rows == read_rows(path)


def test_cutting_back_a_missing_file_makes_none(tmp_path: pathlib.Path) -> None:
    """Cutting a missing record does not create it."""
    keep_rows(tmp_path / "rows.jsonl", 0)

    assert names_in(tmp_path) == []


def test_processes_at_once_get_distinct_attempts(tmp_path: pathlib.Path) -> None:
    """Three processes that create attempts at the same time get different numbers, without gaps."""
    children = start_at_once(ATTEMPTS, 3, tmp_path, 60)
    made = [name for child in children for name in child.communicate(timeout=60)[0].split()]

    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(map(int, made)) == list(range(1, 181))
    assert [path.name for path in list_attempts(tmp_path)] == [str(number) for number in range(1, 181)]


def test_attempts_are_counted_from_the_newest(tmp_path: pathlib.Path) -> None:
    """A new attempt gets the highest number plus one, not the first gap, and 10 comes after 9."""
    for number in (2, 9, 10):
        (tmp_path / str(number)).mkdir()

    assert make_attempt(tmp_path).name == "11"
    assert [path.name for path in list_attempts(tmp_path)] == ["2", "9", "10", "11"]


@pytest.mark.timeout(20)
def test_a_stray_file_is_no_attempt(tmp_path: pathlib.Path) -> None:
    """A file with a number as its name is ignored."""
    (tmp_path / "1").touch()
    (tmp_path / "source").mkdir()

    assert make_attempt(tmp_path).name == "2"
    assert [path.name for path in list_attempts(tmp_path)] == ["2"]


def test_a_removed_attempt_leaves_no_empty_folders(tmp_path: pathlib.Path) -> None:
    """Removing the only attempt removes the folders above it. With another attempt they stay."""
    for name in ("runs/smoke/alone/1", "runs/other/pair/1", "runs/other/pair/2"):
        (tmp_path / name).mkdir(parents=True)
    remove_attempt(tmp_path / "runs/smoke/alone/1")
    remove_attempt(tmp_path / "runs/other/pair/1")

    assert names_in(tmp_path / "runs") == ["other"]
    assert names_in(tmp_path / "runs/other/pair") == ["2"]


FOUND = {
    "last": "smoke/ab22/1",
    "last~0": "smoke/ab22/1",
    "last~1": "smoke/ab11/10",
    "last~2": "big/cd33/1",
    "last~3": "smoke/ab11/9",
    "ab22": "smoke/ab22/1",
    "ab2": "smoke/ab22/1",
    "ab11": "smoke/ab11/10",
    "ab11/9": "smoke/ab11/9",
    "ab1/9": "smoke/ab11/9",
    "c": "big/cd33/1",
    "big/cd33": "big/cd33/1",
    "smoke/ab11/9": "smoke/ab11/9",
    "runs/smoke/ab11/9": "smoke/ab11/9",
    "ab11/": "smoke/ab11/10",
}
MISSING = [
    "",
    "/",
    "ab",
    "ef",
    "ab11/3",
    "last~4",
    "last~5",
    "last~6",
    "last~7",
    "last~8",
    "last~x",
    "LAST",
    "smoke",
    "*",
]


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a folder of four runs, oldest first: ab11/9, cd33/1, ab11/10, ab22/1; and an attempt without a file."""
    runs = tmp_path / "runs"
    for age, name in enumerate(("smoke/ab11/9", "big/cd33/1", "smoke/ab11/10", "smoke/ab22/1")):
        (runs / name).mkdir(parents=True)
        (runs / name / CONFIG).touch()
        os.utime(runs / name / CONFIG, (1000 + age, 1000 + age))
    (runs / "smoke/ab22/2").mkdir()
    (runs / "smoke/ab22/source").mkdir()
    return runs


@pytest.mark.parametrize("name", FOUND)
def test_an_attempt_is_found_by_its_names(runs: pathlib.Path, name: str) -> None:
    """A run is found as last, last~1, or by the start of its inputs digest, with or without an attempt."""
    assert runs / FOUND[name] == find_attempt(runs, name)


def test_an_attempt_is_found_by_its_path(
    runs: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is found by its absolute or relative path, also outside the folder of runs."""
    other = tmp_path / "elsewhere" / "7"
    other.mkdir(parents=True)
    (other / CONFIG).touch()
    monkeypatch.chdir(tmp_path)

    assert other.resolve() == find_attempt(runs, str(other))
    assert other.resolve() == find_attempt(runs, "elsewhere/7")
    assert (runs / "smoke/ab11/9").resolve() == find_attempt(runs, "runs/smoke/ab11/9")


@pytest.mark.parametrize("name", MISSING)
def test_an_ambiguous_or_missing_run_is_refused(runs: pathlib.Path, name: str) -> None:
    """A name of no run or of two runs is an error with the count. last~4 of four runs is none."""
    with pytest.raises(FolderError) as caught:
        find_attempt(runs, name)

    found = 3 if name == "ab" else 0

    assert f"run {name}" == caught.value.what
    assert f"{found} runs of 4 in {runs}" == caught.value.received
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("back", range(1, 9))
def test_there_is_nothing_before_the_first_run(tmp_path: pathlib.Path, back: int) -> None:
    """Counting back beyond the first run finds none, however far."""
    for number in ("1", "2"):
        (tmp_path / "smoke" / "ab11" / number).mkdir(parents=True)
        (tmp_path / "smoke" / "ab11" / number / CONFIG).touch()
        runs = int(number)

        with pytest.raises(FolderError, match=f"received 0 runs of {runs} in"):
            find_attempt(tmp_path, f"last~{back + runs - 1}")


def test_no_runs_at_all_is_an_error(tmp_path: pathlib.Path) -> None:
    """Without a folder of runs, last is an error."""
    with pytest.raises(FolderError, match="received 0 runs of 0 in"):
        find_attempt(tmp_path / "runs", "last")
