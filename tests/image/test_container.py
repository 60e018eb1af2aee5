"""The container: command lines, checks at start, content of the image, and the comparison of two builds."""

import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from conftest import LARGER, QUIET, ROOT, Result, children, digest, finished, run_command, run_words

from samebits.core.errors import ConfigError, EngineError, MachineError
from samebits.image import build_context, container, engines, entrypoint, oci_diff, sbom, slim, two_builds
from samebits.image.engines import Engine, Recipe, Session, find_engine
from samebits.runtime import machine
from samebits.runtime.lockfile import locked_versions

BASE = "localhost/samebits-stand-in"
PLANTED_KEY = os.environ.get("PLANTED_KEY", "")  # the value of COMET_API_KEY when the image was built
DIGEST = "sha256:" + "ab" * 32
USER = "10001:10001"
DOCKER = Engine("docker", builder="buildx")


def descendants(pid: int) -> list[int]:
    """Return a process and its descendants, parents first."""
    return [pid, *(found for child in children(pid) for found in descendants(child))]


def has_image(tag: str) -> bool:
    """Return whether buildah is installed, may be used, and has an image."""
    if shutil.which("buildah") is None or os.geteuid() != 0:
        return False
    return container.inspect(Engine("buildah"), tag)[0] != ""


needs_base = pytest.mark.skipif(not has_image(BASE), reason="needs root, buildah and tools/stand_in_base.sh")
needs_image = pytest.mark.skipif(not has_image("samebits"), reason="needs buildah and the image (docs/container.md)")


# Engines


def answers(codes: dict[str, int], text: str = "") -> engines.Run:
    """Return a fake `ask`: each given engine answers with its exit code, all others are missing."""
    return lambda command: subprocess.CompletedProcess(command, codes.get(command[0], 127), text, "no such program")


def test_the_first_engine_that_works_is_taken() -> None:
    """A docker program without a running daemon is skipped."""
    assert "docker" == find_engine(ask=answers({"docker": 0, "podman": 0})).name
    assert Engine("podman") == find_engine(ask=answers({"docker": 1, "podman": 0}))
    assert Engine("podman", rootless=True) == find_engine(ask=answers({"podman": 0}, "rootless=true"))
    assert find_engine(ask=answers({"docker": 0}, "[name=rootless]")).rootless


def docker(
    *, buildx: bool, version: str = "28.2.2", plugin: str = "0.13.1+ds1", inspected: str = "", store: str = ""
) -> engines.Run:
    """Return a fake `ask` of a docker of this version, with or without buildx and its driver and store."""
    said = {
        "docker buildx version": f"github.com/docker/buildx {plugin}" if buildx else None,
        "docker version --format={{.Client.Version}}": version,
        "docker buildx inspect": inspected, " ".join(engines.ANSWERS["docker"]): f"[name=seccomp] {store}",
    }  # fmt: skip

    def ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        found = said.get(" ".join(command))
        return subprocess.CompletedProcess(command, 125 if found is None else 0, found or "", "unknown command")

    return ask


def test_docker_builds_with_buildx_or_with_the_buildkit_of_old_versions() -> None:
    """Docker before 23 has BuildKit in it. Later ones need buildx, and the error says how to get it."""
    old, none = find_engine(ask=docker(buildx=False, version="20.10.24+dfsg1")), find_engine(ask=docker(buildx=False))
    words = engines.build_command(old, Recipe("samebits", ROOT))

    too_old = [docker(buildx=False, version="19.03.15"), docker(buildx=True, plugin="v0.9.1", version="23.0.1")]

    assert ("build", "", "buildx") == (old.builder, none.builder, find_engine(ask=docker(buildx=True)).builder)
    assert ["", ""] == [find_engine(ask=ask).builder for ask in too_old]
    assert ["env", "DOCKER_BUILDKIT=1", "docker", "build", "--tag"] == words[:5]
    with pytest.raises(EngineError, match=r"received docker without it; fix: install docker-buildx .*ENGINE=podman"):
        engines.build_command(none, Recipe("samebits", ROOT))


