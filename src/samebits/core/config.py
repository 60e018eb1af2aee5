"""The typed configuration of a run. Pure: no Hydra, no I/O. `samebits.core.config_rules` checks its values.

`data` and `model` hold the arguments of the user's own functions, which `_target_` names. A few keys of `data` belong
to the harness (`HARNESS_DATA_KEYS`). Everything else is a dataclass, so an unknown key raises an error.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from samebits.core.errors import ConfigError

PROMISES = ("portable", "machine", "article", "free")
LIBRARY_PREFIXES = ("keras.", "samebits.portable.")  # classes and functions that `training` may name without own code
NAMING_KEYS = ("loss", "optimizer", "metrics", "callbacks")  # of `training`
TRACE_LEVELS = ("epoch", "step", "stage")
WORKERS = ("workers", "worker_timeout_s")  # of `training`: change no bits, and are those of all stages
HARNESS_DATA_KEYS = {"validation_size": 5000, "folds": 0, "fold": 0, "oversample": False, "bootstrap": False}


@dataclass
class SeedConfig:
    """The root seed, the policy for points that are null, and all seed points (`samebits.core.seeds`)."""

    root: Any = 56
    policy: str = "derived"
    points: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainingConfig:
    """How the model is trained.

    `loss`, `optimizer`, `learning_rate` and `metrics` compile a model that the model function has not compiled. Each is
    a name, or a mapping with `class` and arguments. Summaries rank by `monitor`; `monitor_mode` ("min" or "max") says
    which values are better if the metric's name does not. `keep_best` ends the training with the weights of the best
    epoch by `monitor`. A stage in `stages` has a name, other values of these settings, and possibly `data` and `model`.
    `init_from` is a run whose weights the model starts with. `steps_per_epoch` limits the steps of an epoch (None: all
    samples). `shards` is the number of parts of a batch. `workers`, the number of processes that compute them, changes
    no bits; they wait up to `worker_timeout_s` for each other. `checkpoint_every` and `log_every` count steps and
    do not change bits.
    """

    epochs: int = 2
    batch_size: int = 30
    loss: Any = None
    optimizer: Any = None
    learning_rate: float | None = None
    metrics: Any = None
    monitor: str = "val_loss"
    monitor_mode: str | None = None
    keep_best: bool = False
    class_weight: Any = None
    shuffle: bool = True
    callbacks: list[Any] = field(default_factory=list)
    validation_batch_size: int | None = None
    steps_per_epoch: int | None = None
    shards: int = 1
    workers: int = 1
    worker_timeout_s: float = 300.0
    allow_python_operations: bool = False
    stages: list[Any] = field(default_factory=list)
    init_from: str | None = None
    checkpoint_every: int = 500
    log_every: int = 50


@dataclass
class RuntimeConfig:
    """The fixed settings and the promise they allow; see docs/runtime.md. None leaves a setting unchanged."""

    promise: str = "portable"
    intra_op_threads: int | None = 1
    inter_op_threads: int | None = 64
    op_determinism: bool = True
    instruction_set: str | None = "AVX2"
    arithmetic_rewrites: bool = False


@dataclass
class TrackerConfig:
    """Where runs are logged. Never changes bits."""

    name: str = "comet"
    project: str = "samebits"
    workspace: str | None = None
    mode: str = "auto"
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    finish_timeout_s: float = 30.0


@dataclass
class TraceConfig:
    """The detail of the trace: each epoch; with "step" or "stage" also each step of the epoch `epoch` (0: of all)."""

    level: str = "epoch"
    epoch: int = 0


@dataclass
class PathsConfig:
    """Folders, relative to the project root."""

    runs: str = "runs"
    cache: str = ".cache"


@dataclass
class ScriptConfig:
    """The script of a run of `samebits run`, which then has no data and model functions. `path` is empty for others.

    `folder` is its working directory. `code` is the folder with a copy of its code, if not the original is to run.
    """

    path: str = ""
    arguments: list[str] = field(default_factory=list)
    folder: str = ""
    code: str = ""


@dataclass
class Config:
    """The whole configuration of one run, composed from `conf/`, or of a script.

    `package` is the user's own package below src/. Files in conf/ refer to its functions as ${package}.module.function.
    `resume` is "auto" (resume a stopped run with the same inputs), "never", or the name of a run; it changes no bits.
    `confirm` allows a command to start hundreds of runs.
    """

    package: str = ""
    name: str = "run"
    resume: str = "auto"
    confirm: bool = False
    seed: SeedConfig = field(default_factory=SeedConfig)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    script: ScriptConfig = field(default_factory=ScriptConfig)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested data as one flat mapping with dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as plain data."""
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any]) -> Config:
    """Return the configuration from the plain data of `to_dict`.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type.
    """
    parts: dict[str, Any] = {
        "seed": SeedConfig,
        "training": TrainingConfig,
        "runtime": RuntimeConfig,
        "tracker": TrackerConfig,
        "trace": TraceConfig,
        "paths": PathsConfig,
        "script": ScriptConfig,
    }
    try:
        config = Config(**{key: parts[key](**value) if key in parts else value for key, value in tree.items()})
        _check_types(config)
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            "config.yaml of a run",
            expected="the keys that this version of samebits writes",
            received=str(error),
            fix="start a new run with samebits train",
        ) from error
    return config


