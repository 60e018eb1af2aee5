"""A resumed run continues its Comet experiment: each row arrives once, online and offline, also after kills.

The tracker (forked_tracker.py) reads a record that the tests write. The server is the fake one.
"""

import json
import os
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import QUIET, ROOT, wait_until
from fake_comet import Answer, FakeComet, Told, read_archive
from forked_tracker import Forked, fork_tracker, upload_archives

from samebits.compose import compose
from samebits.core.config import to_dict
from samebits.core.files import write_json, write_yaml
from samebits.core.plots import draw_lines

STEPS, EVERY = 20, 5  # steps of an epoch; a row of metrics every so many
FIRST = 3  # rows that are there when the run is stopped
FAILED: dict[str, Answer] = {"/experiment/metadata": (500, {"msg": "out of order"})}
REFUSED: dict[str, Answer] = {"/experiment/metric": (400, {"msg": "no"})}


def rows_of(epochs: int = 2) -> list[dict[str, Any]]:
    """Return the rows of metrics of a whole run."""
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for step in range(EVERY, STEPS + 1, EVERY):
            rows.append({"epoch": epoch, "step": step, "loss": 1 / (epoch * step), "accuracy": step / 100})
            if step == STEPS:
                rows[-1] |= {"val_loss": 0.5 / epoch, "val_accuracy": epoch / 10}
    return rows


ROWS = rows_of()