@pytest.mark.parametrize(("inspected", "store", "rewrites"), [
    ("Driver: docker\nBuildKit version: v0.13.2", "[[Backing Filesystem extfs]]", False),
    ("Name: ci\nDriver:    docker-container\nStatus: running\nBuildKit version: v0.14.0", "", True),
    ("Name: ci\nDriver:    docker-container\nStatus: running\nBuildkit: v0.12.5", "", False),
    ("Driver: docker\nBuildKit version: v0.13.2", "[[driver-type io.containerd.snapshotter.v1]]", True),
    ("Driver: docker\nBuildKit version: v0.12.5", "[[driver-type io.containerd.snapshotter.v1]]", False),
])  # fmt: skip
def test_docker_rewrites_times_with_another_driver_or_store(*, inspected: str, store: str, rewrites: bool) -> None:
    """Else two builds of it are compared file by file. The store also holds the provenance."""
    found = find_engine(ask=docker(buildx=True, inspected=inspected, store=store))
    words = [
        engines.build_command(found, Recipe("samebits", ROOT), output=output) for output in (None, pathlib.Path("x"))
    ]

    assert ("--provenance=mode=max" in words[0]) == bool(store.count("snapshotter"))
    assert "--provenance=false" in words[1]
    assert rewrites == find_engine(ask=docker(buildx=True, inspected=inspected, store=store)).can_rewrite_times
    assert not find_engine(
        ask=docker(buildx=False, version="20.10", inspected=inspected, store=store)
    ).can_rewrite_times


def test_a_machine_without_engines_is_told_what_to_do(tmp_path: pathlib.Path) -> None:
    """`samebits image run` without any engine ends with 2 and prints each engine's message."""
    done = run_command(ROOT, "image", "run", "true", environment={"PATH": str(tmp_path)})

    assert 2 == done.returncode
    assert "EngineError: a container engine: expected docker, podman or (as root) buildah" in done.stderr
    assert "docker: [Errno 2]" in done.stderr
    assert "fix: install one of them" in done.stderr


def test_an_unknown_engine_is_refused() -> None:
    """Only the three known engines are accepted."""
    with pytest.raises(EngineError, match="received 'kaniko'"):
        find_engine("kaniko")


# Command lines


def test_docker_builds_with_what_decides_the_image() -> None:
    """Base, label and time are build arguments. The certificates are a build secret, which is in no layer."""
    recipe = Recipe("samebits", ROOT, "other:1", "cpu", "abc", 7, "/etc/ca.pem", "test")
    command = engines.build_command(DOCKER, recipe)

    assert ["docker", "buildx", "build"] == command[:3]
    assert "--build-arg=BASE_IMAGE=other:1" in command
    assert "--build-arg=SOURCE_DATE_EPOCH=7" in command
    assert "--target=test" in command
    assert f"--build-arg=CONTEXT_DIGEST={recipe.made_from}" in command
    assert "--secret=id=ca,src=/etc/ca.pem" in command
    assert "--no-cache" not in command


def test_a_build_to_compare_uses_no_cache_and_rewrites_times() -> None:
    """Docker writes an archive with rewritten times, podman ignores its cache, and buildah has no cache."""
    recipe = Recipe("samebits", ROOT, epoch=7)
    docker = engines.build_command(DOCKER, recipe, fresh=True, output=pathlib.Path("/x.tar"))

    assert "--no-cache" in docker
    assert "--output=type=oci,dest=/x.tar,rewrite-timestamp=true" in docker
    assert {"--no-cache", "--timestamp=7"} <= {*engines.build_command(Engine("podman"), recipe, fresh=True)}
    assert {"--layers=false", "--timestamp=7"} <= {*engines.build_command(Engine("buildah"), recipe, fresh=True)}


def test_the_image_with_the_test_tools_is_made_from_the_other_one() -> None:
    """buildah, which has no cache, starts from the built image; the others find its stage in their cache."""
    recipe = Recipe("samebits-test", ROOT, target="test")
    words = {name: engines.build_command(Engine(name, builder="buildx"), recipe) for name in engines.ANSWERS}

    assert "--build-arg=TRAIN=samebits" in words["buildah"]
    assert not [word for name in ("docker", "podman") for word in words[name] if "TRAIN" in word]


