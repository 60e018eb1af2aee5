"""The identity of a run: everything that decides its bits, apart from the machine; and the folder that it names."""

import ast
import pathlib
from typing import Any

from samebits.core.config import KERAS_PREFIXES, Config, split_target, to_dict
from samebits.core.digest import bytes_digest, json_digest
from samebits.core.errors import ConfigError
from samebits.core.files import make_folder, write_bytes, write_json
from samebits.runs.effects import COMMAND_KEYS, RECORD_KEYS
from samebits.runs.folder import INPUTS, SOURCE

# The modules of the harness that can change a training's bits, by path below it; a folder means all of it.
ARITHMETIC_MODULES = (
    "core/digest", "core/seeds", "core/short_names", "portable/initializers", "portable/layers", "portable/losses",
    "portable/lstm", "portable/ops", "portable/optimizers", "runs/predictions", "runtime/pins", "train/checkpoints",
    "train/data", "train/forest", "train/loop", "train/network", "train/steps", "train/worker",
)  # fmt: skip
DIGITS = 16  # of the inputs digest, in a folder's name


def identity(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides bits; two runs with the same one are attempts of one run."""
    return _without(to_dict(config), (*COMMAND_KEYS, *RECORD_KEYS))


def _without(tree: dict[str, Any], keys: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """Return nested data without some dotted keys."""
    return {
        key: _without(value, keys, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if f"{prefix}{key}" not in keys
    }


def code_files(source: pathlib.Path, *patterns: str) -> list[pathlib.Path]:
    """Return the files below src/, Python's without patterns, sorted; hidden ones are an editor's."""
    found = (path for pattern in patterns or ("*.py",) for path in source.rglob(pattern))
    return sorted(
        path
        for path in found
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def decides_bits(path: pathlib.PurePath) -> bool:
    """Return whether a module, given below src/, can change a training's bits."""
    return path.parts[0] != "samebits" or path.relative_to("samebits").with_suffix("").as_posix() in ARITHMETIC_MODULES


def imported_packages(code: bytes) -> set[str]:
    """Return the top-level names that a module's import statements name; none of one that Python cannot read."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def source_files(config: Config, root: pathlib.Path) -> dict[str, bytes]:
    """Return the code that decides a training's bits, by path below src/.

    The harness's modules that can, the packages that the configuration names, and what these import from src/.

    Raises:
        ConfigError: A function is not in a package below src/: other code is not run.
    """
    source = root / "src"
    files: dict[str, dict[str, bytes]] = {}  # package -> path -> code
    for path in code_files(source):
        place = path.relative_to(source)
        if decides_bits(place):
            files.setdefault(place.parts[0].removesuffix(".py"), {})[place.as_posix()] = path.read_bytes()
    waiting: set[str] = set()
    targets = {
        f"{key}._target_": split_target(tree)[0] for key, tree in (("data", config.data), ("model", config.model))
    }
    pieces = {f"training.{key}": getattr(config.training, key) for key in ("loss", "optimizer")}
    targets |= {key: name for key, name in pieces.items() if "." in name and not name.startswith(KERAS_PREFIXES)}
    for key, target in targets.items():
        package = target.partition(".")[0]
        if package not in files or package == "samebits":
            raise ConfigError(
                key,
                expected="a function in a package of your own below src/",
                received=target,
                fix="put the package into src/ and name it as conf/data/ and conf/model/ name theirs",
            )
        waiting.add(package)
    found = {"samebits"}
    while waiting:
        package = waiting.pop()
        found.add(package)
        imported = {name for code in files[package].values() for name in imported_packages(code)}
        waiting |= (imported & files.keys()) - found
    return {path: code for package in sorted(found) for path, code in sorted(files[package].items())}


def describe_inputs(config: Config, root: pathlib.Path, sources: dict[str, bytes]) -> dict[str, Any]:
    """Return the identity of a run: everything that decides its bits, apart from the machine."""
    code = {path: bytes_digest(data) for path, data in sources.items()}
    return {
        "name": config.name,
        "config": identity(config),
        "code": {"digest": json_digest(code), "files": code},
        "lock": bytes_digest((root / "requirements.lock").read_bytes()),
    }


def name_inputs(config: Config, root: pathlib.Path) -> str:
    """Return the name that a run's inputs give its folder."""
    return json_digest(describe_inputs(config, root, source_files(config, root)))[:DIGITS]


def prepare_inputs_folder(config: Config, root: pathlib.Path) -> pathlib.Path:
    """Make, or find, the folder of these inputs.

    Raises:
        FolderError: The runs folder cannot be written.
    """
    inputs = describe_inputs(config, root, source_files(config, root))
    folder = root / config.paths.runs / config.name / json_digest(inputs)[:DIGITS]
    make_folder(folder)
    if not (folder / INPUTS).exists():
        for path in code_files(root / "src", "*.py", "*.json"):
            target = folder / SOURCE / path.relative_to(root / "src")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, path.read_bytes())
        write_json(folder / INPUTS, inputs)
    return folder
