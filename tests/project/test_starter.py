"""A copy of the project: its files, its digests, and what an update changes and keeps."""

import functools
import hashlib
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
from conftest import QUIET, ROOT, Result
from copier import run_copy

from samebits.checks.doctor import check_goldens, check_harness, check_imports, sealed_digests
from samebits.compose import compose
from samebits.core.old_names import MOVED
from samebits.image import build_context
from samebits.runs.identity import name_inputs
from samebits.runtime.machine import package_versions

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="copies are made from a git repository")

PACKAGE = "imdb_cnn_lstm"  # the example's name, which must not be in a copy
BEFORE = "ef653e5"  # the last commit of version 0.1
ANSWERS = {
    "name": "Review-Study.2",
    "package": "review_study",
    "description": "Does the seed matter? <100 % & 'more'>",
    "author": "Ada Lovelace <ada@example.org>",
    "license": "MIT",
    "comet_project": "seed study 1",
    "python": "3.12",
}
MAX_FILES, MAX_LINES = 45, 900  # of a copy without harness/; the second counts Python
FILES = {
    ".copier-answers.yml", ".devcontainer/devcontainer.json", ".dockerignore", ".gitattributes",
    ".github/workflows/ci.yml", ".gitignore", "CHANGELOG.md", "Dockerfile", "LICENSE", "Makefile", "README.md",
    "conf/config.yaml", "conf/data/synthetic.yaml", "conf/experiment/smoke.yaml", "conf/hydra/launcher/slurm.yaml",
    "conf/model/cnn_lstm.yaml", "conf/model/tiny.yaml", "conf/tracker/comet.yaml",
    "conf/tracker/none.yaml", "conf/training/default.yaml", "conf/training/kfold.yaml",
    "conf/training/leave_one_out.yaml", "golden/smoke.json", "pyproject.toml", "requirements-dev.lock",
    "requirements.lock", "scripts/lock.py", "scripts/setup_env.py", "scripts/train.py", "src/{package}/__init__.py",
    "src/{package}/encode.py",
    "src/{package}/model.py", "src/{package}/synthetic.py", "tests/conftest.py", "tests/test_data.py",
    "tests/test_model.py", "tests/test_same_bits.py",
}  # fmt: skip
EXAMPLE = {
    "conf/data/imdb_reviews.yaml", "conf/experiment/{package}.yaml", "golden/{package}.json",
    "src/{package}/reviews.py",
}  # fmt: skip
# Where the example's name may stay: as the Keras model's name, which is part of the digest.
OF_THE_MODEL = re.compile(r"(Keras's|Keras) example imdb_cnn_lstm|name=\"imdb_cnn_lstm\"")