def test_a_training_has_no_network_no_privilege_and_a_read_only_root(tmp_path: pathlib.Path) -> None:
    """Checks docker's complete command line; runs and caches belong to the caller."""
    words, user = [".venv/bin/samebits", "train", "seed.root=56"], f"{os.getuid()}:{os.getgid()}"
    command = engines.run_command(DOCKER, "samebits", DIGEST, Session(tmp_path), words, {"COMET_API_KEY": "k"})
    expected = [
        "docker", "run", "--rm", "--read-only", "--tmpfs=/tmp:rw,exec,mode=1777", "--cap-drop=ALL", "--network=none",
        "--security-opt=no-new-privileges", f"--user={user}", f"--volume={tmp_path}/runs:/app/runs",
        f"--volume={tmp_path}/.cache:/app/.cache", f"--env=SAMEBITS_IMAGE_DIGEST={DIGEST}", "samebits", *words,
    ]  # fmt: skip

    assert expected == command


def test_selinux_does_not_keep_a_container_from_the_mounted_folders(tmp_path: pathlib.Path) -> None:
    """Podman's containers have no label, and docker's have none where its engine uses SELinux."""
    found = find_engine(ask=answers({"docker": 0}, "[name=seccomp,profile=default name=selinux]"))
    without = replace(found, uses_selinux=False)
    lines = [
        engines.run_command(each, "t", DIGEST, Session(tmp_path), ["x"], {})
        for each in (found, without, Engine("podman"))
    ]

    assert [True, False, True] == ["--security-opt=label=disable" in line for line in lines]


def test_further_options_reach_docker_and_are_refused_by_buildah(tmp_path: pathlib.Path) -> None:
    """They come after samebits's own, directly before the image."""
    session = Session(tmp_path, options=("--memory=4g",))
    command = engines.run_command(DOCKER, "samebits", DIGEST, session, ["true"], {})

    assert ["--memory=4g", "samebits", "true"] == command[-3:]
    with pytest.raises(EngineError, match="--option: expected docker or podman, received buildah"):
        container.run(Engine("buildah"), Recipe("samebits", ROOT), session, ["true"])


def test_the_trackers_key_is_passed_by_name_where_there_is_a_network(tmp_path: pathlib.Path) -> None:
    """The key's value is never on a command line, which other users can read."""
    session = Session(tmp_path, network="bridge")
    command = engines.run_command(Engine("podman"), "samebits", DIGEST, session, ["x"], {"COMET_API_KEY": "secret-1"})

    assert "--env=COMET_API_KEY" in command
    assert not [word for word in command if "secret-1" in word]


def test_without_root_on_the_engine_files_are_still_the_callers(tmp_path: pathlib.Path) -> None:
    """Rootless docker maps root to the caller; rootless podman keeps the caller's uid."""
    docker = engines.run_command(replace(DOCKER, rootless=True), "t", DIGEST, Session(tmp_path), ["x"], {})
    podman = engines.run_command(Engine("podman", rootless=True), "t", DIGEST, Session(tmp_path), ["x"], {})

    assert "--user=0:0" in docker
    assert {"--userns=keep-id", f"--user={os.getuid()}:{os.getgid()}"} <= {*podman}


@pytest.mark.parametrize(("dockerfile", "said"), [
    ("FROM a\n", "--variant gpu: expected a Dockerfile with ARG VARIANT"),
    ("FROM a\nARG VARIANT=cpu\n", "a container engine: "),
])  # fmt: skip
def test_a_variant_that_the_dockerfile_lacks_is_refused(tmp_path: pathlib.Path, dockerfile: str, said: str) -> None:
    """A copy's Dockerfile has no GPU build, so `--variant gpu` is an error there; elsewhere the engine is next."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").touch()
    (tmp_path / "Dockerfile").write_text(dockerfile)
    (tmp_path / "pyproject.toml").write_text('project.name = "study"\n')
    words = ["-m", "samebits", f"--root={tmp_path}", "image", "build", "--engine=nosuch"]
    default, gpu = (run_words(ROOT, [sys.executable, *words, *more], {}, None) for more in ([], ["--variant=gpu"]))

    assert (2, 2) == (default.returncode, gpu.returncode)
    assert "a container engine: " in default.stderr
    assert said in gpu.stderr


# Content of the image


def test_no_key_and_no_run_is_in_the_context(project: pathlib.Path) -> None:
    """.dockerignore lists the files of the image; a file with a key is never included."""
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, project)
    for name in (".env", "conf/.env", "key.txt", "runs/a/b/1/result.json", "src/samebits/__pycache__/x.pyc"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("COMET_API_KEY=secret")
    names = {path.as_posix() for path in build_context.context_files(project)}

    assert {"requirements.lock", "conf/config.yaml", "src/samebits/train/loop.py", "scripts/train.py"} <= names
    assert not [name for name in names if (project / name).read_text(errors="replace") == "COMET_API_KEY=secret"]


def test_the_image_is_old_when_a_file_of_it_changed(project: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The label depends on every byte of the context and the Dockerfile, but not on times or permissions."""
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, project)
    before = build_context.context_digest(project)
    copy = tmp_path / "copy"
    copy.mkdir()
    build_context.copy_context(project, copy)

    assert before == build_context.context_digest(copy)
    for name in ("src/samebits/core/digest.py", "Dockerfile"):
        with (copy / name).open("a") as stream:
            stream.write("# more\n")

        assert before != build_context.context_digest(copy)
        shutil.copy(project / name, copy / name)
    assert before == build_context.context_digest(copy)


