"""The parent: names a run by its inputs, starts one pinned child process, and compares what it left with its siblings.

    runs/<name>/<inputs digest>/inputs.json         the identity: configuration, code digest, lock digest
    runs/<name>/<inputs digest>/source/             the code of that digest, for `explain`
    runs/<name>/<inputs digest>/<attempt>/          one training

Never imports TensorFlow.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from samebits.config import Config, check, identity, split_target, to_dict
from samebits.digest import bytes_digest, json_digest
from samebits.errors import RecordError
from samebits.record import (
    INPUTS,
    LOCK,
    LOG,
    RESULT,
    TRACE,
    hold_lock,
    is_finished,
    list_attempts,
    make_attempt,
    make_folder,
    read_json,
    read_rows,
    remove_attempt,
    write_bytes,
    write_json,
    write_yaml,
)
from samebits.runtime import check_machine, child_environment
from samebits.seeds import resolve_points

# The modules of the harness that a training process executes; the others cannot change its bits.
WORKER_MODULES = (
    "config", "data", "digest", "layers", "optimizers", "runtime", "seeds", "training", "worker",
)  # fmt: skip
USAGE, STOPPED = 2, (130, 143)  # exit codes of the training process; see samebits.worker
DIGITS = 16  # of the inputs digest, in a folder's name


@dataclass(frozen=True)
class Comparison:
    """What a finished run has to do with the earlier attempts of its inputs.

    Attributes:
        equal: Attempts that ended with the same weights digest.
        different: Attempts that did not, although nothing that decides the arithmetic differs.
        elsewhere: Attempts left out, made where the promise does not reach.
        first_difference: The first trace record that differs from the newest of `different`, in words.
    """

    equal: list[str]
    different: list[str]
    elsewhere: list[str]
    first_difference: str = ""


@dataclass(frozen=True)
class Outcome:
    """How one run ended: its folder (None: it never began), the exit code, and the comparison if it finished."""

    attempt: pathlib.Path | None
    exit_code: int
    comparison: Comparison | None = None


def source_files(config: Config, root: pathlib.Path) -> dict[str, bytes]:
    """Return the code that a training executes, by path below src/: the worker's modules and the user's packages."""
    source = root / "src"
    paths = [source / "samebits" / f"{module}.py" for module in WORKER_MODULES]
    for tree in (config.data, config.model):
        package = split_target(tree)[0].partition(".")[0]
        paths += [*(source / package).rglob("*.py"), *([source / f"{package}.py"] if (source / f"{package}.py").exists() else [])]
    return {path.relative_to(source).as_posix(): path.read_bytes() for path in sorted(set(paths))}


def describe_inputs(config: Config, root: pathlib.Path, sources: dict[str, bytes]) -> dict[str, Any]:
    """Return the identity of a run: everything that decides its bits, apart from the machine."""
    code = {path: bytes_digest(data) for path, data in sources.items()}
    return {
        "name": config.name,
        "config": identity(config),
        "code": {"digest": json_digest(code), "files": code},
        "lock": bytes_digest((root / "requirements.lock").read_bytes()),
    }


def prepare_inputs_folder(config: Config, root: pathlib.Path) -> pathlib.Path:
    """Make, or find, the folder of these inputs.

    Raises:
        FolderError: The runs folder cannot be written.
    """
    sources = source_files(config, root)
    inputs = describe_inputs(config, root, sources)
    folder = root / config.paths.runs / config.name / json_digest(inputs)[:DIGITS]
    make_folder(folder)
    if not (folder / INPUTS).exists():
        for path, data in sources.items():
            target = folder / "source" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, data)
        write_json(folder / INPUTS, inputs)
    return folder


@contextlib.contextmanager
def claim_attempt(folder: pathlib.Path, config: Config) -> Iterator[tuple[pathlib.Path, bool]]:
    """Yield (attempt, whether it goes on): an attempt that was killed and is nobody's now, or a new one."""
    with contextlib.ExitStack() as stack:
        for attempt in reversed(list_attempts(folder)):
            if is_finished(attempt) or not (attempt / "config.yaml").exists():
                continue
            if stack.enter_context(hold_lock(attempt / LOCK)) and not is_finished(attempt):
                yield attempt, True
                return
        attempt = make_attempt(folder)
        stack.enter_context(hold_lock(attempt / LOCK))
        write_yaml(attempt / "config.yaml", to_dict(config))
        yield attempt, False


