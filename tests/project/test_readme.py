"""Every command in the README is run, as it stands there; the slow ones on the smoke experiment."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import QUIET, ROOT, copy_project

EXAMPLE = (ROOT / "conf" / "data" / "imdb_reviews.yaml").exists()  # a copy may do without
SMOKE = 'OVERRIDES="experiment=smoke tracker=none"'
# What is added to each command, and what it must print.
COMMANDS = {
    "make train SEED=56": ("", f"val_accuracy 0.{'84' if EXAMPLE else ''}"),
    'make train SEED=57 OVERRIDES="training.epochs=3"': (
        'OVERRIDES="training.epochs=3 experiment=smoke"', "epoch 3/3",
    ),
    "make seeds SEED=56": ("", "model/lstm/recurrent"),
    "make verify SEED=56": (SMOKE, "VERIFIED: 2 runs of smoke"),
    "make verify QUICK=1": ('OVERRIDES="experiment=smoke tracker=none training.steps_per_epoch=9"', "VERIFIED: 2 runs"),
    "make explain A=last~1 B=last": ("", "no divergence"),
    "make report OUT=report.html": ("", "report of "),
    "make watch": ("", "0 running"),
    "make rounds": (SMOKE, "round 3 is bitwise identical; rounds 1 and 2 are not"),
    "make golden": ("EXPERIMENTS=smoke", "GOLDEN smoke"),
    "make portability": (
        'CPUS=Haswell OVERRIDES="experiment=smoke training.steps_per_epoch=2"', "with one digest",
    ),
    'make zoo ONLY="activation log"': ("CPUS=Haswell", "nothing that differs is let through"),
    "make torture KILLS=20": (
        "KILLS=5 KILL_SEED=3", "SURVIVED: 5 of 5 identical to the undisturbed training (kill seed 3)",
    ),
    "make audit": ('OVERRIDES="data/order"', "LIVE: 1 seed points"),
    "make doctor": ("|| true", " checks"),  # whether this copy is sound is for its owner to decide
    "make study SEEDS=1..2": (SMOKE, "2 runs: "),
    "make variance SEEDS=1..2": (
        'OVERRIDES="experiment=smoke tracker=none training.epochs=1 training.steps_per_epoch=5"', "all together",
    ),
    "make bagging BAGS=2": (
        'OVERRIDES="experiment=smoke tracker=none training.epochs=1 training.steps_per_epoch=5"', "ensemble of 2: ",
    ),
    "make comet RUN=last": ("", "Comet: offline archive"),
    "make prune KEEP=2": ("", "would free"),
}  # fmt: skip
RUN_BY_CI = {"make test"}  # it runs this test


def readme_commands() -> list[str]:
    """Return the commands in the README's sh blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_command_of_the_readme_is_in_the_table() -> None:
    """A command that is added to the README must be added here."""
    assert sorted([*COMMANDS, *RUN_BY_CI]) == sorted(readme_commands())


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


def make(root: pathlib.Path, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a make command in the copy, with this environment instead of one of its own."""
    words = command.replace("make ", f'make --old-file=setup VENV_PYTHON="{sys.executable}" ', 1)
    environment = QUIET | {"PYTHONPATH": str(root / "src"), "PATH": os.environ["PATH"]}
    environment = {
        key: value for key, value in environment.items() if key not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
    }
    return subprocess.run(  # noqa: S602  the README's own commands
        words, shell=True, cwd=root, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )


@pytest.mark.timeout(7200)  # all of them, one after another
@pytest.mark.full
def test_the_commands_of_the_readme_work(workshop: pathlib.Path) -> None:
    """They are run one after another in one copy, as a reader would; each prints what it is for."""
    for command in sorted(COMMANDS, key=list(readme_commands()).index):
        added, said = COMMANDS[command]
        done = make(workshop, f"{command} {added}")

        assert 0 == done.returncode, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert said in done.stdout, f"{command}\n{done.stdout[-3000:]}"


@pytest.mark.full
def test_make_alone_prints_the_help(workshop: pathlib.Path) -> None:
    """Every target has a text, and `make` lists them."""
    done = make(workshop, "make ")

    assert 0 == done.returncode
    assert "make train" in done.stdout
    assert "train one run: make train SEED=56" in done.stdout


@pytest.mark.full
def test_a_bad_seed_reaches_the_user_through_make(workshop: pathlib.Path) -> None:
    """`make train SEED=abc` prints the one line of the error."""
    done = make(workshop, "make train SEED=abc")

    assert 0 != done.returncode
    assert "seed.root: expected an integer from 0 to 4294967295, received 'abc' (str)" in done.stderr
