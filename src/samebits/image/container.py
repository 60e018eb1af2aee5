"""Builds the project's image and runs commands in it.

Uses only the standard library. Prints every command line before running it.
"""

import argparse
import contextlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence

from samebits.core.errors import EngineError
from samebits.image.engines import (
    FOLDERS,
    Engine,
    Recipe,
    Session,
    build_command,
    capture,
    chroot_command,
    find_engine,
    inspect_command,
    run_command,
)

# Paths that buildah itself creates or mounts in a container that it runs.
BUILDAH_WRITES = {"/", "/etc", "/etc/hosts", "/etc/resolv.conf", "/run", "/run/.containerenv"}


def do(command: Sequence[str]) -> int:
    """Print a command, run it, and return its exit code."""
    print(f"+ {shlex.join(command)}", flush=True)
    return subprocess.run(command, check=False).returncode


def must(command: Sequence[str]) -> None:
    """Print a command and run it.

    Raises:
        EngineError: The command failed; its own error is printed above.
    """
    code = do(command)
    if code:
        raise EngineError(
            f"{command[0]} {command[1]}", expected="exit code 0", received=code, fix="read its output above"
        )


def inspect(engine: Engine, tag: str) -> tuple[str, str]:
    """Return an image's digest and the digest of its inputs; two empty strings if the image does not exist."""
    done = capture(inspect_command(engine, tag))
    if done.returncode:
        return "", ""
    digest, _, made_from = done.stdout.strip().partition(" ")
    return "sha256:" + digest.removeprefix("sha256:"), made_from


def build(engine: Engine, recipe: Recipe, *, as_is: bool = False) -> str:
    """Build the image unless it exists and is up to date; returns its digest.

    Args:
        engine: The engine that builds.
        recipe: The image to build.
        as_is: Use the existing image, even if it is out of date.

    Raises:
        EngineError: The build failed, or `as_is` found no image.
    """
    digest, made_from = inspect(engine, recipe.tag)
    if as_is and not digest:
        raise EngineError(recipe.tag, expected="an image of this name", received="none", fix="build or pull it first")
    if made_from != recipe.made_from and not as_is:
        if engine.name == "buildah" and recipe.base_of_test:
            build(engine, recipe.base_of_test)
        must(build_command(engine, recipe))
        digest, _ = inspect(engine, recipe.tag)
    print(f"image {recipe.tag} {digest}", flush=True)
    return digest


def ask_buildah(*words: str) -> str:
    """Run buildah and return its output. Copying an image may take minutes.

    Raises:
        EngineError: buildah failed; the error contains its output.
    """
    done = capture(["buildah", *words], timeout_s=None)
    if done.returncode:
        raise EngineError(
            f"buildah {words[0]}", expected="exit code 0", received=done.stderr.strip(), fix="read buildah's error"
        )
    return done.stdout


@contextlib.contextmanager
def working_container(tag: str) -> Iterator[str]:
    """Create a buildah container from an image, and remove it afterwards."""
    container = ask_buildah("from", tag).split()[-1]
    try:
        yield container
    finally:
        capture(["buildah", "rm", container], timeout_s=None)  # a failure here must not hide an earlier error


def run(engine: Engine, recipe: Recipe, session: Session, command: Sequence[str], *, as_is: bool = False) -> int:
    """Run a command in the image, building the image first if needed; returns the command's exit code.

    Raises:
        EngineError: There is no image, or (buildah) the command wrote where a read-only root would not allow it, or
            options were given.
    """
    if session.options and engine.name == "buildah":
        raise EngineError("--option", expected="docker or podman", received="buildah, which has no such options",
                          fix="leave it out, or add --engine docker")  # fmt: skip
    digest = build(engine, recipe, as_is=as_is)
    for name in FOLDERS:
        (session.mounts / name).mkdir(parents=True, exist_ok=True)
    if engine.name != "buildah":
        return do(run_command(engine, recipe.tag, digest, session, command, os.environ))
    with working_container(recipe.tag) as container, tempfile.TemporaryDirectory() as tmp:
        pathlib.Path(tmp).chmod(0o1777)
        root = pathlib.Path(ask_buildah("mount", container).strip())
        begun_ns = time.time_ns()
        code = do(chroot_command(container, digest, session, pathlib.Path(tmp), command))
        written = [path for path in changed_since(root, begun_ns) if path not in BUILDAH_WRITES]
    if written:
        raise EngineError(
            "the container's root",
            expected="nothing written outside /tmp, runs and .cache, as on a read-only root",
            received=", ".join(written[:9]),
            fix="write only in these three folders",
        )
    return code


def changed_since(root: pathlib.Path, moment_ns: int) -> list[str]:
    """Return the files and folders in a container's root that changed after a time, as paths inside the container."""
    paths = (path for folder, _, names in os.walk(root) for path in (folder, *(f"{folder}/{name}" for name in names)))
    return sorted("/" + path[len(str(root)) + 1 :] for path in paths if os.lstat(path).st_ctime_ns > moment_ns)


def describe_source(root: pathlib.Path) -> tuple[str, int]:
    """Return the commit ("-dirty" if the tree has changes) and its time; without git "unknown" and 0."""
    git = ["git", "-C", str(root)]
    commit = capture([*git, "log", "-1", "--format=%H %ct"])
    if commit.returncode:
        return "unknown", 0
    revision, epoch = commit.stdout.split()
    dirty = capture([*git, "status", "--porcelain"]).stdout.strip()
    return revision + ("-dirty" if dirty else ""), int(epoch)


def project_name(root: pathlib.Path) -> str:
    """Return the project's name from pyproject.toml, in lower case as the engines require."""
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]).lower()


def check_variant(root: pathlib.Path, variant: str) -> None:
    """Refuse a variant that the Dockerfile does not know: the engine would build the CPU image with a warning only.

    Raises:
        EngineError: The Dockerfile has no argument VARIANT, as in a project that was created with `samebits new`.
    """
    dockerfile = root / "Dockerfile"
    if variant != "cpu" and not re.search(r"(?m)^ARG VARIANT\b", dockerfile.read_text(encoding="utf-8")):
        raise EngineError(
            f"--variant {variant}",
            expected="a Dockerfile with ARG VARIANT, as in the samebits repository",
            received=f"{dockerfile}, which has none and installs TensorFlow's CPU build",
            fix="leave --variant out",
        )


def main(root: pathlib.Path, given: argparse.Namespace, action: str, command: Sequence[str] = ()) -> int:
    """Build, verify or run the image; returns the exit code.

    Args:
        root: The project's folder.
        given: engine, tag, base, variant and target; for `run` also as_is, mounts, user, network and option; for
            `verify` also second.
        action: build, verify or run.
        command: For `run`: the command to run in the container.

    Raises:
        EngineError: No engine works, the Dockerfile lacks the variant, or a command of the engine failed.
    """
    check_variant(root, given.variant)
    revision, epoch = describe_source(root)
    tag = given.tag or project_name(root)
    tag = tag if given.target == "train" else f"{tag}-{given.target}"
    authority = os.environ.get("PIP_CERT", "")
    recipe = Recipe(tag, root, given.base, given.variant, revision, epoch, authority, given.target)
    engine = find_engine(given.engine)
    if action == "verify":
        from samebits.image import two_builds  # noqa: PLC0415  it imports this module

        return two_builds.verify(engine, recipe, find_engine(given.second) if given.second else engine)
    if action == "build":
        build(engine, recipe)
        return 0
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    session = Session(given.mounts or root, given.user, given.network, terminal, tuple(given.option))
    return run(engine, recipe, session, command, as_is=given.as_is)