def git(root: pathlib.Path, *arguments: str) -> str:
    """Run git with a made-up author and return its output."""
    person = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.quotepath=off")
    done = subprocess.run(["git", *person, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


def files(root: pathlib.Path) -> set[str]:
    """Return all files of a repository that git does not ignore, uncommitted ones included."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return {name for name in listed if name and os.path.lexists(root / name)}


def own_files(root: pathlib.Path) -> set[str]:
    """Return the files of a copy that are the user's."""
    return {name for name in files(root) if not name.startswith("harness/")}


def commit(root: pathlib.Path, message: str) -> pathlib.Path:
    """Commit everything in a folder, and make it a repository first if needed."""
    if not (root / ".git").exists():
        git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)
    return root


def copy_repository(root: pathlib.Path) -> None:
    """Copy this project's current files into a folder, with links as links."""
    for name in sorted(files(ROOT)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name, follow_symlinks=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a repository with the project's current files, uncommitted changes included."""
    root = tmp_path_factory.mktemp("template")
    copy_repository(root)
    return commit(root, "as it is now")


def read_yaml(path: pathlib.Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.safe_load(path.read_text())


def copier(*arguments: str, cwd: pathlib.Path) -> Result:
    """Run Copier, which must not ask any question."""
    command = [sys.executable, "-m", "copier", *arguments]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def bake(source: pathlib.Path | str, root: pathlib.Path, answers: Mapping[str, str], *options: str) -> Result:
    """Make a copy from a folder or a git address, with some answers."""
    data = [f"--data={key}={value}" for key, value in answers.items()]
    return copier("copy", "--quiet", "--defaults", *options, *data, str(source), str(root), cwd=root.parent)


def make_copy(
    source: pathlib.Path | str, root: pathlib.Path, answers: Mapping[str, str], *options: str
) -> pathlib.Path:
    """Make a copy and commit it."""
    done = bake(source, root, answers, *options)
    assert 0 == done.returncode, done.stderr
    return commit(root, "start")


@pytest.fixture(scope="module")
def named(template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a copy with all answers given, and with the example."""
    return make_copy(template, tmp_path_factory.mktemp("named") / "somewhere", ANSWERS)


@pytest.fixture(scope="module")
def bare(template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a copy without the example and with default answers, in a folder named my-study."""
    return make_copy(template, tmp_path_factory.mktemp("bare") / "my-study", {"example": "false"})


@pytest.fixture(params=["named", "bare"])
def baked(request: pytest.FixtureRequest) -> tuple[pathlib.Path, str]:
    """Return each of the two copies and its package."""
    return request.getfixturevalue(request.param), {"named": "review_study", "bare": "my_study"}[request.param]


def run_in(root: pathlib.Path, *command: str, path: str | None = None, **variables: str) -> Result:
    """Run Python in a copy with harness/ and src/ on the import path, like its environment."""
    quiet = {key: value for key, value in QUIET.items() if not key.startswith("MAKE")}
    path = f"{root / 'harness'}{os.pathsep}{root / 'src'}" if path is None else path
    environment = quiet | {"PYTHONPATH": path} | variables
    return subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


# --- what a copy holds ---


def test_a_copy_has_exactly_these_files(baked: tuple[pathlib.Path, str]) -> None:
    """The user owns about forty files with fewer than 900 lines of Python; harness/ is beside them; no links."""
    root, package = baked
    expected = {name.format(package=package) for name in FILES | (EXAMPLE if package == "review_study" else set())}
    lines = sum(len((root / name).read_text().splitlines()) for name in own_files(root) if name.endswith(".py"))

    assert expected == own_files(root)
    assert len(own_files(root)) <= MAX_FILES
    assert lines < MAX_LINES
    assert [] == [name for name in files(root) if (root / name).is_symlink()]
    assert len((root / "README.md").read_text().splitlines()) < 100


def test_what_is_linked_is_copied_byte_for_byte(template: pathlib.Path, named: pathlib.Path) -> None:
    """A link in template/ becomes its target file, with its mode; harness/samebits is the complete package."""
    links = [path for path in (template / "template").rglob("*") if path.is_symlink()]
    pairs = [
        (named / str(path.relative_to(template / "template")).replace("[= package =]", "review_study"), path.resolve())
        for link in links
        for path in ([link] if link.is_file() else [file for file in link.rglob("*") if file.is_file()])
    ]
    pairs = [(new, old) for new, old in pairs if not old.name.endswith(".ipynb") and "decisions" not in old.parts]

    assert len(pairs) > 90
    assert [] == [str(new) for new, old in pairs if new.read_bytes() != old.read_bytes()]
    assert [] == [str(new) for new, old in pairs if os.access(new, os.X_OK) != os.access(old, os.X_OK)]
    assert {path.relative_to(template / "src").as_posix() for path in (template / "src" / "samebits").rglob("*.*")} <= {
        path.relative_to(named / "harness").as_posix() for path in (named / "harness").rglob("*.*")
    }


def test_templates_lie_below_template_alone() -> None:
    """There are no templates outside template/, and no broken links in it."""
    assert [] == [name for name in files(ROOT) if name.endswith(".jinja") and not name.startswith("template/")]
    assert [] == [str(path) for path in (ROOT / "template").rglob("*") if path.is_symlink() and not path.exists()]


def test_a_copy_names_neither_the_package_nor_the_project(baked: tuple[pathlib.Path, str]) -> None:
    """The user's files do not contain the example's package name, except as a model's name, and no template marker."""
    root, package = baked
    texts = {name: (root / name).read_text() for name in own_files(root)}
    left = {name for name, text in texts.items() if PACKAGE in OF_THE_MODEL.sub("", text)}
    marked = {name for name, text in texts.items() if re.search(r"\[%|%\]|\[=|=\]|\[##", text)}
    name = {"review_study": "Review-Study.2", "my_study": "my-study"}[package]

    assert set() == left
    assert set() == marked
    assert [] == [path for path in files(root) if PACKAGE in path]
    assert name == tomllib.loads(texts["pyproject.toml"])["project"]["name"]
    assert texts["README.md"].startswith(f"# {name}\n")
    assert package == read_yaml(root / "conf" / "config.yaml")["package"]
    assert name == read_yaml(root / "conf" / "config.yaml")["hydra"]["help"]["app_name"]
    assert "samebits" not in read_yaml(root / "conf" / "tracker" / "comet.yaml")["project"]
    assert [] == re.findall(r"(?m)^COPY tools.*|.*VARIANT.*", texts["Dockerfile"])
    assert {
        path for path in re.findall(r"\]\((harness/\S+?)\)", texts["README.md"]) if not (root / path).exists()
    } == set()


def test_a_dockerfile_copies_files_of_its_context_and_has_whole_commands(baked: tuple[pathlib.Path, str]) -> None:
    """Each file that is copied into the image is in its build context, and no command breaks off; in a copy too."""
    for root in (ROOT, baked[0]):
        text = (root / "Dockerfile").read_text()
        copied = [word for line in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", text) for word in line.split()]
        allowed = {path.as_posix() for path in build_context.context_files(root)}

        assert {"requirements.lock", "scripts/setup_env.py", "."} <= set(copied)
        assert {word for word in copied if word not in allowed and not (root / word).is_dir()} == set()
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
        words = {line.split()[0] for line in lines}
        commands = [re.sub(r"^RUN (--\S+ +)*", "", line) for line in lines if line.startswith("RUN")]

        assert words <= {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD", "LABEL"}
        assert [0] * 4 == [subprocess.run(["sh", "-n", "-c", each], check=False).returncode for each in commands]


def test_the_answers_are_where_they_belong(named: pathlib.Path, bare: pathlib.Path) -> None:
    """Description, author, license, Comet project and Python come from the answers; dependencies do not change."""
    project = tomllib.loads((named / "pyproject.toml").read_text())["project"]
    plain = tomllib.loads((bare / "pyproject.toml").read_text())
    mine = tomllib.loads((ROOT / "pyproject.toml").read_text())
    make = ["make", "--no-print-directory", "-n", "setup"]

    assert ANSWERS["description"] == project["description"]
    assert [{"name": "Ada Lovelace", "email": "ada@example.org"}] == project["authors"]
    assert [{"name": "The authors of my-study"}] == plain["project"]["authors"]
    assert ("MIT", "Apache-2.0") == (project["license"], plain["project"]["license"])
    assert mine["project"]["dependencies"] == plain["project"]["dependencies"]
    assert mine["dependency-groups"] == plain["dependency-groups"]
    assert "Copyright (c) Ada Lovelace\n" in (named / "LICENSE").read_text()
    assert (ROOT / "LICENSE").read_bytes() == (bare / "LICENSE").read_bytes()
    assert (ROOT / "LICENSE").read_bytes() == (named / "harness" / "LICENSE").read_bytes()
    assert (">=3.12,<3.13", ">=3.11,<3.14") == (project["requires-python"], plain["project"]["requires-python"])
    assert "python3.12 scripts/setup_env.py\n" == subprocess.check_output(make, cwd=named, text=True)
    assert "seed study 1" == read_yaml(named / "conf" / "tracker" / "comet.yaml")["project"]
    assert "Review-Study.2" == read_yaml(named / ".devcontainer" / "devcontainer.json")["name"]
    labels = dict(re.findall(r'image\.(\w+)="([^$]*?)"', (named / "Dockerfile").read_text()))
    assert {
        "title": "Review-Study.2",
        "description": ANSWERS["description"],
        "licenses": "MIT",
    }.items() <= labels.items()


REFUSED = (
    ("name", "my study", "a letter first"),
    ("name", "1study", "a letter first"),
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
)


@pytest.fixture
def questions(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the questions to whoever makes a copy, and the license as the only file of it: without git and fast."""
    root = tmp_path / "questions"
    shutil.copytree(ROOT / "template" / "includes", root / "template" / "includes")
    for name in ("LICENSE", "copier.yml", "template/LICENSE.jinja"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.mark.parametrize("license_", ["BSD-3-Clause", "LicenseRef-Proprietary"])
def test_the_other_licenses_name_the_author(license_: str, questions: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Each license has its text, with the author and without an address."""
    data = {"license": license_, "author": "Ada Lovelace <ada@example.org>"}
    run_copy(str(questions), tmp_path / "study", data, defaults=True, quiet=True)
    text = (tmp_path / "study" / "LICENSE").read_text()

    assert "Copyright (c) Ada Lovelace" in text
    assert "ada@example.org" not in text


@pytest.mark.parametrize(("key", "value", "said"), REFUSED)
def test_answers_that_would_break_the_copy_are_refused(
    key: str, value: str, said: str, questions: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A wrong answer gives the reason, and no copy is made."""
    with pytest.raises(ValueError, match=r"Validation error|Invalid choice") as refused:
        run_copy(str(questions), tmp_path / "study", {key: value}, defaults=True, quiet=True)

    assert said in " ".join(str(refused.value).split())
    assert not (tmp_path / "study").exists()


def test_the_list_of_taken_names_is_complete() -> None:
    """Names of Python's modules and of locked packages are refused as package names."""
    from importlib.metadata import packages_distributions

    taken = set((ROOT / "template" / "includes" / "taken.txt").read_text().split())
    names = {*keyword.kwlist, *sys.stdlib_module_names, *packages_distributions(), "samebits"}

    assert set() == {name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name)} - taken


# --- that it works ---


def test_a_copys_code_is_in_style(baked: tuple[pathlib.Path, str]) -> None:
    """A copy passes the lint rules of its own pyproject.toml, with the new names."""
    root, _ = baked
    for words in (("check", "--no-cache", "."), ("format", "--no-cache", "--check", ".")):
        done = run_in(root, "-m", "ruff", *words)

        assert 0 == done.returncode, done.stdout + done.stderr


def test_the_seal_is_of_every_file(named: pathlib.Path) -> None:
    """SEALED has the SHA-256 of each file of harness/samebits, in the format of sha256sum."""
    harness = named / "harness"
    actual = {
        path.relative_to(harness).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (harness / "samebits").rglob("*")
        if path.is_file()
    }

    assert actual == sealed_digests((harness / "SEALED").read_text())


def test_doctor_names_what_was_edited_in_the_harness(named: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A fresh copy has no findings; edited, removed and added files, and a missing SEALED, are reported."""
    root = pathlib.Path(shutil.copytree(named, tmp_path / "copy"))
    assert [] == list(check_harness(root))
    samebits = root / "harness" / "samebits"
    (samebits / "core" / "seeds.py").write_text((samebits / "core" / "seeds.py").read_text() + "\n")
    (samebits / "core" / "digest.py").unlink()
    (samebits / "core" / "mine.py").write_text("")

    assert [
        ("harness/samebits/core/digest.py", "was removed"),
        ("harness/samebits/core/mine.py", "was added"),
        ("harness/samebits/core/seeds.py", "was edited"),
    ] == [(finding.where, finding.what) for finding in check_harness(root)]
    (root / "harness" / "SEALED").unlink()
    assert ["harness/SEALED"] == [finding.where for finding in check_harness(root)]


def test_goldens_of_a_copy_are_of_its_inputs(baked: tuple[pathlib.Path, str]) -> None:
    """In a copy, doctor has the same findings on golden files as in this project, and no others."""
    root, package = baked
    versions = package_versions()
    said = {
        pathlib.Path(finding.where).stem: finding.what
        for finding in check_goldens(ROOT, functools.partial(compose, ROOT), versions)
    }
    found = list(check_goldens(root, functools.partial(compose, root), versions))

    def changed(text: str) -> set[str]:
        return set(re.sub(rf"\b({PACKAGE}|{package})\b", "PACKAGE", text).partition(": ")[2].split(", "))

    for finding in found:
        name = pathlib.Path(finding.where).stem
        assert set() == changed(finding.what) - changed(said.get(PACKAGE if name == package else name, ""))


@pytest.mark.full
def test_a_copys_own_tests_pass(baked: tuple[pathlib.Path, str]) -> None:
    """The copy's own tests pass: data, model, and the same bits twice."""
    root, _ = baked
    done = run_in(root, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    passed = re.search(r"(\d+) passed", done.stdout)

    assert 0 == done.returncode, done.stdout[-4000:] + done.stderr
    assert passed
    assert 4 == int(passed[1])
    git(root, "clean", "-fdxq")


@pytest.mark.full
def test_a_copy_has_this_projects_bits(named: pathlib.Path, template: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The smoke experiment has the same digest and run name with harness/ and with an installed wheel."""
    root = pathlib.Path(shutil.copytree(named, tmp_path / "copy"))
    golden = json.loads((ROOT / "golden" / "smoke.json").read_text())["weights_digest"]
    train = ("scripts/train.py", "experiment=smoke", "tracker=none")
    first = run_in(root, *train)
    (result,) = root.glob("runs/smoke/*/1/result.json")

    assert 0 == first.returncode, first.stdout + first.stderr
    assert golden == json.loads(result.read_text())["weights_digest"]
    assert {"samebits", "review_study"} == {path.name for path in (result.parent.parent / "source").iterdir()}

    site = install_wheel(template, tmp_path)
    shutil.rmtree(root / "harness")
    second = run_in(root, *train, path=f"{site}{os.pathsep}{root / 'src'}")

    assert 0 == second.returncode, second.stdout + second.stderr
    assert f"weights {golden[:12]}…   same bits as 1 earlier run with the same inputs" in second.stdout
    assert "/smoke/" + result.parent.parent.name + "/2" in second.stdout


def install_wheel(template: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Build the wheel of samebits, install it, and return its folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(template)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "hatchling" in built.stderr and built.returncode:
        pytest.skip("hatchling, which builds the wheel, cannot be downloaded")
    assert 0 == built.returncode, built.stderr
    (wheel,) = folder.glob("samebits-*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert {"samebits"} == {path.name for path in site.iterdir() if path.suffix != ".dist-info" and path.name != "bin"}
    return site


def test_an_installed_package_gives_a_run_the_same_name(named: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A run's name depends on the imported code, not on its place."""
    root = pathlib.Path(shutil.copytree(named, tmp_path / "copy"))
    config = compose(root, ["experiment=smoke", "tracker=none"])
    with_harness = name_inputs(config, root)
    shutil.rmtree(root / "harness")  # this process imports samebits from another place, like from a wheel

    assert with_harness == name_inputs(config, root)
    shutil.copytree(named / "harness", root / "harness")
    path = root / "harness" / "samebits" / "core" / "seeds.py"
    path.write_text(path.read_text() + "\n")
    assert with_harness != name_inputs(config, root)


def make(root: pathlib.Path, *words: str) -> Result:
    """Run make in a repository, with this environment."""
    environment = {key: value for key, value in QUIET.items() if key not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    environment |= {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["make", "--old-file=setup", "--old-file=setup-dev", f"VENV_PYTHON={sys.executable}"]
    command += [f"SAMEBITS={sys.executable} -m samebits", *words]
    return subprocess.run(
        command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_every_target_of_a_copys_makefile_is_a_line(named: pathlib.Path) -> None:
    """`make` lists every target of .PHONY, and each target calls a command."""
    text = (named / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    listed = re.findall(r"^  make (\S+)", make(named).stdout, re.MULTILINE)

    assert targets
    assert targets[1].split() == listed
    assert [] == [name for name in listed if make(named, "-n", name).returncode]


# --- later versions ---


def edit(path: pathlib.Path, old: str, new: str) -> None:
    """Replace text that must exist."""
    text = path.read_text()
    assert old in text, f"{path}: {old}"
    path.write_text(text.replace(old, new, 1))


def update(root: pathlib.Path) -> set[str]:
    """Update a copy and return the files that changed."""
    done = make(root, "update")
    assert 0 == done.returncode, done.stdout + done.stderr
    status = git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    return {line[3:] for line in status}


@pytest.mark.full
def test_an_update_brings_the_harness_and_leaves_the_users_files(
    template: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """An update replaces harness and lock, keeps data, model and removals, and merges other changes."""
    upstream = tmp_path / "upstream"
    git(tmp_path, "clone", "-q", str(template), str(upstream))
    root = make_copy(f"git+file://{upstream}", tmp_path / "study", {"name": "study"})
    for name in ("src/study/reviews.py", "src/study/model.py"):
        with (root / name).open("a") as stream:
            stream.write("\n\nMINE = 1\n")
    edit(root / "README.md", "# study\n", "# The study\n")
    edit(root / "conf" / "training" / "default.yaml", "epochs: 2", "epochs: 3")
    edit(root / "Makefile", "SEED ?= 56", "SEED ?= 7")
    for name in ("conf/data/imdb_reviews.yaml", "conf/training/leave_one_out.yaml"):
        (root / name).unlink()
    commit(root, "mine")
    mine = {name: (root / name).read_bytes() for name in files(root) if name.startswith(("src/", "conf/data/"))}

    for name in ("src/samebits/train/loop.py", "src/imdb_cnn_lstm/reviews.py", "requirements.lock"):
        with (upstream / name).open("a") as stream:
            stream.write("# later\n")
    (upstream / "src" / "samebits" / "core" / "later.py").write_text('"""A later module."""\n')
    edit(upstream / "conf" / "data" / "synthetic.yaml", "rows: 600", "rows: 700")
    edit(upstream / "conf" / "training" / "default.yaml", "log_every: 50", "log_every: 60")
    edit(upstream / "template" / "README.md.jinja", "## Comet", "## Comet, later")
    commit(upstream, "later")

    assert {
        ".copier-answers.yml", "README.md", "conf/training/default.yaml", "harness/SEALED",
        "harness/samebits/core/later.py", "harness/samebits/train/loop.py", "requirements.lock",
    } == update(root)  # fmt: skip
    assert mine == {name: (root / name).read_bytes() for name in mine}
    assert {"epochs": 3, "log_every": 60}.items() <= read_yaml(root / "conf" / "training" / "default.yaml").items()
    assert (root / "README.md").read_text().startswith("# The study\n")
    assert "## Comet, later\n" in (root / "README.md").read_text()
    assert "SEED ?= 7\n" in (root / "Makefile").read_text()
    assert [] == list(check_harness(root))


def has_version_0_1() -> bool:
    """Return whether this clone has the git history for an update from version 0.1."""
    return not subprocess.run(["git", "cat-file", "-e", BEFORE], cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.full
@pytest.mark.skipif(not has_version_0_1(), reason="a shallow clone: version 0.1 is not in it")
def test_an_update_from_version_0_1_brings_the_new_layout(tmp_path: pathlib.Path) -> None:
    """src/samebits/ becomes harness/; data and model stay; doctor and training name the moved imports."""
    upstream = tmp_path / "upstream"
    git(tmp_path, "clone", "-q", str(ROOT), str(upstream))
    git(upstream, "checkout", "-q", "-B", "main", BEFORE)
    root = make_copy(f"git+file://{upstream}", tmp_path / "study", {"name": "study"}, f"--vcs-ref={BEFORE}")
    with (root / "src" / "study" / "data.py").open("a") as stream:
        stream.write("\n\nMINE = 1\n")
    edit(root / "src" / "study" / "model.py", "import keras\n", "import keras  # mine\n")
    edit(root / "conf" / "training" / "default.yaml", "epochs: 2", "epochs: 3")
    edit(root / "README.md", "# study\n", "# The study\n")
    edit(root / "Makefile", "SEED ?= 56", "SEED ?= 7")
    commit(root, "mine")
    mine = {name: (root / name).read_bytes() for name in files(root) if name.startswith(("src/study/", "conf/data/"))}

    for name in files(upstream):
        (upstream / name).unlink()
    copy_repository(upstream)
    commit(upstream, "the new layout")
    update(root)
    config = compose(root, ["tracker=none"])

    assert mine == {name: (root / name).read_bytes() for name in mine}
    assert [] == [name for name in files(root) if name.startswith("src/samebits/")]
    assert [] == list(check_harness(root))
    assert ("study", 3, "study.data.load_reviews") == (config.package, config.training.epochs, config.data["_target_"])
    assert {f"{old}, which has moved" for old in ("samebits.data", "samebits.errors", "samebits.layers")} <= {
        finding.what.removeprefix("imports ") for finding in check_imports(root)
    }
    assert "SEED ?= 7\n" in (root / "Makefile").read_text()
    done = run_in(
        root,
        "-c",
        "from samebits.train.worker import find_function as f; f('model', {'_target_': 'study.model.build_model'})",
    )
    assert "write `from samebits.core.errors import …` instead of `from samebits.errors import …`" in done.stderr

    for path in (root / "src" / "study").glob("*.py"):
        text = path.read_text()
        for old, new in MOVED.items():
            text = text.replace(f"from {old} import", f"from {new} import")
        path.write_text(text)
    assert [] == list(check_imports(root))


# --- the project itself ---


def test_every_golden_file_of_the_project_is_of_its_inputs() -> None:
    """The project's golden files match its code, configuration, lock and packages."""
    found = list(check_goldens(ROOT, functools.partial(compose, ROOT), package_versions()))

    assert [] == found
