"""Composes `conf/` into a typed Config, and turns Hydra's errors into messages that say what to type instead.

Only this module and `samebits.job` use Hydra.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from samebits.core.config import Config, ScriptConfig
from samebits.core.errors import ConfigError, report_errors
from samebits.core.project import HARNESS_CONF
from samebits.runs.effects import is_below

# Lines of Hydra's and OmegaConf's messages that do not help a user of this project.
NOISE = re.compile(
    r"See https|full_key:|object_type=|reference_type=|Config search path|provider=|To append to your config"
)
MODEL_POINTS = "seed.points.model."
HELP_LISTS_THEM = "samebits train --help lists them"
# What can be set of `training` when a script's `fit` decides the rest.
SET_FOR_SCRIPTS = tuple(
    f"training.{name}"
    for name in ("monitor", "monitor_mode", "checkpoint_every", "log_every", "allow_python_operations")
)
LEXER = "LexerNoViableAltException: "  # Hydra prints the override after it, with a caret on the next line


def to_config(composed: DictConfig) -> Config:
    """Return Hydra's composed configuration as a typed Config, with interpolations resolved.

    Raises:
        ConfigError: A value has the wrong type, or a key is missing.
    """
    refuse_unknown_keys(OmegaConf.to_container(composed), Config, "")
    try:
        config: Any = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise config_error(error) from error
    if not isinstance(config, Config):
        raise ConfigError(
            "conf/config.yaml",
            expected="schema as the first entry of its defaults",
            received=type(config).__name__,
            fix="list schema first",
        )
    return config


def refuse_unknown_keys(tree: Any, schema: Any, prefix: str) -> None:
    """Refuse keys that the typed schema does not have. Hydra alone would let `+key=value` add them.

    Raises:
        ConfigError: A key is unknown; the error names it.
    """
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key, value in tree.items():
        if key not in fields:
            raise ConfigError(
                f"{prefix}{key}",
                expected="one of " + ", ".join(f"{prefix}{name}" for name in fields),
                received="an unknown key",
                fix="fix the typo, or remove the key",
            )
        part: Any = fields[key].default_factory
        if dataclasses.is_dataclass(part):
            refuse_unknown_keys(value, part, f"{prefix}{key}.")


def shell_word(text: str) -> str:
    """Return text quoted as one word for a shell, as readable as possible."""
    if "'" not in text:
        return f"'{text}'"
    if "!" in text:  # an interactive bash expands it from its history, even between double quotes
        return shlex.quote(text)
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'


def make_word(text: str) -> str:
    """Return the OVERRIDES=… argument that passes text through make. Two shells and make read it."""
    return "OVERRIDES=" + shell_word(shell_word(text).replace("$", "$$"))


def parse_override(word: str) -> Override | None:
    """Return an override as Hydra parses it. None: it cannot be parsed, or has no key."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    return override if override.key_or_group else None


def quote_value(word: str) -> str | None:
    """Return the override with its value in quotes, so that Hydra reads it as text. None: no quotes work."""
    key, _, value = word.partition("=")
    for quote in ("'", '"'):
        quoted = f"{key}={quote}{value}{quote}"
        override = None if quote in value else parse_override(quoted)
        if override is not None and not override.is_sweep_override() and override.value() == value:
            return quoted
    return None


def unread_position(word: str, message: str) -> int | None:
    """Return the index of the first character that Hydra could not read. None: a part is missing."""
    first, _, below = message.partition("\n")  # not splitlines: the override may have other line ends in it
    place = below.partition("\n")[0].find("^") - len(LEXER)
    if first.startswith(LEXER) and 0 <= place < len(word):
        return place
    ends = [end for end in range(len(word)) if parse_override(word[:end]) is not None]
    return max(ends, default=None)


def override_error(word: str, message: str = "") -> ConfigError:
    """Return the error for an override that cannot be parsed or has several values, with what to type instead.

    Args:
        word: The override as the user typed it.
        message: Hydra's message. Empty: Hydra can parse it, but it has no key or several values.
    """
    quoted = quote_value(word) if "=" in word else None
    as_text = f"{shell_word(quoted)}, or with make {make_word(quoted)}" if quoted else ""
    if not message and parse_override(word) is not None:
        key, _, value = word.partition("=")
        a_list = "" if "(" in value else f"to pass a list, type {shell_word(f'{key}=[{value}]')}; "
        return ConfigError(
            f"override {word!r}",
            expected="one value",
            received="several values: a comma, or a sweep such as range(1,3)",
            fix=f"for one run per value, type samebits train --multirun {shell_word(word)}; "
            f"{a_list}to pass text, type {as_text}",
        )
    place = unread_position(word, message) if message else None
    received = "no =" if "=" not in word else "no key before the =" if word.startswith("=") else "something else"
    if place is not None:
        received = f"{word[place]!r} as character {place + 1}"
    advice = (
        f"to pass text, type {as_text}; a list has both brackets: key=[a,b]" if as_text else "e.g. training.epochs=3"
    )
    return ConfigError(
        f"override {word!r}", expected="key=value, with quotes around special characters", received=received, fix=advice
    )


