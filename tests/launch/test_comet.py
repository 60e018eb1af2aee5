"""Comet gets the whole record, live, offline or later, and never affects the training.

The trainings are real, in fresh processes, and upload to a fake Comet server. Most run in parallel, each in its own
runs folder. The tests of this module share them.
"""

import base64
import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from conftest import (
    FAULTY,
    PACKAGE,
    QUIET,
    ROOT,
    Result,
    copy_project,
    run_command,
    slowly,
    train,
)
from fake_comet import PORT_CLOSED, Answer, FakeComet, Told, read_archive

pytestmark = pytest.mark.full  # some twenty trainings; test_comet_quickly.py has one of each kind
KEY = "samebits-test-key-that-must-stay-secret"
REFUSED = (403, {"msg": "no such key", "sdk_error_code": 90212})  # Comet's code for a key that it does not know
UNKNOWN = (401, {"msg": "who are you?"})
NO = (400, {"msg": "no"})
FAILED = (500, {"msg": "out of order"})
IMPATIENCE = {"PATIENCE_S": "5"}  # how long the tracker waits for a server (`root`)
HASTE = {"COMET_HTTP_SESSION_RETRY_TOTAL": "0"}  # else Comet itself tries for half a minute
LANES = 3  # trainings at once: some of them mostly wait
STEPS = 15  # of one epoch of the smoke experiment
MISSED_S = 5.0  # several of Comet's heartbeats and pings, of which it may or may not say that one failed
EMPTY_ZIP = b"PK\x05\x06" + bytes(18)  # what kill -9 leaves of an archive
OPTIONAL = ("offline_experiment", "group")  # log_other of some experiments alone
TRACKED = ("offline", "online", "dying", "restored", "killed", "silenced", "hanging", "refused", "absent", "failing")
REASONS = {  # what the output says in the scenarios of that name
    "absent": "archive (127.0.0.1:9 cannot be reached: ConnectionError)",
    "hanging": " cannot be reached: ReadTimeout)",
    "failing": " answered 500)",
    "refused": "archive (The given API key '***' is invalid",
    "dying": " is incomplete: ",  # the connection broke, or it came to nothing in the time that there was
}


@dataclass(frozen=True)
class Trouble:
    """A fault of a server that works at first.

    Attributes:
        reason: The reason in the output.
        refusals: Error responses by the end of the path.
        silent_on: End of the paths that get no response.
        finish_timeout_s: The setting of that name.
    """

    reason: str
    refusals: dict[str, Answer] = field(default_factory=dict)
    silent_on: str | None = None
    finish_timeout_s: float = 30.0


TROUBLES = {  # the ones that take longest come first
    "silent at once": Trouble("did not create an experiment within", silent_on="/add/run"),
    "silent on metrics": Trouble(
        "is incomplete: the upload took longer than 3 s", silent_on="/experiment/metric", finish_timeout_s=6.0
    ),
    "refuses files": Trouble("is incomplete: ", {"/upload": NO}),
    "refuses metrics": Trouble("is incomplete: ", {"/experiment/metric": NO}),
    "refuses other values": Trouble("is incomplete: ", {"/log-other": NO}),
    "refuses the experiment": Trouble("archive (Failed to create experiment", {"/add/run": UNKNOWN}),
}


@dataclass
class Run:
    """One training that has ended.

    Attributes:
        result: Its output and exit code.
        attempt: Its folder.
        server: The fake Comet server of the run with the received data; None: no server.
        seen: What the scenario recorded while the training was paused.
    """

    result: Result
    attempt: pathlib.Path
    server: FakeComet | None
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Everything that the command printed."""
        return self.result.stdout + self.result.stderr

    @property
    def digest(self) -> str:
        """The weights digest."""
        return str(json.loads((self.attempt / "result.json").read_text())["weights_digest"])


Runs = dict[str, Future[Run]]
Retold = dict[str, Future[tuple[Result, pathlib.Path]]]


def comet_environment(url: str, home: pathlib.Path) -> dict[str, str]:
    """Return the environment of a user with a key. The home folder hides the key of whoever runs the tests."""
    return {"COMET_API_KEY": KEY, "COMET_URL_OVERRIDE": url, "HOME": str(home), "NO_PROXY": "127.0.0.1"}


def wait_for(look: Callable[[], Any], ended: Callable[[], bool] = lambda: False) -> Any:
    """Return the first true result of a function, called repeatedly."""
    give_up = time.monotonic() + 600
    while not (found := look()):
        if ended() or time.monotonic() > give_up:
            raise TimeoutError("it did not come")
        time.sleep(0.005)
    return found


def find_process(module: str, attempt: pathlib.Path) -> int:
    """Return the id of the process that runs a module of the project for an attempt."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[2:4] == [module.encode(), str(attempt).encode()]:
                return int(path.parent.name)
    raise ProcessLookupError(module)


