"""Finds docker, podman or buildah, and makes the command lines that build, inspect and run an image.

Uses only the standard library, so that an image can be built without the project's environment. Runs only commands that
test whether an engine works.
"""

import os
import pathlib
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from samebits.core.errors import EngineError
from samebits.image import build_context

LABEL = "samebits.context"  # the digest of the image's inputs: see samebits.image.build_context
HOME = "/app"  # the project's folder in the image
FOLDERS = ("runs", ".cache")
ANSWERS = {  # commands that test whether an engine works; their output says whether it runs without root, and how
    "docker": ["docker", "info", "--format", "{{.SecurityOptions}} {{.DriverStatus}}"],
    "podman": ["podman", "info", "--format", "rootless={{.Host.Security.Rootless}}"],
    "buildah": ["buildah", "info"],
}
# Docker's store of images in containerd can hold OCI archives and attestations.
SNAPSHOTTER = "io.containerd.snapshotter"
# Docker of these versions builds by the BuildKit in it. Later ones need a program of its own, buildx.
WITH_BUILDKIT, WITHOUT_BUILDKIT = (20, 10), (23, 0)
OLDEST_BUILDX = (0, 10)  # the first that knows --provenance
REWRITES_TIMES = (0, 13)  # of BuildKit: the first that replaces the times in archives (Docker 26)
# buildah runs containers with chroot isolation: only the user and the mounts limit what they can do.
CHROOT = ["--isolation", "chroot"]

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Engine:
    """The program that builds and runs.

    Attributes:
        name: docker, podman or buildah.
        rootless: Whether root in a container is the caller outside.
        builder: Docker only: how it builds: `buildx`; `build`, which has BuildKit in it in Docker 20.10; or empty.
        can_rewrite_times: Whether it can give all files of an image one time, so that two builds have one digest.
        stores_provenance: Whether it can store how an image was built (its provenance) beside the image.
        uses_selinux: Docker only: whether SELinux labels its containers, which then cannot read the mounted folders.
    """

    name: str
    rootless: bool = False
    builder: str = ""
    can_rewrite_times: bool = True
    stores_provenance: bool = False
    uses_selinux: bool = False


@dataclass(frozen=True)
class Recipe:
    """The image to build: its name and its inputs.

    Attributes:
        tag: The image's name.
        root: The folder with the Dockerfile and the build context.
        base: The base image; empty: the one in the Dockerfile, pinned by digest.
        variant: cpu or gpu.
        revision: The commit, for a label.
        epoch: The time of the image and its files, in seconds since 1970.
        authority: A file of certificate authorities that the network needs; empty: none.
        target: The stage of the Dockerfile: train, or test with the test and lint tools; empty: the last.
    """

    tag: str
    root: pathlib.Path
    base: str = ""
    variant: str = "cpu"
    revision: str = "unknown"
    epoch: int = 0
    authority: str = ""
    target: str = ""

    @property
    def made_from(self) -> str:
        """The digest of the image's inputs, for its label."""
        return build_context.context_digest(self.root, self.base, self.variant, self.revision, str(self.epoch))

    @property
    def base_of_test(self) -> "Recipe | None":
        """The image that the one of the stage `test` adds the test tools to; None for other stages."""
        return replace(self, tag=self.tag.removesuffix("-test"), target="train") if self.target == "test" else None


