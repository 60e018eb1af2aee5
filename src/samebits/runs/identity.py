"""The identity of a run, which is everything that decides its bits except the machine, and the folder named by it."""

import ast
import contextlib
import importlib.metadata
import os
import pathlib
import site
from collections.abc import Callable, Iterator
from typing import Any

from samebits.core.config import Config, flatten, named_code, to_dict
from samebits.core.digest import bytes_digest, json_digest
from samebits.core.errors import ConfigError, RecordError
from samebits.core.files import make_folder, write_bytes, write_json
from samebits.core.notebooks import code_path, read_code
from samebits.runs.effects import COMMAND_KEYS, RECORD_KEYS
from samebits.runs.folder import INPUTS, SEEDS, SOURCE, list_attempts, read_json

HARNESS = pathlib.Path(__file__).resolve().parent.parent  # the folder from which this process imports samebits
# The modules of the harness that can change the bits of a training, by path.
ARITHMETIC_MODULES = (
    "core/digest", "core/metrics", "core/notebooks", "core/seeds", "core/short_names", "portable/exact",
    "portable/initializers", "portable/layers", "portable/losses", "portable/lstm", "portable/optimizers",
    "runs/predictions", "runtime/pins", "train/arrays", "train/callbacks", "train/checkpoints", "train/compiling",
    "train/data", "train/encoding", "train/feeds", "train/fit", "train/forest", "train/iterators", "train/lockstep",
    "train/logs", "train/loop", "train/network", "train/notices", "train/parts", "train/python_state", "train/replaced",
    "train/resuming", "train/script", "train/seeding", "train/shards", "train/sources", "train/splitting",
    "train/stages", "train/steps", "train/streams", "train/team", "train/traces", "train/weights", "train/worker",
)  # fmt: skip
DIGITS = 16  # of the inputs digest in the name of a folder


