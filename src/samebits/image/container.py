"""Builds the project's image, runs commands in it, and checks that two builds are identical.

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
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from samebits.core.errors import EngineError
from samebits.image import build_context, oci_diff
from samebits.image.engines import (
    FOLDERS,
    Engine,
    Recipe,
    Session,
    build_command,
    capture,
    chroot_command,
    export_command,
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
        EngineError: There is no image, or (buildah) the command wrote where a read-only root would not allow it.
    """
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


def _build_apart(engine: Engine, recipe: Recipe, folder: pathlib.Path) -> tuple[str, oci_diff.Image | None]:
    """Build without a cache; returns the image's digest, and with docker also the image, written to a folder."""
    if engine.name == "docker":
        archive = folder / "image.tar"
        must(build_command(engine, recipe, fresh=True, output=archive))
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        image = oci_diff.read_layout(folder)
        return image.digest, image
    must(build_command(engine, recipe, fresh=True))
    return inspect(engine, recipe.tag)[0], None


def verify(engine: Engine, recipe: Recipe) -> int:
    """Build twice without a cache, the second time from a copy with other times and permissions, and compare.

    buildah keeps no cache, so with buildah an existing up-to-date image counts as the first build.

    Returns:
        0: both have the same digest; 1: they differ, and every file that differs was printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy, *folders = (pathlib.Path(scratch) / name for name in ("copy", "first", "second"))
        for folder in (copy, *folders):
            folder.mkdir()
        build_context.copy_context(recipe.root, copy)
        builds = [
            replace(recipe, tag=f"{recipe.tag}-verify-1"),
            replace(recipe, tag=f"{recipe.tag}-verify-2", root=copy),
        ]
        if engine.name == "buildah":
            builds[0] = recipe
            first: tuple[str, oci_diff.Image | None] = (build(engine, recipe), None)
        else:
            first = _build_apart(engine, builds[0], folders[0])
        second = _build_apart(engine, builds[1], folders[1])
        same = first[0] == second[0]
        lines = [] if same else _list_differences(engine, builds, folders, (first[1], second[1]))
        for one in builds if engine.name != "docker" else []:
            if one is not recipe:
                capture([engine.name, "rmi", one.tag])
    if same:
        print(f"IMAGE VERIFIED: two builds, one digest {first[0]}")
        return 0
    print("\n".join(f"  {line}" for line in lines[:200]))
    print(f"THE IMAGES DIFFER in {len(lines)} places: {first[0]} and {second[0]}")
    return 1


def _list_differences(
    engine: Engine,
    builds: Sequence[Recipe],
    folders: Sequence[pathlib.Path],
    read: Sequence[oci_diff.Image | None],
) -> list[str]:
    found = []
    for one, folder, image in zip(builds, folders, read, strict=True):
        if image is None:
            must(export_command(engine, one.tag, folder / "layout"))
        found.append(image or oci_diff.read_layout(folder / "layout"))
    return oci_diff.differences(*found)


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
        given: engine, tag, base, variant and target; for `run` also as_is, mounts, user and network.
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
        return verify(engine, recipe)
    if action == "build":
        build(engine, recipe)
        return 0
    session = Session(given.mounts or root, given.user, given.network, sys.stdin.isatty() and sys.stdout.isatty())
    return run(engine, recipe, session, command, as_is=given.as_is)