@contextlib.contextmanager
def held_training(training: Future[Result], folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the attempt of a training that is paused after its first metrics (`Scenarios.run`)."""
    rows = "smoke/*/1/metrics.jsonl"
    try:
        (metrics,) = wait_for(lambda: [path for path in folder.glob(rows) if path.stat().st_size], training.done)
        yield metrics.parent
    finally:
        folder.with_suffix(".fast").touch()


class Scenarios:
    """The trainings of this module, one method each."""

    def __init__(self, root: pathlib.Path, home: pathlib.Path) -> None:
        self.root, self.home = root, home

    def run(
        self,
        name: str,
        *overrides: str,
        url: str | None = None,
        server: FakeComet | None = None,
        variables: dict[str, str] | None = None,
        meanwhile: Callable[[Future[Result], pathlib.Path], dict[str, Any]] | None = None,
        finish_timeout_s: float = 300.0,
    ) -> Run:
        """Train in a runs folder named by the scenario. `meanwhile` gets the training and that folder."""
        address = server.url if server else url
        environment = comet_environment(address, self.home) if address else {"HOME": str(self.home)}
        folder = self.root / name
        environment |= slowly(self.root, 1, 600.0, folder.with_suffix(".fast")) if meanwhile else {}
        environment |= variables or {}
        with ThreadPoolExecutor(1) as pool:
            overrides = (FAULTY, *overrides, f"tracker.finish_timeout_s={finish_timeout_s}", f"paths.runs={name}")
            training = pool.submit(train, self.root, *overrides, environment=environment)
            seen = meanwhile(training, folder) if meanwhile else {}
            result = training.result()
        (config,) = folder.glob("smoke/*/1/config.yaml")
        return Run(result, config.parent, server, seen)

    def untracked(self) -> Run:
        """No tracker."""
        return self.run("untracked")

    def offline(self) -> Run:
        """No key."""
        return self.run("offline", "tracker=comet")

    def online(self) -> Run:
        """A key and a server. The training is paused until the server has metrics, and is inspected."""

        def look(training: Future[Result], folder: pathlib.Path) -> dict[str, Any]:
            with held_training(training, folder) as attempt:
                came = server.metrics_came.wait(600)
                told = server.only_experiment()
                wait_for(lambda: f"source_code/{PACKAGE}/model.py" in told.files, training.done)
                worker = find_process("samebits.train.worker", attempt)
                return {
                    "came": came,
                    "finished": (attempt / "result.json").exists(),
                    "others": dict(told.others),
                    "files": set(told.files),
                    "metrics": list(told.metrics),
                    "environment": pathlib.Path(f"/proc/{worker}/environ").read_bytes(),
                    "told again": retell(self.root, attempt, self.home),
                }

        with FakeComet() as server:
            return self.run("online", "tracker=comet", "tracker.group=round 3", server=server, meanwhile=look)

    def absent(self) -> Run:
        """A key, but no server."""
        return self.run("absent", "tracker=comet", url=PORT_CLOSED)

    def hanging(self) -> Run:
        """A server that accepts connections and never answers."""
        with FakeComet() as server:
            server.hang()
            return self.run("hanging", "tracker=comet", server=server, variables=IMPATIENCE)

    def failing(self) -> Run:
        """A server that answers everything with 500."""
        with FakeComet({"": FAILED}) as server:
            return self.run("failing", "tracker=comet", server=server)

    def refused(self) -> Run:
        """A server that does not know the key."""
        with FakeComet({"/add/run": REFUSED}) as server:
            return self.run("refused", "tracker=comet", server=server)

    def dying(self) -> Run:
        """A server that dies in the middle of the training."""

        def kill(training: Future[Result], folder: pathlib.Path) -> dict[str, Any]:
            with held_training(training, folder):
                came = server.metrics_came.wait(600)
                server.die()
                return {"came": came}

        with FakeComet() as server:
            return self.run(
                "dying", "tracker=comet", server=server, variables=HASTE, meanwhile=kill, finish_timeout_s=90.0
            )

    def silenced(self) -> Run:
        """A server that stops answering during the training, and a user who waits for a second."""

        def hang(training: Future[Result], folder: pathlib.Path) -> dict[str, Any]:
            with held_training(training, folder):
                server.metrics_came.wait(600)
                server.hang()
                return {}

        with FakeComet() as server:
            return self.run("silenced", "tracker=comet", server=server, meanwhile=hang, finish_timeout_s=1.0)

    def restored(self) -> Run:
        """A server that dies during the training, and restarts after failed requests."""

        def restart(training: Future[Result], folder: pathlib.Path) -> dict[str, Any]:
            with held_training(training, folder):
                server.metrics_came.wait(600)
                wait_for(lambda: server.quiet_s() > 10, training.done)  # else Comet gives up for what was on its way
                server.die()
                time.sleep(MISSED_S)
                stack.enter_context(again := FakeComet(before=server))
                return {"again": again}

        with FakeComet() as server, contextlib.ExitStack() as stack:
            return self.run(
                "restored", "tracker=comet", server=server, variables=HASTE, meanwhile=restart, finish_timeout_s=90.0
            )

    def killed(self) -> Run:
        """The process of the tracker is killed during the training, as when memory runs out."""

        def kill(training: Future[Result], folder: pathlib.Path) -> dict[str, Any]:
            with held_training(training, folder) as attempt:
                wait_for((attempt / "comet" / "state.json").exists, training.done)
                wait_for(lambda: "COMET " in (attempt / "tracker.txt").read_text(), training.done)
                os.kill(find_process("samebits.launch.tracker", attempt), signal.SIGKILL)
                return {}

        return self.run("runs", "tracker=comet", meanwhile=kill)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return an empty home folder."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the copy of the project for the scenarios. Its tracker waits long unless a scenario changes that."""
    root = copy_project(tmp_path_factory.mktemp("comet"))
    tracking = root / "src" / "samebits" / "launch" / "comet.py"
    text, patient = tracking.read_text(), 'int(os.environ.get("PATIENCE_S", "300"))'
    for constant in ("CONNECT_TIMEOUT_S = 5", "START_TIMEOUT_S = 20"):
        assert f"\n{constant}\n" in text
        text = text.replace(constant, f"{constant.partition(' ')[0]} = {patient}")
    tracking.write_text(text)
    slowly(root, 0)  # before the first scenario starts
    return root


@pytest.fixture(scope="module")
def runs(root: pathlib.Path, home: pathlib.Path) -> Iterator[Runs]:
    """Yield the runs of the scenarios, started in parallel, the long ones first."""
    scenarios = Scenarios(root, home)
    with ThreadPoolExecutor(LANES) as pool:
        names = ("online", "untracked", *TRACKED[2:], "offline")
        yield {name: pool.submit(getattr(scenarios, name)) for name in names}


def copy_ended(run: Run, folder: pathlib.Path, **settings: Any) -> pathlib.Path:
    """Return a copy of a finished attempt without a tracker, to upload it with other settings."""
    inputs = run.attempt.parent
    shutil.copytree(inputs, folder / inputs.name)
    config = folder / inputs.name / run.attempt.name / "config.yaml"
    tree = yaml.safe_load(config.read_text())
    tree["tracker"] |= {"name": "comet"} | settings
    config.write_text(yaml.safe_dump(tree))
    return config.parent


@pytest.fixture
def ended(runs: Runs, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a copy of a finished attempt that was never uploaded."""
    return copy_ended(runs["untracked"].result(), tmp_path)


@pytest.fixture(scope="module", autouse=True)  # at once, beside the trainings
def retold(
    runs: Runs, root: pathlib.Path, home: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Retold]:
    """Yield the results of `samebits comet` with faulty servers, which mostly wait."""

    def tell(trouble: Trouble) -> tuple[Result, pathlib.Path]:
        run, folder = runs["untracked"].result(), tmp_path_factory.mktemp("retold")
        attempt = copy_ended(run, folder, finish_timeout_s=trouble.finish_timeout_s)
        with FakeComet(trouble.refusals) as server:
            if trouble.silent_on is not None:
                server.hang(trouble.silent_on)
            return retell(
                root, attempt, home, server.url, IMPATIENCE if trouble.silent_on == "/add/run" else {}
            ), attempt

    with ThreadPoolExecutor(LANES) as pool:
        yield {name: pool.submit(tell, trouble) for name, trouble in TROUBLES.items()}


def retell(
    root: pathlib.Path,
    run: pathlib.Path | str,
    home: pathlib.Path,
    url: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Result:
    """Run `samebits comet RUN`, with a key if there is a server."""
    environment = (comet_environment(url, home) if url else {"HOME": str(home)}) | dict(variables or {})
    return run_command(root, "comet", str(run), environment=environment)


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


def assert_complete(told: Told, attempt: pathlib.Path) -> None:
    """Assert that Comet got the exact and complete record of the run."""
    inputs = json.loads((attempt.parent / "inputs.json").read_text())
    seeds, result, machine = (
        json.loads((attempt / f"{name}.json").read_text()) for name in ("seeds", "result", "machine")
    )
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

    assert "seed data/order" in points
    assert others | points == {key: value for key, value in told.others.items() if key not in OPTIONAL}
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


@pytest.mark.parametrize("name", TRACKED)
def test_no_tracker_and_no_trouble_of_one_changes_a_training(runs: Runs, name: str) -> None:
    """Exit code and weights digest equal those of a run without a tracker, whatever Comet does."""
    untracked, run = runs["untracked"].result(), runs[name].result()

    assert 0 == untracked.result.returncode == run.result.returncode, run.output
    assert untracked.digest == run.digest


@pytest.mark.parametrize("name", TRACKED)
def test_what_comet_prints_stays_in_its_own_file(runs: Runs, name: str) -> None:
    """The output of the training has one line about Comet. Comet's own messages are in tracker.txt."""
    run = runs[name].result()
    own_words = (run.attempt / "tracker.txt").read_text()

    assert 1 == sum("comet" in line.lower() for line in run.output.splitlines()), run.output
    assert "COMET " in own_words


def test_without_a_tracker_nothing_speaks_of_comet(runs: Runs) -> None:
    """tracker=none leaves no file and no message about Comet."""
    run = runs["untracked"].result()

    assert "comet" not in run.output.lower()
    assert not (run.attempt / "comet").exists()
    assert not (run.attempt / "tracker.txt").exists()


def test_without_a_key_the_archive_holds_the_whole_record(runs: Runs, root: pathlib.Path) -> None:
    """The offline archive has seeds, parameters, metrics, digests, code and curves, and the output has its path."""
    run = runs["offline"].result()

    assert "offline archive (no COMET_API_KEY)" in run.output
    assert the_archive(run.attempt) == advised_archive(root, run.output)
    assert_complete(read_archive(the_archive(run.attempt)), run.attempt)


def test_with_a_key_comet_is_told_live(runs: Runs) -> None:
    """Seeds, code and the first metrics arrive during the training."""
    seen = runs["online"].result().seen

    assert seen["came"]
    assert not seen["finished"]
    assert 56 == seen["others"]["random seed"]
    assert "seed data/order" in seen["others"]
    assert "weights digest" not in seen["others"]
    assert f"source_code/{PACKAGE}/model.py" in seen["files"]
    assert {5} == {step for _, _, step, _ in seen["metrics"]}


def test_with_a_key_the_server_gets_the_whole_record(runs: Runs) -> None:
    """The server gets the same data as an offline archive, and no archive stays that could be uploaded twice."""
    run = runs["online"].result()
    assert run.server is not None
    told = run.server.only_experiment()

    assert "Comet: http://comet.invalid/" in run.output
    assert "round 3" == told.others["group"]
    assert_complete(told, run.attempt)
    assert [] == list((run.attempt / "comet").glob("*.zip"))


def test_a_break_of_the_connection_that_ends_loses_nothing(runs: Runs) -> None:
    """After a lost connection is restored, the server or an archive has the whole record, as the output says."""
    run = runs["restored"].result()

    if "Comet: http://comet.invalid/" in run.output:
        assert_complete(run.seen["again"].only_experiment(), run.attempt)
        assert [] == list((run.attempt / "comet").glob("*.zip"))
    else:
        assert " is incomplete: the connection was lost)" in run.output
        assert_complete(read_archive(the_archive(run.attempt)), run.attempt)


def test_comet_upload_sends_the_archive(runs: Runs, root: pathlib.Path, home: pathlib.Path) -> None:
    """The upload command in the output sends the same record to the server."""
    run = runs["offline"].result()
    comet = pathlib.Path(sys.executable).with_name("comet")
    command = [str(comet), "upload", str(advised_archive(root, run.output))]
    with FakeComet() as server:
        environment = QUIET | comet_environment(server.url, home)
        uploaded = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)

    assert 0 == uploaded.returncode, uploaded.stderr
    assert_complete(server.only_experiment(), run.attempt)


@pytest.mark.parametrize("name", REASONS)
def test_comet_in_trouble_leaves_an_archive_and_says_why(runs: Runs, root: pathlib.Path, name: str) -> None:
    """In mode auto an online failure gives a complete offline archive, and a line with the reason."""
    run = runs[name].result()

    assert REASONS[name] in run.output
    assert the_archive(run.attempt) == advised_archive(root, run.output)
    assert_complete(read_archive(the_archive(run.attempt)), run.attempt)


def test_a_server_that_dies_had_metrics_before(runs: Runs) -> None:
    """Negative control: the server that dies had a part of the record, not all."""
    run = runs["dying"].result()
    assert run.server is not None
    told = run.server.only_experiment()

    assert run.seen["came"]
    assert {5} == {step for _, _, step, _ in told.metrics}
    assert "weights digest" not in told.others


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_a_server_does_not_take_is_kept_offline(retold: Retold, trouble: str) -> None:
    """If Comet drops rejected data or waits too long, the tracker notices, and writes everything to an archive."""
    result, attempt = retold[trouble].result()

    assert 0 == result.returncode, result.stderr
    assert "Comet: offline archive (" in result.stdout
    assert TROUBLES[trouble].reason in result.stdout
    assert_complete(read_archive(the_archive(attempt)), attempt)


@pytest.mark.parametrize(
    ("failures", "reason"),
    [(None, "127.0.0.1:9 cannot be reached: ConnectionError"), ({"/experiment/metric": NO}, "is incomplete: ")],
    ids=["no server", "refuses metrics"],
)
def test_mode_online_fails_without_a_server_and_keeps_nothing(
    runs: Runs,
    root: pathlib.Path,
    home: pathlib.Path,
    tmp_path: pathlib.Path,
    failures: dict[str, Answer] | None,
    reason: str,
) -> None:
    """Without a server, mode online has exit code 1 and the reason, and writes no archive."""
    attempt = copy_ended(runs["untracked"].result(), tmp_path, mode="online")
    with FakeComet(failures) as server:
        told = retell(root, attempt, home, PORT_CLOSED if failures is None else server.url)

    assert 1 == told.returncode
    assert "TrackerError: Comet could not be used online." in told.stderr
    assert reason in told.stderr.rpartition("Received: ")[2]
    assert [] == list(attempt.glob("comet/*.zip"))


@pytest.mark.parametrize(("wish", "reports"), [(None, "False"), ("true", "True")])
def test_comet_reports_its_errors_to_a_third_party_only_on_request(
    home: pathlib.Path, wish: str | None, reports: str
) -> None:
    """comet_ml sends its errors to a third party in every second process; samebits only if the user enables it."""
    program = (
        "import random; random.random = lambda: 1.0\n"  # every process is a second one
        "from samebits.launch.comet import CometTracker; CometTracker('offline')\n"
        "import comet_ml.error_tracking; print(comet_ml.error_tracking.initialized())"
    )
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(home)}
    environment |= {} if wish is None else {"COMET_ERROR_TRACKING_ENABLE": wish}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=600, check=True)

    assert reports == done.stdout.strip()


