"""The project as a template: what a copy holds, that it works and keeps the bits, what an update brings and spares."""

import functools
import json
import keyword
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from conftest import QUIET, ROOT, Result, run_command, run_script

from samebits.checks.doctor import check_goldens
from samebits.compose import compose
from samebits.runtime.machine import package_versions

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="copies are made from a git repository")

PACKAGE = "imdb_cnn_lstm"  # as it is here, and must not be in a copy
ANSWERS = {
    "name": "Review-Study.2",
    "package": "review_study",
    "description": "Does the seed matter? <100 % & 'more'>",
    "author": "Ada Lovelace <ada@example.org>",
    "license": "MIT",
    "comet_project": "seed study 1",
    "python": "3.12",
}
# What stays here.
LEFT = {
    "copier.yml", "tests/test_starter.py", "docs/rounds.png", "docs/decisions/0006-the-project-is-its-template.md",
}  # fmt: skip
LEFT_FOLDERS = ("starter/", ".ci/")
WITHOUT_THE_EXAMPLE = {
    "src/{package}/reviews.py", "conf/data/imdb_keras.yaml", "conf/data/imdb_reviews.yaml", "tests/test_reviews.py",
    "conf/experiment/{package}.yaml", "golden/{package}.json", "src/{package}/keras_imdb.py",
    "conf/data/imdb_counts.yaml",
    "conf/data/imdb_imbalanced.yaml", "conf/experiment/imdb_forest.yaml", "golden/imdb_forest.json",
}  # fmt: skip
# Where the old name may stay: the Keras model's, and so its variables', which are in the digests.
OF_THE_MODEL = re.compile(
    r"""Keras's\ example\ imdb_cnn_lstm | name="imdb_cnn_lstm" | imdb_cnn_lstm(_1)?/(conv|output|noise)\b""", re.VERBOSE
)


