"""Says why two runs differ: their inputs side by side, then the first place at which their computations part."""

import difflib
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from samebits.core.config import flatten
from samebits.core.files import make_folder
from samebits.core.plots import Line, draw_lines
from samebits.core.seeds import resolve_points
from samebits.core.terminal import print_table
from samebits.launch.run import run_again
from samebits.runs.folder import CONFIG, INPUTS, MACHINE, METRICS, SEEDS, SOURCE, TRACE, read_json, read_rows, read_yaml
from samebits.runs.identity import CHANGES, DOES_NOT, MAY, OWN, WITHOUT_EFFECT
from samebits.runs.trace_diff import Divergence, first_divergence

BITS_PACKAGES = (
    "keras", "ml-dtypes", "numpy", "opt-einsum", "scikit-learn", "scipy", "tensorflow", "tensorflow-cpu",
)  # fmt: skip
MAX_DIFF_LINES = 60
# Trainings under `portable` had the same bits with each of these (docs/runtime.md).
MEASURED_EQUAL = {"libc": ("glibc 2.36", "glibc 2.41"), "python": ("3.11", "3.12", "3.13")}
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class InputDifference:
    """One input in which two runs differ, and whether it reaches the bits."""

    item: str
    a: str
    b: str
    effect: str


def _pairs(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({**a, **b}):
        if a.get(key) != b.get(key):
            yield key, a.get(key, "absent"), b.get(key, "absent")


def _seed_values(attempt: pathlib.Path) -> dict[str, Any]:
    seed = read_yaml(attempt / CONFIG)["seed"]
    return {name: point.value for name, point in resolve_points(seed["root"], seed["policy"], seed["points"]).items()}


def _resting(attempt: pathlib.Path) -> set[str]:
    if not (attempt / SEEDS).exists():
        return set()
    return {row["point"] for row in read_json(attempt / SEEDS)["points"] if row["rests"]}


def _effect_of_key(key: str, *, deterministic: bool) -> str:
    if key.startswith(WITHOUT_EFFECT) or (key == "runtime.inter_op_threads" and deterministic):
        return DOES_NOT
    return MAY if key.startswith("runtime.") and key != "runtime.intra_op_threads" else CHANGES


def input_differences(a: pathlib.Path, b: pathlib.Path) -> list[InputDifference]:
    """Return every input in which two attempts differ: configuration, seeds, code, lock, data, packages, machine."""
    found: list[InputDifference] = []

    def add(item: str, left: Any, right: Any, effect: str) -> None:
        found.append(InputDifference(item, str(left), str(right), effect))

    config_a, config_b = flatten(read_yaml(a / CONFIG)), flatten(read_yaml(b / CONFIG))
    deterministic = config_a.get("runtime.op_determinism") is config_b.get("runtime.op_determinism") is True
    for key, left, right in _pairs(config_a, config_b):
        if not key.startswith("seed.points."):
            add(key, left, right, _effect_of_key(key, deterministic=deterministic))
    rests = _resting(a) & _resting(b)
    globals_only = ("python/", "numpy/", "tensorflow/")
    for point, left, right in _pairs(_seed_values(a), _seed_values(b)):
        effect = DOES_NOT if point in rests else MAY if point.startswith(globals_only) else CHANGES
        add(f"seed {point}", left, right, effect)
    inputs_a, inputs_b = read_json(a.parent / INPUTS), read_json(b.parent / INPUTS)
    for path, left, right in _pairs(inputs_a["code"]["files"], inputs_b["code"]["files"]):
        add(f"code {path}", left[:12], right[:12], MAY)
    if inputs_a["lock"] != inputs_b["lock"]:
        add("requirements.lock", inputs_a["lock"][:12], inputs_b["lock"][:12], MAY)
    rows_a, rows_b = read_rows(a / TRACE), read_rows(b / TRACE)
    if rows_a and rows_b:
        for name, left, right in _pairs(rows_a[0]["data"], rows_b[0]["data"]):
            add(f"data {name}", left[:12], right[:12], CHANGES)
    if (a / MACHINE).exists() and (b / MACHINE).exists():
        found += _machine_differences(read_json(a / MACHINE), read_json(b / MACHINE))
    return found


def _machine_differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[InputDifference]:
    portable = a["arithmetic"]["promise"] == b["arithmetic"]["promise"] == "portable"
    for name, left, right in _pairs(a["packages"], b["packages"]):
        yield InputDifference(f"package {name}", str(left), str(right), MAY if name in BITS_PACKAGES else OWN)
    settings_a, settings_b = flatten(a["arithmetic"]["settings"]), flatten(b["arithmetic"]["settings"])
    without_effect = ["environment.PYTHONHASHSEED"]
    if settings_a.get("op_determinism") is settings_b.get("op_determinism") is True:
        without_effect.append("inter_op_threads")
    for name, left, right in _pairs(settings_a, settings_b):
        effect = DOES_NOT if name in without_effect else MAY
        yield InputDifference(f"setting {name}", str(left), str(right), effect)
    for name, left, right in _pairs(flatten(a["cpu"]), flatten(b["cpu"])):
        yield InputDifference(f"cpu {name}", str(left)[:60], str(right)[:60], DOES_NOT if portable else MAY)
    for name in ("python", "libc", "system", "image_digest"):
        if a[name] != b[name]:
            effect = _effect_of_system(name, str(a[name]), str(b[name]), portable=portable)
            yield InputDifference(name, str(a[name]), str(b[name]), effect)


def _effect_of_system(name: str, a: str, b: str, *, portable: bool) -> str:
    if name not in MEASURED_EQUAL:
        return DOES_NOT
    measured = MEASURED_EQUAL[name]
    versions = {text if name == "libc" else text.rpartition(".")[0] for text in (a, b)}
    if portable and versions <= set(measured):
        return f"{DOES_NOT}: measured equal under portable for {', '.join(measured)}"
    return MAY


def code_diff(a: pathlib.Path, b: pathlib.Path) -> list[str]:
    """Return the unified diff of the code that decides bits, of two attempts."""
    files_a, files_b = (read_json(attempt.parent / INPUTS)["code"]["files"] for attempt in (a, b))
    lines: list[str] = []
    for path, _, _ in _pairs(files_a, files_b):
        texts = []
        for attempt in (a, b):
            source = attempt.parent / SOURCE / path
            texts.append(source.read_text(encoding="utf-8").splitlines() if source.exists() else [])
        lines += difflib.unified_diff(texts[0], texts[1], f"a/{path}", f"b/{path}", lineterm="", n=2)
    return lines


def refine(a: pathlib.Path, b: pathlib.Path, epoch: int, root: pathlib.Path) -> tuple[Divergence | None, list[str]]:
    """Run both sides again with one epoch traced by stage.

    Returns:
        The first divergence of the two new runs, and what has to be said of how they repeated the recorded ones.
    """
    remarks, traces = [], []
    for name, attempt in (("A", a), ("B", b)):
        folder = attempt.parent.parent.parent / ".explain" / f"{attempt.parent.name}-{attempt.name}"
        print(f"running {name} again with epoch {epoch} traced by stage …", flush=True)
        code = run_again(attempt, folder, root, epoch)
        rows = read_rows(folder / TRACE)
        if code != 0 or not rows:
            remarks.append(f"{name} could not be run again (exit code {code}); log: {folder / 'log.txt'}")
            continue
        own = first_divergence(read_rows(attempt / TRACE), rows)
        if own is not None:
            remarks.append(
                f"{name} did not repeat its own recorded bits ({own}): something outside the inputs decides them, "
                "such as a non-deterministic operation, another machine or other packages"
            )
            opaque = rows[0].get("opaque")
            if opaque:
                remarks.append(f"operations in {name}'s step that run Python code: {', '.join(opaque)}")
        traces.append(rows)
    if len(traces) == 2:  # noqa: PLR2004  both sides
        return first_divergence(*traces), remarks
    return None, remarks


def sparkline(values: list[float], low: float, high: float) -> str:
    """Return a line of block characters, one for each value between low and high."""
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(7, int((value - low) / span * 8))] for value in values)