@pytest.mark.parametrize("left", [None, EMPTY_ZIP], ids=["deleted", "cut short"])
def test_a_lost_archive_is_rebuilt_from_the_record(
    ended: pathlib.Path, root: pathlib.Path, home: pathlib.Path, left: bytes | None
) -> None:
    """`samebits comet` writes a complete archive, and removes damaged ones."""
    if left is not None:
        (ended / "comet").mkdir()
        (ended / "comet" / "lost.zip").write_bytes(left)
    told = retell(root, ended, home)

    assert 0 == told.returncode, told.stderr
    assert f"upload it with: comet upload {os.path.relpath(the_archive(ended), root)}\n" in told.stdout
    assert_complete(read_archive(the_archive(ended)), ended)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("silenced", "Comet upload did not finish within 1 s; "), ("killed", "Comet upload failed ")],
)
def test_a_tracker_that_comes_to_no_end_leaves_an_advice(runs: Runs, name: str, reason: str) -> None:
    """The training waits for its tracker up to finish_timeout_s. If it fails, the output has the fix."""
    run = runs[name].result()
    (line,) = [line for line in run.output.splitlines() if line.startswith("Comet ")]

    assert line.startswith(reason)
    short = f"{run.attempt.parent.name}/{run.attempt.name}"  # finds it below runs/ alone
    found = short if run.attempt.parents[2].name == "runs" else run.attempt
    assert line.endswith(f"samebits comet {found} rebuilds or uploads it")


