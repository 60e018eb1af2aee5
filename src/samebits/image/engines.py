"""docker, podman and buildah: which of them is there, and the command lines that build, look at and run an image.

Only the standard library, so that an image can be built without the project's environment. Starts nothing but what asks
whether an engine works.
"""

import os
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from samebits.core.errors import EngineError
from samebits.image import build_context

LABEL = "samebits.context"  # what the image was made from: see samebits.image.build_context
HOME = "/app"  # of the project in the image
FOLDERS = ("runs", ".cache")
ANSWERS = {  # what an engine is asked to see whether it works; its answer says whether it runs without root
    "docker": ["docker", "info", "--format", "{{.SecurityOptions}}"],
    "podman": ["podman", "info", "--format", "rootless={{.Host.Security.Rootless}}"],
    "buildah": ["buildah", "info"],
}
# buildah runs containers for lack of a daemon: chroot isolation, where only the user and the mounts hold them in.
CHROOT = ["--isolation", "chroot"]

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Engine:
    """The program that builds and runs: its name, and whether root in a container is the caller outside it."""

    name: str
    rootless: bool = False


@dataclass(frozen=True)
class Recipe:
    """What an image is built from and called.

    Attributes:
        tag: Its name.
        root: The folder with Dockerfile and context.
        base: Another base image; empty: the Dockerfile's, pinned by digest.
        variant: cpu or gpu.
        revision: The commit, for a label.
        epoch: The time that files and image carry, seconds since 1970.
        authority: A bundle of certificate authorities that the network needs; empty: none.
        target: The Dockerfile's stage, as train, or test with the test and lint tools; empty: the last.
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
        """The digest of what decides the image, for its label."""
        return build_context.context_digest(self.root, self.base, self.variant, self.revision, str(self.epoch))


def capture(command: Sequence[str], timeout_s: float | None = 60.0) -> "subprocess.CompletedProcess[str]":
    """Run a command that only asks; a program that is missing counts as one that failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def find_engine(wanted: str = "", ask: Run = capture) -> Engine:
    """Return the first engine that answers, or the wanted one.

    Args:
        wanted: docker, podman or buildah; empty: the first of them that works.
        ask: Runs a command; for tests.

    Raises:
        EngineError: None answers; says what each said.
    """
    said = []
    for name in [wanted] if wanted in ANSWERS else list(ANSWERS) if not wanted else []:
        done = ask(ANSWERS[name])
        if done.returncode == 0 and (name != "buildah" or os.geteuid() == 0):
            return Engine(name, "rootless=true" in done.stdout or "name=rootless" in done.stdout)
        lines = done.stderr.strip().splitlines() or ["it needs root"]
        said.append(f"{name}: {lines[-1]}")
    raise EngineError(
        "a container engine",
        expected="docker, podman or (as root) buildah, installed and running",
        received="; ".join(said) or repr(wanted),
        fix="install one of them and start it, or name another: samebits image build --engine podman",
    )


def build_command(
    engine: Engine, recipe: Recipe, *, fresh: bool = False, output: pathlib.Path | None = None
) -> list[str]:
    """Return the command that builds an image.

    Args:
        engine: Who builds.
        recipe: What.
        fresh: Nothing is taken from a cache (buildah keeps none in any case).
        output: Docker alone: an OCI archive to write, with rewritten times, instead of keeping the image.
    """
    values = {"REVISION": recipe.revision, "CONTEXT_DIGEST": recipe.made_from, "VARIANT": recipe.variant}
    if recipe.base:
        values["BASE_IMAGE"] = recipe.base
    if engine.name == "docker":
        values["SOURCE_DATE_EPOCH"] = str(recipe.epoch)
        head = ["docker", "buildx", "build", "--provenance=false", "--sbom=false"]
        head.append(f"--output=type=oci,dest={output},rewrite-timestamp=true" if output else "--load")
    else:  # their history has digests of what was copied, times included
        plain = [f"--timestamp={recipe.epoch}", "--identity-label=false", "--omit-history"]
        podman = engine.name == "podman"
        head = ["podman", "build", *plain] if podman else ["buildah", "bud", *CHROOT, "--layers=false", *plain]
    head += ["--no-cache"] if fresh and engine.name != "buildah" else []
    arguments = [f"--build-arg={key}={value}" for key, value in values.items()]
    head += [f"--target={recipe.target}"] if recipe.target else []
    secret = [f"--secret=id=ca,src={recipe.authority}"] if recipe.authority else []
    return [*head, "--tag", recipe.tag, *arguments, *secret, "--file", f"{recipe.root}/Dockerfile", str(recipe.root)]


@dataclass(frozen=True)
class Session:
    """How a command runs in the image.

    Attributes:
        mounts: The folder with runs/ and .cache/ on this machine.
        user: uid:gid to be; empty: the caller.
        network: none, or what the engine calls another.
        terminal: Whether a person watches.
    """

    mounts: pathlib.Path
    user: str = ""
    network: str = "none"
    terminal: bool = False


def run_command(
    engine: Engine, tag: str, digest: str, session: Session, command: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the command that runs another one in the image, with docker or podman.

    The root is read-only, no capability is left, and runs and caches are the caller's. The tracker's key is passed on
    by name, and only where there is a network to use it.
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
    if engine.name == "podman":
        options += ["--security-opt=label=disable", *(["--userns=keep-id"] if engine.rootless else [])]
    if session.network != "none" and "COMET_API_KEY" in environment:
        options.append("--env=COMET_API_KEY")
    if session.terminal:
        options += ["--interactive", "--tty"]
    return [engine.name, "run", *options, tag, *command]


def chroot_command(
    container: str, digest: str, session: Session, tmp: pathlib.Path, command: Sequence[str]
) -> list[str]:
    """Return the same for buildah: the command in a working container, without a network of its own."""
    user = session.user or f"{os.getuid()}:{os.getgid()}"
    shared = [f"--volume={session.mounts.resolve() / name}:{HOME}/{name}" for name in FOLDERS]
    options = [*CHROOT, f"--user={user}", *shared, f"--volume={tmp}:/tmp", f"--env=SAMEBITS_IMAGE_DIGEST={digest}"]
    alone = ["unshare", "--net", "--"] if session.network == "none" else []
    entry = [
        "/opt/venv/bin/python",
        "-m",
        "samebits.image.entrypoint",
    ]  # buildah run leaves the image's entry point out
    return [*alone, "buildah", "run", *options, container, "--", *entry, *command]


def inspect_command(engine: Engine, tag: str) -> list[str]:
    """Return the command that prints an image's digest and its label of what it was made from, on one line."""
    labels = "OCIv1.Config.Labels" if engine.name == "buildah" else "Config.Labels"
    identity = "FromImageID" if engine.name == "buildah" else "Id"
    form = "{{." + identity + "}} {{index ." + labels + ' "' + LABEL + '"}}'
    head = ["buildah", "inspect", "--type=image"] if engine.name == "buildah" else [engine.name, "image", "inspect"]
    return [*head, f"--format={form}", tag]


def export_command(engine: Engine, tag: str, folder: pathlib.Path) -> list[str]:
    """Return the command that writes an image of podman's or buildah's as an OCI layout."""
    if engine.name == "podman":
        return ["podman", "save", "--format=oci-dir", f"--output={folder}", tag]
    return ["buildah", "push", "--disable-compression", tag, f"oci:{folder}"]