def show_curves(a: pathlib.Path, b: pathlib.Path, picture: pathlib.Path) -> None:
    """Draw loss and accuracy of both runs, in the terminal and into a PNG."""
    rows = {name: read_rows(attempt / METRICS) for name, attempt in (("A", a), ("B", b))}
    panels: dict[str, list[Line]] = {}
    for metric in ("loss", "accuracy"):
        values = {name: [row[metric] for row in side] for name, side in rows.items()}
        everything = [value for side in values.values() for value in side]
        for name, line in values.items():
            if everything:
                print(f"  {metric:>8} {name} {sparkline(line, min(everything), max(everything))}")
        styles = {"A": "-", "B": "--"}
        panels[metric] = [(f"{n} {metric}", range(1, len(line) + 1), line, styles[n]) for n, line in values.items()]
    draw_lines(picture, panels, x_label="record")
    print(f"  curves: {picture}")


def show_inputs(a: pathlib.Path, b: pathlib.Path) -> list[InputDifference]:
    """Print the inputs that differ, and the code's diff; returns them."""
    found = input_differences(a, b)
    if not found:
        print("inputs: equal in configuration, seeds, code, lock, data, packages and machine")
        return found
    table = Table("input", "A", "B", "effect", title="inputs that differ")
    for row in found:
        table.add_row(row.item, row.a, row.b, row.effect)
    print_table(table)
    lines = code_diff(a, b)
    for line in lines[:MAX_DIFF_LINES]:
        print(f"  {line}")
    if len(lines) > MAX_DIFF_LINES:
        print(f"  … {len(lines) - MAX_DIFF_LINES} more lines")
    return found


def explain(a: pathlib.Path, b: pathlib.Path, root: pathlib.Path) -> int:
    """Compare two attempts and end with one sentence.

    Returns:
        0: bit-identical; 1: they differ.
    """
    print(f"A {a}\nB {b}")
    show_inputs(a, b)
    folder = a.parent.parent.parent / ".explain"
    make_folder(folder)
    show_curves(a, b, folder / f"{a.parent.name}-{a.name}-{b.parent.name}-{b.name}.png")
    rows_a, rows_b = read_rows(a / TRACE), read_rows(b / TRACE)
    found = first_divergence(rows_a, rows_b)
    if found is None:
        same_length = len(rows_a) == len(rows_b)
        print(
            "no divergence: every trace record that both have is bit-identical"
            + ("" if same_length else "; one is longer")
        )
        return 0 if same_length else 1
    remarks: list[str] = []
    if found.epoch > 0 and found.step is None:
        finer, remarks = refine(a, b, found.epoch, root)
        found = finer or found
    for remark in remarks:
        print(f"note: {remark}")
    print(f"first divergence: {found}; everything before it is bit-identical")
    return 1