def _check_types(part: Any) -> None:
    """Check the types of a configuration that did not come from Hydra.

    Raises:
        TypeError: Names the field.
    """
    hints = typing.get_type_hints(type(part))
    for each in dataclasses.fields(part):
        value, hint = getattr(part, each.name), hints[each.name]
        if dataclasses.is_dataclass(value):
            _check_types(value)
        elif hint is not Any:
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kinds = tuple(typing.get_origin(option) or option for option in options)
            kinds += (int,) if float in kinds else ()
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{each.name} is {value!r}")


def fewest_and_most_parts(config: Config) -> tuple[int, int]:
    """Return the smallest and the largest `training.shards` of all stages."""
    own = config.training.shards
    shards = [own, *(stage.get("shards", own) for stage in config.training.stages if isinstance(stage, dict))]
    return min(shards), max(shards)


def runtime_of(config: Config) -> RuntimeConfig:
    """Return the settings of the training process: without rewrites of arithmetic if batches are split.

    TensorFlow rewrites the graph of a step otherwise if other processes compute some of its parts.
    """
    if fewest_and_most_parts(config)[1] == 1 or config.runtime.promise != "machine":
        return config.runtime
    return dataclasses.replace(config.runtime, arithmetic_rewrites=False)


def split_target(tree: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the dotted name and the arguments of a user's function, without the keys of the harness."""
    arguments = {key: value for key, value in tree.items() if key != "_target_" and key not in HARNESS_DATA_KEYS}
    return tree["_target_"], arguments


def named_code(config: Config) -> dict[str, str]:
    """Return the dotted names of own functions and classes in the configuration and its stages, by key."""
    sections = {"": {"data": config.data, "model": config.model}, "training.": vars(config.training)}
    sections |= {f"training.stages[{number}].": stage for number, stage in enumerate(config.training.stages)}
    named: dict[str, str] = {}
    for place, section in sections.items():
        for key in ("data", "model"):
            if "_target_" in section.get(key, {}):
                named[f"{place}{key}._target_"] = section[key]["_target_"]
        for key in NAMING_KEYS:
            names = _names(section.get(key), f"{place}{key}")
            named |= {at: name for at, name in names if "." in name and not name.startswith(LIBRARY_PREFIXES)}
    return named


def _names(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, name) of every class or function below a key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _names(part, f"{key}[{number}]")
    elif isinstance(value, dict):
        for name, part in value.items():
            if name == "class" or isinstance(part, dict | list) or "class" not in value:
                yield from _names(part, f"{key}.{name}")