# Checks at start


def test_the_locks_packages_are_those_installed() -> None:
    """This environment matches the lock; a missing package or another version is named."""
    locked = locked_versions(ROOT)
    installed = machine.package_versions()

    entrypoint.check_packages(locked, installed)
    with pytest.raises(MachineError, match=r"expected keras 3.15.1, numpy 2.4.6 .*received keras absent, numpy 9"):
        entrypoint.check_packages(
            locked, {name: v for name, v in installed.items() if name != "keras"} | {"numpy": "9"}
        )


def enter(
    root: pathlib.Path,
    *command: str,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> Result:
    """Run a command through the image's entry point."""
    words = [*prefix, sys.executable, "-m", "samebits.image.entrypoint", *command]
    return run_words(root, words, environment or {}, None)


def test_the_entry_point_becomes_the_command() -> None:
    """Exit code and output are the command's; a wrong digest or a missing program is an error."""
    good = enter(ROOT, sys.executable, "-c", "print('in'); raise SystemExit(3)")
    bad = enter(ROOT, "true", environment={"SAMEBITS_IMAGE_DIGEST": "latest"})
    missing = enter(ROOT, "no-such-program")

    assert (3, "in\n") == (good.returncode, good.stdout)
    assert 2 == bad.returncode
    assert "SAMEBITS_IMAGE_DIGEST: expected sha256: and 64 hexadecimal digits, received 'latest'" in bad.stderr
    assert 2 == missing.returncode
    assert "the container's command: expected a program that is in the image" in missing.stderr


def test_the_entry_point_refuses_other_packages_than_the_locks(project: pathlib.Path) -> None:
    """If the lock has another Keras, no command runs."""
    lock = project / "requirements.lock"
    lock.write_text(lock.read_text().replace("keras==3.15.1", "keras==3.15.0"))
    done = enter(project, "echo", "ran")

    assert (2, "") == (done.returncode, done.stdout)
    assert "expected keras 3.15.0 as in requirements.lock, received keras 3.15.1" in done.stderr


@pytest.mark.emulated
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
def test_the_entry_point_refuses_a_cpu_without_avx2() -> None:
    """On an emulated Westmere CPU no command runs."""
    done = enter(ROOT, "echo", "ran", prefix=("qemu-x86_64", "-cpu", "Westmere"))

    assert (2, "") == (done.returncode, done.stdout)
    assert (
        "the image: expected Linux on an x86-64 CPU with AVX2 and FMA, received Linux on x86_64 without" in done.stderr
    )


def test_the_images_digest_is_recorded_and_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """machine.json names the image; the arithmetic fingerprint does not depend on it."""
    monkeypatch.delenv("SAMEBITS_IMAGE_DIGEST", raising=False)
    outside = machine.describe_machine(ROOT)
    monkeypatch.setenv("SAMEBITS_IMAGE_DIGEST", DIGEST)
    inside = machine.describe_machine(ROOT)
    prints = [machine.arithmetic_fingerprint(described, {}, "machine") for described in (outside, inside)]

    assert None is outside["image_digest"]
    assert DIGEST == inside["image_digest"]
    assert prints[0] == prints[1]
    monkeypatch.setenv("SAMEBITS_IMAGE_DIGEST", DIGEST[:-1])
    with pytest.raises(ConfigError, match="SAMEBITS_IMAGE_DIGEST"):
        machine.describe_machine(ROOT)


# Comparison of two images


def write_layer(path: pathlib.Path, files: dict[str, str], mtime: int = 7) -> pathlib.Path:
    """Write a layer's archive with some files."""
    source = path.with_suffix(".files")
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
            os.utime(source / name, (mtime, mtime))
            archive.add(source / name, name)
    return path


def test_every_kind_of_difference_is_named(tmp_path: pathlib.Path) -> None:
    """Finds different content, a different time, a file that only one has, and a key of the configuration."""
    files = {"etc/same": "1", "etc/log": "10:00", "etc/gone": ""}
    one = write_layer(tmp_path / "one", files)
    two = write_layer(tmp_path / "two", {"etc/same": "1", "etc/log": "11:00"})
    late = write_layer(tmp_path / "late", files, mtime=8)
    left = oci_diff.Image("a", {"created": "1", "config": {"User": "1"}}, [one])
    right = oci_diff.Image("b", {"created": "2", "config": {"User": "1"}}, [two])

    assert [] == oci_diff.differences(left, left)
    assert [
        "layer 1 /etc/gone: only in the first",
        "layer 1 /etc/log: different content",
        "configuration created: 1 and 2",
    ] == oci_diff.differences(left, right)
    assert [f"layer 1 /etc/{name}: different time" for name in ("gone", "log", "same")] == oci_diff.differences(
        left, oci_diff.Image("c", left.config, [late])
    )


def saved(folder: pathlib.Path, *layers: pathlib.Path, user: str = "1") -> oci_diff.Image:
    """Return an image as `docker save` writes it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"created": folder.name, "config": {"User": user, "Cmd": []}}))
    names = [os.path.relpath(layer, folder) for layer in layers]
    (folder / "manifest.json").write_text(json.dumps([{"Config": "config.json", "Layers": names}]))
    return oci_diff.read_layout(folder)


def test_two_engines_images_are_compared_by_the_files_that_a_container_sees(tmp_path: pathlib.Path) -> None:
    """Layers, times and names of owners decide nothing. Content, kind and the user do; removed files are gone."""
    base = write_layer(tmp_path / "base", {"etc/log": "10:00", "etc/old/a": "", "etc/old/b": "", "etc/same": "1"})
    upper = write_layer(tmp_path / "upper", {"etc/.wh.log": "", "etc/old/.wh..wh..opq": "", "etc/old/c": "1"}, mtime=8)
    flat = write_layer(tmp_path / "flat", {"etc/same": "1", "etc/old/c": "1"}, mtime=9)
    other = write_layer(tmp_path / "other", {"etc/same": "2", "etc/old/c": "1"})
    one, two = saved(tmp_path / "docker", base, upper), saved(tmp_path / "buildah", flat)
    digests = [oci_diff.files_digest(image.files) for image in (one, two)]

    assert ["/etc/old/c", "/etc/same"] == sorted(one.files)
    assert [] == oci_diff.file_differences(one, two)
    assert digests[0] == digests[1]
    assert ["/etc/same: different content", "configuration User: 1 and 2"] == oci_diff.file_differences(
        one, saved(tmp_path / "third", other, user="2")
    )


# What the image is made from


def test_the_sbom_lists_the_base_and_each_installed_package_with_its_hashes(tmp_path: pathlib.Path) -> None:
    """The list is that of the image's Python on Linux and x86-64, and the same bytes each time."""
    done = [run_command(ROOT, "image", "sbom") for _ in range(2)]
    found = json.loads(done[0].stdout)
    packages = {each["name"]: each for each in found["components"] if each["type"] == "library"}
    markers = sbom.LINUX | {"python_version": "3.12", "python_full_version": "3.12.0"}
    gpu = json.loads(run_command(ROOT, "image", "sbom", "--variant=gpu").stdout)["components"]

    assert done[0].stdout == done[1].stdout
    assert locked_versions(ROOT, environment=markers) == {name: one["version"] for name, one in packages.items()}
    assert {"tensorflow-cpu", "gnumake"} <= packages.keys()
    assert ("1.18.1", f"pkg:pypi/numpy@{packages['numpy']['version']}") == (
        packages["scipy"]["version"],  # Python 3.11, which may run this test, gets another one
        packages["numpy"]["purl"],
    )
    assert {"tensorflow", "nvidia-cudnn-cu12"} <= {one["name"] for one in gpu} - packages.keys()
    assert "tensorflow-cpu" not in {one["name"] for one in gpu}
    assert ("localhost:5000/base", "1", "pkg:oci/base?tag=1") == tuple(
        sbom.container_component("localhost:5000/base:1")[key] for key in ("name", "version", "purl")
    )
    assert all(len(each["content"]) == 64 for package in packages.values() for each in package["hashes"])
    assert min(len(package["hashes"]) for package in packages.values()) > 0
    base = found["components"][0]
    assert ("python", "3.12-slim-bookworm") == (base["name"], base["version"])
    assert "@sha256:a116514e" in base["purl"]
    assert len({each["bom-ref"] for each in found["components"]}) == len(found["components"])
    (tmp_path / "Dockerfile").write_text("FROM python\n")
    with pytest.raises(EngineError, match="expected a line ARG BASE_IMAGE"):
        sbom.base_image(tmp_path)


# What the image leaves out


def test_a_library_without_names_for_debuggers_still_loads(tmp_path: pathlib.Path) -> None:
    """A cut library is smaller and has the same code; a cut one and a file of another kind stay as they are."""
    spec = importlib.util.find_spec("simplejson._speedups")
    assert spec is not None
    found = pathlib.Path(str(spec.origin))
    library, text = tmp_path / found.name, tmp_path / "libc.so"
    shutil.copy(found, library)
    text.write_text("GROUP ( /lib/libc.so.6 )")
    saved_bytes = slim.strip(library)
    code = "import _speedups; print(_speedups.encode_basestring_ascii('\u00e4'))"
    said = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env={})

    assert 0 < saved_bytes == found.stat().st_size - library.stat().st_size
    assert '"\\u00e4"\n' == said
    assert (0, 0) == (slim.strip(library), slim.strip(text))


