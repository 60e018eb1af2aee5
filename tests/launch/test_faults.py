"""Real faults of every kind: a clear end, no loss of saved progress, no orphan process.

The table of docs/reliability.md lists a test for each row.
"""

import ast
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import (
    FULL,
    LONG,
    PACKAGE,
    QUIET,
    ROOT,
    Command,
    TrainHere,
    check_continued,
    children,
    count_rows,
    digest,
    finished,
    is_gone,
    run_script,
    slowly,
    start_and_wait,
    start_and_wait_for_rows,
    wait_until,
)
from forked_tracker import fork_trackers

from samebits.checks.source_scan import scan
from samebits.compose import compose
from samebits.core.files import read_arrays
from samebits.runs.identity import name_inputs

TINY = ("model.embedding_dim=4", "training.epochs=1", "training.steps_per_epoch=3")
SMALL = (f"experiment={PACKAGE}", "tracker=none", *TINY)  # the real reviews with a small model, whose files are small
WITHOUT_ROOTS_RIGHTS = (
    "setpriv",
    "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search",
)


def attempt_of(root: pathlib.Path) -> pathlib.Path:
    """Return the only attempt of a project."""
    (found,) = (root / "runs").glob("*/*/[0-9]*")
    return found


def training_process(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the training process, and return it."""
    while not children(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    return children(process.pid)[0]


# --- folders, and two at once ---


@pytest.mark.full
def test_read_only_folders_are_refused_or_done_without(project: pathlib.Path, train_here: TrainHere) -> None:
    """A read-only runs folder is a one-line error with exit code 2; a read-only cache folder is a warning."""
    for name in ("runs", ".cache"):
        (project / name).mkdir()
        (project / name).chmod(0o555)
    prefix = WITHOUT_ROOTS_RIGHTS if os.geteuid() == 0 else ()
    refused = run_script(project, "train.py", *SMALL, prefix=prefix)

    assert 2 == refused.returncode
    assert "expected a writable folder, received Permission denied; fix: choose another" in refused.stderr
    assert 1 == len(refused.stderr.strip().splitlines())

    (project / "runs").chmod(0o755)
    done = run_script(project, "train.py", *SMALL, prefix=prefix)

    assert 0 == done.returncode, done.stderr
    assert "the encoded data could not be cached" in done.stderr

    (project / ".cache").chmod(0o755)

    assert "same bits as 1 earlier run" in train_here(project, *TINY, experiment=PACKAGE).stdout
    assert 1 == len(list((project / ".cache").glob("*.arrays")))


@pytest.mark.full
def test_two_trainings_of_the_same_inputs_at_once(project: pathlib.Path) -> None:
    """Both finish as two attempts with the same bits and a whole cache."""
    command = [sys.executable, str(project / "scripts" / "train.py"), *SMALL]
    environment = QUIET | {"PYTHONPATH": str(project / "src")}
    processes = [
        subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0].decode() for process in processes]

    assert [0, 0] == [process.returncode for process in processes], outputs
    assert {"1", "2"} == {attempt.name for attempt in finished(project)}
    assert 1 == len({digest(attempt) for attempt in finished(project)})
    assert [".arrays"] == [path.suffix for path in (project / ".cache").iterdir()]
    assert read_arrays(next((project / ".cache").iterdir()))


# --- signals ---


@pytest.mark.full
def test_a_stop_in_the_first_instants(project: pathlib.Path, train_here: TrainHere) -> None:
    """SIGTERM before the training process handles it gives exit code 143, and the same command trains."""
    process = start_and_wait(project, lambda: list((project / "runs").glob("*/*/*/config.yaml")))
    child = training_process(process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0].decode()

    assert 143 == process.returncode, output
    assert "the same command resumes the run" in output
    assert wait_until(lambda: is_gone(child))
    assert 0 == train_here(project, *LONG).returncode


@pytest.mark.full
def test_ctrl_c_in_a_terminal(project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere) -> None:
    """Ctrl-C in a real terminal gives a checkpoint, exit code 130 and no traceback."""
    words = [sys.executable, str(project / "scripts" / "train.py"), "experiment=smoke", "tracker=none", *LONG]
    command = ["script", "-qefc", " ".join(words), "/dev/null"]
    environment = QUIET | {"PYTHONPATH": str(project / "src")} | slowly(project, 20)
    terminal = subprocess.Popen(
        command, cwd=project, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert wait_until(lambda: count_rows(project) >= 20)
    output = terminal.communicate(b"\x03", timeout=120)[0].decode()

    assert 130 == terminal.returncode, output
    assert "stopped; progress is saved" in output
    assert "Traceback" not in output
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.full
def test_a_closed_terminal(project: pathlib.Path, siblings: pathlib.Path) -> None:
    """A run that ignores SIGHUP (nohup) continues."""
    command = ["nohup", sys.executable, "scripts/train.py", "experiment=smoke", "tracker=none"]
    environment = QUIET | {"PYTHONPATH": str(project / "src")}
    ignoring = subprocess.Popen(
        command, cwd=project, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    training_process(ignoring)
    ignoring.send_signal(signal.SIGHUP)
    output = ignoring.communicate(timeout=600)[0].decode()

    assert 0 == ignoring.returncode, output
    assert digest(finished(siblings)[0]) == digest(finished(project)[0])


@pytest.mark.full
def test_a_killed_parent_leaves_no_orphan(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A training process whose parent is killed at any moment ends, and the same command ends with the same bits."""
    for moment in ("at once", "while it imports", "while it trains"):
        if moment == "while it trains":
            process = start_and_wait_for_rows(project, 10)
        else:
            process = start_and_wait(project, lambda: list((project / "runs").glob("*/*/*/config.yaml")))
        child = training_process(process)
        if moment == "while it imports":
            while "libtensorflow" not in pathlib.Path(f"/proc/{child}/maps").read_text():
                time.sleep(0.01)
        os.kill(child, signal.SIGSTOP)
        process.kill()
        os.kill(child, signal.SIGCONT)
        process.communicate()

        assert wait_until(functools.partial(is_gone, child))
        assert [] == finished(project)
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.full
def test_a_result_that_is_there_is_not_trained_again(own_siblings: pathlib.Path) -> None:
    """A start that finds a finished attempt uses its result and changes no byte."""
    attempt = finished(own_siblings)[0]
    before = {path.name: path.read_bytes() for path in attempt.iterdir() if path.name != "log.txt"}
    command = [sys.executable, "-m", "samebits.train.worker", str(attempt), str(own_siblings), str(os.getpid())]
    environment = QUIET | {"PYTHONPATH": str(own_siblings / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    assert before == {name: (attempt / name).read_bytes() for name in before}


# --- code ---


def test_an_editors_hidden_files_are_no_code(project: pathlib.Path) -> None:
    """Hidden files of editors and notebooks cause no error, and do not change the name of the run."""
    config = compose(project, ["experiment=smoke"])
    before = name_inputs(config, project)
    package = project / "src" / PACKAGE
    (package / ".#model.py").symlink_to("somebody@somewhere.1234")
    (package / ".ipynb_checkpoints").mkdir()
    (package / ".ipynb_checkpoints" / "model-checkpoint.py").write_text("import time\n")

    assert before == name_inputs(config, project)
    assert [] == [found for found in scan(project / "src") if "checkpoint" in found]


def test_what_the_code_of_ones_own_imports_is_in_a_runs_name(project: pathlib.Path) -> None:
    """Imported modules next to the package, and their imports, change the name of a run; others do not."""
    config, source = compose(project, ["experiment=smoke"]), project / "src"
    (source / "helper.py").write_text("CONSTANT = 1\n")
    (source / "other").mkdir()
    (source / "other" / "constants.py").write_text("import helper\n")
    before = name_inputs(config, project)
    (source / "helper.py").write_text("CONSTANT = 2\n")

    assert before == name_inputs(config, project)

    with (source / PACKAGE / "model.py").open("a") as stream:
        stream.write("\nfrom other import constants\n")
    importing = name_inputs(config, project)
    (source / "helper.py").write_text("CONSTANT = 3\n")

    assert before != importing != name_inputs(config, project)


# --- secrets and code ---

SECRETS = {
    "COMET_API_KEY": "c0ffee5ec2e7c0ffee5ec2e7",
    "AWS_SECRET_ACCESS_KEY": "aws5ec2e7aws5ec2e7",
    "GITHUB_TOKEN": "ghp_5ec2e75ec2e75ec2e7",
    "HF_TOKEN": "hf_5ec2e75ec2e75ec2e7",
    "DATABASE_PASSWORD": "pa55-5ec2e7-w02d",
}


def holders(root: pathlib.Path, secrets: dict[str, str]) -> list[str]:
    """Return the files below a folder, including files in archives, that contain a secret."""
    for archive in root.rglob("*.zip"):
        shutil.unpack_archive(archive, archive.parent / (archive.name + ".opened"))
    files = [path for path in root.rglob("*") if path.is_file()]
    held = [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets.values())]
    return [path.relative_to(root).as_posix() for path in held]


def test_no_secret_reaches_a_file_or_the_terminal(
    project: pathlib.Path, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, tokens and passwords from the environment and a git remote are in no file, archive or output."""
    remote = "token-5ec2e7-in-an-address"
    for words in (("init", "-q"), ("remote", "add", "origin", f"https://me:{remote}@example.invalid/x.git")):
        subprocess.run(["git", *words], cwd=project, check=True)
    shutil.copytree(project / ".git", project.parent / "git")
    shutil.rmtree(project / ".git")
    (project / ".git").write_text(f"gitdir: {project.parent / 'git'}\n")
    environment = SECRETS | {"COMET_URL_OVERRIDE": "http://127.0.0.1:9/clientlib/"}  # no server there
    words = ("tracker=comet", "tracker.mode=offline", "tracker.finish_timeout_s=300", "training.epochs=1")
    fork_trackers(monkeypatch)
    done = train_here(project, *words, environment=environment)
    secrets = SECRETS | {"remote": remote}

    assert 0 == done.returncode, done.stderr
    assert list((project / "runs").rglob("*.zip"))
    assert [] == holders(project, secrets)
    assert [] == [name for name, secret in secrets.items() if secret in done.stdout + done.stderr]


def test_the_look_for_secrets_can_fail(tmp_path: pathlib.Path) -> None:
    """Negative control: secrets in a file and in an archive are found."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.txt").write_text("key=" + SECRETS["GITHUB_TOKEN"])
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "inside")

    assert ["archive.zip.opened/a.txt", "inside/a.txt"] == sorted(holders(tmp_path, SECRETS))


FOREIGN = {
    "model._target_=os.system": "model._target_",
    "data._target_=subprocess.run": "data._target_",
    "data._target_=samebits.train.worker.main": "data._target_",
    "data._target_=hydra.utils.get_method": "data._target_",
    "training.loss=os.system": "training.loss",
    "training.optimizer=builtins.exec": "training.optimizer",
    "+model.x._target_=os.system": "",  # an argument that the model function does not take, and nobody calls
}


@pytest.mark.parametrize("override", FOREIGN)
def test_a_configuration_runs_no_foreign_function(override: str, project: pathlib.Path, train_here: TrainHere) -> None:
    """`_target_`, loss and optimizer accept only packages below src/, and Keras's losses and optimizers."""
    done = train_here(project, override)

    assert 2 == done.returncode
    assert f"ConfigError: {FOREIGN[override]}" in done.stderr


def test_a_stopped_runs_configuration_runs_no_foreign_function(
    own_siblings: pathlib.Path, command_here: Command
) -> None:
    """A changed config.yaml with another function is an error before anything is imported."""
    attempt = finished(own_siblings)[0]
    (attempt / "result.json").unlink()
    path = attempt / "config.yaml"
    path.write_text(path.read_text().replace(f"{PACKAGE}.model.build_model", "os.system"))
    done = command_here(own_siblings, "resume", f"{attempt.parent.name}/{attempt.name}")

    assert 2 == done.returncode
    assert "model._target_: expected a function in a package of your own below src/, received os.system" in done.stderr


def test_no_module_reads_pickles_or_unsafe_yaml() -> None:
    """No source file of the project uses a reader that can run code from its input. Two modules run a user's script."""
    dangerous = re.compile(
        r"import pickle|pickle\.load|allow_pickle=True|yaml\.(load|unsafe_load|full_load)\("
        r"|load_model\(|\beval\(|\bexec\("
    )
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]

    assert len(sources) > 30
    assert ["process.py", "script.py"] == sorted(path.name for path in sources if dangerous.search(path.read_text()))
    assert dangerous.search("np.load(path, allow_pickle=True)")


