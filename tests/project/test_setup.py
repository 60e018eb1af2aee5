"""The set-up: what it installs and when, only with hashes, in any folder, from any checkout."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from conftest import QUIET, ROOT, copy_project, digest, finished, run_script

from samebits.compose import compose
from samebits.runs.identity import name_inputs
from samebits.runtime.lockfile import DEV_LOCK, GPU_LOCK, LOCK, normalise, read_lock

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "Größe des Modells/日本"
# Python's UTF-8 mode would hide the encoding in which a .pth file is read.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def setup(project: pathlib.Path) -> Any:
    """Return scripts/setup_env.py of a copy of the project, as a module."""
    spec = importlib.util.spec_from_file_location("setup_env_of_a_test", project / "scripts" / "setup_env.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_venv(folder: pathlib.Path) -> pathlib.Path:
    """Create an environment without pip, which is fast, in a folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
    return folder / ".venv"


# The locks


@pytest.mark.parametrize("lock", [LOCK, DEV_LOCK])
def test_a_lock_has_a_hash_for_every_package_and_no_address(lock: str) -> None:
    """Each requirement has an exact version and SHA-256 hashes; there is no index address."""
    requirements = list(read_lock(ROOT, lock))

    assert len(requirements) > 50
    assert [] == [one.requirement for one in requirements if "==" not in one.requirement or not one.has_hash]
    assert "://" not in (ROOT / lock).read_text()


def test_the_gpu_build_is_the_same_version_of_tensorflow_with_libraries_by_hash() -> None:
    """requirements-gpu.lock has TensorFlow's version of the training lock and CUDA's libraries, with hashes."""
    gpu, training = (list(read_lock(ROOT, lock)) for lock in (GPU_LOCK, LOCK))
    versions = {one.requirement.partition(" ;")[0] for one in training if one.name == "tensorflow"}

    assert {one.requirement for one in gpu if one.name == "tensorflow"} == versions
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= {one.name for one in gpu}
    assert [] == [one.name for one in gpu if not one.has_hash]


def names(lock: str) -> set[str]:
    """Return the packages that a lock names."""
    return {locked.name for locked in read_lock(ROOT, lock)}


def test_what_training_needs_is_apart_from_the_test_tools() -> None:
    """No requirement is in both locks, and each tool is in the lock that its command needs."""
    both = {one.requirement for one in read_lock(ROOT, LOCK)} & {one.requirement for one in read_lock(ROOT, DEV_LOCK)}

    assert set() == both
    assert {"tensorflow-cpu", "keras", "matplotlib", "rich", "uv", "setuptools", "wheel"} <= names(LOCK)
    assert {"pytest", "hypothesis", "ruff", "mypy", "copier", "nbclient"} <= names(DEV_LOCK) - names(LOCK)


