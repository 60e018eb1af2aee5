"""The commands in README and docs/commands.md run as written, the slow ones on the smoke experiment."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from conftest import QUIET, ROOT, Command, Result, copy_project, finished, run_words

from samebits import cli
from samebits.checks import golden
from samebits.compose import compose

SMOKE = "experiment=smoke tracker=none"
GOLDEN = json.loads((ROOT / "golden" / "imdb_cnn_lstm.json").read_text())
# The words added to each command, and texts of the expected output.
COMMANDS: dict[str, tuple[str, ...]] = {
    "make train SEED=56": ("", "val_accuracy 0.84", f"weights {GOLDEN['weights_digest'][:12]}"),
    "samebits train seed.root=57 training.epochs=3": ("experiment=smoke", "epoch 3/3"),
    "samebits seeds seed.root=56": ("", "model/lstm/recurrent"),
    "samebits verify --quick": (f"{SMOKE} training.steps_per_epoch=9", "VERIFIED: 2 runs of smoke"),
    "samebits explain last~1 last": ("", "no divergence"),
    "samebits report last last~1": ("", "report of "),
    "samebits watch": ("", "0 running"),
    "samebits rounds": (
        f"{SMOKE} training.epochs=1 training.steps_per_epoch=9",
        "round 3 is bitwise identical; rounds 1 and 2 are not",
    ),
    "samebits doctor": ("|| true", " checks"),  # finds that a test's copy has no git repository
    "samebits variance --seeds 1..2": ("experiment=smoke_forest tracker=none", "all together"),
    "samebits comet last": ("", "Comet: offline archive"),
    "samebits prune --keep 2": ("", "would free"),
    "samebits clean": ("", "would remove .cache"),
    "samebits completion bash": ("", "complete -F"),
}  # fmt: skip
# Their trainings are forks; the other commands run in a shell.
IN_PROCESS = ("samebits rounds", "samebits variance --seeds 1..2")
ROW = r"^\| `(samebits [^`]*)` \|"  # of a table, with a command in its first column
ELSEWHERE = {
    "make test": "it runs this test",
    "make setup": "a step of .ci/run",
    ".venv/bin/samebits run your_script.py": "test_script",
    "make new DEST=../my-study": "test_starter",
    "cd ../my-study": "a step of the shell",
    'git init -b main && git add -A && git commit -m "Start from samebits"': "likewise",
    "samebits run script.py": "test_script",
    "samebits check-script script.py": "test_check_script",
    "samebits resume last": "test_resume stops a run first",
    "samebits new ../my-study": "test_starter",
    "samebits update": "test_starter",
    "samebits predict last": "test_predict",
    "samebits verify seed.root=56": "test_explain",
    "samebits golden smoke": "test_golden",
    "samebits portability": "test_portability",
    "samebits torture --kills 20": "a step of .ci/run",
    "samebits audit data/order": "test_audit",
    "samebits study --seeds 1..2": "test_study",
    "samebits bagging --bags 2": "test_bagging",
    "samebits image build": "test_container; needs an engine",
    "samebits image verify": "same reason",
    "samebits image sbom": "by test_container",
    "samebits image train seed.root=56": "same reason",
    "samebits image test": "same reason",
    "samebits image run .venv/bin/samebits golden": "same reason",
}


def readme_commands() -> list[str]:
    """Return the commands in the README's sh blocks and in its table."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    return [*lines, *re.findall(ROW, text, re.MULTILINE)]


