"""Comet gets the whole record, live, offline or later, whatever becomes of the server or of the tracker.

Nothing is trained: trackers (forked_tracker.py) read the record of a finished run and upload it to a fake Comet server.
test_comet_quickly.py has a tracked training.
"""

import base64
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from conftest import PACKAGE, QUIET, ROOT, finished, wait_until
from fake_comet import PORT_CLOSED, Answer, FakeComet, Told, read_archive
from forked_tracker import fork_tracker, retell

from samebits.core.config import from_dict
from samebits.launch.run import finish_tracker
from samebits.runs.folder import read_json, read_yaml

pytestmark = pytest.mark.full
KEY = "samebits-test-key-that-must-stay-secret"
REFUSED = (403, {"msg": "no such key", "sdk_error_code": 90212})  # Comet's code for a key that it does not know
UNKNOWN = (401, {"msg": "who are you?"})
NO = (400, {"msg": "no"})
FAILED = (500, {"msg": "out of order"})
STEPS = 15  # of one epoch of the smoke experiment
EMPTY_ZIP = b"PK\x05\x06" + bytes(18)  # what kill -9 leaves of an archive


@dataclass(frozen=True)
class Trouble:
    """A server that is no help.

    Attributes:
        reason: The reason in the output.
        refusals: Error responses by the end of the path.
        silent_on: End of the paths that get no response.
        finish_timeout_s: The setting of that name.
        patience_s: How long Comet may take to answer, and to create an experiment.
        url: Its address, if it is not that of the fake server.
    """

    reason: str
    refusals: dict[str, Answer] = field(default_factory=dict)
    silent_on: str | None = None
    finish_timeout_s: float = 60.0
    patience_s: int = 120
    url: str | None = None


TROUBLES = {
    "absent": Trouble("archive (127.0.0.1:9 cannot be reached: ConnectionError)", url=PORT_CLOSED),
    "silent": Trouble(" cannot be reached: ReadTimeout)", silent_on="", patience_s=2),
    "silent at once": Trouble("did not create an experiment within", silent_on="/add/run", patience_s=3),
    "silent on metrics": Trouble(
        "is incomplete: the upload took longer than 3 s", silent_on="/experiment/metric", finish_timeout_s=6.0
    ),
    "fails": Trouble(" answered 500)", {"": FAILED}),
    "refuses the key": Trouble("archive (The given API key '***' is invalid", {"/add/run": REFUSED}),
    "refuses the experiment": Trouble("archive (Failed to create experiment", {"/add/run": UNKNOWN}),
    "refuses files": Trouble("is incomplete: ", {"/upload": NO}, finish_timeout_s=20.0),
    "refuses metrics": Trouble("is incomplete: ", {"/experiment/metric": NO}),
    "refuses other values": Trouble("is incomplete: ", {"/log-other": NO}),
}


def change_tracker(attempt: pathlib.Path, **settings: Any) -> None:
    """Change the settings of an attempt's tracker."""
    config = attempt / "config.yaml"
    tree = yaml.safe_load(config.read_text())
    tree["tracker"] |= settings
    config.write_text(yaml.safe_dump(tree))


@pytest.fixture
def attempt(own_siblings: pathlib.Path) -> pathlib.Path:
    """Return a finished attempt that was never uploaded. One of its seeds is that of a layer, known by its path."""
    (own_siblings / "home").mkdir()  # hides the key of whoever runs the tests
    attempt = finished(own_siblings)[0]
    change_tracker(attempt, name="comet", finish_timeout_s=60.0)
    seeds = json.loads((attempt / "seeds.json").read_text())
    seeds["points"].append(seeds["points"][0] | {"point": "model/drop/seed_generator", "value": 77})
    (attempt / "seeds.json").write_text(json.dumps(seeds))
    return attempt


@pytest.fixture
def root(own_siblings: pathlib.Path) -> pathlib.Path:
    """Return the project of the attempt."""
    return own_siblings


def variables(root: pathlib.Path, url: str | None) -> dict[str, str]:
    """Return the environment of a user, who has a key if there is a server."""
    key = {} if url is None else {"COMET_API_KEY": KEY, "COMET_URL_OVERRIDE": url, "NO_PROXY": "127.0.0.1"}
    return {"HOME": str(root / "home")} | key


