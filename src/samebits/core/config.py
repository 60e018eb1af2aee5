"""The typed configuration of a run, its checks, and the part of it that names the run. Pure: no Hydra, no I/O.

`data` and `model` are the arguments of the user's own functions, named by `_target_`; a few keys of `data` belong to
the harness (`HARNESS_DATA_KEYS`). Everything else is a dataclass here, so that an unknown key is refused.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from samebits.core.errors import ConfigError
from samebits.core.seeds import resolve_points
from samebits.core.short_names import LOSSES, OPTIMIZERS

PROMISES = ("portable", "machine", "article", "free")
KERAS_PREFIXES = ("keras.losses.", "keras.optimizers.")
MOST_THREADS = 1024
TRACE_LEVELS = ("epoch", "step", "stage")
HARNESS_DATA_KEYS = {"validation_size": 5000, "folds": 0, "fold": 0, "oversample": False, "bootstrap": False}


@dataclass
class SeedConfig:
    """The root seed, the policy for points that are null, and the tree of points (`samebits.core.seeds`)."""

    root: Any = 56
    policy: str = "derived"
    points: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainingConfig:
    """How the model is trained.

    `steps_per_epoch` cuts an epoch short (None: all rows). `checkpoint_every` and `log_every` count steps and change
    no bits.
    """

    epochs: int = 2
    batch_size: int = 30
    loss: str = "binary_crossentropy"
    optimizer: str = "adam"
    learning_rate: float = 0.001
    steps_per_epoch: int | None = None
    checkpoint_every: int = 500
    log_every: int = 50


@dataclass
class RuntimeConfig:
    """What is pinned, and the promise that follows; see docs/runtime.md. None leaves a setting alone."""

    promise: str = "portable"
    intra_op_threads: int | None = 1
    inter_op_threads: int | None = 4
    op_determinism: bool = True
    instruction_set: str | None = "AVX2"
    arithmetic_rewrites: bool = False


@dataclass
class TrackerConfig:
    """Where runs are shown. Never part of what decides bits."""

    name: str = "comet"
    project: str = "samebits"
    workspace: str | None = None
    mode: str = "auto"
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    finish_timeout_s: float = 30.0


@dataclass
class TraceConfig:
    """How finely the trace records: every epoch always; "step" or "stage" also inside `epoch` (0: in all)."""

    level: str = "epoch"
    epoch: int = 0


@dataclass
class PathsConfig:
    """Folders, relative to the project's root."""

    runs: str = "runs"
    cache: str = ".cache"


@dataclass
class Config:
    """One run's whole configuration, as `conf/` composes it.

    `resume` is "auto" (go on with a run of these inputs that was stopped), "never", or a run's name; changes no bits.
    `confirm` lets one command start more runs than anybody types by accident.
    """

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
    """Return nested data as one level with dotted names."""
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
    """Return the configuration that `to_dict` gave as plain data."""
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
            fix="start the run again with make train",
        ) from error
    return config


def _check_types(part: Any) -> None:
    """Refuse values whose types are not those of the schema, for a configuration that Hydra has not looked at.

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
    """Return a user function's dotted name and its arguments, without the keys of the harness."""
    arguments = {key: value for key, value in tree.items() if key != "_target_" and key not in HARNESS_DATA_KEYS}
    return tree["_target_"], arguments


