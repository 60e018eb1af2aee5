"""The one module that knows Hydra: composes `conf/` into a typed Config, and turns errors into one line and a code."""

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from samebits.core.config import Config
from samebits.core.errors import ConfigError, SamebitsError
from samebits.studies.execute import CLUSTER, LAUNCHERS, LauncherOptions, await_others, cancel_jobs

SEEDS_HELP = "1..20, 1,5,9 or 1..3,7"
HARNESS_CONF = pathlib.Path(__file__).resolve().parent / "core" / "conf"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)


def to_config(composed: DictConfig) -> Config:
    """Return the typed configuration of what Hydra composed; interpolations are resolved.

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
            expected="schema first in its defaults",
            received=type(config).__name__,
            fix="list schema",
        )
    return config


def refuse_unknown_keys(tree: Any, schema: Any, prefix: str) -> None:
    """Refuse keys that the typed schema does not have: Hydra itself lets `+key=value` add them.

    Raises:
        ConfigError: Names the key.
    """
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key, value in tree.items():
        if key not in fields:
            raise ConfigError(
                f"{prefix}{key}",
                expected="one of " + ", ".join(f"{prefix}{name}" for name in fields),
                received="an unknown key",
                fix="mend its name, or leave it out",
            )
        part: Any = fields[key].default_factory
        if dataclasses.is_dataclass(part):
            refuse_unknown_keys(value, part, f"{prefix}{key}.")


def config_error(error: Exception) -> ConfigError:
    """Return Hydra's or OmegaConf's error as one of ours: the first line says what came."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause).splitlines():
        reason += "; " + str(cause).splitlines()[0]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    return ConfigError(
        key or "configuration",
        expected="keys, groups and types of conf/",
        received=reason,
        fix="see python scripts/train.py --help for what there is",
    )


def check_python() -> None:
    """Refuse a Python for which nothing was measured.

    Raises:
        ConfigError: It is older than 3.11 or newer than 3.13.
    """
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        raise ConfigError(
            "Python",
            expected="3.11 to 3.13",
            received=".".join(map(str, sys.version_info[:3])),
            fix="make train PYTHON=/path/to/python3.12",
        )


def report_errors(action: Callable[[], int]) -> int:
    """Run an action and return its exit code; an error of this project is printed as a message, not a traceback."""
    try:
        check_python()
        return action()
    except SamebitsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except (HydraException, OmegaConfBaseException) as error:
        print(f"ConfigError: {config_error(error)}", file=sys.stderr)
        return ConfigError.exit_code
    except KeyboardInterrupt:
        return 130


def script(action: Callable[[], int]) -> int:
    """Run the action of a script that has no options of its own to explain: `--help` prints what the script says first.

    Returns:
        The exit code.
    """
    if sys.argv[1:2] in (["--help"], ["-h"]):
        print(sys.modules["__main__"].__doc__)
        return 0
    return report_errors(action)


