"""The command line: its imports, its help, how it finds the project, and errors of usage."""

import argparse
import json
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import QUIET, ROOT, Result, run_command, run_words

from samebits import cli

HEAVY = {"tensorflow", "keras", "numpy", "hydra", "omegaconf", "rich", "yaml", "comet_ml", "sklearn"}


def samebits(*words: str, cwd: pathlib.Path = ROOT) -> Result:
    """Run `samebits` with some words, in a folder."""
    return run_words(ROOT, [sys.executable, "-m", "samebits", *words], {}, cwd)


def modules_of(*words: str) -> tuple[set[str], str]:
    """Return the packages that a command line loads, and its output."""
    code = "import sys, json, atexit; before = {*sys.modules}; sys.argv[1:] = json.loads(sys.argv[1]); atexit.register("
    code += "lambda: print('\\n' + json.dumps(sorted({*sys.modules} - before)))); "
    code += "from samebits.cli import main; sys.exit(main())"
    done = run_words(ROOT, [sys.executable, "-c", code, json.dumps(words)], {}, None)

    assert 0 == done.returncode, done.stderr
    *printed, loaded = done.stdout.splitlines()
    return {name.partition(".")[0] for name in json.loads(loaded)}, "\n".join(printed)


@pytest.mark.parametrize("words", [("--help",), ("verify", "--help"), ("completion", "bash")])
def test_help_imports_the_standard_library_alone(words: tuple[str, ...]) -> None:
    """Neither the list of commands nor the help of one loads a package of the environment."""
    loaded, printed = modules_of(*words)

    assert {"samebits"} == loaded - set(sys.stdlib_module_names)
    assert "samebits" in printed


def test_the_import_check_can_fail() -> None:
    """Negative control: the check finds the packages of a command that composes a configuration."""
    loaded, _ = modules_of("seeds")

    assert {"hydra", "rich", "numpy"} <= loaded & HEAVY


