"""Real faults of every kind: a clear end, no loss of saved progress, no orphan process.

The table of docs/reliability.md lists a test for each row.
"""

import ast
import json
import os
import pathlib
import re
import resource
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
    at_full_speed,
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
    train,
    wait_until,
)

from samebits.checks.source_scan import scan
from samebits.compose import compose
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


# --- a full disk: a limit on the size of every file ---


@pytest.mark.full
def test_a_disk_that_is_full_for_the_metrics(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A full disk is an error with the name of the file. With free space the run ends with the same bits.

    Which file exceeds the limit first depends on the step at which the process was stopped.
    """
    process = start_and_wait_for_rows(project, 20, "training.checkpoint_every=30")
    child = training_process(process)
    os.kill(child, signal.SIGSTOP)
    size_bytes = (attempt_of(project) / "metrics.jsonl").stat().st_size
    resource.prlimit(child, resource.RLIMIT_FSIZE, (size_bytes + 10, resource.RLIM_INFINITY))
    os.kill(child, signal.SIGCONT)
    output = process.communicate(timeout=600)[0].decode()

    assert 1 == process.returncode
    assert re.search(r"RecordError: .*(metrics\.jsonl|trace\.jsonl|checkpoint-.*) could not be written", output), output
    assert "Fix: free disk space or repair the folder" in output
    assert "Traceback" not in output
    assert not [path for path in attempt_of(project).iterdir() if "partial" in path.name]
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.full
def test_a_run_that_failed_after_its_last_epoch(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """Predictions are recomputed from the restored weights, with the same bits."""
    process = start_and_wait_for_rows(project, 5)
    attempt = next((project / "runs").glob("*/*/[0-9]*"))
    (attempt / "model.keras" / "in the way").mkdir(parents=True)
    at_full_speed(project)
    out = process.communicate()[0].decode()
    shutil.rmtree(attempt / "model.keras")
    (attempt / "predictions.arrays").unlink()

    assert 1 == process.returncode
    assert "model.keras could not be written" in out
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.full
def test_a_disk_that_is_full_for_the_checkpoint(
    project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere
) -> None:
    """A checkpoint that does not fit leaves earlier ones whole. With free space the run resumes from them."""
    process = start_and_wait_for_rows(project, 5)  # its metrics are smaller than the limit, its checkpoints are not
    child = training_process(process)
    resource.prlimit(child, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    output = process.communicate(timeout=600)[0].decode()

    assert 1 == process.returncode
    assert re.search(r"RecordError: .*checkpoint-.* could not be written", output), output
    assert 2 == len(list(attempt_of(project).glob("checkpoint-*")))
    check_continued(project, undisturbed, again=train_here)


@pytest.mark.full
def test_a_disk_that_is_full_for_the_cache_costs_a_warning(project: pathlib.Path, train_here: TrainHere) -> None:
    """If the encoded reviews (10 MB) do not fit, the run warns and trains with the same bits."""
    full = run_script(project, "train.py", *SMALL, prefix=("prlimit", f"--fsize={4 * 2**20}"))

    assert 0 == full.returncode, full.stderr
    assert "the encoded data could not be cached" in full.stderr
    assert [] == list((project / ".cache").glob("*"))

    room = train_here(project, *TINY, experiment=PACKAGE)

    assert "same bits as 1 earlier run" in room.stdout
    assert 1 == len(list((project / ".cache").glob("*.arrays")))


@pytest.mark.full
def test_read_only_folders_are_refused_or_done_without(project: pathlib.Path) -> None:
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


# --- two at once, damaged caches ---


@pytest.mark.full
def test_two_trainings_of_the_same_inputs_at_once(project: pathlib.Path, train_here: TrainHere) -> None:
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
    assert not list((project / ".cache").glob(".*partial*"))

    third = train_here(project, *TINY, experiment=PACKAGE)

    assert "same bits as 2 earlier runs" in third.stdout
    assert "the cache file is rebuilt" not in third.stderr


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short"])
@pytest.mark.full
def test_a_damaged_cache_is_made_again(damage: str, project: pathlib.Path, train_here: TrainHere) -> None:
    """A damaged or truncated cache file gives a warning, a new file and the same bits."""
    train_here(project, *TINY, experiment=PACKAGE)
    (cache,) = (project / ".cache").glob("*.arrays")
    whole = cache.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    cache.write_bytes(bytes(data) if damage == "a flipped bit" else whole[: len(whole) // 2])
    done = train_here(project, *TINY, experiment=PACKAGE)

    assert f"the cache file is rebuilt: {cache} is damaged." in done.stderr
    assert "same bits as 1 earlier run" in done.stdout
    assert whole == cache.read_bytes()


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
def test_ctrl_c_in_a_terminal(project: pathlib.Path, undisturbed: pathlib.Path) -> None:
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
    check_continued(project, undisturbed)


@pytest.mark.full
def test_a_closed_terminal(project: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """SIGHUP saves a checkpoint. A run that ignores it (nohup) continues."""
    process = start_and_wait_for_rows(project, 20)
    process.send_signal(signal.SIGHUP)
    output = process.communicate(timeout=600)[0].decode()

    assert 143 == process.returncode, output
    assert "stopped; progress is saved" in output

    command = [sys.executable, "scripts/train.py", "experiment=smoke", "tracker=none", *LONG]
    environment = QUIET | {"PYTHONPATH": str(project / "src")}
    ignoring = subprocess.Popen(
        ["nohup", *command], cwd=project, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    training_process(ignoring)
    ignoring.send_signal(signal.SIGHUP)
    output = ignoring.communicate(timeout=600)[0].decode()

    assert 0 == ignoring.returncode, output
    assert "resumes" in output
    assert digest(undisturbed) == digest(finished(project)[0])


@pytest.mark.parametrize("moment", ["at once", "while it imports", "while it trains"])
@pytest.mark.full
def test_a_killed_parent_leaves_no_orphan(moment: str, project: pathlib.Path, train_here: TrainHere) -> None:
    """Whenever the parent is killed, the training process ends too, and the next start is not disturbed."""
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

    assert wait_until(lambda: is_gone(child))
    assert [] == finished(project)
    assert 0 == train_here(project, *LONG).returncode


@pytest.mark.full
def test_a_result_that_is_there_is_not_trained_again(project: pathlib.Path, train_here: TrainHere) -> None:
    """A start that finds a finished attempt uses its result and changes no byte."""
    train_here(project)
    attempt = finished(project)[0]
    before = {path.name: path.read_bytes() for path in attempt.iterdir() if path.name != "log.txt"}
    command = [sys.executable, "-m", "samebits.train.worker", str(attempt), str(project), str(os.getpid())]
    environment = QUIET | {"PYTHONPATH": str(project / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    assert before == {name: (attempt / name).read_bytes() for name in before}


# --- memory, and the kernel ---


@pytest.mark.full
def test_out_of_memory_in_tensorflow_says_so(project: pathlib.Path) -> None:
    """A model that is too large for any machine has exit code 1 and the message "out of memory"."""
    done = train(project, "model.embedding_dim=2000000000", prefix=("prlimit", f"--as={16 * 2**30}"))

    assert 1 == done.returncode
    assert "out of memory" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.full
def test_out_of_memory_in_the_data_says_so(project: pathlib.Path, train_here: TrainHere) -> None:
    """A data set that is too large has the same message, and no result."""
    done = train_here(project, "data._target_=faults.data.need_much_memory")
    shown = done.stderr + done.stdout

    assert 1 == done.returncode, shown
    assert "out of memory" in shown
    assert "Traceback" not in shown
    assert [] == finished(project)


@pytest.mark.full
def test_code_that_is_saved_while_a_run_starts(project: pathlib.Path, train_here: TrainHere) -> None:
    """Code that changes while a run starts is an error, and leaves no run."""
    done = train_here(project, "data._target_=faults.data.save_code")

    assert 2 == done.returncode, done.stdout
    assert "received changes in faults/data.py; fix: run the same command again" in done.stderr
    assert [] == list((project / "runs").glob("*/*/[0-9]*"))


@pytest.mark.full
def test_a_function_that_ends_the_process(project: pathlib.Path, train_here: TrainHere) -> None:
    """sys.exit in a user's function is an error with its name, and does not set the exit code of the run."""
    done = train_here(project, "data._target_=faults.data.leave")

    assert 1 == done.returncode, done.stdout
    assert "the data or model function called sys.exit(2)" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.full
def test_a_child_that_the_kernel_kills(project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere) -> None:
    """SIGKILL by the kernel (here: a limit of CPU time) is reported, and the same command ends with the same bits."""
    process = start_and_wait_for_rows(project, 20)
    child = training_process(process)
    resource.prlimit(child, resource.RLIMIT_CPU, (1, 1))
    output = process.communicate(timeout=600)[0].decode()

    assert 1 == process.returncode
    assert "killed by SIGKILL (out of memory, or kill -9)" in output
    check_continued(project, undisturbed, again=train_here)


# --- the clock, and folders that go away ---


@pytest.mark.full
def test_a_clock_that_was_set_back(project: pathlib.Path, undisturbed: pathlib.Path, train_here: TrainHere) -> None:
    """Files with a future time, after a clock was set back, do not affect resume or bits."""
    train_here(project, *LONG, environment={"FAULT": "row 60 kill"})
    later = time.time() + 10 * 86400
    for path in [*(project / "runs").rglob("*"), *(project / ".cache").rglob("*")]:
        os.utime(path, (later, later))

    check_continued(project, undisturbed, again=train_here)


@pytest.mark.parametrize("what", ["the attempt", "all runs", "the metrics"])
@pytest.mark.full
def test_a_folder_that_is_deleted_under_a_running_process(
    what: str, project: pathlib.Path, train_here: TrainHere
) -> None:
    """A deleted folder is an error with the name of the file, never a finished run. The same command trains again."""
    process = start_and_wait_for_rows(project, 10)
    child = training_process(process)
    attempt = attempt_of(project)
    os.kill(child, signal.SIGSTOP)
    if what == "the metrics":
        (attempt / "metrics.jsonl").unlink()
    else:
        shutil.rmtree(attempt if what == "the attempt" else project / "runs")
    os.kill(child, signal.SIGCONT)
    at_full_speed(project)
    output = process.communicate(timeout=600)[0].decode()

    assert 1 == process.returncode, output
    assert "RecordError: " in output
    assert "Traceback" not in output
    assert wait_until(lambda: is_gone(child))
    assert [] == finished(project)
    assert 0 == train_here(project, *LONG, "resume=never").returncode


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


def test_no_secret_reaches_a_file_or_the_terminal(project: pathlib.Path) -> None:
    """Keys, tokens and passwords from the environment and a git remote are in no file, archive or output."""
    remote = "token-5ec2e7-in-an-address"
    for words in (("init", "-q"), ("remote", "add", "origin", f"https://me:{remote}@example.invalid/x.git")):
        subprocess.run(["git", *words], cwd=project, check=True)
    shutil.copytree(project / ".git", project.parent / "git")
    shutil.rmtree(project / ".git")
    (project / ".git").write_text(f"gitdir: {project.parent / 'git'}\n")
    environment = SECRETS | {"COMET_URL_OVERRIDE": "http://127.0.0.1:9/clientlib/"}  # no server there
    done = run_script(
        project,
        "train.py",
        "experiment=smoke",
        "tracker.mode=offline",
        "tracker.finish_timeout_s=300",
        "training.epochs=1",
        environment=environment,
    )
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


@pytest.mark.full
def test_a_stopped_runs_configuration_runs_no_foreign_function(
    project: pathlib.Path, train_here: TrainHere, command_here: Command
) -> None:
    """A changed config.yaml with another function is an error before anything is imported."""
    train_here(project, *LONG, environment={"FAULT": "row 5 kill"})
    path = attempt_of(project) / "config.yaml"
    path.write_text(path.read_text().replace(f"{PACKAGE}.model.build_model", "os.system"))
    done = command_here(project, "resume", "last")

    assert 2 == done.returncode
    assert "model._target_: expected a function in a package of your own below src/, received os.system" in done.stderr


def test_no_module_reads_pickles_or_unsafe_yaml() -> None:
    """No source file of the project uses a reader that can run code from its input."""
    dangerous = re.compile(
        r"import pickle|pickle\.load|allow_pickle=True|yaml\.(load|unsafe_load|full_load)\("
        r"|load_model\(|\beval\(|\bexec\("
    )
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]

    assert len(sources) > 30
    assert [] == [path.name for path in sources if dangerous.search(path.read_text())]
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


@pytest.mark.full
def test_a_checkpoint_of_another_model_is_left_out(project: pathlib.Path, train_here: TrainHere) -> None:
    """A checkpoint of another model gives a warning, and the run restarts and ends with the same bits."""
    train_here(project, *LONG, environment={"FAULT": "row 20 kill"})
    code = (
        "import pathlib, sys, numpy, samebits.core.files as r\n"
        "for path in pathlib.Path(sys.argv[1]).glob('checkpoint-*'):\n"
        "    r.write_arrays(path, {'state': numpy.zeros(3, 'u1')})"
    )
    environment = QUIET | {"PYTHONPATH": str(project / "src")}
    subprocess.run([sys.executable, "-c", code, str(attempt_of(project))], env=environment, check=True)
    done = train_here(project, *LONG)

    assert 0 == done.returncode, done.stderr
    log = (attempt_of(project) / "log.txt").read_text()
    assert "does not fit this model and is ignored" in log
    assert json.loads((attempt_of(project) / "result.json").read_text())["resumed_at"] is None