class Attempt:
    """An attempt whose record the test writes, and its tracker process."""

    def __init__(self, folder: pathlib.Path, home: pathlib.Path) -> None:
        self.folder, self.home = folder / "0123456789abcdef" / "1", home
        self.folder.mkdir(parents=True)
        config = compose(ROOT, ["experiment=smoke", "tracker=comet", "tracker.finish_timeout_s=60"])
        write_yaml(self.folder / "config.yaml", to_dict(config))
        inputs = {"name": "smoke", "config": {"a": 1}, "code": {"digest": "0", "files": {}}, "lock": "0"}
        write_json(self.folder.parent / "inputs.json", inputs)
        self.record(0)

    def record(self, rows: int, *, finished: bool = False) -> None:
        """Write the first rows of the record, like a stopped or resumed run, and the result if it finished."""
        text = "".join(json.dumps(row) + "\n" for row in ROWS[:rows])
        (self.folder / "metrics.jsonl").write_text(text)
        if finished:
            metrics = {"val_accuracy": 0.2, "val_loss": 0.25}
            texts = dict.fromkeys(("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint"), "0")
            write_json(self.folder / "result.json", {"metrics": metrics, "timing": {}, "resumed_at": None, **texts})

    def track(self, server: FakeComet | None) -> Forked:
        """Start the tracker process as the parent of a training does."""
        variables = {"HOME": str(self.home), "NO_PROXY": "127.0.0.1"}
        if server is not None:
            variables |= {"COMET_API_KEY": "key", "COMET_URL_OVERRIDE": server.url}
            variables |= {"COMET_HTTP_SESSION_RETRY_TOTAL": "0"}  # else Comet tries for half a minute
        return fork_tracker(self.folder, QUIET | variables)

    def upload(self, server: FakeComet | None, rows: int, *, finished: bool = False) -> dict[str, Any]:
        """Let the tracker upload a record with this many rows, and return its state."""
        self.record(rows, finished=finished)
        process = self.track(server)
        process.communicate(timeout=300)

        assert 0 == process.returncode, self.log()
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return the contents of comet/state.json."""
        state: dict[str, Any] = json.loads((self.folder / "comet" / "state.json").read_text())
        return state

    def archives(self) -> list[pathlib.Path]:
        """Return the archives in the order in which to upload them, and check that there are no others."""
        paths = [self.folder / "comet" / name for name in self.state()["archives"]]

        assert sorted(paths) == sorted((self.folder / "comet").glob("*.zip"))
        return paths

    def log(self) -> str:
        """Return the output of the tracker."""
        return (self.folder / "tracker.txt").read_text()


@pytest.fixture
def attempt(tmp_path: pathlib.Path) -> Attempt:
    """Return an attempt with an empty record."""
    (tmp_path / "home").mkdir()
    return Attempt(tmp_path, tmp_path / "home")


@pytest.fixture
def server() -> Iterator[FakeComet]:
    """Yield a Comet server without faults."""
    with FakeComet() as running:
        yield running


def metrics_of(rows: list[dict[str, Any]]) -> list[tuple[str, float, int, int]]:
    """Return the metrics that Comet must have for these rows, sorted by name."""
    found = []
    for row in rows:
        place = (row["epoch"] - 1) * STEPS + row["step"]
        found += [(name, row[name], place, row["epoch"]) for name in row if name not in ("epoch", "step")]
    return sorted(found)


def assert_whole(told: Told) -> None:
    """Assert that an experiment has every row once, and the result."""
    assert metrics_of(ROWS) == sorted(told.metrics)
    assert "finished" == told.others["ended"]
    assert "image/curves" in told.files


def upload_all(archives: list[pathlib.Path], server: FakeComet, home: pathlib.Path) -> Told:
    """Upload archives with the printed command, and return the resulting experiment."""
    variables = {"HOME": str(home), "NO_PROXY": "127.0.0.1", "COMET_API_KEY": "key", "COMET_URL_OVERRIDE": server.url}
    done = upload_archives(archives, variables, home)

    assert 0 == done.returncode, done.stdout + done.stderr
    return server.only_experiment()


def test_a_resumed_run_continues_its_experiment_online(attempt: Attempt, server: FakeComet) -> None:
    """Stop and resume give one experiment with every row once, although the record was cut to a checkpoint."""
    stopped = attempt.upload(server, FIRST)
    told = server.only_experiment()

    assert metrics_of(ROWS[:FIRST]) == sorted(told.metrics)
    assert "without a result: killed, stopped or failed" == told.others["ended"]

    attempt.record(FIRST - 1)
    finished = attempt.upload(server, len(ROWS), finished=True)

    assert stopped["experiment"] == finished["experiment"]
    assert (FIRST, len(ROWS)) == (stopped["rows"], finished["rows"])
    assert_whole(server.only_experiment())


@pytest.mark.full
def test_a_killed_tracker_is_continued_with_what_the_server_lacks(attempt: Attempt, server: FakeComet) -> None:
    """After SIGKILL during an upload, the next tracker asks the server which rows it has."""
    attempt.record(FIRST)
    process = attempt.track(server)

    assert server.metrics_came.wait(120)
    process.kill()
    process.communicate(timeout=60)
    assert attempt.state()["rows"] is None
    told = server.only_experiment()
    told.metrics.pop()  # one that was on its way and never came

    attempt.upload(server, len(ROWS), finished=True)
    assert_whole(server.only_experiment())


@pytest.mark.full
def test_an_experiment_that_the_server_refuses_is_begun_anew(attempt: Attempt, server: FakeComet) -> None:
    """If the experiment was deleted or belongs to another user, a new one gets the whole record, and it is logged."""
    first = attempt.upload(server, FIRST)["experiment"]
    server.refused_experiments.add(first)
    second = attempt.upload(server, len(ROWS), finished=True)["experiment"]

    assert first != second
    assert f"Comet has no experiment {first}" in attempt.log()
    assert_whole(server.told[second])


@pytest.mark.full
def test_a_resumed_run_continues_its_experiment_offline(attempt: Attempt, server: FakeComet) -> None:
    """Each part is an archive with the same key. Uploading both gives one experiment with every row once."""
    first = attempt.upload(None, FIRST)
    second = attempt.upload(None, len(ROWS), finished=True)
    archives = attempt.archives()

    assert first["experiment"] == second["experiment"]
    assert 2 == len(archives)
    assert metrics_of(ROWS[:FIRST]) == sorted(read_archive(archives[0]).metrics)
    assert metrics_of(ROWS[FIRST:]) == sorted(read_archive(archives[1]).metrics)
    command = shlex.split(second["summary"].partition(" upload them with: ")[2])
    assert ["comet", "upload", *(os.path.relpath(path, ROOT) for path in archives)] == command
    assert_whole(upload_all(archives, server, attempt.home))
    assert [second["experiment"]] == list(server.told)


@pytest.mark.full
def test_a_run_stopped_online_and_resumed_offline_is_one_experiment(attempt: Attempt, server: FakeComet) -> None:
    """The archive of the second part is appended to the live experiment of the first."""
    first = attempt.upload(server, FIRST)
    second = attempt.upload(None, len(ROWS), finished=True)

    assert first["experiment"] == second["experiment"]
    assert_whole(upload_all(attempt.archives(), server, attempt.home))


@pytest.mark.full
def test_a_run_stopped_offline_and_resumed_online_leaves_no_archive(attempt: Attempt, server: FakeComet) -> None:
    """If the first archive was not uploaded, the server gets the whole record, and the archive is removed."""
    attempt.upload(None, FIRST)
    attempt.upload(server, len(ROWS), finished=True)

    assert [] == attempt.archives()
    assert_whole(server.only_experiment())


@pytest.mark.full
def test_an_uploaded_archive_is_continued_online(attempt: Attempt, server: FakeComet) -> None:
    """If the first archive was uploaded, the live experiment continues it with the missing rows."""
    attempt.upload(None, FIRST)
    upload_all(attempt.archives(), server, attempt.home)
    attempt.upload(server, len(ROWS), finished=True)

    assert_whole(server.only_experiment())


@pytest.mark.full
def test_a_tracker_killed_offline_loses_no_row(attempt: Attempt) -> None:
    """The incomplete archive is removed, and the next one has all rows that no complete archive has."""
    attempt.upload(None, FIRST)
    attempt.record(FIRST + 2)
    process = attempt.track(None)

    assert wait_until(lambda: 2 == len(list((attempt.folder / "comet").glob("*.zip"))), 120)
    process.kill()
    process.communicate(timeout=60)
    attempt.upload(None, len(ROWS), finished=True)
    told = [read_archive(path) for path in attempt.archives()]

    assert 2 == len(told)
    assert metrics_of(ROWS) == sorted([*told[0].metrics, *told[1].metrics])


@pytest.mark.full
def test_a_resume_that_breaks_off_online_is_kept_whole_offline(attempt: Attempt) -> None:
    """If it is unknown which rows the server has, an archive of a separate experiment has them all."""
    with FakeComet() as server:
        first = attempt.upload(server, FIRST)["experiment"]
    with FakeComet(REFUSED, before=server):
        second = attempt.upload(server, len(ROWS), finished=True)["experiment"]
    (archive,) = attempt.archives()

    assert first != second
    assert_whole(read_archive(archive))


@pytest.mark.full
def test_a_server_in_trouble_at_the_resume_costs_no_second_experiment(attempt: Attempt) -> None:
    """After a server error (500), the second part is an archive that continues the first experiment."""
    with FakeComet() as server:
        first = attempt.upload(server, FIRST)["experiment"]
    with FakeComet(FAILED, before=server):
        second = attempt.upload(server, len(ROWS), finished=True)["experiment"]
    (archive,) = attempt.archives()

    assert first == second
    assert metrics_of(ROWS[FIRST:]) == sorted(read_archive(archive).metrics)


def test_a_plot_is_a_picture_with_a_panel_per_quantity(tmp_path: pathlib.Path) -> None:
    """`draw_lines` writes a PNG, with the same bytes for the same lines."""
    panels = {"loss": [("loss", [1, 2], [0.5, 0.25], "-")], "accuracy": [("accuracy", [1, 2], [0.5, 0.75], "o-")]}
    for name in ("a.png", "b.png"):
        draw_lines(tmp_path / name, panels, x_label="step")

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"\x89PNG" == (tmp_path / "a.png").read_bytes()[:4]
