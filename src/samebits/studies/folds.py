"""Cross-validation: trains every fold as a separate run, and prints the expected time first.

`data.folds=5 data.fold=null` (training=kfold) stands for the five runs data.fold=0 to 4. Each has the same digest as
when it is trained alone. As many folds as samples: leave-one-out.
"""

import contextlib
import pathlib

from samebits.core.config import Config
from samebits.core.config_rules import check
from samebits.core.errors import ConfigError, RecordError
from samebits.core.terminal import shown_path
from samebits.launch import run
from samebits.runs.folder import RESULT, is_finished, read_json
from samebits.runs.identity import similar_attempts
from samebits.studies.execute import LauncherOptions
from samebits.studies.execute import train as train_study
from samebits.studies.plan import Run, Study
from samebits.studies.study import BASE, STUDY, show_failed, show_records, write_summary

MAX_RUNS = 200  # more need confirm=true
START_S = 12.0  # minimum duration of a run: start of Python and TensorFlow
RESAMPLING = ("seed.", "data.fold", "data.folds", "data.oversample", "data.bootstrap")


def wants_every_fold(config: Config) -> bool:
    """Return whether a configuration stands for all its folds."""
    folds = config.data.get("folds")
    return isinstance(folds, int) and folds > 1 and config.data.get("fold", 0) is None


def one_fold(config: Config, fold: int) -> Run:
    """Return the run of one fold."""
    return Run(BASE, fold, config, (("data.fold", fold),), varied="fold")


def run_duration(config: Config, root: pathlib.Path) -> tuple[float, str]:
    """Return the expected duration of a run in seconds, and where the number comes from.

    It comes from a finished run with the same configuration, apart from seeds, folds and resampling. Without one it is
    a minimum.
    """
    for attempt in filter(is_finished, similar_attempts(config, root, RESAMPLING)):
        with contextlib.suppress(RecordError):
            return sum(read_json(attempt / RESULT)["timing"].values()), "as measured in a finished run"
    return START_S, "for the start only: no run of this kind is finished yet"


def describe_duration(duration_s: float) -> str:
    """Return a duration as text, in a suitable unit."""
    for unit, size_s in (("days", 172_800), ("h", 7_200), ("min", 120)):
        if duration_s >= size_s:
            return f"{duration_s / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.1f} {unit}"
    return f"{duration_s:.0f} s"


def describe_cost(config: Config, root: pathlib.Path, runs: int) -> str:
    """Return the expected time of some runs, one after another, as text."""
    each_s, known = run_duration(config, root)
    return f"{runs} runs, {describe_duration(runs * each_s)} one after another ({each_s:.0f} s each, {known})"


def train(config: Config, root: pathlib.Path) -> int:
    """Train one run, or every fold; returns the exit code.

    Raises:
        UsageError: Something is wrong with the configuration, the folder or the machine; nothing was started.
    """
    return train_folds(config, root) if wants_every_fold(config) else run.run(config, root).exit_code


def train_folds(config: Config, root: pathlib.Path) -> int:
    """Train all unfinished folds, print the table of folds, and write study.json.

    Returns:
        0: all folds finished; 1: some did not.

    Raises:
        ConfigError: The configuration is wrong, or it has more than `MAX_RUNS` folds without confirm=true.
    """
    folds = config.data["folds"]
    check(one_fold(config, 0).config())
    if folds > MAX_RUNS and not config.confirm:
        raise ConfigError(
            "data.folds",
            expected=f"at most {MAX_RUNS}, or confirm=true",
            received=describe_cost(config, root, folds),
            fix="use fewer samples (data.rows=100) or fewer folds, or start them anyway with confirm=true",
        )
    study = Study(f"folds-{config.name}", [one_fold(config, fold) for fold in range(folds)], root)
    missing = len(study.missing())
    cost = f"; to do: {describe_cost(config, root, missing)}" if missing else ""
    print(f"{config.name}: {folds} folds, {folds - missing} already finished{cost}", flush=True)
    train_study(study, LauncherOptions())
    records = list(study.records())
    concluded, failed = write_summary(study, records)
    show_records(records, concluded)
    print(f"folds: {shown_path(study.folder / STUDY, root)}")
    return show_failed(failed, folds)
