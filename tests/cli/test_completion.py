"""Shell completion: commands, options, groups and settings, in the shells themselves."""

import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import QUIET, ROOT

from samebits import cli
from samebits.completion import SCRIPTS

BASH_ASKS = """\
eval "$(samebits completion bash)"
COMP_LINE=$1 COMP_POINT=${#1}
compopt() { :; }
_samebits samebits
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(line: str, capsys: pytest.CaptureFixture[str], root: pathlib.Path = ROOT) -> list[str]:
    """Return the completions of a line's last word."""
    assert 0 == cli.main([f"--root={root}", "complete", line])
    return capsys.readouterr().out.split()


def test_commands_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    """The first word is a command; `image` has a second word."""
    assert ["verify"] == completed("samebits ver", capsys)
    assert ["build", "run", "sbom", "test", "train", "verify"] == completed("samebits image ", capsys)
    assert {name.split()[0] for name in cli.COMMANDS} == set(completed("samebits ", capsys))
    assert ["watch"] == completed("samebits --root /x wat", capsys)


def test_options_and_choices_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    """Options start with a dash; a command without settings shows them at once."""
    assert ["--help", "--jobs", "--launcher", "--seeds", "--versus"] == completed("samebits study --", capsys)
    assert ["--help", "bash", "fish", "zsh"] == completed("samebits completion ", capsys)
    assert ["--engine"] == completed("samebits image build --eng", capsys)
    assert [] == completed("samebits xyzzy ", capsys)


def test_groups_and_settings_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    """Groups have their options; the keys come from conf/ and from the typed schema."""
    files = sorted(f"data={path.stem}" for path in (ROOT / "conf" / "data").glob("*.yaml"))

    assert files == completed("samebits train data=", capsys)
    assert ["training.epochs="] == completed("samebits study --jobs 2 training.ep", capsys)
    assert ["seed.points.data.order="] == completed("samebits audit seed.points.data.or", capsys)
    assert {"experiment=", "model.dropout_rate=", "tracker.mode="} <= set(completed("samebits verify ", capsys))
    assert [] == completed("samebits watch data", capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a folder with a program samebits."""
    path = tmp_path_factory.mktemp("bin")
    program = path / "samebits"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT / "src"}" exec "{sys.executable}" -m samebits "$@"\n')
    program.chmod(0o755)
    return path


def ask(folder: pathlib.Path, *command: str) -> list[str]:
    """Run a shell with the program on its path, and return what it prints."""
    environment = QUIET | {"PATH": f"{folder}:{QUIET['PATH']}", "HOME": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert "" == done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("samebits tort", ["torture"]),
        ("samebits image v", ["verify"]),
        ("samebits study --ver", ["--versus"]),
        ("samebits train training.ba", ["training.batch_size="]),
        ("samebits train data=synthetic_", ["synthetic_counts"]),  # bash replaces what follows the =
    ],
)
def test_bash_completes(line: str, words: list[str], folder: pathlib.Path) -> None:
    """The script works in a real bash."""
    assert words == ask(folder, "bash", "-c", BASH_ASKS, "bash", line)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(folder: pathlib.Path) -> None:
    """The script works in a real fish."""
    asked = 'samebits completion fish | source; complete -C"samebits train data=synthetic_"'

    assert ["data=synthetic_counts"] == ask(folder, "fish", "--no-config", "-c", asked)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_the_script(folder: pathlib.Path) -> None:
    """The script works in a real zsh, and passes the completions to compadd."""
    asked = 'autoload -U compinit; compinit -D -u; eval "$(samebits completion zsh)"; print $_comps[samebits]; '
    asked += "compadd() { print -l -- ${@[(i)--,-1]} }; words=(samebits) LBUFFER='samebits train data=synthetic_'; "
    asked += "compadd() { shift ${@[(i)--]}; print -l -- $@ }; _samebits"

    assert ["_samebits", "data=synthetic_counts"] == ask(folder, "zsh", "-f", "-c", asked)


def test_a_script_for_every_shell() -> None:
    """`samebits completion` offers exactly these shells."""
    assert set(SCRIPTS) == set(cli.COMMANDS["completion"].arguments[0].settings["choices"])  # type: ignore[index]