class Held:
    """A tracker that sees no more of the record of a finished run than its first row of metrics, until `finish`."""

    def __init__(self, attempt: pathlib.Path, url: str | None) -> None:
        self.attempt, self.root = attempt, attempt.parents[3]
        self.metrics = (attempt / "metrics.jsonl").read_bytes()
        (attempt / "metrics.jsonl").write_bytes(self.metrics.splitlines(keepends=True)[0])
        (attempt / "result.json").rename(attempt / "held.json")
        haste = {"COMET_HTTP_SESSION_RETRY_TOTAL": "0"}  # else Comet itself tries for half a minute
        self.tracker: Any = fork_tracker(attempt, QUIET | haste | variables(self.root, url), self.root)

    def finish(self) -> str:
        """Finish the record and the tracker. Returns the line for the user."""
        (self.attempt / "metrics.jsonl").write_bytes(self.metrics)
        (self.attempt / "held.json").rename(self.attempt / "result.json")
        return finish_tracker(self.tracker, from_dict(read_yaml(self.attempt / "config.yaml")), self.attempt)


def the_archive(attempt: pathlib.Path) -> pathlib.Path:
    """Return the only archive of an attempt."""
    (archive,) = (attempt / "comet").glob("*.zip")
    return archive


def advised_archive(root: pathlib.Path, output: str) -> pathlib.Path:
    """Return the archive that the output tells the user to upload."""
    (line,) = [line for line in output.splitlines() if line.startswith("Comet: ")]
    command, archive = line.partition("upload it with: ")[2].rsplit(maxsplit=1)

    assert "comet upload" == command
    return root / shlex.split(archive)[0]


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Return nested data as one level with dotted names; lists are text, because Comet has no lists."""
    leaves: dict[str, Any] = {}
    for key, found in tree.items():
        value = json.dumps(found) if isinstance(found, list) else found
        branch = flat(value) if isinstance(value, dict) else None
        leaves |= {key: value} if branch is None else {f"{key}.{name}": leaf for name, leaf in branch.items()}
    return leaves


def assert_complete(told: Told, attempt: pathlib.Path, **optional: str) -> None:
    """Assert that Comet got the exact and complete record of the run, and these other values."""
    inputs = read_json(attempt.parent / "inputs.json")
    seeds, result, machine = (read_json(attempt / f"{name}.json") for name in ("seeds", "result", "machine"))
    rows = [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    places = [((row.pop("epoch") - 1) * STEPS + row.pop("step"), row) for row in rows]
    metrics = [(name, value, step, -(-step // STEPS)) for step, row in places for name, value in row.items()]
    others = {
        "random seed": 56,
        "promise": "portable",
        "monitor": "val_accuracy",
        "inputs digest": attempt.parent.name,
        "attempt": attempt.name,
        "weights digest": result["weights_digest"],
        "data digest": result["data_digest"],
        "arithmetic fingerprint": machine["arithmetic"]["fingerprint"],
        "cpu": machine["cpu"]["model"],
        "ended": "finished",
        "Name": f"smoke {attempt.parent.name[:8]}/{attempt.name}",
    }
    points = {f"seed {row['point']}": row["value"] for row in seeds["points"]}
    source = attempt.parent / "source"
    files = {f"source_code/{path.relative_to(source)}": path.read_bytes() for path in source.rglob("*.py")}
    files |= {f"asset/{name}": (attempt / name).read_bytes() for name in ("seeds.json", "machine.json", "result.json")}
    files["image/curves"] = (attempt / "curves.png").read_bytes()

    assert {"seed data/order", "seed model/drop/seed_generator"} < set(points)
    told.others.pop("offline_experiment", None)
    assert others | points | optional == told.others
    assert flat(inputs["config"]) == told.parameters
    assert [5, 10, 15, 20, 25, 30] == [step for step, _ in places]
    assert sorted(metrics) == sorted(told.metrics)
    assert files == told.files
    assert b"\x89PNG" == files["image/curves"][:4]
    assert {"smoke", "portable", "seed 56"} == set(told.tags)


def contents(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file below a folder, and every member of every archive, with its bytes."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield str(path), path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path}: {name}", archive.read(name)


@pytest.mark.parametrize("name", TROUBLES)
def test_what_a_server_does_not_take_is_kept_offline(name: str, attempt: pathlib.Path, root: pathlib.Path) -> None:
    """A complete archive, a line with the reason, and the key in no file, archive or output."""
    trouble = TROUBLES[name]
    change_tracker(attempt, finish_timeout_s=trouble.finish_timeout_s)
    with FakeComet(trouble.refusals) as server:
        if trouble.silent_on is not None:
            server.hang(trouble.silent_on)
        told = retell(attempt, variables(root, trouble.url or server.url), root, trouble.patience_s)

    assert 0 == told.returncode, told.stderr
    assert "Comet: offline archive (" in told.stdout
    assert trouble.reason in told.stdout
    assert the_archive(attempt) == advised_archive(root, told.stdout)
    assert_complete(read_archive(the_archive(attempt)), attempt)
    assert [] == [where for where, data in contents(root) if KEY.encode() in data]


def test_with_a_key_comet_is_told_live_and_whole(attempt: pathlib.Path) -> None:
    """Seeds, code and the first metrics arrive during the training, the rest at its end, and no archive stays."""
    change_tracker(attempt, group="round 3")
    with FakeComet() as server:
        held = Held(attempt, server.url)
        server.metrics_came.wait(120)
        told = server.only_experiment()

        assert wait_until(lambda: f"source_code/{PACKAGE}/model.py" in told.files, 120)
        assert 56 == told.others["random seed"]
        assert "seed data/order" in told.others
        assert "weights digest" not in told.others
        assert {5} == {step for _, _, step, _ in told.metrics}
        assert held.finish().startswith("Comet: http://comet.invalid/")
    assert_complete(told, attempt, group="round 3")
    assert [] == list((attempt / "comet").glob("*.zip"))


def test_a_server_that_dies_during_the_training_costs_nothing(attempt: pathlib.Path) -> None:
    """It had a part of the record. The archive has the whole, and the output says why."""
    change_tracker(attempt, finish_timeout_s=20.0)
    with FakeComet() as server:
        held = Held(attempt, server.url)
        server.metrics_came.wait(120)
        server.die()
        line = held.finish()
    told = server.only_experiment()

    assert {5} == {step for _, _, step, _ in told.metrics}
    assert "weights digest" not in told.others
    assert " is incomplete: " in line  # the connection broke, or it came to nothing in the time that there was
    assert_complete(read_archive(the_archive(attempt)), attempt)


def test_a_break_of_the_connection_that_ends_loses_nothing(attempt: pathlib.Path) -> None:
    """After a lost connection is restored, the server or an archive has the whole record, as the output says."""
    with FakeComet() as server:
        held = Held(attempt, server.url)
        server.metrics_came.wait(120)
        assert wait_until(lambda: server.quiet_s() > 3)  # else Comet gives up for what was on its way
        server.die()
        time.sleep(3)  # several of Comet's heartbeats and pings, of which it may or may not say that one failed
        with FakeComet(before=server) as again:
            line = held.finish()

    if "Comet: http://comet.invalid/" in line:
        assert_complete(again.only_experiment(), attempt)
        assert [] == list((attempt / "comet").glob("*.zip"))
    else:
        assert " is incomplete: the connection was lost)" in line
        assert_complete(read_archive(the_archive(attempt)), attempt)


def test_a_silent_server_is_not_waited_for(attempt: pathlib.Path) -> None:
    """A training waits for its tracker up to finish_timeout_s. The output has the fix."""
    change_tracker(attempt, finish_timeout_s=1.0)
    with FakeComet() as server:
        held = Held(attempt, server.url)
        server.metrics_came.wait(120)
        server.hang()
        line = held.finish()

    name = f"{attempt.parent.name}/{attempt.name}"
    assert f"Comet upload did not finish within 1 s; samebits comet {name} rebuilds or uploads it" == line


def test_a_killed_tracker_is_made_good_by_the_command_that_is_printed(
    attempt: pathlib.Path, root: pathlib.Path
) -> None:
    """After the tracker was killed, `samebits comet RUN` writes the whole record."""
    held = Held(attempt, None)
    assert wait_until((attempt / "comet" / "state.json").exists, 120)
    assert wait_until(lambda: "COMET " in (attempt / "tracker.txt").read_text(), 120)
    held.tracker.kill()
    name = f"{attempt.parent.name}/{attempt.name}"

    assert f"Comet upload failed (reason in tracker.txt); samebits comet {name} rebuilds or uploads it" == held.finish()
    assert [] == [path for path in attempt.glob("comet/*.zip") if path.stat().st_size > len(EMPTY_ZIP)]

    told = retell(name, variables(root, None), root)

    assert 0 == told.returncode, told.stderr
    assert_complete(read_archive(the_archive(attempt)), attempt)


def test_comet_upload_sends_the_archive(attempt: pathlib.Path, root: pathlib.Path) -> None:
    """Without a key there is an archive with the whole record. The command in the output sends it to the server."""
    told = retell(attempt, variables(root, None), root)

    assert "offline archive (no COMET_API_KEY)" in told.stdout
    assert_complete(read_archive(the_archive(attempt)), attempt)

    comet = pathlib.Path(sys.executable).with_name("comet")
    command = [str(comet), "upload", str(advised_archive(root, told.stdout))]
    with FakeComet() as server:
        environment = QUIET | variables(root, server.url)
        uploaded = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)

    assert 0 == uploaded.returncode, uploaded.stderr
    assert_complete(server.only_experiment(), attempt)


@pytest.mark.parametrize(
    ("failures", "reason"),
    [(None, "127.0.0.1:9 cannot be reached: ConnectionError"), ({"/experiment/metric": NO}, "is incomplete: ")],
    ids=["no server", "refuses metrics"],
)
def test_mode_online_fails_without_a_server_and_keeps_nothing(
    failures: dict[str, Answer] | None, reason: str, attempt: pathlib.Path, root: pathlib.Path
) -> None:
    """Without a server, mode online has exit code 1 and the reason, and writes no archive."""
    change_tracker(attempt, mode="online")
    with FakeComet(failures) as server:
        told = retell(attempt, variables(root, PORT_CLOSED if failures is None else server.url), root)

    assert 1 == told.returncode
    assert "TrackerError: Comet could not be used online." in told.stderr
    assert reason in told.stderr.rpartition("Received: ")[2]
    assert [] == list(attempt.glob("comet/*.zip"))


@pytest.mark.parametrize(("wish", "reports"), [(None, "False"), ("true", "True")])
def test_comet_reports_its_errors_to_a_third_party_only_on_request(
    tmp_path: pathlib.Path, wish: str | None, reports: str
) -> None:
    """comet_ml sends its errors to a third party in every second process; samebits only if the user enables it."""
    program = (
        "import random; random.random = lambda: 1.0\n"  # every process is a second one
        "from samebits.launch.comet import CometTracker; CometTracker('offline')\n"
        "import comet_ml.error_tracking; print(comet_ml.error_tracking.initialized())"
    )
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    environment |= {} if wish is None else {"COMET_ERROR_TRACKING_ENABLE": wish}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True
    )

    assert reports == done.stdout.strip()


def test_a_damaged_archive_is_rebuilt_from_the_record(attempt: pathlib.Path, root: pathlib.Path) -> None:
    """`samebits comet` writes a complete archive, and removes damaged ones."""
    (attempt / "comet").mkdir()
    (attempt / "comet" / "lost.zip").write_bytes(EMPTY_ZIP)
    told = retell(attempt, variables(root, None), root)

    assert 0 == told.returncode, told.stderr
    assert f"upload it with: comet upload {os.path.relpath(the_archive(attempt), root)}\n" in told.stdout
    assert_complete(read_archive(the_archive(attempt)), attempt)


def test_a_key_that_carries_an_address_is_used_there(attempt: pathlib.Path, root: pathlib.Path) -> None:
    """A key that contains a server address is used with that server, and no other is contacted."""
    with FakeComet() as server:
        address = json.dumps({"baseUrl": server.url.removesuffix("clientlib/")})
        key = {"COMET_API_KEY": f"{KEY}*{base64.b64encode(address.encode()).decode()}", "NO_PROXY": "127.0.0.1"}
        told = retell(attempt, variables(root, None) | key, root)

    assert 0 == told.returncode, told.stderr
    assert "Comet: http://comet.invalid/" in told.stdout
    assert_complete(server.only_experiment(), attempt)