def config_error(error: Exception, overrides: Sequence[str] = ()) -> ConfigError:
    """Return an error of Hydra or OmegaConf as a ConfigError.

    Args:
        error: The original error.
        overrides: The overrides of the command, to find the one that caused it.
    """
    if isinstance(error, OverrideParseException):
        for word in overrides:
            if parse_override(word) is None:
                return override_error(word, str(error))
    for word in overrides if "--multirun" in str(error) else []:
        override = parse_override(word)
        if override is not None and override.is_sweep_override():
            return override_error(word)
    texts = [str(each) for each in (error, error.__cause__) if each is not None]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    useful = [line.rstrip(".") for line in lines if not NOISE.match(line)]
    received = "; ".join(useful).replace(":; ", ": ") or type(error).__name__
    unplaced = re.search(r"In '(experiment/\w+)'.*Key 'experiment' not in", received)
    return ConfigError(
        key or "configuration",
        expected="the keys, groups and types in conf/",
        received=received,
        fix=f"start conf/{unplaced[1]}.yaml with the line # @package _global_" if unplaced else HELP_LISTS_THEM,
    )


def refuse_missing_keys(overrides: Sequence[str]) -> None:
    """Refuse `=value`, which Hydra would read as a group without a name.

    Raises:
        ConfigError: An override has no key.
    """
    for word in overrides:
        if word.startswith("="):
            raise override_error(word)


def allow_model_points(words: Sequence[str]) -> list[str]:
    """Return overrides that may set a seed point below model/ that no file in conf/ lists: Hydra's ++ adds keys.

    A point that nothing uses is an error later, when the model is known.
    """
    return [f"++{word}" if word.startswith(MODEL_POINTS) and parse_override(word) else word for word in words]


def compose_tree(conf: pathlib.Path, overrides: list[str], file: str = "config", **options: bool) -> DictConfig:
    """Return a file of a folder, such as conf/config.yaml, composed with some overrides."""
    ConfigStore.instance().store(name="schema", node=Config)
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        composed: DictConfig = hydra.compose(file, allow_model_points(overrides), **options)
    return composed


def compose(root: pathlib.Path, overrides: list[str]) -> Config:
    """Return the configuration with some overrides, without a command line.

    Raises:
        ConfigError: An override is unknown or of the wrong type.
    """
    return compose_file(root / "conf", overrides, "config")


def compose_file(conf: pathlib.Path, overrides: list[str], file: str) -> Config:
    """Return the configuration in a file of a folder, with some overrides; see `compose`."""
    refuse_missing_keys(overrides)
    try:
        return to_config(compose_tree(conf, overrides, file))
    except (HydraException, OmegaConfBaseException) as error:
        raise config_error(error, overrides) from error


def compose_script(overrides: list[str], path: pathlib.Path, arguments: Sequence[str]) -> Config:
    """Return the configuration of a script with some overrides. The current folder is its working directory.

    Raises:
        ConfigError: An override is unknown, of the wrong type, or sets what the script decides.
    """
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if is_below(key, ("data", "model", "training", "script", "experiment")) and key not in SET_FOR_SCRIPTS:
            raise ConfigError(
                key, expected=f"a setting that a script does not decide: seed, runtime, {', '.join(SET_FOR_SCRIPTS)}",
                received=word, fix="change the script, or pass its own arguments after --",
            )  # fmt: skip
    config = compose_file(HARNESS_CONF, overrides, "script")
    if config.name == Config.name:
        config.name = re.sub("[^A-Za-z0-9_-]", "_", path.stem)
    config.script = ScriptConfig(str(path.resolve()), list(arguments), str(pathlib.Path.cwd()))
    return config


def list_options(root: pathlib.Path) -> dict[str, set[str]]:
    """Return the options of each group, from conf/ and from the harness."""
    options: dict[str, set[str]] = {}
    for conf in (root / "conf", HARNESS_CONF):
        for path in conf.glob("*/*.yaml"):
            options.setdefault(path.parent.name, set()).add(path.stem)
    return options


def show_help(root: pathlib.Path, overrides: list[str]) -> int:
    """Print the help of conf/config.yaml (groups, examples, configuration with some overrides) and return 0.

    Hydra 1.3's own help takes seconds, because it composes the configuration once for each of its 40 groups.
    """
    composed = compose_tree(root / "conf", overrides, return_hydra_config=True)
    text = composed.hydra.help
    print(f"{text.header}\n\nChoose with group=option:")
    for group, options in sorted(list_options(root).items()):
        print(f"{group}: {', '.join(sorted(options))}")
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    print(f"\nSet any value with key=value:\n\n{OmegaConf.to_yaml(own)}\n{text.footer}")
    return 0


class CombinationError(Exception):
    """One combination of `--multirun` failed and printed its error; the argument is its exit code."""


def main(root: pathlib.Path, words: Sequence[str], task: Callable[[Config, pathlib.Path], int]) -> int:
    """Compose a configuration from a command line, run the task with it, and return the exit code.

    With `--multirun` the task runs once per combination, and the exit code is the highest of all.

    Args:
        root: The project's folder.
        words: Overrides, and Hydra's options such as --cfg job.
        task: Gets the typed configuration and the root; returns an exit code.

    Raises:
        ConfigError: The configuration cannot be composed.
    """
    overrides = [word for word in words if not word.startswith("-")]
    refuse_missing_keys(overrides)
    codes: list[int] = []  # of the combinations that ran in this process
    ConfigStore.instance().store(name="schema", node=Config)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    sys.argv[1:] = allow_model_points(words)  # Hydra reads its arguments there

    def job(composed: DictConfig) -> None:
        code = report_errors(lambda: task(to_config(composed), root))
        codes.append(code)
        if code and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise CombinationError(code)  # launchers raise it again below, also from other processes, when all ended

    try:
        if {"--help", "-h"} & set(words):
            return show_help(root, overrides)
        hydra.main(version_base="1.3", config_path=str(root / "conf"), config_name="config")(job)()
    except CombinationError as error:
        codes.append(error.args[0])
    except (HydraException, OmegaConfBaseException) as error:
        raise config_error(error, overrides) from error
    return max(codes, default=0)
