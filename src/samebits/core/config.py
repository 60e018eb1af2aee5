"""The typed configuration of a run. Pure: no Hydra, no I/O. `samebits.core.config_rules` checks its values.

`data` and `model` hold the arguments of the user's own functions, which `_target_` names. A few keys of `data` belong
to the harness (`HARNESS_DATA_KEYS`). Everything else is a dataclass, so an unknown key raises an error.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from samebits.core.errors import ConfigError

PROMISES = ("portable", "machine", "article", "free")
KERAS_PREFIXES = ("keras.losses.", "keras.optimizers.")
TRACE_LEVELS = ("epoch", "step", "stage")
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

    `steps_per_epoch` limits the steps of an epoch (None: all samples). `checkpoint_every` and `log_every` count steps
    and do not change bits. Summaries rank by `monitor`; `monitor_mode` ("min" or "max") says which values are better if
    the metric's name does not.
    """

    epochs: int = 2
    batch_size: int = 30
    loss: str = "binary_crossentropy"
    optimizer: str = "adam"
    learning_rate: float = 0.001
    monitor: str = "val_loss"
    monitor_mode: str | None = None
    steps_per_epoch: int | None = None
    checkpoint_every: int = 500
    log_every: int = 50


@dataclass
class RuntimeConfig:
    """The fixed settings and the promise they allow; see docs/runtime.md. None leaves a setting unchanged."""

    promise: str = "portable"
    intra_op_threads: int | None = 1
    inter_op_threads: int | None = 4
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
class Config:
    """The whole configuration of one run, composed from `conf/`.

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


def split_target(tree: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the dotted name and the arguments of a user's function, without the keys of the harness."""
    arguments = {key: value for key, value in tree.items() if key != "_target_" and key not in HARNESS_DATA_KEYS}
    return tree["_target_"], arguments
