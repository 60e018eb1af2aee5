"""`samebits doctor` finds nothing in a good copy, and reports each planted risk with its place."""

import functools
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import PACKAGE, QUIET, ROOT, copy_project, run_command

from samebits.checks import doctor, source_scan
from samebits.compose import compose
from samebits.core.config import RuntimeConfig
from samebits.runtime.machine import package_versions
from samebits.runtime.pins import SCRUBBED_PREFIXES, child_environment

DIGEST = "@sha256:" + "0" * 64
COMMIT = "0" * 40
INSTALLED = functools.cache(package_versions)
SCANNED = functools.cache(lambda text, scan=source_scan.scan_text: list(scan(text)))
SOUND_FILES = {
    "Dockerfile": f"ARG BASE=python:3.12{DIGEST}\nFROM ${{BASE}} AS build\nRUN true\nFROM build AS b\nFROM scratch\n",
    ".github/workflows/ci.yml": (
        f"jobs:\n  a:\n    container: debian{DIGEST}\n    steps:\n      - uses: actions/checkout@{COMMIT}  # v4\n"
        "      - uses: ./.github/actions/own\n        with:\n          image: ${{ matrix.image }}\n"
    ),
    ".gitlab-ci.yml": f'image: "debian{DIGEST}"\nimage:\n  name: x\n',
    ".devcontainer/devcontainer.json": f'{{"image": "debian{DIGEST}"}}\n',
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a committed copy of the project with one experiment, a Dockerfile and CI files, all pinned."""
    root = copy_project(tmp_path_factory.mktemp("sound"))
    for path in (root / "conf" / "experiment").glob("*.yaml"):
        if path.stem != "smoke":  # each costs every test a second
            path.unlink()
    (root / "golden").mkdir()
    shutil.copy(ROOT / "golden" / "smoke.json", root / "golden")
    shutil.copy(ROOT / ".gitignore", root)
    for name, text in SOUND_FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    commit(root, "init", "-q")
    commit(root, "add", "-A")
    commit(root, "commit", "-qm", "all")
    return root


def commit(root: pathlib.Path, *arguments: str) -> None:
    """Run git with a made-up author."""
    person = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *person, *arguments], cwd=root, check=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the installed packages, and each text of a source file, only once."""
    monkeypatch.setattr(doctor, "package_versions", INSTALLED)
    monkeypatch.setattr(source_scan, "scan_text", SCANNED)


@pytest.fixture
def copy(sound: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a copy of the good project, in which a test plants a risk."""
    return pathlib.Path(shutil.copytree(sound, tmp_path / "project"))


def clean_environment() -> dict[str, str]:
    """Return this shell's variables without those that the doctor checks."""
    return {
        key: value
        for key, value in QUIET.items()
        if not key.startswith((*SCRUBBED_PREFIXES, *doctor.REACHING, "TZ", "LC_ALL"))
    }


def examine(root: pathlib.Path, **variables: str) -> dict[str, list[str]]:
    """Return check -> findings ("where: what") of a project."""
    environment = clean_environment() | variables
    found = doctor.examine(root, functools.partial(compose, root), environment)
    return {name: [f"{each.where}: {each.what}" for each in rows if each.fix] for name, rows in found.items() if rows}


def replace(name: str, old: str, new: str) -> Callable[[pathlib.Path], object]:
    """Return an edit that replaces text in one file. The old text must exist."""

    def edit(root: pathlib.Path) -> None:
        path = root / name
        text = path.read_text()
        assert old in text, f"{name}: {old}"
        path.write_text(text.replace(old, new, 1))

    return edit


def append(name: str, text: str) -> Callable[[pathlib.Path], object]:
    """Return an edit that appends text to a file, or creates it."""

    def edit(root: pathlib.Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("a") as stream:
            stream.write(text)

    return edit


MODEL = f"src/{PACKAGE}/model.py"
MODEL_LINES = len((ROOT / MODEL).read_text().splitlines())
INPUTS_OF_SMOKE = "golden/smoke.json: was made from other inputs: "
# The planted risk, the check that must find it, and the expected text.
PLANTED: dict[str, tuple[Callable[[pathlib.Path], object], str, str]] = {
    "a base by tag": (
        replace("Dockerfile", f"python:3.12{DIGEST}", "python:3.12-slim"),
        "image tags and actions", "Dockerfile:2: FROM python:3.12-slim has no digest",
    ),
    "a base without a default": (
        append("Dockerfile", "FROM debian AS last\n"),
        "image tags and actions", "Dockerfile:6: FROM debian has no digest",
    ),
    "an action by tag": (
        replace(".github/workflows/ci.yml", f"@{COMMIT}", "@v4"),
        "image tags and actions", ".github/workflows/ci.yml:5: action actions/checkout@v4 is not pinned to a commit",
    ),
    "a job's container by tag": (
        replace(".github/workflows/ci.yml", f"debian{DIGEST}", "debian:12"),
        "image tags and actions", ".github/workflows/ci.yml:3: image debian:12 has no digest",
    ),
    "GitLab's image by tag": (
        replace(".gitlab-ci.yml", DIGEST, ":12"),
        "image tags and actions", ".gitlab-ci.yml:1: image debian:12 has no digest",
    ),
    "a devcontainer by tag": (
        replace(".devcontainer/devcontainer.json", DIGEST, ":12"),
        "image tags and actions", ".devcontainer/devcontainer.json:1: image debian:12 has no digest",
    ),
    "a range in the lock": (
        replace("requirements.lock", "six==", "six>="), "the lock", "has no exact version",
    ),
    "a package without a hash": (
        append("requirements.lock", "zzz==1.0\n"), "the lock", "zzz==1.0 has no hash",
    ),
    "a test tool without a hash": (
        append("requirements-dev.lock", "zzz==1.0\n"), "the lock", "zzz==1.0 has no hash",
    ),
    "another test tool than the lock's": (
        replace("requirements-dev.lock", "execnet==", "execnet==0."), "installed packages", "package execnet: ",
    ),
    "a line of the lock that is not a requirement": (
        append("requirements.lock", "???\n"), "the lock", "??? has no exact version",
    ),
    "a pyproject.toml that is torn": (
        append("pyproject.toml", "[project\n"), "the lock", "pyproject.toml: cannot be read: ",
    ),
    "a dependency that is not a requirement": (
        replace("pyproject.toml", '"rich>=14,<16"', '"rich>=14,<16", "no requirement"'),
        "the lock", "pyproject.toml: no requirement is not a requirement",
    ),
    "a source file that is torn": (
        append(MODEL, "def torn(:\n"), "randomness", f"{MODEL}:",
    ),
    "an open version of what decides bits": (
        replace("pyproject.toml", '"keras==3.15.1"', '"keras>=3.15"'),
        "the lock", "pyproject.toml: keras>=3.15 has no exact version, but the package can change bits",
    ),
    "a dependency that is not locked": (
        replace("pyproject.toml", '"rich>=14,<16"', '"rich>=14,<16", "polars>=1"'),
        "the lock", "pyproject.toml: polars>=1 does not match the lock, which has None",
    ),
    "a lock that is too old": (
        replace("pyproject.toml", '"rich>=14,<16"', '"rich>=99"'),
        "the lock", "pyproject.toml: rich>=99 does not match",
    ),
    "another version than the lock's": (
        replace("requirements.lock", "six==", "six==0."), "installed packages", "package six: ",
    ),
    "a draw from the system": (
        append(MODEL, "\nimport os\nSALT = os.urandom(3)\n"),
        "randomness", f"{MODEL}:{MODEL_LINES + 3}: os.urandom gets randomness from the operating system",
    ),
    "no golden file": (
        lambda root: (root / "golden" / "smoke.json").unlink(), "reference digests", "golden/smoke.json: is missing",
    ),
    "an experiment of one's own without a golden file": (
        append("conf/experiment/mine.yaml", "# @package _global_\nname: mine\n"),
        "reference digests", "golden/mine.json: is missing",
    ),
    "a golden file of other code": (
        append(MODEL, "# changed\n"), "reference digests", f"{INPUTS_OF_SMOKE}code.{MODEL.removeprefix('src/')}",
    ),
    "a golden file of another configuration": (
        replace("conf/experiment/smoke.yaml", "learning_rate: 0.01", "learning_rate: 0.02"),
        "reference digests", f"{INPUTS_OF_SMOKE}config.training.learning_rate",
    ),
    "a golden file of another lock": (
        append("requirements.lock", "# \n"), "reference digests", f"{INPUTS_OF_SMOKE}lock",
    ),
    "a torn golden file": (
        lambda root: (root / "golden" / "smoke.json").write_text("{"),
        "reference digests", "golden/smoke.json: cannot be checked: ",
    ),
    "an experiment that does not compose": (
        replace("conf/experiment/smoke.yaml", "epochs: 2", "epoch: 2"),
        "reference digests", "golden/smoke.json: cannot be checked: ",
    ),
    "a change without a commit": (append("notes.txt", "later\n"), "git", "git: uncommitted changes after "),
    "no repository": (
        lambda root: shutil.rmtree(root / ".git"), "git", "git: no commit, so a run's record cannot name one",
    ),
}  # fmt: skip


def test_a_sound_copy_has_no_findings(sound: pathlib.Path) -> None:
    """With everything pinned and committed there are no findings, even with similar-looking files beside."""
    assert {} == examine(sound)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_weakness_is_named(name: str, copy: pathlib.Path) -> None:
    """The right check reports place and fact. Only git and reference digests may report something too."""
    plant, check, said = PLANTED[name]
    plant(copy)
    found = examine(copy)

    assert check in found, found
    assert any(said in line for line in found[check]), found[check]
    assert set(found) <= {check, "git", "reference digests", "installed packages"}


def test_a_machine_without_avx2_is_named(sound: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without AVX2 is reported before a training would fail on it, with the fix."""
    monkeypatch.setattr("samebits.runtime.pins.cpu_features", lambda: {"AVX2": False, "FMA3": True})

    assert ["this machine: has Linux on x86_64 without AVX2, needs Linux on an x86-64 CPU with AVX2 and FMA"] == (
        examine(sound)["the machine"]
    )

    config = compose(sound, ["runtime=machine"])

    assert "machine" == config.runtime.promise
    assert [] == list(doctor.check_cpu(config))


def test_missing_and_additional_packages_are_named(sound: pathlib.Path) -> None:
    """Reports a missing package, another version and an unlocked package, but not pip."""
    installed = {name: version for name, version in package_versions().items() if name != "six"}
    found = {
        each.where: each.what for each in doctor.check_installed(sound, installed | {"numpy": "2.5.5", "zzz": "1"})
    }

    assert {"package six", "package numpy", "package zzz"} == set(found)
    assert found["package six"].startswith("nothing is installed, ")
    assert "2.5.5 is installed, 2.4.6 is locked" == found["package numpy"]
    assert "1 is installed, nothing is locked" == found["package zzz"]


@pytest.mark.parametrize(
    ("name", "value", "reaches"),
    [
        ("LD_LIBRARY_PATH", "/opt/blas", True),
        ("KERAS_HOME", "/data", True),
        ("PYTHONHASHSEED", "7", False),
        ("TF_ENABLE_ONEDNN_OPTS", "0", False),
        ("OMP_NUM_THREADS", "4", False),
        ("TZ", "Asia/Kathmandu", False),
    ],
)
def test_variables_that_reach_a_training_are_told_from_those_that_do_not(name: str, value: str, reaches: bool) -> None:
    """A variable that reaches the training is a finding. A variable that a run removes is a note."""
    config = compose(ROOT, [])
    (found,) = doctor.check_variables(config, {name: value, "HOME": "/root"})
    child = child_environment(RuntimeConfig(), 0, {name: value})

    assert (name, reaches) == (found.where, bool(found.fix))
    assert reaches == (child.get(name) == value)


def test_the_command_says_what_it_found_and_exits_by_it(sound: pathlib.Path, copy: pathlib.Path) -> None:
    """A good copy gives 0 and SOUND, without TensorFlow. A copy with a risk gives 1, the finding and its fix."""
    environment = dict.fromkeys(doctor.REACHING, "")
    healthy = run_command(sound, "doctor", environment=environment | {"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in healthy.stderr.splitlines()}
    (copy / "golden" / "smoke.json").unlink()
    weak = run_command(copy, "doctor", environment=environment)

    assert 0 == healthy.returncode, healthy.stdout + healthy.stderr
    assert "SOUND: 9 checks" in healthy.stdout
    assert "samebits.checks.doctor" in imported
    assert "tensorflow" not in imported
    assert 1 == weak.returncode
    assert "golden/smoke.json: is missing; fix: samebits golden --update smoke" in weak.stdout
    assert weak.stdout.endswith("WEAKENED: 2 findings in 9 checks\n")


def test_the_doctor_imports_no_tensorflow() -> None:
    """It answers faster than TensorFlow can be imported."""
    slow = {"tensorflow", "keras", "comet_ml", "sklearn"}
    code = f"import sys, samebits.checks.doctor; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=QUIET | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "[]" == done.stdout.strip()