def capture(command: Sequence[str], timeout_s: float | None = 60.0) -> "subprocess.CompletedProcess[str]":
    """Run a command and capture its output; a missing program counts as exit code 127."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def find_engine(wanted: str = "", ask: Run = capture) -> Engine:
    """Return the first engine that works, or the wanted one.

    Args:
        wanted: docker, podman or buildah; empty: the first of them that works.
        ask: Runs a command; tests replace it.

    Raises:
        EngineError: No engine works; the error contains the message of each.
    """
    said = []
    for name in [wanted] if wanted in ANSWERS else list(ANSWERS) if not wanted else []:
        done = ask(ANSWERS[name])
        if done.returncode == 0 and (name != "buildah" or os.geteuid() == 0):
            rootless = "rootless=true" in done.stdout or "name=rootless" in done.stdout
            builder = docker_builder(ask) if name == "docker" else ""
            stores = builder == "buildx" and SNAPSHOTTER in done.stdout
            rewrites = name != "docker" or (builder == "buildx" and rewrites_times(ask, stores=stores))
            selinux = "name=selinux" in done.stdout
            return Engine(
                name, rootless, builder, can_rewrite_times=rewrites, stores_provenance=stores, uses_selinux=selinux
            )
        lines = done.stderr.strip().splitlines() or ["it needs root"]
        said.append(f"{name}: {lines[-1]}")
    raise EngineError(
        "a container engine",
        expected="docker, podman or (as root) buildah, installed and running",
        received="; ".join(said) or repr(wanted),
        fix="install one of them and start it, or name another: samebits image build --engine podman",
    )


def version_in(text: str, pattern: str) -> tuple[int, int]:
    """Return the major and minor version after a pattern in a program's output; (0, 0) if there is none."""
    numbers = re.search(rf"(?im){pattern}\s*v?(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def docker_builder(ask: Run = capture) -> str:
    """Return how docker can build: `buildx`, `build`, or an empty string if it cannot."""
    if version_in(ask(["docker", "buildx", "version"]).stdout, "buildx") >= OLDEST_BUILDX:
        return "buildx"
    client = version_in(ask(["docker", "version", "--format={{.Client.Version}}"]).stdout, "^")
    return "build" if WITH_BUILDKIT <= client < WITHOUT_BUILDKIT else ""


def rewrites_times(ask: Run = capture, *, stores: bool) -> bool:
    """Return whether buildx can write an image as an archive, in which all files have one time.

    Args:
        ask: Runs a command.
        stores: Whether the engine's own store holds such archives; else only a builder in a container writes them.
    """
    said = ask(["docker", "buildx", "inspect"]).stdout
    driver = re.search(r"(?m)^Driver:\s*(\S+)", said)
    writes = stores or (driver is not None and driver[1] != "docker")
    return writes and version_in(said, r"buildkit(?: version)?:") >= REWRITES_TIMES


def check_builds(engine: Engine) -> None:
    """Check that an engine can build.

    Raises:
        EngineError: It is docker without buildx, which the error says how to get.
    """
    if engine.name == "docker" and not engine.builder:
        raise EngineError(
            "docker",
            expected="buildx, which builds images",
            received="docker without it",
            fix="install docker-buildx (Debian 13, Ubuntu) or docker-buildx-plugin (Docker's own packages), or take "
            "another engine: make image ENGINE=podman",
        )


def build_command(
    engine: Engine, recipe: Recipe, *, fresh: bool = False, output: pathlib.Path | None = None
) -> list[str]:
    """Return the command that builds an image.

    Args:
        engine: The engine that builds.
        recipe: The image to build.
        fresh: Do not use a cache (buildah never does).
        output: Docker with `can_rewrite_times` only: an OCI archive to write, instead of storing the image.

    Raises:
        EngineError: It is docker without buildx.
    """
    check_builds(engine)
    values = {"REVISION": recipe.revision, "CONTEXT_DIGEST": recipe.made_from, "VARIANT": recipe.variant}
    if recipe.base:
        values["BASE_IMAGE"] = recipe.base
    if engine.name == "docker":
        values["SOURCE_DATE_EPOCH"] = str(recipe.epoch)
        if engine.builder == "buildx":
            # A provenance has the time of the build, so an image to compare has none; its files are the same.
            provenance = "mode=max" if engine.stores_provenance and output is None else "false"
            head = ["docker", "buildx", "build", f"--provenance={provenance}", "--sbom=false"]
            head.append(f"--output=type=oci,dest={output},rewrite-timestamp=true" if output else "--load")
        else:
            head = ["env", "DOCKER_BUILDKIT=1", "docker", "build"]
    else:  # the image's history would contain digests that depend on the files' times
        plain = [f"--timestamp={recipe.epoch}", "--identity-label=false", "--omit-history"]
        podman = engine.name == "podman"
        head = ["podman", "build", *plain] if podman else ["buildah", "bud", *CHROOT, "--layers=false", *plain]
    if engine.name == "buildah" and recipe.base_of_test:  # without a cache it would build that image again
        values["TRAIN"] = recipe.base_of_test.tag
    head += ["--no-cache"] if fresh and engine.name != "buildah" else []
    arguments = [f"--build-arg={key}={value}" for key, value in values.items()]
    head += [f"--target={recipe.target}"] if recipe.target else []
    secret = [f"--secret=id=ca,src={recipe.authority}"] if recipe.authority else []
    return [*head, "--tag", recipe.tag, *arguments, *secret, "--file", f"{recipe.root}/Dockerfile", str(recipe.root)]


@dataclass(frozen=True)
class Session:
    """The way a command runs in the image.

    Attributes:
        mounts: The folder with runs/ and .cache/ on this machine.
        user: uid:gid in the container; empty: the caller's.
        network: none, or the engine's name of another network.
        terminal: Whether the command runs in a terminal.
        options: Further options of `docker run` or `podman run`.
    """

    mounts: pathlib.Path
    user: str = ""
    network: str = "none"
    terminal: bool = False
    options: tuple[str, ...] = ()


def run_command(
    engine: Engine, tag: str, digest: str, session: Session, command: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the docker or podman command that runs another command in the image.

    The root is read-only, all capabilities are dropped, and runs and caches belong to the caller. COMET_API_KEY is
    passed by name, and only if there is a network.
    """
    user = session.user or ("0:0" if engine.name == "docker" and engine.rootless else f"{os.getuid()}:{os.getgid()}")
    shared = [f"--volume={session.mounts.resolve() / name}:{HOME}/{name}" for name in FOLDERS]
    options = [
        "--rm",
        "--read-only",
        "--tmpfs=/tmp:rw,exec,mode=1777",
        "--cap-drop=ALL",
        f"--network={session.network}",
    ]
    options += ["--security-opt=no-new-privileges", f"--user={user}", *shared, f"--env=SAMEBITS_IMAGE_DIGEST={digest}"]
    if engine.name == "podman" or engine.uses_selinux:  # instead of relabelling the user's folders
        options.append("--security-opt=label=disable")
    if engine.name == "podman" and engine.rootless:
        options.append("--userns=keep-id")
    if session.network != "none" and "COMET_API_KEY" in environment:
        options.append("--env=COMET_API_KEY")
    if session.terminal:
        options += ["--interactive", "--tty"]
    return [engine.name, "run", *options, *session.options, tag, *command]


def chroot_command(
    container: str, digest: str, session: Session, tmp: pathlib.Path, command: Sequence[str]
) -> list[str]:
    """Return the buildah command that runs another command in a working container."""
    user = session.user or f"{os.getuid()}:{os.getgid()}"
    shared = [f"--volume={session.mounts.resolve() / name}:{HOME}/{name}" for name in FOLDERS]
    options = [*CHROOT, f"--user={user}", *shared, f"--volume={tmp}:/tmp", f"--env=SAMEBITS_IMAGE_DIGEST={digest}"]
    alone = ["unshare", "--net", "--"] if session.network == "none" else []
    entry = [
        "/opt/venv/bin/python",
        "-m",
        "samebits.image.entrypoint",
    ]  # `buildah run` ignores the image's entry point
    return [*alone, "buildah", "run", *options, container, "--", *entry, *command]


def inspect_command(engine: Engine, tag: str) -> list[str]:
    """Return the command that prints, on one line, an image's digest and its label with the digest of its inputs."""
    labels = "OCIv1.Config.Labels" if engine.name == "buildah" else "Config.Labels"
    identity = "FromImageID" if engine.name == "buildah" else "Id"
    form = "{{." + identity + "}} {{index ." + labels + ' "' + LABEL + '"}}'
    head = ["buildah", "inspect", "--type=image"] if engine.name == "buildah" else [engine.name, "image", "inspect"]
    return [*head, f"--format={form}", tag]


def export_command(engine: Engine, tag: str, folder: pathlib.Path) -> list[str]:
    """Return the command that writes an image as an OCI layout; docker writes an archive of that name and .tar."""
    if engine.name == "docker":
        return ["docker", "save", f"--output={folder}.tar", tag]
    if engine.name == "podman":
        return ["podman", "save", "--format=oci-dir", f"--output={folder}", tag]
    return ["buildah", "push", "--disable-compression", tag, f"oci:{folder}"]