def _require(name: str, value: object, *, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(
            name,
            expected=expected,
            received=repr(value),
            fix=f"choose such a value, e.g. on the command line as {name}=…",
        )


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _check_data(data: dict[str, Any]) -> None:
    own = HARNESS_DATA_KEYS | {key: data[key] for key in HARNESS_DATA_KEYS if key in data}
    _require(
        "data.validation_size",
        own["validation_size"],
        holds=_is_int(own["validation_size"], 1),
        expected="an integer of at least 1",
    )
    folds, fold = own["folds"], own["fold"]
    _require(
        "data.folds", folds, holds=_is_int(folds, 0) and folds != 1, expected="0 (no folds) or an integer of at least 2"
    )
    if folds and fold is None:
        raise ConfigError(
            "data.fold", expected=f"one fold, 0 to {folds - 1}", received="null, which is every fold",
            fix="make train takes every fold (training=kfold); elsewhere choose one, e.g. data.fold=0",
        )  # fmt: skip
    _require(
        "data.fold",
        fold,
        holds=_is_int(fold, 0) and (fold < folds or fold == folds == 0),
        expected="0 to data.folds - 1",
    )
    for key in ("oversample", "bootstrap"):
        _require(f"data.{key}", own[key], holds=isinstance(own[key], bool), expected="true or false")


def check(config: Config) -> None:
    """Refuse values that are out of range, before anything is written.

    Raises:
        ConfigError: Names the key, what it may be and what it is.
        SeedError: A seed is out of range.
    """
    training, runtime, tracker = config.training, config.runtime, config.tracker
    _require(
        "name",
        config.name,
        holds=config.name.replace("_", "").replace("-", "").isalnum(),
        expected="letters, digits, - and _",
    )
    _require("resume", config.resume, holds=bool(config.resume), expected="auto, never or a run's name")
    for key in ("epochs", "batch_size", "checkpoint_every", "log_every"):
        _require(
            f"training.{key}",
            getattr(training, key),
            holds=getattr(training, key) >= 1,
            expected="an integer of at least 1",
        )
    _require(
        "training.steps_per_epoch",
        training.steps_per_epoch,
        holds=training.steps_per_epoch is None or training.steps_per_epoch >= 1,
        expected="an integer of at least 1, or null for all rows",
    )
    _require(
        "trace.level", config.trace.level, holds=config.trace.level in TRACE_LEVELS, expected=" or ".join(TRACE_LEVELS)
    )
    _require("trace.epoch", config.trace.epoch, holds=config.trace.epoch >= 0, expected="an epoch from 1, or 0 for all")
    _require(
        "training.learning_rate",
        training.learning_rate,
        holds=0 < training.learning_rate < float("inf"),
        expected="a number above 0",
    )
    for key, names in (("loss", LOSSES), ("optimizer", OPTIMIZERS)):
        name = getattr(training, key)
        _require(
            f"training.{key}",
            name,
            holds=name in names or "." in name.strip("."),
            expected=", ".join(names) + " or package.module.name",
        )
    _require("runtime.promise", runtime.promise, holds=runtime.promise in PROMISES, expected=" or ".join(PROMISES))
    for key in ("intra_op_threads", "inter_op_threads"):
        threads = getattr(runtime, key)
        _require(
            f"runtime.{key}",
            threads,
            holds=threads is None or 1 <= threads <= MOST_THREADS,
            expected=f"1 to {MOST_THREADS}, or null",
        )
    _require(
        "runtime.instruction_set",
        runtime.instruction_set,
        holds=runtime.instruction_set in ("AVX2", None),
        expected="AVX2 or null",
    )
    if runtime.promise in ("portable", "machine"):
        pinned = runtime.op_determinism and runtime.intra_op_threads is not None
        _require(
            "runtime",
            dataclasses.asdict(runtime),
            holds=pinned,
            expected=f"fixed threads and op_determinism under {runtime.promise}",
        )
    if runtime.promise == "portable":
        exact = runtime.instruction_set == "AVX2" and not runtime.arithmetic_rewrites and runtime.intra_op_threads == 1
        _require(
            "runtime",
            dataclasses.asdict(runtime),
            holds=exact,
            expected="instruction_set=AVX2, intra_op_threads=1 and arithmetic_rewrites=false under portable",
        )
    _require("tracker.name", tracker.name, holds=tracker.name in ("comet", "none"), expected="comet or none")
    _require(
        "tracker.mode",
        tracker.mode,
        holds=tracker.mode in ("auto", "online", "offline"),
        expected="auto, online or offline",
    )
    _require(
        "tracker.finish_timeout_s",
        tracker.finish_timeout_s,
        holds=0 <= tracker.finish_timeout_s < float("inf"),
        expected="a number of seconds, 0 or more",
    )
    for part in ("data", "model"):
        tree = getattr(config, part)
        _require(
            f"{part}._target_",
            tree.get("_target_"),
            holds=isinstance(tree.get("_target_"), str) and "." in tree["_target_"],
            expected="package.module.function",
        )
        for key, value in flatten(tree, part).items():
            is_finite = not isinstance(value, float) or math.isfinite(value)
            _require(key, value, holds=is_finite, expected="a finite number")
    _check_data(config.data)
    resolve_points(config.seed.root, config.seed.policy, config.seed.points)