def test_help_lists_every_command_in_its_group() -> None:
    """Each command has one line of at most 100 characters, and a known group."""
    lines = cli.overview().splitlines()
    listed = [line.split("  ")[1] for line in lines if re.match("  [a-z]", line)]

    assert sorted(cli.COMMANDS) == sorted(listed)
    assert set(cli.GROUPS) == {command.group for command in cli.COMMANDS.values()}
    assert [] == [line for line in lines if len(line) > 110]


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "train"])
def test_every_command_has_an_example_that_it_understands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` ends with the example, and the example can be parsed completely."""
    command = cli.COMMANDS[name]
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    words = re.findall(r'"[^"]*"|\S+', command.example.removeprefix('eval "$(').removesuffix(')"'))

    assert 0 == ended.value.code
    assert capsys.readouterr().out.endswith(f"example:\n  {command.example}\n")
    assert "samebits" == words[0]
    assert name == cli.find_command(words[1:]).name
    assert isinstance(command.parse(words[1 + len(name.split()) :]), argparse.Namespace)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_image_lists_its_commands(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`samebits image --help` prints one line for each command, and needs no project."""
    assert 0 == cli.main(["image", flag])
    lines = capsys.readouterr().out.splitlines()

    assert "usage: samebits image COMMAND …" == lines[0]
    assert [name for name in cli.COMMANDS if name.startswith("image ")] == [line.split("  ")[1] for line in lines[2:]]
    assert lines[2].endswith("  build the image")


def test_options_may_stand_between_settings() -> None:
    """Settings before, between and after options form one list."""
    given = cli.COMMANDS["study"].parse(["a=1", "--jobs", "2", "b=2", "--seeds=1..3", "c=3"])

    assert (["a=1", "b=2", "c=3"], "2", "1..3") == (given.overrides, given.jobs, given.seeds)


def test_a_launchers_settings_are_not_the_runs() -> None:
    """hydra.launcher.… is for the launcher, everything else for the configuration."""
    given = cli.COMMANDS["study"].parse(["hydra.launcher.partition=short", "a=1", "--launcher=joblib"])
    launch, own = cli.launch_of(given)

    assert ["a=1"] == own
    assert ("joblib", ("hydra.launcher.partition=short",)) == (launch.launcher, launch.settings)


def test_a_containers_command_keeps_its_own_options() -> None:
    """All words after the program are its arguments."""
    given = cli.COMMANDS["image run"].parse(["--engine", "podman", "pytest", "-k", "seeds", "--engine=x"])

    assert ("podman", "pytest", ["-k", "seeds", "--engine=x"]) == (given.engine, given.program, given.words)


# --- where the project is ---


def test_the_project_is_the_nearest_folder_above(project: pathlib.Path) -> None:
    """The command finds the project from a folder inside it; `--root` names it from anywhere."""
    inside = project / "src" / "samebits"
    words = [sys.executable, "-m", "samebits"]
    above = run_words(project, [*words, "clean"], {}, inside)
    named = run_words(project, [*words, "--root", str(project), "clean"], {}, pathlib.Path("/"))
    (project / ".cache").mkdir()
    seen = run_words(project, [*words, "clean"], {}, inside)

    assert (0, 0) == (above.returncode, named.returncode)
    assert "would remove .cache" in seen.stdout


def test_outside_a_project_the_error_says_what_to_do(tmp_path: pathlib.Path) -> None:
    """Without a project it ends with 2 and names the folder, also if --root is wrong."""
    outside, named = samebits("doctor", cwd=tmp_path), samebits(f"--root={tmp_path}", "doctor")

    assert (2, 2) == (outside.returncode, named.returncode)
    for done in (outside, named):
        assert f"project: expected conf/config.yaml in this folder or one above it, received {tmp_path}" in done.stderr
        assert "samebits --root FOLDER" in done.stderr


# --- wrong usage ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "received 'trian'; fix: samebits train"),
        (["xyzzy"], "received 'xyzzy'; fix: samebits --help"),
        (["image"], "expected image build or image verify or image sbom or image train or image test or image run"),
        (["image", "push"], "received 'image push'"),
        (["--root"], "argument --root: expected one argument"),
        ([f"--root={ROOT}"], "a command is missing"),
        (["--rot=x", "train"], "unrecognized arguments: --rot=x"),
        (["verify", "--runs", "two"], "argument --runs: invalid int value: 'two'"),
        (["torture", "--kills=0"], "argument --kills: expected an integer of at least 1, received '0'"),
        (["completion", "csh"], "invalid choice: 'csh'"),
        (["explain", "a", "b", "c"], "unrecognized arguments: c"),
        (["watch", "a=1"], "unrecognized arguments: a=1"),
        (["new"], "the following arguments are required: DEST"),
    ],
)
def test_wrong_usage_ends_with_two(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the problem, and nothing starts."""
    try:
        code = cli.main(words)
    except SystemExit as ended:
        code = int(str(ended.code))

    assert 2 == code
    assert said in capsys.readouterr().err


def test_a_python_without_the_environment_is_told_to_set_it_up() -> None:
    """With only the standard library, a command names the missing package; the image commands need none."""
    bare = [sys.executable, "-S", "-m", "samebits"]  # -S: no site-packages
    seeds = run_words(ROOT, [*bare, "seeds"], {}, None)
    image = run_words(ROOT, [*bare, "image", "build"], {"PATH": "/nowhere"}, None)

    assert (2, 2) == (seeds.returncode, image.returncode)
    assert "expected the project's environment" in seeds.stderr
    assert "fix: make setup, then .venv/bin/samebits" in seeds.stderr
    assert "a container engine: expected docker, podman or (as root) buildah" in image.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    """`samebits … | head -1` ends quietly."""
    line = f"'{sys.executable}' -m samebits train --help | head -1"
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(  # noqa: S602  a pipe is what is tested
        line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )

    assert "samebits: same seed, same bits" in done.stdout
    assert "" == done.stderr


def test_cleaning_twice_is_no_error(project: pathlib.Path) -> None:
    """A second `samebits clean --yes` finds nothing to remove."""
    (project / ".cache").mkdir()
    first, second = (run_command(project, "clean", "--yes") for _ in range(2))

    assert (0, 0) == (first.returncode, second.returncode)
    assert ("removed .cache: 0.0 MB\n", "") == (first.stdout, second.stdout)


@pytest.mark.parametrize("words", [
    ("build",), ("verify",), ("train", "seed.root=56"), ("test",), ("run", "true"), ("build", "--target=test"),
], ids=" ".join)  # fmt: skip
def test_every_image_command_asks_for_its_engine(words: tuple[str, ...]) -> None:
    """An engine that does not exist is an error of one line: each command comes so far."""
    done = samebits("image", *words, "--engine=nosuch") if words[0] != "run" else samebits(
        "image", "run", "--engine=nosuch", "true"
    )  # fmt: skip

    assert 2 == done.returncode, done.stderr
    assert "EngineError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_without_a_name_and_a_terminal_has_the_name_of_its_folder(tmp_path: pathlib.Path) -> None:
    """A name that copier would refuse is an error of one line, and the rule is that of copier.yml."""
    made = samebits("new", str(tmp_path / "my-study"))
    refused = samebits("new", str(tmp_path / "9 lives")), samebits("new", str(tmp_path / "x"), "--name", "a--b")

    assert 0 == made.returncode, made.stderr
    assert 'name = "my-study"' in (tmp_path / "my-study" / "pyproject.toml").read_text()
    for done in refused:
        assert 2 == done.returncode
        assert "name: expected a letter first, then letters and digits" in done.stderr
        assert "Traceback" not in done.stderr
    assert f"'^{cli.PROJECT_NAME}$'" in (ROOT / "copier.yml").read_text()


def test_a_project_is_created_from_the_repository_alone(tmp_path: pathlib.Path) -> None:
    """`new` needs copier.yml, and `update` the answers of a copy; the error names the file."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").touch()
    new, update = samebits("new", "x", cwd=tmp_path), samebits("update", cwd=tmp_path)

    assert (2, 2) == (new.returncode, update.returncode)
    assert "samebits new: expected a project with copier.yml" in new.stderr
    assert "samebits update: expected a project with .copier-answers.yml" in update.stderr
