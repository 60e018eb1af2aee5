"""Lists the reproducibility risks in this project. Only reads files; imports no TensorFlow and runs nothing.

Each check yields findings, which weaken the promise (exit code 1), and notes, which do not.
"""

import pathlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

from samebits.checks import golden
from samebits.checks.source_scan import scan
from samebits.core.config import Config
from samebits.core.digest import bytes_digest
from samebits.core.errors import MachineError, SamebitsError
from samebits.core.old_names import MOVED, old_imports
from samebits.runs.compare import list_nested_differences
from samebits.runs.folder import read_json
from samebits.runs.identity import code_files, harness_folder
from samebits.runtime.lockfile import DEV_LOCK, LOCK, exact_version, locked_versions, normalise, read_lock
from samebits.runtime.machine import ARITHMETIC_PACKAGES, describe_git, package_versions
from samebits.runtime.pins import KEPT, SCRUBBED_PREFIXES, check_machine, child_environment

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
IMAGE_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\b")
# Files that name images or actions, as glob patterns in the project's folder.
IMAGE_FILES = (
    "Dockerfile", "Dockerfile.*", "*.Dockerfile", "Containerfile", "compose.y*ml", "docker-compose*.y*ml",
    ".gitlab-ci.yml", ".devcontainer/*", ".github/workflows/*.y*ml", ".github/actions/*/action.y*ml",
)  # fmt: skip
SEALED = "SEALED"  # in harness/: the original SHA-256 of every file of samebits/, in the format of sha256sum
# pip and uv only install, so no run depends on their version. The code of samebits is part of every run's name.
NOT_LOCKED = {"pip", "uv", "samebits"}
# Variables that a training inherits and that change which code or data it loads.
REACHING = ("LD_LIBRARY_PATH", "LD_AUDIT", *KEPT)
Compose = Callable[[list[str]], Config]


@dataclass(frozen=True)
class Finding:
    """One reproducibility risk, or a note.

    Attributes:
        where: File and line, package, experiment or variable.
        what: The fact.
        fix: What to do. Empty: this is a note, and there is nothing to do.
    """

    where: str
    what: str
    fix: str


def _base_images(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, image) of every FROM that is not an earlier stage, with ARG's defaults filled in."""
    arguments: dict[str, str] = {}
    stages = {"scratch"}
    for number, line in enumerate(lines, 1):
        if given := re.match(r"\s*ARG\s+(\w+)=(\S+)", line, re.IGNORECASE):
            arguments[given[1]] = given[2].strip("\"'")
        if based := re.match(r"\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", line, re.IGNORECASE):
            image = based[1]
            for name, value in arguments.items():
                image = image.replace(f"${{{name}}}", value).replace(f"${name}", value)
            if image.lower() not in stages:
                yield number, image
            stages.add((based[2] or "").lower())


def check_tags(root: pathlib.Path) -> Iterator[Finding]:
    """Find images without a digest and actions without a commit. Their content may change under the same name."""
    for path in sorted({found for pattern in IMAGE_FILES for found in root.glob(pattern) if found.is_file()}):
        name, lines = path.relative_to(root), path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, image in _base_images(lines):
            if not IMAGE_DIGEST.search(image):
                yield Finding(f"{name}:{number}", f"FROM {image} has no digest", "append @sha256:…")
        for number, line in enumerate(lines, 1):
            used = re.match(r"\s*(?:-\s+)?uses:\s*[\"']?([^\s\"'#]+)", line)
            ref = used[1].rpartition("@")[2].removeprefix("sha256:") if used else ""
            if used and not used[1].startswith("./") and not COMMIT.fullmatch(ref):
                yield Finding(
                    f"{name}:{number}", f"action {used[1]} is not pinned to a commit", "write the commit's full SHA"
                )
            image_of = re.match(r"[\s{,-]*[\"']?(?:image|container)[\"']?:\s*[\"']?([^\s\"'#{]+)", line)
            if image_of and "$" not in image_of[1] and not IMAGE_DIGEST.search(image_of[1]):
                yield Finding(f"{name}:{number}", f"image {image_of[1]} has no digest", "append @sha256:…")


def lock_command(root: pathlib.Path) -> str:
    """Return the command that rewrites the locks: this repository's, or the one of a copy."""
    return "python tools/lock.py" if (root / "tools" / "lock.py").exists() else "make lock"