def test_what_training_never_reads_is_removed(tmp_path: pathlib.Path) -> None:
    """Headers, tests and installers go; code, versions and licenses stay. The saved bytes are counted."""
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    gone = [
        "tensorflow/include/a.h",
        "numpy/lib/tests/test_a.py",
        "numpy/a.pyi",
        "pip/b.py",
        "clang/native/libclang.so",
    ]
    kept = ["numpy/lib/a.py", "numpy-2.dist-info/METADATA", "pipeline/a.py", "clang/a.py", "a.dist-info/licenses/tests"]
    for name in (*gone, *kept):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("123")
    for name in ("bin/uv", "bin/pip3", "bin/python3", "share/locale/de"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")

    assert 3 * len(gone) + 5 * 3 == slim.slim(tmp_path)
    left = [path.relative_to(packages).as_posix() for path in packages.rglob("*") if path.is_file()]
    assert sorted(kept) == sorted(left)
    assert ["python3"] == [path.name for path in (tmp_path / "bin").iterdir()]


# With buildah


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Iterator[Recipe]:
    """Return a small image's recipe, built like the project's; the image is removed afterwards."""
    root = tmp_path / "small"
    root.mkdir()
    (root / "here.txt").write_text("here")
    (root / ".dockerignore").write_text("*\n!here.txt\n")
    made = "RUN chmod -R a=rX /app && mkdir -p /app/runs /app/.cache"
    lines = [f"FROM {BASE}", "ENV PYTHONDONTWRITEBYTECODE=1", "ARG CONTEXT_DIGEST", "COPY . /app/", made]
    (root / "Dockerfile").write_text("\n".join([*lines, 'LABEL samebits.context="${CONTEXT_DIGEST}"', ""]))
    recipe = Recipe("localhost/samebits-test-small", root, epoch=1_700_000_000)
    yield recipe
    engines.capture(["buildah", "rmi", "--force", recipe.tag])


@pytest.mark.container
@needs_base
def test_two_builds_are_one_image(small: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    """Two folders with different times and permissions give one digest."""
    assert 0 == two_builds.verify(Engine("buildah"), small, Engine("buildah"))
    assert "IMAGE VERIFIED: two builds, one digest sha256:" in capfd.readouterr().out


@pytest.mark.container
@needs_base
def test_a_file_with_the_time_in_it_is_named(small: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    """Negative control: files that differ between two builds are listed, and nothing else."""
    with (small.root / "Dockerfile").open("a") as stream:
        stream.write("RUN date +%s%N >/etc/built-at\n")

    assert 1 == two_builds.verify(Engine("buildah"), small, Engine("buildah"))
    said = capfd.readouterr().out
    assert "  layer 2 /etc/built-at: different content\n" in said
    assert "THE IMAGES DIFFER in 1 places" in said


@pytest.mark.container
@needs_base
def test_what_would_fail_on_a_read_only_root_is_named(small: Recipe, tmp_path: pathlib.Path) -> None:
    """A command may write to runs, caches and /tmp; writing elsewhere is an error, also for root."""
    package = small.root / "samebits" / "image"
    package.mkdir(parents=True)
    (package / "entrypoint.py").write_text("import os, sys\nos.execvp(sys.argv[1], sys.argv[1:])\n")
    with (small.root / ".dockerignore").open("a") as stream:
        stream.write("!samebits\n")
    with (small.root / "Dockerfile").open("a") as stream:
        stream.write("WORKDIR /app\nRUN mkdir -p /opt/venv/bin && ")
        stream.write('ln -s "$(command -v python3)" /opt/venv/bin/python\n')
    session = Session(tmp_path / "mounts")

    assert 0 == container.run(Engine("buildah"), small, session, ["sh", "-c", "date | tee /app/runs/x /tmp/x"])
    assert (tmp_path / "mounts" / "runs" / "x").exists()
    with pytest.raises(EngineError, match=r"received /etc/x, /usr, /usr/y;"):
        container.run(Engine("buildah"), small, session, ["sh", "-c", "date | tee /etc/x /usr/y"])


def working_containers() -> set[str]:
    """Return the names of buildah's containers of the image, leftovers of killed commands included."""
    names = engines.capture(["buildah", "containers", "--format={{.ContainerName}}"]).stdout.split()
    return {name for name in names if name.startswith("samebits-working-container")}


@pytest.mark.container
@needs_image
def test_a_killed_container_is_continued_with_the_bits_from_outside(
    undisturbed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """As another user without network, a killed run resumes and ends with the same bits as outside."""
    mounts = tmp_path / "project"
    for name in engines.FOLDERS:
        (mounts / name).mkdir(parents=True)
        os.chown(mounts / name, 10001, 10001)
    options = ["--engine=buildah", "--as-is", f"--mounts={mounts}", f"--user={USER}"]
    train = ["train", *options, "experiment=smoke", "tracker=none", *LARGER]
    command = [sys.executable, "-m", "samebits", f"--root={ROOT}", "image", *train]
    before = working_containers()
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 1200
    while not any(len(rows.read_bytes().splitlines()) > 9 for rows in mounts.glob("runs/*/*/*/metrics.jsonl")):
        assert first.poll() is None, first.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in reversed(descendants(first.pid)):
        with contextlib.suppress(ProcessLookupError):  # it may have ended already
            os.kill(pid, signal.SIGKILL)
    first.communicate()
    for left in working_containers() - before:
        engines.capture(["buildah", "rm", left], timeout_s=None)
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)

    assert 0 == second.returncode, second.stdout + second.stderr
    assert "resumes" in second.stdout
    (attempt,) = finished(mounts)
    assert digest(undisturbed) == digest(attempt)
    assert (10001, 10001) == ((attempt / "result.json").stat().st_uid, (attempt / "result.json").stat().st_gid)
    recorded = json.loads((attempt / "machine.json").read_text())["image_digest"]
    assert container.inspect(Engine("buildah"), "samebits")[0] == recorded


def tree_contains(folder: pathlib.Path, text: str) -> bool:
    """Return whether any file below a folder, or a file's name, contains a text."""
    found = subprocess.run(["grep", "-rqaF", "--devices=skip", text, str(folder)], check=False).returncode == 0
    return found or any(text in path.name for path in folder.rglob("*"))


@pytest.mark.container
@needs_image
@pytest.mark.skipif(not PLANTED_KEY, reason="needs PLANTED_KEY: what COMET_API_KEY was when the image was built")
def test_no_secret_of_the_builds_environment_is_in_the_image(tmp_path: pathlib.Path) -> None:
    """A key in the environment of the build is in no file, no name and no line of the configuration."""
    with container.working_container("samebits") as name:
        root = pathlib.Path(engines.capture(["buildah", "mount", name]).stdout.strip())

        assert tree_contains(root, "dd7d3200c504")  # negative control: the search finds the README's digest
        assert not tree_contains(root, PLANTED_KEY)
    described = engines.capture(["buildah", "inspect", "--type=image", "samebits"]).stdout
    assert "SAMEBITS" in described.upper()
    assert PLANTED_KEY not in described