def tracker_command(config: Config, attempt: pathlib.Path, root: pathlib.Path) -> list[str] | None:
    """Return the command that follows an attempt and tells the tracker, None without one."""
    if config.tracker.name == "none":
        return None
    return [sys.executable, "-m", "samebits.tracking", str(attempt), str(root)]


@contextlib.contextmanager
def forwarded_signals(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Send SIGINT and SIGTERM on to the child while the block runs; the child decides how it ends."""

    def forward(number: int, _frame: object) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_child(config: Config, attempt: pathlib.Path, root: pathlib.Path) -> int:
    """Start the training process, wait for it, and return its exit code (negative: killed by that signal)."""
    points = resolve_points(config.seed.root, config.seed.policy, config.seed.points)
    hash_point = points.get("python/hash")
    environment = child_environment(config.runtime, hash_point.value if hash_point else None, os.environ)
    environment["PYTHONPATH"] = str(root / "src")
    # A session of its own: Ctrl-C reaches the parent alone, which forwards it once.
    command = [sys.executable, "-m", "samebits.worker", str(attempt), str(root)]
    with subprocess.Popen(command, env=environment, cwd=root, start_new_session=True, stdin=subprocess.DEVNULL) as child:
        with forwarded_signals(child):
            return child.wait()


def start_tracker(config: Config, attempt: pathlib.Path, root: pathlib.Path) -> "subprocess.Popen[bytes] | None":
    """Start the process that follows the attempt's record; the training neither waits for it nor knows of it.

    The end of its standard input is the end of the training, also when this process is killed.
    """
    command = tracker_command(config, attempt, root)
    if command is None:
        return None
    with (attempt / "tracker.txt").open("ab") as log:
        return subprocess.Popen(
            command, cwd=root, start_new_session=True, stdin=subprocess.PIPE, stdout=log, stderr=log
        )


def finish_tracker(tracker: "subprocess.Popen[bytes] | None", config: Config, attempt: pathlib.Path) -> str:
    """Wait a bounded time for the tracker; returns one line about what it did (empty: no tracker)."""
    if tracker is None:
        return ""
    advice = f"make comet RUN={attempt.parent.name}/{attempt.name} rebuilds or sends it"
    tracker.stdin.close()  # type: ignore[union-attr]  a pipe, see start_tracker
    try:
        code = tracker.wait(config.tracker.finish_timeout_s)
    except subprocess.TimeoutExpired:
        tracker.kill()
        tracker.wait()
        return f"Comet did not take everything within {config.tracker.finish_timeout_s:g} s; {advice}"
    if code:
        return f"Comet could not be used (reason in tracker.txt); {advice}"
    with contextlib.suppress(RecordError):
        return str(read_json(attempt / "comet" / "state.json")["summary"])
    return ""


def first_difference(a: pathlib.Path, b: pathlib.Path) -> str:
    """Return in words the first trace record in which two attempts differ (empty: none does)."""
    rows_a, rows_b = read_rows(a / TRACE), read_rows(b / TRACE)
    for row_a, row_b in zip(rows_a, rows_b, strict=False):
        where = "before training" if row_a["epoch"] == 0 else f"epoch {row_a['epoch']}"
        for key in row_a:
            left, right = row_a[key], row_b.get(key)
            if left == right or key == "tensors":
                continue
            if key == "weights":
                names = [name for name in row_a["tensors"] if row_a["tensors"][name] != row_b["tensors"].get(name)]
                return f"{where}: weights of {', '.join(names)}"
            if isinstance(left, dict) and isinstance(right, dict):
                names = [name for name in left if left[name] != right.get(name)]
                return f"{where}: {key} ({', '.join(names)})"
            return f"{where}: {key}"
    return "" if len(rows_a) == len(rows_b) else "number of epochs recorded"


def compare_with_siblings(attempt: pathlib.Path) -> Comparison:
    """Compare a finished attempt with every other finished attempt of its inputs."""
    result = read_json(attempt / RESULT)
    equal, different, elsewhere = [], [], []
    for sibling in list_attempts(attempt.parent):
        if sibling == attempt or not is_finished(sibling):
            continue
        other = read_json(sibling / RESULT)
        if other["weights_digest"] == result["weights_digest"]:
            equal.append(sibling.name)
        elif result["promise"] in ("machine", "article") and other["fingerprint"] != result["fingerprint"]:
            elsewhere.append(sibling.name)
        else:
            different.append(sibling.name)
    first = first_difference(attempt.parent / different[-1], attempt) if different else ""
    return Comparison(equal, different, elsewhere, first)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe_comparison(comparison: Comparison, promise: str) -> tuple[str, bool]:
    """Return one line about the siblings, and whether a promise was broken."""
    if comparison.different:
        broken = promise in ("portable", "machine")
        names = ", ".join(comparison.different)
        scope = f"{promise} promises the same bits" if broken else f"{promise} promises nothing"
        return f"DIFFERENT BITS than attempt {names} of these inputs ({scope}); first: {comparison.first_difference}", broken
    if comparison.equal:
        return f"same bits as {_count(len(comparison.equal), 'earlier run')} of these inputs", False
    if comparison.elsewhere:
        return f"not compared with {_count(len(comparison.elsewhere), 'run')} on other kinds of machine", False
    return "first run of these inputs; run it again to compare", False


def describe_failure(code: int, attempt: pathlib.Path) -> str:
    """Return what to say of a child that did not finish."""
    if code in STOPPED:
        return "stopped after a checkpoint; the same command goes on from it"
    reason = f"exit code {code}"
    if code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            reason += " (out of memory, or somebody's kill -9)"
    try:
        tail = (attempt / LOG).read_text(errors="replace").splitlines()[-5:]
    except OSError:
        tail = []
    lines = "".join(f"\n  | {line}" for line in tail) if code < 0 else ""
    return f"the training process ended: {reason}; log: {attempt / LOG}{lines}"


def _show(text: str, *, red: bool = False) -> None:
    Console(highlight=False, soft_wrap=True, markup=False).print(text, style="bold red" if red else None)


def show_result(attempt: pathlib.Path, root: pathlib.Path, comparison: Comparison) -> bool:
    """Print the last lines that a user wants to read; returns whether a promise was broken."""
    result = read_json(attempt / RESULT)
    metrics = result["metrics"]
    line, broken = describe_comparison(comparison, result["promise"])
    duration_s = sum(result["timing"].values())
    _show(f"val_accuracy {metrics['val_accuracy']:.4f}   val_loss {metrics['val_loss']:.4f}   {duration_s:.0f} s")
    _show(f"weights {result['weights_digest'][:12]}…   {line}", red=broken)
    _show(str(attempt.relative_to(root) if attempt.is_relative_to(root) else attempt))
    return broken


def run(config: Config, root: pathlib.Path) -> Outcome:
    """Train once: check, name, claim a folder, start the child, compare.

    Args:
        config: The composed configuration.
        root: The project's folder, with src/ and requirements.lock.

    Raises:
        UsageError: Something is wrong with the configuration, the folder or the machine; nothing was begun.
    """
    check(config)
    check_machine(config.runtime)
    folder = prepare_inputs_folder(config, root)
    with claim_attempt(folder, config) as (attempt, goes_on):
        _show(f"{config.name}   seed {config.seed.root}   {config.runtime.promise}   {'goes on with' if goes_on else 'run'} "
              f"{folder.name}/{attempt.name}")  # fmt: skip
        tracker = start_tracker(config, attempt, root)
        code = run_child(config, attempt, root)
        if code == USAGE and not (attempt / TRACE).exists():  # nothing was begun, so nothing is left
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