MARKS_OF_FULL = re.compile(r"mark\.(" + "|".join(("full", *FULL)) + r")\b")


def find_tests() -> dict[str, bool]:
    """Return every test of the project by name, and whether only `make test-all` runs it."""
    found = {}
    for path in (ROOT / "tests").glob("*/test_*.py"):
        tree = ast.parse(path.read_text())
        assigned = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
        module = any(text.startswith("pytestmark") and MARKS_OF_FULL.search(text) for text in assigned)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [ast.unparse(mark) for mark in node.decorator_list if "parametrize" not in ast.unparse(mark)]
                found[node.name] = module or any(MARKS_OF_FULL.search(mark) for mark in marks)
    return found


def rows_of_tests(text: str) -> list[str]:
    """Return the rows of docs/reliability.md below a head with the columns "fast test" and "full test"."""
    tables = re.findall(r"^\|.*\| fast test \| full test \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def is_right(row: str, tests: dict[str, bool]) -> bool:
    """Return whether a row names a fast and a full test, each by a part of its name that no other test has."""
    is_full = [
        [[full for name, full in tests.items() if part in name] for part in re.findall(r"`(\w+)`", cell)]
        for cell in row.split("|")[-3:-1]
    ]
    fast, full = is_full[0], [[True]] if row.endswith("| the same |") else is_full[1]
    return bool(fast and full) and all(found == [False] for found in fast) and all(found == [True] for found in full)


def test_every_row_of_the_faults_table_names_a_test_of_each_set() -> None:
    """A row without a test, a name that no test or several have, and a test in the wrong column are found."""
    tests = find_tests()
    rows = rows_of_tests((ROOT / "docs" / "reliability.md").read_text())

    assert [] == [row for row in rows if not is_right(row, tests)]
    assert len(rows) > 40
    assert is_right("| a | b | `child_was_killed` | `closed_terminal` |", tests)
    for wrong in (
        "`child_was_filled` | the same",
        "`_in_` | the same",
        "`child_was_killed` |",
        "`closed_terminal` | the same",
    ):
        assert not is_right(f"| a | b | {wrong} |", tests)
    assert not is_right("| a | b | `child_was_killed` | `child_was_killed` |", tests)
