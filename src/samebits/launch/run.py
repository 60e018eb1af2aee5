"""The parent process: names a run by its inputs, starts the training process, and compares the result.

    runs/<name>/<inputs digest>/inputs.json         the identity: configuration, code digest, lock digest
    runs/<name>/<inputs digest>/source/             the code, for `explain`
    runs/<name>/<inputs digest>/<attempt>/          one training

Never imports TensorFlow.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from samebits.core.config import WORKERS, Config, PathsConfig, flatten, from_dict, to_dict
from samebits.core.config_rules import check
from samebits.core.digest import bytes_digest
from samebits.core.errors import ConfigError, RecordError
from samebits.core.files import hold_lock, make_folder, write_yaml
from samebits.core.metrics import MONITOR, Monitor, held_out_names, table_names
from samebits.core.terminal import describe_values
from samebits.launch.process import describe_exit, last_lines, run_child
from samebits.launch.team import find_member, follow, run_member
from samebits.runs.compare import Comparison, compare_with_siblings, describe_comparison
from samebits.runs.effects import COMMAND_KEYS, is_below
from samebits.runs.folder import (
    CONFIG,
    LOCK,
    LOG,
    RESULT,
    SOURCE,
    TRACE,
    describe_end,
    find_attempt,
    is_finished,
    list_attempts,
    list_leftovers,
    make_attempt,
    read_json,
    read_yaml,
    remove_attempt,
    remove_leftovers,
)
from samebits.runs.identity import name_inputs, prepare_inputs_folder
from samebits.runtime.pins import check_machine

USAGE, STOPPED = 2, (130, 143)  # exit codes of the training process; see samebits.train.worker


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its folder (None: it did not start), the exit code, and the comparison if it finished."""

    attempt: pathlib.Path | None
    exit_code: int
    comparison: Comparison | None = None


def stopped_attempts(folder: pathlib.Path, config: Config, root: pathlib.Path) -> list[pathlib.Path]:
    """Return the attempts that the setting `resume` allows to resume, newest first.

    Raises:
        ConfigError: The named attempt has different inputs or is finished.
    """
    if config.resume == "never":
        return []
    if config.resume != "auto":
        attempt = find_attempt(root / config.paths.runs, config.resume)
        other = attempt.parent.resolve() != folder.resolve()
        if other or is_finished(attempt):
            raise ConfigError(
                "resume",
                expected=f"an unfinished run with the same inputs ({folder.name})",
                received=f"{attempt.parent.name}/{attempt.name}, {'with different inputs' if other else 'finished'}",
                fix="use samebits resume RUN, which keeps the configuration of the run, or resume=auto",
            )
        return [attempt]
    attempts = reversed(list_attempts(folder))
    return [attempt for attempt in attempts if (attempt / CONFIG).exists() and not is_finished(attempt)]


@contextlib.contextmanager
def claim_attempt(folder: pathlib.Path, config: Config, root: pathlib.Path) -> Iterator[tuple[pathlib.Path, bool]]:
    """Lock an attempt and yield (attempt, whether it is resumed). It is a stopped attempt, or else a new one.

    Raises:
        ConfigError: Another process is training the attempt that `resume` names.
    """
    with contextlib.ExitStack() as stack:
        for attempt in stopped_attempts(folder, config, root):
            if stack.enter_context(hold_lock(attempt / LOCK)) and not is_finished(attempt):
                yield attempt, True
                return
        if config.resume not in ("auto", "never"):
            raise ConfigError(
                "resume", expected="a stopped run", received=f"{config.resume}, which is running",
                fix="wait until it ends, or stop it first",
            )  # fmt: skip
        attempt = make_attempt(folder)
        stack.enter_context(hold_lock(attempt / LOCK))
        write_yaml(attempt / CONFIG, to_dict(config))
        yield attempt, False


def ignored_settings(own: Config, command: Config) -> dict[str, Any]:
    """Return the settings that a resumed run keeps although the command asks for others: key -> kept value."""
    asked = flatten(to_dict(command))
    settings = flatten(to_dict(own)).items()
    return {key: value for key, value in settings if not is_below(key, COMMAND_KEYS) and asked.get(key) != value}


def clear_leftovers(folder: pathlib.Path) -> None:
    """Remove the leftover files of all finished attempts with the same inputs."""
    for attempt in list_attempts(folder):
        if is_finished(attempt) and list_leftovers(attempt):
            with hold_lock(attempt / LOCK) as free, contextlib.suppress(OSError):
                if free:
                    remove_leftovers(attempt)


