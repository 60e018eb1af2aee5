"""Shared pieces of the tests: a project to run commands in, and runs in fresh processes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from samebits.runs.folder import read_yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT_FILES = ("conf", "scripts", "src", "requirements.lock", "requirements-dev.lock", "pyproject.toml")
# The package of the data and model functions, which a copy of the project names anew.
PACKAGE = str(read_yaml(ROOT / "conf" / "data" / "synthetic.yaml")["_target_"]).partition(".")[0]
needs_example = pytest.mark.skipif(
    not (ROOT / "conf" / "data" / "imdb_reviews.yaml").exists(), reason="this copy was made without the example"
)
QUIET = {key: value for key, value in os.environ.items() if not key.startswith("COMET_")}

LONGEST_FILES = ("test_readme.py", "test_cluster.py", "test_portability.py", "test_starter.py", "test_container.py")
LONG = ("data.rows=2000", "training.epochs=8")  # long enough to be killed in the middle

# Appended to a copy's core/files.py: a training that is not through before the test has looked, however late that is.
SLOWLY = """

import time

append_at_once = append_row


def append_row(path: pathlib.Path, row: dict[str, Any]) -> None:
    append_at_once(path, row)
    first, wait_s, fast = os.environ.get("SLOWLY", "0 0 /").split(" ", 2)
    if path.name == "metrics.jsonl" and 0 < int(first) <= path.read_bytes().count(b"\\n"):
        until = time.monotonic() + float(wait_s)
        while time.monotonic() < until and not pathlib.Path(fast).exists():
            time.sleep(0.01)
"""

for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs, and nohup's, are started to ignore them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)  # as before for this process, not for those that it starts

Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker waits for another at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the project in a folder of its own, so that a test may break it and its runs are apart."""
    root = folder / "project"
    root.mkdir()
    for name in PROJECT_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a fresh copy of the project for one test."""
    return copy_project(tmp_path)


def run_script(
    root: pathlib.Path,
    script: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    cwd: pathlib.Path | None = None,
    python: str = sys.executable,
) -> Result:
    """Run one of the project's scripts in a fresh process and return its output and exit code."""
    words = [*prefix, python, str(root / "scripts" / script), *arguments]
    return run_words(root, words, environment or {}, cwd)


def run_command(
    root: pathlib.Path,
    command: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    cwd: pathlib.Path | None = None,
    python: str = sys.executable,
) -> Result:
    """Run `samebits COMMAND` on a project in a fresh process and return its output and exit code."""
    words = [*prefix, python, "-m", "samebits", f"--root={root}", command, *arguments]
    return run_words(root, words, environment or {}, cwd)


def run_words(
    root: pathlib.Path, words: Sequence[str], environment: Mapping[str, str], cwd: pathlib.Path | None
) -> Result:
    """Run a command line with the modules of a project, and return its output and exit code."""
    variables = QUIET | {"PYTHONPATH": str(root / "src")} | dict(environment)
    return subprocess.run(
        words, cwd=cwd or root, env=variables, capture_output=True, text=True, timeout=2400, check=False
    )


def train(root: pathlib.Path, *overrides: str, **options: object) -> Result:
    """Train the smoke experiment, without a tracker unless an override names one."""
    return run_script(root, "train.py", "experiment=smoke", "tracker=none", *overrides, **options)  # type: ignore[arg-type]


def finished(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the attempts with a result below a project's runs, oldest first."""
    results = (root / "runs").glob("*/*/*/result.json")
    return [path.parent for path in sorted(results, key=lambda path: path.stat().st_mtime_ns)]


def digest(attempt: pathlib.Path) -> str:
    """Return an attempt's weights digest."""
    return str(json.loads((attempt / "result.json").read_text())["weights_digest"])


def wait_until(reached: Callable[[], object], seconds: float = 600) -> bool:
    """Wait for a moment; returns whether it came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.02)
    return False


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    return not pathlib.Path(f"/proc/{pid}").exists()


def count_rows(root: pathlib.Path) -> int:
    """Return how many rows of metrics a project's one run has recorded."""
    found = list((root / "runs").glob("*/*/*/metrics.jsonl"))
    return len(found[0].read_bytes().splitlines()) if found else 0


def slowly(root: pathlib.Path, first: int, wait_s: float = 0.5, fast: pathlib.Path | None = None) -> dict[str, str]:
    """Return variables that let a copy's trainings wait at each row of metrics from one on, until a file is there.

    The file is the one of `at_full_speed` unless another is named.
    """
    record = root / "src" / "samebits" / "core" / "files.py"
    if SLOWLY not in record.read_text():
        record.write_text(record.read_text() + SLOWLY)
    return {"SLOWLY": f"{first} {wait_s} {fast or root / 'fast'}"}


def start_and_wait(
    root: pathlib.Path, reached: Callable[[], object], *overrides: str, variables: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a long run and return when a moment is reached."""
    command = [
        sys.executable,
        str(root / "scripts" / "train.py"),
        "experiment=smoke",
        "tracker=none",
        *LONG,
        *overrides,
    ]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=QUIET | {"PYTHONPATH": str(root / "src")} | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if reached():
            return process
        time.sleep(0.02)
    process.kill()
    pytest.fail("the run never came so far: " + process.communicate()[0].decode())


def start_and_wait_for_rows(root: pathlib.Path, rows: int, *overrides: str) -> "subprocess.Popen[bytes]":
    """Start a long run and return when it has recorded so many rows of metrics; it goes on slowly (`at_full_speed`)."""
    return start_and_wait(root, lambda: count_rows(root) >= rows, *overrides, variables=slowly(root, rows))


def at_full_speed(root: pathlib.Path) -> None:
    """Let a run that goes on slowly come to its end."""
    (root / "fast").touch()


def check_continued(root: pathlib.Path, undisturbed: pathlib.Path, *overrides: str) -> None:
    """Give the long run's command again; it must go on in the same attempt and end with the same bits and rows."""
    done = train(root, *LONG, *overrides)

    assert 0 == done.returncode, done.stderr
    assert "goes on with" in done.stdout
    assert 1 == len(finished(root))
    attempt = finished(root)[0]
    assert digest(undisturbed) == digest(attempt)
    for name in ("metrics.jsonl", "trace.jsonl", "predictions.arrays"):
        assert (undisturbed / name).read_bytes() == (attempt / name).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the attempt of a long run that nobody disturbed."""
    root = copy_project(tmp_path_factory.mktemp("undisturbed"))
    train(root, *LONG)
    return finished(root)[0]


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in out.split()]
