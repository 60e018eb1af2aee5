"""Tells why two runs of a script differ: the first difference, the proved causes, and the changes against them."""

import difflib
import os
import pathlib
from collections.abc import Iterable, Sequence

from samebits.checks.script.changes import Changes, Maker
from samebits.checks.script.search import NAMES, Divergence, Findings, Search, first_divergence
from samebits.checks.script.trial import (
    OTHER_HASH_SEEDS,
    Record,
    Row,
    Script,
    Start,
    Trial,
    Trials,
    check_ended,
    start_process,
)
from samebits.core.errors import UsageError
from samebits.core.notebooks import NOTEBOOK, read_code

BY_RUN = {
    "python",
    "numpy",
    "tensorflow",
    "hash",
    "threads",
    "determinism",
    "zone",
    "locale",
}  # what `samebits run` fixes


def check_script(
    path: pathlib.Path,
    arguments: Sequence[str],
    seconds: float,
    *,
    start: Start = start_process,
    disabled: Iterable[str] = (),
) -> int:
    """Check a script, and print why two runs differ.

    Args:
        path: The script.
        arguments: Its own arguments.
        seconds: How long one run may take.
        start: Starts a process; see `start_process`.
        disabled: Pins that are not tried.

    Returns:
        0: two runs agree; 1: they differ.

    Raises:
        UsageError: There is no such script, or it reads input.
        ScriptError: It failed, or did not end.
    """
    if not path.is_file():
        raise UsageError(
            str(path), expected="a Python file or a notebook", received="no file", fix="samebits check-script script.py"
        )
    if path.suffix == NOTEBOOK:
        print(f"The lines of {path.name} are those of its code cells, one below the other.")
        for line in read_code(path)[1]:
            print(f"left out: {line}")
    folder, place = (pathlib.Path(os.path.abspath(each)) for each in (".", path))  # noqa: PTH100  as the script sees it
    script = Script(place, tuple(arguments), folder, seconds)
    trials = Trials(script, start, lambda text: print(f"… {text}", flush=True))
    records = trials.run(Trial())
    check_ended(records, script)
    findings = Search(trials, disabled).find()
    if findings.divergence is None:
        if not records[0].rows:
            print(f"{path.name} computes and prints nothing that the check records, so nothing was compared.")
            return 1
        others = trials.run(Trial(hash_seeds=OTHER_HASH_SEEDS))
        if first_divergence(others) is None and first_divergence((records[0], others[1])) is None:
            print(f"{path.name} repeats itself: 4 runs agree in all {len(records[0].rows)} recorded values.")
            return 0
        print(f"{path.name}: two runs agree, two others do not; run the check again.")
        return 1
    only_printed = prints_only(findings.records)
    tell(findings, script, only_printed=only_printed)
    if only_printed and findings.rest is None and {cause.name for cause in findings.causes} == {"clock"}:
        print("These are times, which differ in each run. All other values agree.")
        return 0
    propose(findings, trials)
    return 1


def prints_only(records: tuple[Record, Record]) -> bool:
    """Return whether two records differ only in what is printed."""
    a, b = ([(row["what"], row["digest"]) for row in record.rows if row["kind"] != "print"] for record in records)
    return a == b


def place_of(row: Row) -> str:
    """Return the place of a row in words."""
    parts = [f"{row['file']}, line {row['line']}"]
    if "call" in row:
        parts.append(f"fit {row['call']}")
    if row.get("epoch"):
        parts.append(f"epoch {row['epoch']}")
    if "step" in row:
        parts.append(f"step {row['step']}")
    return ", ".join([*parts, row["what"]])


def reach(after: Divergence | None) -> str:
    """Return how far two runs agree."""
    return "the two runs agree to the end" if after is None else f"the two runs agree up to {place_of(after.place)}"


def tell(findings: Findings, script: Script, *, only_printed: bool) -> None:
    """Print the first divergence, the causes with their proofs, and what remains."""
    divergence = findings.divergence
    if divergence is None:
        return
    lines = read_code(script.path)[0].splitlines()

    def source(name: str, line: int) -> str:
        text = lines if name == script.name else []
        return text[line - 1].strip() if 0 < line <= len(text) else ""

    place = divergence.place
    print(f"\nTwo runs differ{' only in what they print' if only_printed else ''}.")
    print(f"First divergence: {place_of(place)}, after {divergence.index} equal values")
    print(f"    {source(place['file'], place['line'])}")
    if divergence.a and divergence.b and divergence.a["what"] == divergence.b["what"]:
        print(f"    run 1: {divergence.a['shown']}   run 2: {divergence.b['shown']}")
        a, b = (row.get("parts", {}) for row in (divergence.a, divergence.b))
        different = [name for name in a if a[name] != b.get(name)]
        if different:
            print(f"    first part that differs: {different[0]}")
    else:
        print("    the runs take different ways from here")
    for number, cause in enumerate(findings.causes, 1):
        name, line = cause.lines[0]
        print(f"\nCause {number}: {NAMES[cause.name]} ({name}, line {line})")
        print(f"    {source(name, line)}")
        if cause.late_seed:
            print(f"    line {cause.late_seed[1]} seeds after line {line} has drawn")
        print(f"  Proof: with this fixed{' too' if number > 1 else ''}, {reach(cause.after)}.")
    if findings.rest is not None:
        print(f"\nNot explained: {place_of(findings.rest.place)}. No pin of check-script moves this difference.")


def propose(findings: Findings, trials: Trials) -> None:  # noqa: C901  prints one part after another
    """Print the changes, and whether two runs of the changed script agree."""
    if not findings.causes:
        return
    script = trials.script

    def read(name: str) -> str:
        return read_code(script.base / name)[0]

    changes, after, ended = Changes(), findings.divergence, False
    for sorted_sets in (True, False):
        changes = Maker(findings, script.name, read, sorted_sets=sorted_sets).make()
        records = trials.run(Trial(changed=changes.files, environment=changes.environment))
        after, ended = first_divergence(records), all(record.code == 0 for record in records)
        if (ended and after is None) or not any(cause.name == "hash" for cause in findings.causes):
            break
    print("\nThe smallest set of changes:\n")
    for file, text in changes.files.items():
        before, now = (part.splitlines(keepends=True) for part in (read(file), text))
        print("".join(difflib.unified_diff(before, now, file, f"{file} (changed)", n=1)))
    for note in changes.notes:
        print(f"Also: {note}.")
    if changes.environment:
        words = " ".join(f"{key}={value}" for key, value in changes.environment.items())
        program = "jupyter lab" if script.path.suffix == NOTEBOOK else f"python {script.path.name}"
        print(f"Start it with: {words} {program}")
    if not ended:
        print("The changed script failed. The causes are proved, the changes are not.")
    elif after is None:
        print("With these changes two runs have the same bits.")
    else:
        print(f"With these changes, {reach(after)}. This difference is not solved.")
    others = [NAMES[cause.name] for cause in findings.causes if cause.name not in BY_RUN]
    if findings.rest is None:
        needs = f"needs only the changes for {', '.join(others)}" if others else "needs none of these changes"
        print(f"`samebits run {script.path.name}` {needs}.")