def listed_commands() -> list[str]:
    """Return the commands in the first column of the table in docs/commands.md."""
    return re.findall(ROW, (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)


def documented() -> list[str]:
    """Return the commands of both, each once, in order."""
    return list(dict.fromkeys([*readme_commands(), *listed_commands()]))


def test_every_documented_command_is_in_a_table_here() -> None:
    """Every command in the documents is tested here."""
    assert sorted([*COMMANDS, *ELSEWHERE]) == sorted(documented())


def test_every_command_has_one_row() -> None:
    """docs/commands.md lists the commands of `samebits --help` in the same order; the README shows at most seven."""
    listed = [cli.find_command(line.split()[1:]).name for line in listed_commands()]

    assert sorted(cli.COMMANDS) == sorted(listed)
    assert len([line for line in readme_commands() if line.startswith("samebits ")]) <= 7


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a copy of the project with Makefile and golden files."""
    root = copy_project(tmp_path_factory.mktemp("readme"))
    shutil.copy(ROOT / "Makefile", root)
    shutil.copytree(ROOT / "golden", root / "golden")
    shutil.copy(ROOT / ".gitignore", root)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def run_line(root: pathlib.Path, command: str) -> Result:
    """Run a command line in the copy, with this environment."""
    samebits = f"{sys.executable} -m samebits"
    words = re.sub("^samebits ", f"{samebits} ", command)
    words = re.sub(
        "^make ",
        f'make --old-file=setup --old-file=setup-dev VENV_PYTHON="{sys.executable}" SAMEBITS="{samebits}" ',
        words,
    )
    environment = QUIET | {"PYTHONPATH": str(root / "src"), "PATH": os.environ["PATH"]}
    environment = {
        key: value for key, value in environment.items() if key not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
    }
    return subprocess.run(  # noqa: S602  the README's own commands
        words, shell=True, cwd=root, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )


@pytest.mark.timeout(7200)  # all of them, one after another
@pytest.mark.full
def test_the_documented_commands_work(workshop: pathlib.Path, command_here: Command) -> None:
    """The commands run one after another in one copy, and each prints the expected text."""
    for command in sorted(COMMANDS, key=documented().index):
        added, *said = COMMANDS[command]
        line = f"{command} {added}"
        done = command_here(workshop, *line.split()[1:]) if command in IN_PROCESS else run_line(workshop, line)

        assert 0 == done.returncode, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        for text in said:
            assert text in done.stdout, f"{command}\n{done.stdout[-3000:]}"
        if command == "make train SEED=56":
            assert golden_part(GOLDEN) == golden_part(describe_the_run(workshop))
    assert "[[" in use_the_model(workshop)


def golden_part(described: dict[str, Any]) -> list[Any]:
    """Return what must not change of the description of a run: `samebits golden` fails if it does."""
    return [described[name] for name in ("seed", "promise", "epochs", "weights_digest")]


def describe_the_run(root: pathlib.Path) -> dict[str, Any]:
    """Return the description of the only finished run of the main experiment, as `samebits golden` makes it."""
    (attempt,) = finished(root)
    return golden.describe(compose(root, ["experiment=imdb_cnn_lstm"]), root, attempt)


def use_the_model(root: pathlib.Path) -> str:
    """Run the README's Python, which loads the newest model of the example, and return its output."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = run_words(root, [sys.executable, "-c", program], {}, None)

    assert 0 == done.returncode, done.stderr[-3000:]
    return done.stdout


@pytest.mark.full
def test_make_alone_prints_the_help(workshop: pathlib.Path) -> None:
    """Every target has a description, and `make` lists them."""
    done = run_line(workshop, "make ")

    assert 0 == done.returncode
    assert "make train" in done.stdout
    assert "train one run: make train SEED=56" in done.stdout
    assert "everything else: " in done.stdout


def test_the_makefile_is_short() -> None:
    """There are about fifteen targets, each with one line and a description."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):(.*)\n((?:\t.*\n)*)", text, re.MULTILINE)

    assert 17 >= len(targets)
    assert [] == [name for name, head, _ in targets if " ## " not in head]
    assert [] == [name for name, _, recipe in targets if recipe.count("\n") != 1 and name != "help"]


@pytest.mark.full
def test_a_bad_seed_reaches_the_user_through_make(workshop: pathlib.Path) -> None:
    """`make train SEED=abc` prints a one-line error."""
    done = run_line(workshop, "make train SEED=abc")

    assert 0 != done.returncode
    assert "seed.root: expected an integer from 0 to 4294967295, received 'abc' (str)" in done.stderr