def test_a_killed_tracker_is_made_good_by_the_command_that_is_printed(
    runs: Runs, root: pathlib.Path, home: pathlib.Path
) -> None:
    """The printed command `samebits comet RUN` uploads the whole record after the tracker was killed."""
    run = runs["killed"].result()

    assert [] == [path for path in run.attempt.glob("comet/*.zip") if path.stat().st_size > len(EMPTY_ZIP)]

    told = retell(root, f"{run.attempt.parent.name}/{run.attempt.name}", home)

    assert 0 == told.returncode, told.stderr
    assert_complete(read_archive(the_archive(run.attempt)), run.attempt)


def test_a_key_that_carries_an_address_is_used_there(
    ended: pathlib.Path, root: pathlib.Path, home: pathlib.Path
) -> None:
    """A key that contains a server address is used with that server, and no other is contacted."""
    with FakeComet() as server:
        address = json.dumps({"baseUrl": server.url.removesuffix("clientlib/")})
        variables = {"COMET_API_KEY": f"{KEY}*{base64.b64encode(address.encode()).decode()}", "HOME": str(home)}
        told = run_command(root, "comet", str(ended), environment=variables | {"NO_PROXY": "127.0.0.1"})

    assert 0 == told.returncode, told.stderr
    assert "Comet: http://comet.invalid/" in told.stdout
    assert_complete(server.only_experiment(), ended)