def imported(folder: pathlib.Path) -> set[str]:
    """Return the top-level names that the code in a folder imports."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found


def test_all_that_the_code_imports_is_in_the_training_lock(project: pathlib.Path) -> None:
    """No module in src/ imports a test tool; one that does is found."""
    owners = importlib.metadata.packages_distributions()

    def only_dev() -> list[str]:
        owned = {name: {normalise(owner) for owner in owners.get(name, ())} for name in imported(project / "src")}
        return sorted(name for name, packages in owned.items() if packages and not packages & names(LOCK))

    assert [] == only_dev()
    (project / "src" / "samebits" / "core" / "more.py").write_text("import hypothesis\n")
    assert ["hypothesis"] == only_dev()


# When to install


@pytest.mark.parametrize(
    ("stamp", "dev", "expected"),
    [
        ("", False, ["build"]),
        ("", True, ["build", "requirements-dev.lock"]),
        ("training", False, []),
        ("training", True, ["requirements-dev.lock"]),
        ("training dev", False, []),
        ("training dev", True, []),
        ("other", False, ["build"]),
        ("other dev", True, ["build", "requirements-dev.lock"]),
        ("training otherdev", False, []),
        ("training otherdev", True, ["build", "requirements-dev.lock"]),
    ],
)
def test_what_is_wanted_and_not_there_is_installed(
    setup: Any, monkeypatch: pytest.MonkeyPatch, stamp: str, dev: bool, expected: list[str]
) -> None:
    """Test tools are added; a changed lock rebuilds the environment; additional tools may stay."""
    venv, done = make_venv(setup.ROOT), []
    wanted = setup.wanted_state(dev=True)
    lines = {"training": wanted[:3], "dev": wanted[3:], "other": [b"lock 0", *wanted[1:3]], "otherdev": [b"dev 0"]}
    setup.write_stamp(venv, [line for word in stamp.split() for line in lines[word]])
    monkeypatch.setattr(setup, "build", lambda _: done.append("build"))
    monkeypatch.setattr(setup, "install_tools", lambda _: None)  # make_venv has no uv
    monkeypatch.setattr(setup, "install", lambda _, lock: done.append(lock.name))
    setup.main(["--dev"] if dev else [])

    assert expected == done
    assert setup.is_current(venv, setup.wanted_state(dev=dev))


def test_a_checkout_in_the_image_uses_the_images_packages_and_its_own_code(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A CI service mounts a checkout outside of /app: with equal locks it gets an environment without a network."""
    prepared = make_venv(tmp_path)
    (packages,) = (prepared / "lib").glob("python3.*/site-packages")
    (packages / "of_the_image.py").write_text("found = True\n")
    monkeypatch.setenv("SAMEBITS_PACKAGES", str(prepared))
    monkeypatch.setattr(setup, "build", lambda _: pytest.fail("built an environment"))
    wanted = [line for line in setup.wanted_state(dev=False) if not line.startswith(b"project")]
    setup.write_stamp(prepared, [*wanted, b"project /app"])
    setup.main([])
    venv = setup.ROOT / ".venv"
    code = "import of_the_image, samebits; print(samebits.__file__)"
    said = subprocess.check_output([venv / "bin" / "python", "-c", code], text=True, cwd=tmp_path)

    assert said.startswith(str(setup.ROOT / "src"))
    assert setup.is_current(venv, setup.wanted_state(dev=False))
    built: list[str] = []

    def build(place: pathlib.Path) -> None:
        shutil.rmtree(place)
        make_venv(setup.ROOT)
        built.append("whole")

    monkeypatch.setattr(setup, "build", build)
    monkeypatch.setattr(setup, "install_tools", lambda _: None)
    monkeypatch.setattr(setup, "install", lambda _, lock: built.append(lock.name))
    setup.write_stamp(prepared, [b"lock 0", *wanted[1:]])

    assert not setup.is_current(venv, setup.wanted_state(dev=False))  # the image has another lock now
    setup.write_stamp(prepared, [*wanted, b"project /app"])
    assert setup.is_current(venv, setup.wanted_state(dev=False))
    setup.main(["--dev"])  # the image has no test tools
    assert ["whole", "requirements-dev.lock"] == built
    assert setup.is_current(venv, setup.wanted_state(dev=True))
    shutil.rmtree(prepared)
    assert setup.is_current(venv, setup.wanted_state(dev=True))  # nothing of the image's is used any more


def test_a_current_environment_is_not_written_to(setup: Any) -> None:
    """With a correct stamp the set-up writes no file, so `make` works on the image's read-only root."""
    setup.write_stamp(make_venv(setup.ROOT), setup.wanted_state(dev=True))
    before = sorted(setup.ROOT.rglob("*"))
    done = [run_script(setup.ROOT, "setup_env.py", *words) for words in ([], ["--dev"])]

    assert [(0, "", "")] * 2 == [(one.returncode, one.stdout, one.stderr) for one in done]
    assert before == sorted(setup.ROOT.rglob("*"))


