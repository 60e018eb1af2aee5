"""Checks the values of a configuration: a table with one rule per key, and a few rules that combine keys.

Pure: reads nothing, changes nothing. `samebits.core.config` has the types.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from samebits.core.config import (
    HARNESS_DATA_KEYS,
    PROMISES,
    TRACE_LEVELS,
    WORKERS,
    Config,
    RuntimeConfig,
    TrainingConfig,
    fewest_and_most_parts,
    flatten,
)
from samebits.core.errors import ConfigError
from samebits.core.metrics import MODES, Monitor
from samebits.core.seeds import resolve_points

MAX_THREADS = 1024
AT_LEAST_1 = "an integer of at least 1"
NAMED = "a short name, package.module.name, {class: package.module.name, argument: value} or null"


@dataclass(frozen=True)
class Rule:
    """One rule of one key.

    Attributes:
        key: Dotted name.
        holds: Returns whether a value is allowed.
        expected: The allowed values, in words.
    """

    key: str
    holds: Callable[[Any], bool]
    expected: str


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_count(value: object) -> bool:
    return _is_int(value, 1)


def _is_count_or_null(value: object) -> bool:
    return value is None or _is_count(value)


def _is_thread_count_or_null(value: Any) -> bool:
    return value is None or (_is_int(value, 1) and value <= MAX_THREADS)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_target(value: object) -> bool:
    return isinstance(value, str) and "." in value


def _one_of(*options: object) -> Callable[[object], bool]:
    return lambda value: value in options


def _is_named_or_null(value: object) -> bool:
    if isinstance(value, dict):
        return (
            all(_is_named_or_null(part) for part in value.values())
            if "class" not in value
            else _is_name(value["class"])
        )
    return value is None or _is_name(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def _are_named(values: list[object]) -> bool:
    return all(_is_name(value.get("class") if isinstance(value, dict) else value) for value in values)


def _is_class_weight(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(
        str(number).isdecimal() and isinstance(weight, int | float) and 0 <= weight < math.inf
        for number, weight in value.items()
    )


RULES = (
    Rule("name", lambda name: name.replace("_", "").replace("-", "").isalnum(), "letters, digits, - and _"),
    Rule("resume", bool, "auto, never or a run's name"),
    Rule("training.epochs", _is_count, AT_LEAST_1),
    Rule("training.batch_size", _is_count, AT_LEAST_1),
    Rule("training.shards", _is_count, AT_LEAST_1),
    Rule("training.workers", _is_count, AT_LEAST_1),
    Rule("training.worker_timeout_s", lambda wait_s: 0 < wait_s < math.inf, "a number of seconds above 0"),
    Rule("training.checkpoint_every", _is_count, AT_LEAST_1),
    Rule("training.log_every", _is_count, AT_LEAST_1),
    Rule("training.steps_per_epoch", _is_count_or_null, f"{AT_LEAST_1}, or null for all samples"),
    Rule("training.validation_batch_size", _is_count_or_null, f"{AT_LEAST_1}, or null"),
    Rule("training.learning_rate", lambda rate: rate is None or 0 < rate < math.inf, "a number above 0, or null"),
    Rule("training.loss", _is_named_or_null, NAMED),
    Rule("training.optimizer", _is_named_or_null, NAMED),
    Rule("training.callbacks", _are_named, "a list of package.module.name or {class: package.module.name, …}"),
    Rule("training.class_weight", _is_class_weight, "a mapping from class numbers to weights, or null"),
    Rule("training.monitor", bool, "the name of a metric, e.g. val_loss"),
    Rule("training.monitor_mode", _one_of(*MODES, None), " or ".join(MODES) + ", or null: the metric's name decides"),
    Rule("trace.level", _one_of(*TRACE_LEVELS), " or ".join(TRACE_LEVELS)),
    Rule("trace.epoch", lambda epoch: _is_int(epoch, 0), "an epoch from 1, or 0 for all"),
    Rule("runtime.promise", _one_of(*PROMISES), " or ".join(PROMISES)),
    Rule("runtime.intra_op_threads", _is_thread_count_or_null, f"1 to {MAX_THREADS}, or null"),
    Rule("runtime.inter_op_threads", _is_thread_count_or_null, f"1 to {MAX_THREADS}, or null"),
    Rule("runtime.instruction_set", _one_of("AVX2", None), "AVX2 or null"),
    Rule("tracker.name", _one_of("comet", "none"), "comet or none"),
    Rule("tracker.mode", _one_of("auto", "online", "offline"), "auto, online or offline"),
    Rule("tracker.finish_timeout_s", lambda wait_s: 0 <= wait_s < math.inf, "a number of seconds, 0 or more"),
    Rule("data._target_", _is_target, "package.module.function"),
    Rule("model._target_", _is_target, "package.module.function"),
    Rule("data.validation_size", _is_count, AT_LEAST_1),
    Rule("data.folds", lambda folds: _is_int(folds, 0) and folds != 1, "0 (no folds) or an integer of at least 2"),
    Rule("data.oversample", _is_bool, "true or false"),
    Rule("data.bootstrap", _is_bool, "true or false"),
)


def _value(config: Config, key: str) -> object:
    """Return the value of a dotted key, or the default if `data` lacks a key of the harness."""
    part, _, name = key.rpartition(".")
    if part in ("data", "model"):
        return getattr(config, part).get(name, HARNESS_DATA_KEYS.get(name))
    return getattr(getattr(config, part) if part else config, name)


def _require(key: str, value: object, expected: str, *, holds: bool) -> None:
    if not holds:
        fix = f"choose an allowed value, e.g. {key}=… on the command line"
        raise ConfigError(key, expected=expected, received=repr(value), fix=fix)


def _check_runtime(runtime: RuntimeConfig) -> None:
    """Raise an error for settings that the promise does not allow."""
    settings, promise = dataclasses.asdict(runtime), runtime.promise
    if promise in ("portable", "machine"):
        holds = runtime.op_determinism and runtime.intra_op_threads is not None
        _require("runtime", settings, f"fixed threads and op_determinism under {promise}", holds=holds)
    if promise == "portable":
        holds = runtime.instruction_set == "AVX2" and not runtime.arithmetic_rewrites and runtime.intra_op_threads == 1
        expected = "instruction_set=AVX2, intra_op_threads=1 and arithmetic_rewrites=false under portable"
        _require("runtime", settings, expected, holds=holds)


def _check_workers(config: Config) -> None:
    """Raise an error for more workers than parts, and for workers of a script."""
    workers, (parts, _) = config.training.workers, fewest_and_most_parts(config)
    expected = f"1 to {parts}, the value of training.shards: each worker computes at least one part of a batch"
    _require("training.workers", workers, expected, holds=workers <= parts)
    if config.script.path:
        _require("training.workers", workers, "1, because a script runs in one process", holds=workers == 1)


def _check_stages(config: Config) -> None:
    """Raise an error for a stage without a name or epochs of its own, or with unknown keys."""
    allowed = {"name", "data", "model", *(part.name for part in dataclasses.fields(TrainingConfig))} - {
        "stages",
        "init_from",
        *WORKERS,
    }
    names: list[object] = []
    for number, stage in enumerate(config.training.stages):
        key = f"training.stages[{number}]"
        unknown = ", ".join(sorted(set(stage) - allowed)) if isinstance(stage, dict) else repr(stage)
        _require(key, unknown, "a mapping with the keys " + ", ".join(sorted(allowed)), holds=not unknown)
        name = stage.get("name")
        _require(
            f"{key}.name", name, "a name of its own", holds=isinstance(name, str) and bool(name) and name not in names
        )
        names.append(name)
        part = dataclasses.replace(
            config.training, stages=[], **{k: v for k, v in stage.items() if k not in ("name", "data", "model")}
        )
        for rule in RULES:
            section, _, field = rule.key.partition(".")
            if section == "training":
                value = getattr(part, field)
                _require(f"{key}.{field}", value, rule.expected, holds=rule.holds(value))


def _check_fold(folds: int, fold: Any) -> None:
    """Raise an error for a fold that `data.folds` does not have."""
    if folds and fold is None:
        raise ConfigError(
            "data.fold", expected=f"one fold, 0 to {folds - 1}", received="null, which means every fold",
            fix="samebits train trains every fold (training=kfold); for other commands choose one, e.g. data.fold=0",
        )  # fmt: skip
    holds = _is_int(fold, 0) and (fold < folds or fold == folds == 0)
    _require("data.fold", fold, "0 to data.folds - 1", holds=holds)


def check(config: Config) -> None:
    """Check all values before anything is written.

    Raises:
        ConfigError: A value is not allowed. The message has the key, the allowed values and the value.
        SeedError: A seed is out of range.
    """
    for rule in RULES:
        if config.script.path and rule.key.startswith(("data.", "model.")):
            continue  # a script has its own
        value = _value(config, rule.key)
        _require(rule.key, value, rule.expected, holds=rule.holds(value))
    for key, value in flatten({"data": config.data, "model": config.model}).items():
        _require(key, value, "a finite number", holds=not isinstance(value, float) or math.isfinite(value))
    if config.script.path:
        _require("data and model", [*config.data, *config.model], "no keys, because a script has its own", holds=not (
            config.data or config.model
        ))  # fmt: skip
    _check_workers(config)
    _check_stages(config)
    _check_runtime(config.runtime)
    Monitor(config.training.monitor, config.training.monitor_mode).check()
    folds: Any = _value(config, "data.folds")
    _check_fold(folds, _value(config, "data.fold"))
    resolve_points(config.seed.root, config.seed.policy, config.seed.points)