def start_tracker(config: Config, attempt: pathlib.Path, root: pathlib.Path) -> "subprocess.Popen[bytes] | None":
    """Start the process that logs the attempt's record to the tracker. The training does not wait for it.

    When its standard input ends, the training has ended. This also works if this process is killed.
    """
    if config.tracker.name == "none":
        return None
    command = [sys.executable, "-m", "samebits.launch.tracker", str(attempt)]
    with (attempt / "tracker.txt").open("ab") as log:
        return subprocess.Popen(
            command, cwd=root, start_new_session=True, stdin=subprocess.PIPE, stdout=log, stderr=log
        )


def finish_tracker(tracker: "subprocess.Popen[bytes] | None", config: Config, attempt: pathlib.Path) -> str:
    """Wait up to `finish_timeout_s` for the tracker. Returns one line about the result (empty: no tracker)."""
    if tracker is None or tracker.stdin is None:
        return ""
    name = f"{attempt.parent.name}/{attempt.name}" if config.paths.runs == PathsConfig().runs else attempt
    advice = f"samebits comet {name} rebuilds or uploads it"
    tracker.stdin.close()
    try:
        code = tracker.wait(config.tracker.finish_timeout_s)
    except subprocess.TimeoutExpired:
        tracker.kill()
        tracker.wait()
        return f"Comet upload did not finish within {config.tracker.finish_timeout_s:g} s; {advice}"
    if code:
        return f"Comet upload failed (reason in tracker.txt); {advice}"
    with contextlib.suppress(RecordError):
        return str(read_json(attempt / "comet" / "state.json")["summary"])
    return ""


def run_training(config: Config, attempt: pathlib.Path, root: pathlib.Path, source: pathlib.Path | None = None) -> int:
    """Run the training process of an attempt, or its several workers. Returns the exit code; see `run_child`."""
    train = run_child if config.training.workers == 1 else run_member
    return train(config, attempt, root, source)


def describe_failure(code: int, attempt: pathlib.Path) -> str:
    """Return one line about a training process that did not finish, and the end of its log after a crash."""
    if code in STOPPED:
        return "stopped; progress is saved, and the same command resumes the run"
    lines = last_lines(attempt / LOG) if code < 0 else ""
    return f"the training process failed: {describe_exit(code)}; log: {attempt / LOG}{lines}"


def _show(text: str, *, red: bool = False) -> None:
    Console(highlight=False, soft_wrap=True, markup=False).print(text, style="bold red" if red else None)


def describe_metrics(metrics: dict[str, float], training: dict[str, Any]) -> list[str]:
    """Return the metrics of a finished run as texts, the monitored one first. It may be missing."""
    monitor = Monitor.of(training).name
    shown = describe_values({name: metrics[name] for name in table_names(metrics, monitor)}, "\n").splitlines()
    return shown if monitor in (*metrics, MONITOR) else [f"no {monitor} (training.monitor)", *shown]


def show_result(attempt: pathlib.Path, root: pathlib.Path, comparison: Comparison) -> bool:
    """Print the result of a run. Returns whether a promise was broken."""
    result = read_json(attempt / RESULT)
    training = read_yaml(attempt / CONFIG)["training"]
    line, broken = describe_comparison(comparison, result["promise"])
    _show("   ".join([*describe_metrics(result["metrics"], training), f"{sum(result['timing'].values()):.0f} s"]))
    held_out = {name: result["metrics"][name] for name in held_out_names(result["metrics"])}
    for text in (describe_values(held_out, "   "), describe_end(result, training.get("epochs"))):
        if text:
            _show(text)
    _show(f"weights {result['weights_digest'][:12]}…   {line}", red=broken)
    _show(str(attempt.relative_to(root) if attempt.is_relative_to(root) else attempt))
    return broken


def name_weights(config: Config, root: pathlib.Path) -> None:
    """Add the digest of the weights to `training.init_from`, so that it is part of the run's name.

    Raises:
        UsageError: There is no such run or file.
    """
    place = config.training.init_from
    if place is None or re.fullmatch(r".*@[0-9a-f]{64}", place):
        return
    path = root / place
    if path.is_file():
        config.training.init_from = f"{place}@{bytes_digest(path.read_bytes())}"
        return
    attempt = find_attempt(root / config.paths.runs, place)
    if not is_finished(attempt):
        raise ConfigError(
            "training.init_from", expected="a finished run or a file", received=f"{place}, which is not finished",
            fix="finish it first: samebits resume " + place,
        )  # fmt: skip
    config.training.init_from = f"{attempt.parent.name}/{attempt.name}@{read_json(attempt / RESULT)['weights_digest']}"