def test_a_run_that_is_still_going_on_is_left_to_its_own_tracker(runs: Runs) -> None:
    """`samebits comet` with a run that is still training is an error."""
    told = runs["online"].result().seen["told again"]

    assert 1 == told.returncode
    assert "is still being trained" in told.stderr


def test_telling_again_does_not_wait_for_standard_input(
    ended: pathlib.Path, root: pathlib.Path, home: pathlib.Path
) -> None:
    """`samebits comet` ends although its standard input stays open, as in a terminal."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "samebits", "comet", str(ended)]
    environment = QUIET | {"PYTHONPATH": str(root / "src"), "HOME": str(home)}
    told = subprocess.run(
        command, cwd=root, env=environment, stdin=reading, capture_output=True, timeout=600, check=False
    )
    os.close(reading)
    os.close(writing)

    assert 0 == told.returncode


@pytest.mark.parametrize("name", ["online", "refused", "dying", "absent"])
def test_the_key_is_written_and_printed_nowhere(runs: Runs, root: pathlib.Path, name: str) -> None:
    """COMET_API_KEY is in no file of the run, in no archive and in no line of output."""
    run = runs[name].result()
    holders = [where for where, data in contents(run.attempt.parent) if KEY.encode() in data]

    assert [] == holders
    assert KEY not in run.output


def test_the_training_process_has_nothing_of_comet_in_its_environment(runs: Runs) -> None:
    """Neither the process nor the record of its environment has a COMET_ variable."""
    run = runs["online"].result()
    machine = json.loads((run.attempt / "machine.json").read_text())
    recorded = machine["arithmetic"]["settings"]["environment"]

    assert b"PYTHONHASHSEED" in run.seen["environment"]
    assert b"COMET" not in run.seen["environment"]
    assert "PYTHONHASHSEED" in recorded
    assert [] == [name for name in recorded if "COMET" in name]