def git(root: pathlib.Path, *arguments: str) -> str:
    """Run git as somebody and return what it says."""
    person = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.quotepath=off")
    done = subprocess.run(["git", *person, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


def files(root: pathlib.Path) -> set[str]:
    """Return the files of a repository that git does not ignore, also those that are not committed."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return {name for name in listed if name and (root / name).exists()}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a repository with this project as it is now, uncommitted changes included."""
    root = tmp_path_factory.mktemp("template")
    for name in sorted(files(ROOT)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "as it is now")
    return root


def read_yaml(path: pathlib.Path) -> Any:
    """Return a YAML file, whatever it is."""
    return yaml.safe_load(path.read_text())


def copier(*arguments: str, cwd: pathlib.Path) -> Result:
    """Run Copier, which must ask nothing."""
    command = [sys.executable, "-m", "copier", *arguments]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def bake(source: pathlib.Path | str, root: pathlib.Path, answers: Mapping[str, str]) -> Result:
    """Make a copy of a folder or of a git address, with some answers."""
    data = [f"--data={key}={value}" for key, value in answers.items()]
    return copier("copy", "--quiet", "--defaults", *data, str(source), str(root), cwd=root.parent)


def make_copy(source: pathlib.Path | str, root: pathlib.Path, answers: Mapping[str, str]) -> pathlib.Path:
    """Make a copy and commit it."""
    done = bake(source, root, answers)
    assert 0 == done.returncode, done.stderr
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    return root


@pytest.fixture(scope="module")
def named(template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a copy in which every answer was given, with the example."""
    return make_copy(template, tmp_path_factory.mktemp("named") / "somewhere", ANSWERS)


@pytest.fixture(scope="module")
def bare(template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a copy without the example and otherwise with the default answers, in a folder named my-study."""
    return make_copy(template, tmp_path_factory.mktemp("bare") / "my-study", {"example": "false"})


@pytest.fixture(params=["named", "bare"])
def baked(request: pytest.FixtureRequest) -> tuple[pathlib.Path, str]:
    """Return each of the two copies, with its package."""
    return request.getfixturevalue(request.param), {"named": "review_study", "bare": "my_study"}[request.param]


# --- what a copy holds ---


def expected_files(template: pathlib.Path, package: str, *, example: bool) -> dict[str, str]:
    """Return the files that a copy must have, each with the file here that it comes from."""
    kept = {
        name
        for name in files(template)
        if name not in LEFT and not name.startswith(LEFT_FOLDERS) and not name.endswith(".jinja")
    }
    moved = {name.replace(PACKAGE, package): name for name in kept} | {"src/samebits/LICENSE": "LICENSE"}
    for name in () if example else WITHOUT_THE_EXAMPLE:
        del moved[name.format(package=package)]
    return moved


def test_a_copy_has_exactly_these_files(template: pathlib.Path, baked: tuple[pathlib.Path, str]) -> None:
    """Every file of the project but those that are for it alone, under the new names, and Copier's answers."""
    root, package = baked
    expected = expected_files(template, package, example=package == "review_study")

    assert {*expected, ".copier-answers.yml"} == files(root)
    assert set() == {path.name for path in root.iterdir() if path.is_dir()} - {
        name.split("/")[0] for name in expected
    } - {".git"}


def test_what_names_nothing_is_copied_byte_for_byte(template: pathlib.Path, baked: tuple[pathlib.Path, str]) -> None:
    """Only files with a sibling here, or that are moved and name the package, have other bytes; modes stay."""
    root, package = baked
    expected = expected_files(template, package, example=package == "review_study")
    changed = {new for new, old in expected.items() if (root / new).read_bytes() != (template / old).read_bytes()}
    siblings = {name.removesuffix(".jinja") for name in files(template) if name.endswith(".jinja")}
    naming = {new for new, old in expected.items() if new != old and old.endswith((".yaml", ".json"))}

    assert set() == changed - siblings - naming
    assert {"pyproject.toml", "README.md", "conf/config.yaml", "golden/smoke.json"} <= changed
    assert [] == [
        new for new, old in expected.items() if os.access(root / new, os.X_OK) != os.access(template / old, os.X_OK)
    ]


def test_a_copy_names_neither_the_package_nor_the_project(baked: tuple[pathlib.Path, str]) -> None:
    """The old package is in no file, but as the Keras model's name; samebits is the harness; no marker is left."""
    root, package = baked
    texts = {name: (root / name).read_text() for name in files(root) if not name.endswith(".png")}
    left = {name for name, text in texts.items() if PACKAGE in OF_THE_MODEL.sub("", text)}
    marked = {name for name, text in texts.items() if re.search(r"\[%|%\]|\[=|=\]|\[##", text)}
    name = {"review_study": "Review-Study.2", "my_study": "my-study"}[package]
    project = tomllib.loads(texts["pyproject.toml"])["project"]

    assert set() == left
    assert set() == marked
    assert [] == [path for path in files(root) if PACKAGE in path]
    assert name == project["name"]
    assert texts["README.md"].startswith(f"# {name}\n")
    assert package == read_yaml(root / "conf" / "config.yaml")["name"]
    assert name == read_yaml(root / "conf" / "config.yaml")["hydra"]["help"]["app_name"]
    assert [] == [line for line in texts["conf/config.yaml"].splitlines() if "samebits" in line]
    assert "samebits" not in read_yaml(root / "conf" / "tracker" / "comet.yaml")["project"]


def test_every_file_that_names_the_package_is_taken_care_of(template: pathlib.Path) -> None:
    """A file that names the package has a sibling, is moved, or stays here; this check sees one that is not."""

    def forgotten(names: set[str]) -> set[str]:
        moved = {row["from"] for row in yaml.safe_load(read_yaml(template / "copier.yml")["moved"]["default"])}
        care = {
            name for name in names if f"{name}.jinja" in names or name in moved | LEFT or name.startswith(LEFT_FOLDERS)
        }
        return {
            name
            for name in names - care
            if not name.endswith((".png", ".jinja")) and PACKAGE in OF_THE_MODEL.sub("", (template / name).read_text())
        }

    assert set() == forgotten(files(template))
    assert {"conf/data/synthetic.yaml"} == forgotten(files(template) - {"conf/data/synthetic.yaml.jinja"})


def test_the_answers_are_where_they_belong(named: pathlib.Path, bare: pathlib.Path) -> None:
    """Description, author, license, Comet's project and Python; the harness keeps its license; the lock is the same."""
    project = tomllib.loads((named / "pyproject.toml").read_text())["project"]
    plain = tomllib.loads((bare / "pyproject.toml").read_text())["project"]
    interpreter = subprocess.run(
        ["make", "--no-print-directory", "-n", "setup"], cwd=named, capture_output=True, text=True, check=True
    ).stdout

    assert ANSWERS["description"] == project["description"]
    assert [{"name": "Ada Lovelace", "email": "ada@example.org"}] == project["authors"]
    assert [{"name": "The authors of my-study"}] == plain["authors"]
    assert ("MIT", "Apache-2.0") == (project["license"], plain["license"])
    assert "Copyright (c) Ada Lovelace\n" in (named / "LICENSE").read_text()
    assert (ROOT / "LICENSE").read_bytes() == (bare / "LICENSE").read_bytes()
    assert (ROOT / "LICENSE").read_bytes() == (named / "src" / "samebits" / "LICENSE").read_bytes()
    assert (">=3.12,<3.13", ">=3.11,<3.14") == (project["requires-python"], plain["requires-python"])
    assert "python3.12 scripts/setup_env.py\n" == interpreter
    assert ["3.12"] == re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert "seed study 1" == read_yaml(named / "conf" / "tracker" / "comet.yaml")["project"]
    assert (ROOT / "requirements.lock").read_bytes() == (named / "requirements.lock").read_bytes()
    assert "IMAGE ?= review-study.2\n" in (named / "Makefile").read_text()
    assert "Review-Study.2" == read_yaml(named / ".devcontainer" / "devcontainer.json")["name"]
    labels = re.findall(r'image\.(\w+)="([^$]*?)"', (named / "Dockerfile").read_text())
    assert {"title": "Review-Study.2", "description": ANSWERS["description"], "licenses": "MIT"}.items() <= dict(
        labels
    ).items()


@pytest.mark.parametrize("license_", ["BSD-3-Clause", "LicenseRef-Proprietary"])
def test_the_other_licenses_name_the_author(license_: str, template: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Each choice has its text, with the author and without the address."""
    done = bake(template, tmp_path / "study", {"license": license_, "author": "Ada Lovelace <ada@example.org>"})
    text = (tmp_path / "study" / "LICENSE").read_text()

    assert 0 == done.returncode, done.stderr
    assert "Copyright (c) Ada Lovelace" in text
    assert "ada@example.org" not in text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "1study", "a letter first"),
        ("name", "my study", "a letter first"),
        ("package", "My", "a lower-case letter"),
        ("package", "class", "has that name already"),
        ("package", "random", "has that name already"),
        ("package", "numpy", "has that name already"),
        ("package", "smoke", "has that name already"),
        ("package", PACKAGE, "has that name already"),
        ("description", 'the "best"', "no quotation marks"),
        ("author", "a\\b", "no quotation marks"),
        ("comet_project", "a/b", "letters, digits"),
        ("python", "3.10", "Invalid choice"),
    ],
)
def test_answers_that_would_break_the_copy_are_refused(
    key: str, value: str, said: str, template: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The reason is said, and nothing is made."""
    done = bake(template, tmp_path / "study", {key: value})

    assert 0 != done.returncode
    assert said in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "study").exists()


def test_the_list_of_taken_names_is_complete() -> None:
    """Python's own names and the modules of the lock's packages could not be a package's name here."""
    from importlib.metadata import packages_distributions

    taken = set((ROOT / "starter" / "taken.txt").read_text().split())
    names = {*keyword.kwlist, *sys.stdlib_module_names, *packages_distributions(), "samebits"}

    assert set() == {name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name)} - taken


# --- that it works ---


def test_a_copy_keeps_the_house_in_order(baked: tuple[pathlib.Path, str]) -> None:
    """Style and layers hold in a copy as they do here, under the new names."""
    root, _ = baked
    programs = pathlib.Path(sys.executable).parent
    environment = QUIET | {"PYTHONPATH": str(root / "src")}
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("lint-imports", "--no-cache")):
        done = subprocess.run(
            [str(programs / command[0]), *command[1:]],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

        assert 0 == done.returncode, done.stdout + done.stderr
    git(root, "clean", "-fdxq")


def test_a_copys_own_tests_pass(baked: tuple[pathlib.Path, str]) -> None:
    """The harness's tests came along and hold under the new names: a selection that takes seconds."""
    root, _ = baked
    tests = ["house", "unseeded", "golden", "readme", "config", "train"]
    choice = (
        "house or unseeded or (golden and missing) or (readme and (table or help)) or (train and help_and)"
        " or (config and (identity or data_option or group or claims or defaults or sizes))"
    )
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "-k", choice]
    done = subprocess.run(
        [*command, *(f"tests/test_{name}.py" for name in tests)],
        cwd=root, env=QUIET | {"PYTHONPATH": str(root / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)

    assert 0 == done.returncode, done.stdout[-4000:] + done.stderr
    assert passed
    assert int(passed[1]) > 40
    git(root, "clean", "-fdxq")


def test_a_copy_is_sound(baked: tuple[pathlib.Path, str]) -> None:
    """Make doctor finds nothing in a fresh copy; its goldens are those of the new names."""
    root, _ = baked
    done = run_command(root, "doctor", environment={"LD_LIBRARY_PATH": "", "KERAS_HOME": ""})

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "SOUND" in done.stdout


def test_a_copy_has_this_projects_bits(named: pathlib.Path) -> None:
    """The smoke experiment is golden, from no other input, and its second run has the same bits."""
    first = run_command(named, "golden", "smoke")
    second = run_script(named, "train.py", "experiment=smoke", "tracker=none")
    golden = json.loads((ROOT / "golden" / "smoke.json").read_text())["weights_digest"][:12]

    assert 0 == first.returncode, first.stdout + first.stderr
    assert f"GOLDEN smoke: seed 56, weights {golden}" in first.stdout
    assert "changed input" not in first.stdout
    assert 0 == second.returncode, second.stdout + second.stderr
    assert f"weights {golden}…   same bits as 1 earlier run of these inputs" in second.stdout


def test_a_copy_without_the_example_trains(bare: pathlib.Path) -> None:
    """The default run trains the small model on synthetic reviews, named as the package, twice with the same bits."""
    first, second = (run_script(bare, "train.py", "tracker=none", "training.epochs=1") for _ in range(2))

    assert 0 == first.returncode, first.stdout + first.stderr
    assert "my_study   seed 56   portable   run " in first.stdout
    assert "same bits as 1 earlier run of these inputs" in second.stdout


def make(root: pathlib.Path, *words: str) -> Result:
    """Run make in a repository, with this environment instead of one of its own."""
    environment = {k: v for k, v in QUIET.items() if k not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    environment |= {
        "PYTHONPATH": str(root / "src"),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    command = [
        "make",
        "--old-file=setup",
        f"VENV_PYTHON={sys.executable}",
        f"SAMEBITS={sys.executable} -m samebits",
        *words,
    ]
    return subprocess.run(
        command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_make_new_makes_a_copy_of_the_last_commit(template: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Without Copier installed, without what is not committed; the answers name the commit, for an update to follow."""
    (template / "scratch.txt").write_text("not committed\n")
    done = run_command(template, "new", str(tmp_path / "fresh"), "--name=fresh-start")
    (template / "scratch.txt").unlink()
    answers = read_yaml(tmp_path / "fresh" / ".copier-answers.yml")

    assert 0 == done.returncode, done.stderr
    assert (tmp_path / "fresh" / "src" / "fresh_start" / "model.py").exists()
    assert not (tmp_path / "fresh" / "scratch.txt").exists()
    assert git(template, "rev-parse", "HEAD").startswith(answers["_commit"])
    assert str(template) == answers["_src_path"]


def test_make_new_without_a_place_says_so(template: pathlib.Path) -> None:
    """DEST must be given."""
    done = make(template, "new")

    assert 2 == done.returncode
    assert "DEST expected, as in make new DEST=../my-study" in done.stderr


# --- later versions ---


def edit(path: pathlib.Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text, f"{path}: {old}"
    path.write_text(text.replace(old, new, 1))


def test_an_update_brings_the_harness_and_spares_the_users(template: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Harness files are new, the user's data, model and removed files are as they were, other changes are merged."""
    upstream = tmp_path / "upstream"
    git(tmp_path, "clone", "-q", str(template), str(upstream))
    root = make_copy(f"git+file://{upstream}", tmp_path / "study", {"name": "study"})
    with (root / "src" / "study" / "reviews.py").open("a") as stream:
        stream.write("\n\nMINE = 1\n")
    (root / "src" / "study" / "own.py").write_text('"""My own."""\n')
    edit(root / "README.md", "# study\n", "# The study\n")
    edit(root / "conf" / "training" / "default.yaml", "epochs: 2", "epochs: 3")
    for name in ("conf/data/imdb_keras.yaml", "tests/test_reviews.py", "docs/report.md"):
        (root / name).unlink()
    git(root, "add", "-A")
    git(root, "commit", "-qm", "my data")
    mine = {name: (root / name).read_bytes() for name in files(root) if name.startswith(("src/study/", "conf/data/"))}

    for name in (
        "src/samebits/train/loop.py",
        "src/imdb_cnn_lstm/reviews.py",
        "src/imdb_cnn_lstm/model.py",
        "tests/test_reviews.py",
    ):
        with (upstream / name).open("a") as stream:
            stream.write("# later\n")
    (upstream / "src" / "samebits" / "later.py").write_text('"""A later module."""\n')
    edit(upstream / "conf" / "data" / "synthetic.yaml", "rows: 600", "rows: 700")
    edit(upstream / "conf" / "training" / "default.yaml", "log_every: 50", "log_every: 60")
    edit(upstream / "README.md", "samebits doctor\n", "samebits doctor\nsamebits later\n")
    edit(upstream / "docs" / "report.md", "#", "##")
    git(upstream, "add", "-A")
    git(upstream, "commit", "-qm", "later")
    done = make(root, "update")
    changed = {line[3:] for line in git(root, "status", "--porcelain", "--ignored").splitlines()}

    assert 0 == done.returncode, done.stdout + done.stderr
    assert {
        ".copier-answers.yml", "README.md", "conf/training/default.yaml", "src/samebits/train/loop.py",
        "src/samebits/later.py",
    } == changed  # fmt: skip
    assert mine == {name: (root / name).read_bytes() for name in mine}
    assert (root / "src" / "samebits" / "train" / "loop.py").read_text().endswith("# later\n")
    assert {"epochs": 3, "log_every": 60}.items() <= read_yaml(root / "conf" / "training" / "default.yaml").items()
    assert (root / "README.md").read_text().startswith("# The study\n")
    assert "samebits doctor\nsamebits later\n" in (root / "README.md").read_text()
    assert "<<<<<<<" not in "".join((root / name).read_text() for name in changed)
    assert git(upstream, "rev-parse", "HEAD").startswith(read_yaml(root / ".copier-answers.yml")["_commit"])


# --- the project itself ---


def test_every_golden_file_of_the_project_is_of_its_inputs() -> None:
    """The project's own goldens are those of its code, configuration, lock and packages."""
    found = list(check_goldens(ROOT, functools.partial(compose, ROOT), package_versions()))

    assert [] == found