def check_lock(root: pathlib.Path) -> Iterator[Finding]:
    """Find requirements in the locks that have no exact version or no hash."""
    again = f"{lock_command(root)} rewrites it from pyproject.toml"
    for lock in (LOCK, DEV_LOCK):
        for locked in read_lock(root, lock):
            where = f"{lock}:{locked.line}"
            if exact_version(locked.requirement) is None:
                yield Finding(where, f"{locked.requirement} has no exact version", again)
            if not locked.has_hash:
                yield Finding(where, f"{locked.requirement} has no hash", again)


def check_dependencies(root: pathlib.Path) -> Iterator[Finding]:
    """Find dependencies in pyproject.toml that do not match the locks, or can change bits but have no exact version."""
    locked = locked_versions(root, DEV_LOCK) | locked_versions(root)
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        yield Finding("pyproject.toml", f"cannot be read: {error}", "write valid TOML")
        return
    groups = project.get("dependency-groups", {})
    for words in (*project["project"]["dependencies"], *groups.get("setup", ()), *groups.get("dev", ())):
        try:
            requirement = Requirement(words)
        except InvalidRequirement:
            yield Finding("pyproject.toml", f"{words} is not a requirement", "write it like name>=1.2,<2")
            continue
        name = normalise(requirement.name)
        if name in ARITHMETIC_PACKAGES and exact_version(words) is None:
            yield Finding(
                "pyproject.toml", f"{words} has no exact version, but the package can change bits", "pin it with =="
            )
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = locked.get(name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield Finding("pyproject.toml", f"{words} does not match the lock, which has {version}", lock_command(root))


def check_installed(root: pathlib.Path, installed: Mapping[str, str]) -> Iterator[Finding]:
    """Find installed packages that differ from the locks. The test and lint tools may be absent."""
    dev = locked_versions(root, DEV_LOCK)
    locked = locked_versions(root) | {name: version for name, version in dev.items() if name in installed}
    for name in sorted({*locked, *installed} - NOT_LOCKED):
        if locked.get(name) != installed.get(name):
            received = f"{installed.get(name, 'nothing')} is installed, {locked.get(name, 'nothing')} is locked"
            fix = (
                "remove .venv and run make setup"
                if name in locked
                else f"add it to pyproject.toml, then {lock_command(root)}"
            )
            yield Finding(f"package {name}", received, fix)


def check_randomness(root: pathlib.Path) -> Iterator[Finding]:
    """Find randomness in the source that no seed point covers, and iteration in no fixed order."""
    fix = "use context.rng(…) or context.seed(…), or sort"
    for line in scan(root / "src"):
        where, _, what = line.partition(": ")
        yield Finding(where, what, fix)


def check_goldens(root: pathlib.Path, compose: Compose, installed: Mapping[str, str]) -> Iterator[Finding]:
    """Find experiments without a reference digest, or with one that was made from other inputs."""
    for name in sorted(path.stem for path in (root / "conf" / "experiment").glob("*.yaml")):
        path = golden.golden_path(root, name)
        where = str(path.relative_to(root))
        fix = f"samebits golden {name}; if the change is intended, samebits golden --update {name}"
        if not path.exists():
            yield Finding(where, "is missing", f"samebits golden --update {name}")
            continue
        try:
            now = golden.decided_by(compose([f"experiment={name}", "tracker=none"]), root, dict(installed))
            changed = [key for key, _, _ in list_nested_differences(read_json(path)["decided_by"], now)]
        except (SamebitsError, KeyError, TypeError) as error:
            yield Finding(where, f"cannot be checked: {' '.join(str(error).split())}", fix)
            continue
        if changed:
            yield Finding(where, f"was made from other inputs: {', '.join(changed)}", fix)


def sealed_digests(text: str) -> dict[str, str]:
    """Return path -> digest of a file in the format of sha256sum. Lines that start with # are comments."""
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return {path: digest for digest, path in rows}


def check_harness(root: pathlib.Path) -> Iterator[Finding]:
    """Find files in harness/ that were edited, removed or added, and leftovers of an older layout."""
    harness = harness_folder(root)
    if harness not in (root / "harness", root / "src"):
        yield Finding("samebits", f"is loaded from the installed package in {harness}", "")
    if harness != root / "src" and (root / "src" / "samebits").exists():
        yield Finding("src/samebits/", "is a leftover of the old layout and unused", "remove it")
    if harness != root / "harness":
        return
    if not (harness / SEALED).exists():
        yield Finding(f"harness/{SEALED}", "is missing, so edits cannot be detected", f"git restore harness/{SEALED}")
        return
    sealed = sealed_digests((harness / SEALED).read_text(encoding="utf-8"))
    paths = code_files(harness / "samebits", "*")
    now = {
        path.relative_to(harness).as_posix(): bytes_digest(path.read_bytes())
        for path in paths
        if "__pycache__" not in path.parts
    }
    fix = "undo it (git log harness/ shows the change); your own code belongs in src/"
    for path in sorted({**sealed, **now}):
        if sealed.get(path) != now.get(path):
            what = "was removed" if path not in now else "was edited" if path in sealed else "was added"
            yield Finding(f"harness/{path}", what, fix)


def check_imports(root: pathlib.Path) -> Iterator[Finding]:
    """Find imports of moved samebits modules and names in the user's code."""
    for path in code_files(root / "src"):
        if path.relative_to(root / "src").parts[0] != "samebits":
            for line, old in old_imports(path.read_text(encoding="utf-8", errors="replace")):
                where = f"{path.relative_to(root)}:{line}"
                yield Finding(where, f"imports {old}, which has moved", f"import {MOVED[old]}")


def check_cpu(config: Config) -> Iterator[Finding]:
    """Report a machine that cannot keep the promise of the default configuration."""
    try:
        check_machine(config.runtime)
    except MachineError as error:
        yield Finding("this machine", f"has {error.received}, needs {error.expected}", error.fix)


def check_git(root: pathlib.Path) -> Iterator[Finding]:
    """Report uncommitted changes: the commit in a run's record is then not the code that ran."""
    git = describe_git(root)
    if git["commit"] is None:
        yield Finding("git", "no commit, so a run's record cannot name one", "git init, git add and git commit")
    elif git["clean"] is False:
        yield Finding("git", f"uncommitted changes after {git['commit'][:12]}", "git status lists them; commit them")


def check_variables(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Find environment variables that reach a training, and note those that a run removes or overrides."""
    child = child_environment(config.runtime, 0, environment)
    for name in sorted(name for name, value in environment.items() if value):
        if child.get(name) == environment[name] and name.startswith((*SCRUBBED_PREFIXES, *REACHING)):
            if name not in child_environment(config.runtime, 0, {}):
                yield Finding(name, "is passed to the training and may change which code it loads", f"unset {name}")
        elif name.startswith((*SCRUBBED_PREFIXES, "LC_ALL", "TZ")):
            yield Finding(name, "is set in this shell; a run removes or overrides it", "")


def examine(root: pathlib.Path, compose: Compose, environment: Mapping[str, str]) -> dict[str, list[Finding]]:
    """Return check -> its findings.

    Args:
        root: The project's folder.
        compose: Returns the configuration with some overrides.
        environment: The environment variables of the shell.
    """
    config, installed = compose([]), package_versions()
    return {
        "image tags and actions": list(check_tags(root)),
        "the lock": [*check_lock(root), *check_dependencies(root)],
        "installed packages": list(check_installed(root, installed)),
        "the harness": [*check_harness(root), *check_imports(root)],
        "randomness": list(check_randomness(root)),
        "reference digests": list(check_goldens(root, compose, installed)),
        "the machine": list(check_cpu(config)),
        "git": list(check_git(root)),
        "environment": list(check_variables(config, environment)),
    }


def run(root: pathlib.Path, compose: Compose, environment: Mapping[str, str]) -> int:
    """Print every check with its findings; returns 1 if there is any finding, else 0."""
    checks = examine(root, compose, environment)
    for name, found in checks.items():
        bad = [finding for finding in found if finding.fix]
        print(f"{'!!' if bad else 'ok'}  {name}" + (f": {len(bad)}" if bad else ""))
        for finding in found:
            fix = f"; fix: {finding.fix}" if finding.fix else ""
            print(f"      {finding.where}: {finding.what}{fix}")
    count = sum(bool(finding.fix) for found in checks.values() for finding in found)
    sys.stdout.flush()
    if count:
        print(f"WEAKENED: {count} findings in {len(checks)} checks")
        return 1
    print(f"SOUND: {len(checks)} checks found no reproducibility risk")
    return 0