def compose_tree(root: pathlib.Path, overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    """Return what Hydra composes of conf/config.yaml and some overrides, on request with Hydra's own settings."""
    ConfigStore.instance().store(name="schema", node=Config)
    with hydra.initialize_config_dir(str(root / "conf"), version_base="1.3"):
        composed: DictConfig = hydra.compose("config", overrides, return_hydra_config=with_hydra)
    return composed


def compose(root: pathlib.Path, overrides: list[str]) -> Config:
    """Return the configuration of some overrides, without a command line.

    Raises:
        ConfigError: An override is unknown or of the wrong type.
    """
    try:
        return to_config(compose_tree(root, overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise config_error(error) from error


def list_options(root: pathlib.Path) -> dict[str, set[str]]:
    """Return the options of each group: the project's, in conf/, and the harness's."""
    options: dict[str, set[str]] = {}
    for conf in (root / "conf", HARNESS_CONF):
        for path in conf.glob("*/*.yaml"):
            options.setdefault(path.parent.name, set()).add(path.stem)
    return options


def show_help(root: pathlib.Path, overrides: list[str]) -> int:
    """Print the help of conf/config.yaml: groups, examples, and the configuration with some overrides; returns 0.

    Hydra's own way to it takes seconds: it composes the configuration anew for each of its own 40 groups (1.3).
    """
    composed = compose_tree(root, overrides, with_hydra=True)
    text = composed.hydra.help
    print(f"{text.header}\n\nChoose with group=option:")
    for group, options in sorted(list_options(root).items()):
        print(f"{group}: {', '.join(sorted(options))}")
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    print(f"\nSet any value with key=value:\n\n{OmegaConf.to_yaml(own)}\n{text.footer}")
    return 0


class CombinationError(Exception):
    """One combination of `--multirun` failed, and said why; carries its exit code."""


def main(root: pathlib.Path, task: Callable[[Config, pathlib.Path], int]) -> int:
    """Compose the command line's configuration, run the task with it, and return the exit code.

    With `--multirun` the task runs once for each combination; the code is that of one that failed, if any did.

    Args:
        root: The project's folder.
        task: Gets the typed configuration and the root; returns an exit code.
    """
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        return report_errors(lambda: show_help(root, [word for word in words if not word.startswith("-")]))
    codes: list[int] = []  # of the combinations that ran in this process
    ConfigStore.instance().store(name="schema", node=Config)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, instead of printing and exiting with 1

    def job(composed: DictConfig) -> None:
        code = report_errors(lambda: task(to_config(composed), root))
        codes.append(code)
        if code and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise CombinationError(code)  # a launcher brings it here once all have ended, from other processes too

    def run() -> int:
        try:
            hydra.main(version_base="1.3", config_path=str(root / "conf"), config_name="config")(job)()
        except CombinationError as error:
            codes.append(error.args[0])
        return max(codes, default=0)

    return report_errors(run)


def study_arguments(
    description: str | None, **options: tuple[str, str]
) -> tuple[argparse.Namespace, LauncherOptions, list[str]]:
    """Return the command line of a study: its options, how it is started, and the overrides of its runs.

    Args:
        description: What --help says first.
        options: Name -> (value where none is given, help).
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for option, (default, text) in options.items():
        parser.add_argument(f"--{option}", default=default, help=text)
    parser.add_argument("--launcher", default="", help=", ".join(LAUNCHERS))
    parser.add_argument("--jobs", default="", help="runs at once; without it: one a core")
    parser.add_argument("overrides", nargs="*", help="as of scripts/train.py, and hydra.launcher.…=")
    given = parser.parse_intermixed_args()
    own = [word for word in given.overrides if not word.startswith("hydra.")]
    settings = tuple(word for word in given.overrides if word not in own)
    return given, LauncherOptions(given.launcher, given.jobs, settings), own


def multirun(root: pathlib.Path, task: Callable[[pathlib.Path, int, pathlib.Path], int]) -> None:
    """Run the jobs of a study, which `conf/study.yaml` describes, by the launcher that the command line names.

    Ends with the process that started it: that one holds the other end of the standard input. A job that is lost
    stops no other; jobs on a cluster are cancelled when this process is asked to stop.

    Args:
        root: The project's folder.
        task: Gets the study's folder, a job's number and the root. Other processes import it by its name.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    study = next(pathlib.Path(word[8:-1]) for word in sys.argv if word.startswith("folder='"))

    def end_with_the_parent() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock, held at the exit, ends Python with an error
            pass
        os.killpg(0, signal.SIGTERM)

    def job(composed: DictConfig) -> int:
        return task(pathlib.Path(composed.folder), int(composed.job), root)

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        cancel_jobs(study)
        sys.exit(128 + number)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    if CLUSTER in sys.argv:
        signal.signal(signal.SIGTERM, stop)
    try:
        hydra.main(version_base="1.3", config_path=str(root / "conf"), config_name="study")(job)()
    except RuntimeError as error:
        traceback.print_exc()
        # submitit's, or one of its kinds; Hydra waits for no other job then.
        if "UncompletedJobError" not in [kind.__name__ for kind in type(error).__mro__]:
            sys.exit(1)
        await_others(study)