def run(config: Config, root: pathlib.Path) -> Outcome:
    """Train once: check the configuration, claim a folder, start the training process, compare the result.

    Args:
        config: The composed configuration.
        root: The project's folder, with src/ and requirements.lock.

    Raises:
        UsageError: The configuration, the folder or the machine is wrong. Nothing was started.
    """
    check(config)
    name_weights(config, root)
    check_machine(config.runtime)
    member = find_member(config, os.environ)
    if member is not None and member.rank > 0:
        return Outcome(None, follow(config, root, member))
    folder = prepare_inputs_folder(config, root)
    clear_leftovers(folder)
    with claim_attempt(folder, config, root) as (attempt, resumed):
        verb = "resumes" if resumed else "run"
        title = f"{config.name}   seed {config.seed.root}   {config.runtime.promise}"
        _show(f"{title}   {verb} {folder.name}/{attempt.name}")
        if resumed:
            own = from_dict(read_yaml(attempt / CONFIG))
            ignored = ignored_settings(own, config)
            if ignored:
                kept = ", ".join(f"{key}={value}" for key, value in ignored.items())
                _show(f"the run keeps its own settings: {kept}   (resume=never starts a new run)")
            own.script = config.script
            for name in WORKERS:
                setattr(own.training, name, getattr(config.training, name))
            config = own
        tracker = start_tracker(config, attempt, root)
        code = run_training(config, attempt, root)
        if is_finished(attempt):  # the result is written last, so a later failure does not matter
            code = 0
        if code == USAGE and not (attempt / TRACE).exists():  # nothing was started, so nothing is kept
            if tracker is not None:
                tracker.kill()
                tracker.wait()
            remove_attempt(attempt)
            return Outcome(None, code)
        tracked = finish_tracker(tracker, config, attempt)
        if code != 0:
            _show(describe_failure(code, attempt), red=code not in STOPPED)
            return Outcome(attempt, code if code in (USAGE, *STOPPED) else 1)
    comparison = compare_with_siblings(attempt)
    if tracked:
        _show(tracked)
    broken = show_result(attempt, root, comparison)
    return Outcome(attempt, int(broken), comparison)


def resume(attempt: pathlib.Path, root: pathlib.Path) -> Outcome:
    """Resume a stopped attempt with its own configuration.

    Raises:
        ConfigError: It is finished or running, or the inputs have changed.
    """
    config = from_dict(read_yaml(attempt / CONFIG))
    config.resume, config.paths.runs = str(attempt), str(attempt.parents[2])
    check(config)
    now = name_inputs(config, root)
    if now != attempt.parent.name:
        raise ConfigError(
            f"run {attempt.parent.name}/{attempt.name}",
            expected="the code, package lock and configuration that it was started with",
            received=f"different inputs ({now})",
            fix=f"restore the code (a copy is in {attempt.parent / SOURCE}), or start a new run with samebits train",
        )
    return run(config, root)


def train_aside(config: Config, folder: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Train a configuration in a folder of its own, whose old contents are deleted, and return the folder.

    Raises:
        RecordError: The training did not finish. An incomplete record proves nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    write_yaml(folder / CONFIG, to_dict(config))
    code = run_training(config, folder, root)
    if code or not is_finished(folder):
        raise RecordError(
            f"the run in {folder} did not finish, so the command stops.", expected="a finished run",
            received=f"exit code {code}", fix="read its log.txt.",
        )  # fmt: skip
    return folder


def run_again(attempt: pathlib.Path, folder: pathlib.Path, root: pathlib.Path, epoch: int) -> int:
    """Repeat an attempt with its own code and configuration up to an epoch, and trace that epoch by stage.

    Args:
        attempt: Any attempt, finished or not.
        folder: Folder for the files of the repeated run. Its old contents are deleted.
        root: The project's folder.
        epoch: The epoch to trace, counted from 1. The run ends after it.

    Returns:
        The training process's exit code.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    tree = read_yaml(attempt / CONFIG)
    tree["trace"] = {"level": "stage", "epoch": epoch}
    tree["training"]["epochs"] = epoch
    if tree.get("script", {}).get("path"):
        tree["script"]["code"] = str(attempt.parent / SOURCE)
    write_yaml(folder / CONFIG, tree)
    return run_training(from_dict(tree), folder, root, source=attempt.parent / SOURCE)


def main() -> int:
    """Run the configuration of a YAML file: python -m samebits.launch.run CONFIG ROOT."""
    # Before Slurm ends a job, it sends SIGUSR2 to all processes of the job. Only the process above this one must handle
    # it: it requeues the job and ends, and then the training saves a checkpoint. Child processes inherit the ignoring.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    config, root = from_dict(read_yaml(pathlib.Path(sys.argv[1]))), pathlib.Path(sys.argv[2])
    return run(config, root).exit_code


if __name__ == "__main__":
    sys.exit(main())
