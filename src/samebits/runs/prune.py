"""Removes leftover files and old runs. Lists them first, and removes only files that this project wrote."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from samebits.core.errors import ConfigError
from samebits.core.files import hold_lock
from samebits.runs.folder import (
    CONFIG,
    INPUTS,
    LOCK,
    LOG,
    MACHINE,
    METRICS,
    PREDICTIONS,
    RESULT,
    SEEDS,
    SOURCE,
    TRACE,
    WORKER_LOCK,
    is_finished,
    list_attempts,
    list_leftovers,
)

CACHES = (".cache", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis")
SCRATCH_FOLDERS = (".audit", ".explain", ".portability", ".torture", ".zoo")  # of the commands, and of tools/zoo
RUN_FILES = (CONFIG, LOCK, LOG, MACHINE, METRICS, RESULT, SEEDS, TRACE, WORKER_LOCK, "tracker.txt", "model.keras",
        "model.arrays", PREDICTIONS, "curves.png", "comet")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A file or a folder that can be removed, and why."""

    path: pathlib.Path
    reason: str

    @property
    def size_bytes(self) -> int:
        """The disk space that its removal frees."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(path.lstat().st_size for path in files if path.is_file())


def foreign_files(attempt: pathlib.Path) -> list[str]:
    """Return the names of files in the folder of an attempt that belong to the user, because no run writes them."""
    ours = {*RUN_FILES, *(path.name for path in attempt.glob("checkpoint-*.arrays"))}
    ours |= {path.name for path in attempt.glob(".*partial*")}
    return sorted(path.name for path in attempt.iterdir() if path.name not in ours)


def _candidates(inputs_folder: pathlib.Path, keep: int | None) -> Iterator[Candidate]:
    attempts = list_attempts(inputs_folder)
    done = [attempt for attempt in attempts if is_finished(attempt)]
    for attempt in attempts:
        if attempt in done:
            for path in list_leftovers(attempt):
                yield Candidate(path, "leftover of a killed process")
        elif done:
            yield Candidate(attempt, f"stopped, and attempt {done[-1].name} with the same inputs is finished")
    if keep is not None:
        for attempt in done[: max(0, len(done) - keep)]:
            yield Candidate(attempt, f"finished, older than the newest {keep} with the same inputs")


def find_candidates(runs: pathlib.Path, keep: int | None) -> list[Candidate]:
    """Return what can be removed below a folder of runs, sorted by path.

    Args:
        runs: The folder of runs.
        keep: How many finished attempts with the same inputs to keep, the newest ones; None: all.
    """
    scratch = [runs / name for name in SCRATCH_FOLDERS if (runs / name).is_dir()]
    found = [Candidate(path, "temporary files of a stopped command") for path in scratch]
    for inputs in sorted(runs.glob("*/*/" + INPUTS)):
        if not inputs.parent.parent.name.startswith("."):
            found += _candidates(inputs.parent, keep)
    return found


def _remove(candidate: Candidate, runs: pathlib.Path) -> str:
    """Remove a candidate, and the folder of its inputs if that is then empty. Returns why it was kept ("": removed)."""
    path = candidate.path
    if path.parent == runs:
        with contextlib.ExitStack() as stack:
            locks = [lock for name in (LOCK, WORKER_LOCK) for lock in path.rglob(name)]
            if not all(stack.enter_context(hold_lock(lock)) for lock in locks):
                return "its command is running"
            shutil.rmtree(path)
        return ""
    attempt = path if path.is_dir() else path.parent
    with hold_lock(attempt / LOCK) as free:
        if not free:
            return "it is being trained"
        if path != attempt:
            path.unlink(missing_ok=True)
            return ""
        foreign = foreign_files(attempt)
        if foreign:
            return f"it contains your files: {', '.join(foreign)}"
        shutil.rmtree(attempt)
    inputs = attempt.parent
    if {path.name for path in inputs.iterdir()} <= {INPUTS, SOURCE}:
        shutil.rmtree(inputs)
    return ""


def prune(runs: pathlib.Path, keep: int | None, *, confirmed: bool) -> int:
    """List what can be removed, and remove it if confirmed.

    Args:
        runs: The folder of runs.
        keep: How many finished attempts with the same inputs to keep; None: all.
        confirmed: Whether to remove it.

    Returns:
        0.

    Raises:
        ConfigError: `keep` is negative.
    """
    if keep is not None and keep < 0:
        raise ConfigError("--keep", expected="an integer of at least 0", received=keep, fix="samebits prune --keep 1")
    candidates = find_candidates(runs, keep)
    freed = 0
    for candidate in candidates:
        size_bytes = candidate.size_bytes
        refused = _remove(candidate, runs) if confirmed else ""
        verb = "kept" if refused else "removed" if confirmed else "would remove"
        freed += 0 if refused else size_bytes
        print(f"{verb} {candidate.path.relative_to(runs)}: {size_bytes / 1e6:.1f} MB ({refused or candidate.reason})")
    verb = "freed" if confirmed else "would free"
    print(f"{verb} {freed / 1e6:.1f} MB" + ("" if confirmed or not candidates else "; add --yes to remove them"))
    return 0


def clean(root: pathlib.Path, *, confirmed: bool) -> int:
    """Print the size of each cache of a project, and remove the caches if confirmed. Returns 0."""
    for folder in (root / name for name in CACHES if (root / name).is_dir()):
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{'removed' if confirmed else 'would remove'} {folder.name}: {size_bytes / 1e6:.1f} MB")
        if confirmed:
            shutil.rmtree(folder)
    return 0