def identity(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides bits. Attempts of one run have the same."""
    return _without(to_dict(config), (*COMMAND_KEYS, *RECORD_KEYS, "package"))


def _without(tree: dict[str, Any], keys: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """Return nested data without these dotted keys."""
    return {
        key: _without(value, keys, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if f"{prefix}{key}" not in keys
    }


def code_files(source: pathlib.Path, *patterns: str) -> list[pathlib.Path]:
    """Return the sorted files below a folder (default: Python files), without hidden ones, which belong to editors."""
    found = (path for pattern in patterns or ("*.py",) for path in source.rglob(pattern))
    return sorted(
        path
        for path in found
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def harness_folder(root: pathlib.Path) -> pathlib.Path:
    """Return the folder from which a project's processes import samebits.

    It is harness/ in a copy of the starter, and src/ in the starter itself. If neither contains samebits, it is an
    installed package, and the folder is the one from which this process imports it.
    """
    folders = (root / "harness", root / "src")
    return next((folder for folder in folders if (folder / "samebits" / "__init__.py").exists()), HARNESS.parent)


def import_path(root: pathlib.Path) -> str:
    """Return PYTHONPATH for a process of a project: src/, and the harness unless it is an installed package."""
    folders = dict.fromkeys((harness_folder(root), root / "src"))
    return os.pathsep.join(str(folder) for folder in folders if str(folder) not in site.getsitepackages())


def harness_files(root: pathlib.Path, *patterns: str) -> dict[str, pathlib.Path]:
    """Return the files of the harness, by path relative to the import path."""
    harness = harness_folder(root)
    return {path.relative_to(harness).as_posix(): path for path in code_files(harness / "samebits", *patterns)}


def project_code(root: pathlib.Path, *patterns: str) -> dict[pathlib.PurePath, pathlib.Path]:
    """Return the files of the harness and of the packages below src/, by path relative to the import path."""
    source = root / "src"
    files: dict[pathlib.PurePath, pathlib.Path] = {
        pathlib.PurePath(place): path for place, path in harness_files(root, *patterns).items()
    }
    for path in code_files(source, *patterns):
        place = path.relative_to(source)
        if place.parts[0] != "samebits":
            files[place] = path
    return files


def decides_bits(path: pathlib.PurePath) -> bool:
    """Return whether a module, given relative to src/, can change the bits of a training."""
    return path.parts[0] != "samebits" or path.relative_to("samebits").with_suffix("").as_posix() in ARITHMETIC_MODULES


def imported_packages(code: bytes) -> set[str]:
    """Return the top-level packages that a module imports. Returns none if the module is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def source_files(config: Config, root: pathlib.Path) -> dict[str, bytes]:
    """Return the code that decides the bits of a training, by path relative to the import path.

    It includes the modules in `ARITHMETIC_MODULES`, the packages that the configuration names, and everything that
    these import from src/. Of a script: the script, and what it imports from its folder or from src/.

    Raises:
        ConfigError: A function is not in a package below src/. Other code is never run.
    """
    if config.script.path:
        harness = harness_files(root, "*.py").items()
        return {place: path.read_bytes() for place, path in harness if decides_bits(pathlib.PurePath(place))} | (
            script_files(config, root)
        )
    files: dict[str, dict[str, bytes]] = {}  # package -> path -> code
    for place, path in project_code(root).items():
        if decides_bits(place):
            files.setdefault(place.parts[0].removesuffix(".py"), {})[place.as_posix()] = path.read_bytes()
    waiting: set[str] = set()
    for key, target in named_code(config).items():
        package = target.partition(".")[0]
        if package not in files or package == "samebits":
            raise ConfigError(
                key,
                expected="a function in a package of your own below src/",
                received=target,
                fix="put the package into src/ and set this key as conf/data/ and conf/model/ do",
            )
        waiting.add(package)
    return dict(sorted(files["samebits"].items())) | imported_code(waiting, lambda package: files.get(package, {}))


def imported_code(packages: set[str], read: Callable[[str], dict[str, bytes]]) -> dict[str, bytes]:
    """Return the code of packages and of the packages that they import, without samebits, by path.

    Args:
        packages: Names of top-level packages.
        read: Returns the code of a package by path; empty if it is not one of the project's.
    """
    found: dict[str, dict[str, bytes]] = {}
    waiting = set(packages)
    while waiting:
        package = waiting.pop()
        found[package] = read(package)
        imported = {name for code in found[package].values() for name in imported_packages(code)}
        waiting |= imported - found.keys() - {"samebits"}
    return {path: code for package in sorted(found) for path, code in sorted(found[package].items())}


def package_code(source: pathlib.Path, package: str) -> dict[str, bytes]:
    """Return the code of a package or module in a folder, by path relative to the folder; empty if it is not there."""
    files = code_files(source / package) if any((source / package).glob("*.py")) else []
    files += [module for module in (source / f"{package}.py",) if module.is_file()]
    return {file.relative_to(source).as_posix(): file.read_bytes() for file in files}


def project_modules(path: pathlib.Path) -> dict[str, bytes]:
    """Return the code of a module, of its package, and of the packages beside it that these import, by path."""
    source = path.parent
    while (source / "__init__.py").exists():
        source = source.parent
    own = path.relative_to(source)
    imported = imported_code({own.parts[0].removesuffix(".py")}, lambda package: package_code(source, package))
    return {own.as_posix(): path.read_bytes()} | imported


def script_files(config: Config, root: pathlib.Path) -> dict[str, bytes]:
    """Return the code of a script and of what it imports from its folder or from src/, by path.

    Raises:
        ConfigError: There is no such file, or it is no notebook.
    """
    path = code_path(config.script)
    own = read_code(path)[0].encode()
    folders = (path.parent, root / "src")

    def read(package: str) -> dict[str, bytes]:
        return next((found for each in folders if (found := package_code(each, package))), {})

    return {path.with_suffix(".py").name: own} | imported_code(imported_packages(own) - {"samebits"}, read)


def installed_packages_digest() -> str:
    """Return the digest of the names and versions of all installed packages."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return json_digest(dict(sorted(found.items())))


def describe_inputs(config: Config, root: pathlib.Path, sources: dict[str, bytes]) -> dict[str, Any]:
    """Return the identity of a run: everything that decides its bits, except the machine."""
    code = {path: bytes_digest(data) for path, data in sources.items()}
    lock = root / "requirements.lock"
    has_no_lock = bool(config.script.path) and not lock.exists()
    return {
        "name": config.name,
        "config": identity(config),
        "code": {"digest": json_digest(code), "files": code},
        "lock": installed_packages_digest() if has_no_lock else bytes_digest(lock.read_bytes()),
    }


def name_inputs(config: Config, root: pathlib.Path) -> str:
    """Return the folder name of a run, which is the start of the digest of its inputs."""
    return json_digest(describe_inputs(config, root, source_files(config, root)))[:DIGITS]


def similar_attempts(config: Config, root: pathlib.Path, but_for: tuple[str, ...]) -> Iterator[pathlib.Path]:
    """Yield the attempts with an equal configuration, apart from the keys that start with one of `but_for`."""

    def kept(tree: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in flatten(tree).items() if not key.startswith(but_for)}

    wanted = kept(identity(config))
    for inputs in sorted((root / config.paths.runs / config.name).glob("*")):
        with contextlib.suppress(RecordError):
            if kept(read_json(inputs / INPUTS)["config"]) == wanted:
                yield from list_attempts(inputs)


def recorded_points(config: Config, root: pathlib.Path) -> list[dict[str, Any]]:
    """Return the seed points of the newest run with this code and configuration, apart from seeds and training.

    Only a run knows which points the weights and layers of a model create. Empty: there is no such run.
    """
    code = describe_inputs(config, root, source_files(config, root))["code"]
    found = [
        attempt / SEEDS
        for attempt in similar_attempts(config, root, ("seed.", "training."))
        if (attempt / SEEDS).exists() and read_json(attempt.parent / INPUTS)["code"] == code
    ]
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    points: list[dict[str, Any]] = read_json(newest)["points"] if newest else []
    return points


def prepare_inputs_folder(config: Config, root: pathlib.Path) -> pathlib.Path:
    """Return the folder for the inputs of a run, and create it if needed.

    Raises:
        FolderError: The runs folder is not writable.
    """
    inputs = describe_inputs(config, root, source_files(config, root))
    folder = root / config.paths.runs / config.name / json_digest(inputs)[:DIGITS]
    make_folder(folder)
    if not (folder / INPUTS).exists():
        if config.script.path:
            copied = {place: path.read_bytes() for place, path in harness_files(root, "*.py", "*.json").items()}
            copied |= script_files(config, root)
        else:
            copied = {str(place): path.read_bytes() for place, path in project_code(root, "*.py", "*.json").items()}
        for place, content in copied.items():
            target = folder / SOURCE / place
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, content)
        write_json(folder / INPUTS, inputs)
    return folder