def test_an_installation_that_failed_is_not_stamped(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed set-up ends with 1, and the next call tries again."""
    venv = make_venv(setup.ROOT)
    setup.write_stamp(venv, setup.wanted_state(dev=False))
    monkeypatch.setattr(setup, "uv", lambda *_: "no such host")
    monkeypatch.setattr(setup, "pip", lambda *_: "no such host either")
    with pytest.raises(SystemExit) as stopped:
        setup.main(["--dev"])

    assert 1 == stopped.value.code
    assert not setup.is_current(venv, setup.wanted_state(dev=True))


# The installers


def test_pip_installs_all_but_uv_where_uv_fails(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line gives the reason, and pip gets every package of the lock except uv, with hashes."""
    given: list[str] = []
    monkeypatch.setattr(setup, "uv", lambda *_: "killed")

    def pip(*words: str) -> str:
        given.append(pathlib.Path(words[-1]).read_text())
        return ""

    monkeypatch.setattr(setup, "pip", pip)
    setup.install(tmp_path, setup.TRAINING)

    assert "uv failed (killed); pip installs the packages instead, which takes longer\n" == capsys.readouterr().out
    kept = re.sub(r"^uv==(.*\\\n)+.*\n", "", (ROOT / LOCK).read_text(), flags=re.MULTILINE)
    assert [kept] == given
    assert "\nuv==" not in kept


def test_pips_settings_reach_uv(setup: Any) -> None:
    """The indexes, proxy and certificates of pip become uv's variables; the user's own variables for uv win."""
    settings = {
        "index-url": "file:///a", "extra-index-url": "file:///b\nfile:///c", "find-links": "/d /e", "cert": "/ca.pem",
        "no-index": "false", "timeout": "9", "constraint": "/f",
    }  # fmt: skip
    expected = {
        "UV_DEFAULT_INDEX": "file:///own", "UV_INDEX": "file:///b file:///c", "UV_FIND_LINKS": "/d,/e",
        "SSL_CERT_FILE": "/ca.pem", "UV_HTTP_TIMEOUT": "9", "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "1", "HOME": "/g",
    }  # fmt: skip
    environment = {"HOME": "/g", "SSL_CERT_FILE": "/other.pem", "UV_DEFAULT_INDEX": "file:///own"}

    assert expected == setup.uv_environment(settings, environment)


def make_wheel(folder: pathlib.Path) -> str:
    """Write a wheel with one module; returns its SHA-256."""
    path = folder / "zzz_of_a_test-1.0-py3-none-any.whl"
    info = "zzz_of_a_test-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zzz_of_a_test.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: zzz-of-a-test\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"zzz_of_a_test.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_package_with_another_hash_is_refused(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, installer: str
) -> None:
    """Both installers only accept the wheel with the locked hash, from the place in pip's settings."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    locked = make_wheel(tmp_path)
    install: Callable[..., str] = getattr(setup, installer)
    reasons = []
    for name, value in (("right", locked), ("wrong", locked[::-1]), ("none", "")):
        lock = tmp_path / f"{name}.lock"
        lock.write_text("zzz-of-a-test==1.0" + (f" --hash=sha256:{value}\n" if value else "\n"))
        target = ["--target", str(tmp_path / name), "-r", str(lock)]
        python = ["--python", sys.executable] if installer == "uv" else []
        reasons.append(install(pathlib.Path(sys.prefix), *setup.OPTIONS, *python, *target))

    assert "" == reasons[0]
    assert all("hash" in reason.lower() for reason in reasons[1:]), reasons
    assert (tmp_path / "right" / "zzz_of_a_test.py").exists()
    assert not list(tmp_path.glob("[wn]*/zzz_of_a_test.py"))


@pytest.mark.full
def test_without_a_network_one_error_says_so(project: pathlib.Path) -> None:
    """If the index does not answer, the set-up ends with 1 and one line, and writes no stamp."""
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_NO_CACHE_DIR": "1"}
    done = run_script(project, "setup_env.py", environment=nowhere)

    assert 1 == done.returncode
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the locked packages could not be installed: ERROR: ")
    assert not (project / ".venv" / "samebits-state").exists()


# Folders


def test_packages_are_found_in_any_folder_in_any_locale(setup: Any, tmp_path: pathlib.Path) -> None:
    """The project's path may have spaces and non-ASCII letters, also in an ASCII locale."""
    folder = tmp_path / FOLDER
    for name in ("src/one", "harness/two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    setup.ROOT = folder
    venv = make_venv(folder)
    setup.write_import_path(venv)
    command = [str(venv / "bin" / "python"), "-c", "import one, two"]
    (path,) = venv.glob("lib/python3*/site-packages/samebits.pth")

    assert path.read_bytes().isascii()
    assert 0 == subprocess.run(command, env=QUIET | ASCII, check=False).returncode
    path.write_text(f"{folder / 'src'}\n{folder / 'harness'}\n", encoding="utf-8")
    assert 0 == subprocess.run(command, env=QUIET | {"LC_ALL": "C.UTF-8"}, check=False).returncode
    if sys.version_info < (3, 12):  # newer ones try UTF-8 first
        assert 0 != subprocess.run(command, env=QUIET | ASCII, capture_output=True, check=False).returncode


def test_the_command_samebits_runs_in_any_folder(setup: Any, tmp_path: pathlib.Path) -> None:
    """The command passes its arguments on, and does not import packages from the working folder."""
    folder = tmp_path / FOLDER
    for place, said in ((folder / "src", "sys.argv[1:]"), (tmp_path / "here", "'the wrong one'")):
        (place / "samebits").mkdir(parents=True)
        (place / "samebits" / "__main__.py").write_text(f"import sys\nprint({said})\n")
    setup.ROOT = folder
    venv = make_venv(folder)
    setup.write_import_path(venv)
    setup.write_shim(venv)
    done = subprocess.run(
        [str(venv / "bin" / "samebits"), "a b", "c"],
        cwd=tmp_path / "here", env=QUIET | ASCII, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ("['a b', 'c']\n", "") == (done.stdout, done.stderr)


@pytest.mark.full
def test_set_up_and_training_work_in_any_folder_in_any_locale(tmp_path: pathlib.Path) -> None:
    """`make train` in a fresh copy gives the golden digest; the second time nothing is installed."""
    (tmp_path / FOLDER).mkdir(parents=True)
    root = copy_project(tmp_path / FOLDER)
    shutil.copy(ROOT / "Makefile", root)
    variables = {name: value for name, value in QUIET.items() if not name.startswith("PYTHON")} | {"LC_ALL": "C"}
    command = ["make", f"PYTHON={sys.executable}", "train", "SEED=56", "OVERRIDES=experiment=smoke tracker=none"]
    done = [
        subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False) for _ in range(2)
    ]

    assert [0, 0] == [one.returncode for one in done], done[0].stderr + done[1].stderr
    assert [True, False] == ["setting up" in one.stdout for one in done]
    assert "same bits as 1 earlier run" in done[1].stdout
    golden = json.loads((ROOT / "golden" / "smoke.json").read_text())
    assert golden["weights_digest"] == digest(finished(root)[0])


# Checkouts


def git(folder: pathlib.Path, *words: str) -> str:
    """Run git with a made-up author and without this machine's settings."""
    person = ("-c", "user.name=a", "-c", "user.email=a@b")
    variables = QUIET | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        ["git", *person, *words], cwd=folder, env=variables, capture_output=True, text=True, check=True
    ).stdout


def test_a_checkout_with_autocrlf_has_the_same_run_name(project: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """.gitattributes keeps the bytes of every file; without it git would change the line ends."""
    for name in (".gitattributes", "tools", "Makefile", "golden"):
        copy: Callable[..., Any] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    git(project, "init", "-q")
    name_here = name_inputs(compose(project, ["experiment=smoke"]), project)
    found = {}
    for kind in ("with", "without"):
        git(project, "add", "-A")
        git(project, "commit", "-qm", kind)
        git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", str(project), str(tmp_path / kind))
        crlf = [path for path in (tmp_path / kind / "tools").glob("*.sh") if b"\r" in path.read_bytes()]
        same = name_here == name_inputs(compose(tmp_path / kind, ["experiment=smoke"]), tmp_path / kind)
        found[kind] = (len(crlf) > 0, same)
        (project / ".gitattributes").unlink(missing_ok=True)

    assert {"with": (False, True), "without": (True, False)} == found
    assert "" == git(tmp_path / "with", "status", "--porcelain")
