"""Explains why two runs differ: the inputs that differ, then the first trace entry that differs."""

import difflib
import math
import pathlib
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from samebits.core.config import flatten
from samebits.core.files import make_folder
from samebits.core.metrics import VALIDATION, order_names
from samebits.core.plots import Line, draw_lines
from samebits.core.seeds import resolve_points
from samebits.core.terminal import print_table
from samebits.launch.run import run_again
from samebits.runs.compare import list_differences
from samebits.runs.effects import DOES_NOT, effect_of, machine_items
from samebits.runs.folder import (
    CONFIG,
    INPUTS,
    MACHINE,
    SEEDS,
    SOURCE,
    TRACE,
    metric_values,
    read_json,
    read_metrics,
    read_rows,
    read_yaml,
)
from samebits.runs.trace_diff import Divergence, first_divergence

MAX_DIFF_LINES = 60
MAX_CURVES = 4  # metrics, those of training first
MAX_WIDTH = 60  # of a value
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class InputDifference:
    """One input that differs between two runs, and whether it can change bits."""

    item: str
    a: str
    b: str
    effect: str


def _seed_values(attempt: pathlib.Path) -> dict[str, Any]:
    if (attempt / SEEDS).exists():
        return {row["point"]: row["value"] for row in read_json(attempt / SEEDS)["points"]}
    seed = read_yaml(attempt / CONFIG)["seed"]
    return {name: point.value for name, point in resolve_points(seed["root"], seed["policy"], seed["points"]).items()}


def _unused_points(attempt: pathlib.Path) -> set[str]:
    if not (attempt / SEEDS).exists():
        return set()
    return {row["point"] for row in read_json(attempt / SEEDS)["points"] if row["rests"]}


def _promise(attempt: pathlib.Path) -> str:
    return str(read_json(attempt / MACHINE)["arithmetic"]["promise"]) if (attempt / MACHINE).exists() else ""


def _inputs(attempt: pathlib.Path) -> dict[str, Any]:
    """Return item -> input of an attempt, as far as its files exist."""
    config = flatten(read_yaml(attempt / CONFIG))
    items = {f"config {key}": value for key, value in config.items() if not key.startswith("seed.points.")}
    items |= {f"seed {point}": value for point, value in _seed_values(attempt).items()}
    inputs, rows = read_json(attempt.parent / INPUTS), read_rows(attempt / TRACE)
    items |= {f"code {path}": digest[:12] for path, digest in inputs["code"]["files"].items()}
    items["lock requirements.lock"] = inputs["lock"][:12]
    data = (rows[0]["data"] if rows else None) or {}
    items |= {f"data {name}": digest[:12] for name, digest in data.items()}
    return items | (machine_items(read_json(attempt / MACHINE)) if (attempt / MACHINE).exists() else {})


def input_differences(a: pathlib.Path, b: pathlib.Path) -> list[InputDifference]:
    """Return the inputs that differ between two attempts: configuration, seeds, code, lock, data, packages, machine.

    Kinds of input that only one of them has recorded are left out.
    """
    sides, found = (_inputs(a), _inputs(b)), []
    kinds = {item.partition(" ")[0] for item in sides[0]} & {item.partition(" ")[0] for item in sides[1]}
    portable = all(_promise(attempt) == "portable" for attempt in (a, b))
    unused = {f"seed {point}" for point in _unused_points(a) & _unused_points(b)}
    for item, left, right in list_differences(*sides):
        if item.partition(" ")[0] in kinds:
            effect = DOES_NOT if item in unused else effect_of(item, (left, right), portable=portable)
            found.append(InputDifference(item, str(left)[:MAX_WIDTH], str(right)[:MAX_WIDTH], effect))
    return found


def code_diff(a: pathlib.Path, b: pathlib.Path) -> list[str]:
    """Return the unified diff between two attempts of the code that can change bits."""
    files_a, files_b = (read_json(attempt.parent / INPUTS)["code"]["files"] for attempt in (a, b))
    lines: list[str] = []
    for path, _, _ in list_differences(files_a, files_b):
        texts = []
        for attempt in (a, b):
            source = attempt.parent / SOURCE / path
            texts.append(source.read_text(encoding="utf-8").splitlines() if source.exists() else [])
        lines += difflib.unified_diff(texts[0], texts[1], f"a/{path}", f"b/{path}", lineterm="", n=2)
    return lines


def refine(a: pathlib.Path, b: pathlib.Path, epoch: int, root: pathlib.Path) -> tuple[Divergence | None, list[str]]:
    """Train both runs again with one epoch traced by stage.

    Returns:
        The first divergence of the two new runs, and remarks, for example that a run did not repeat its own bits.
    """
    remarks, traces = [], []
    for name, attempt in (("A", a), ("B", b)):
        folder = attempt.parent.parent.parent / ".explain" / f"{attempt.parent.name}-{attempt.name}"
        print(f"running {name} again with epoch {epoch} traced by stage …", flush=True)
        code = run_again(attempt, folder, root, epoch)
        rows = read_rows(folder / TRACE)
        if code != 0 or not rows:
            remarks.append(f"training {name} again failed (exit code {code}); log: {folder / 'log.txt'}")
            continue
        own = first_divergence(read_rows(attempt / TRACE), rows)
        if own is not None:
            remarks.append(
                f"{name} did not repeat its own recorded bits ({own}); the cause is outside the recorded inputs, "
                "such as a non-deterministic operation, another machine or other packages"
            )
            opaque = rows[0].get("opaque")
            if opaque:
                remarks.append(f"operations in {name}'s training step that run Python code: {', '.join(opaque)}")
        traces.append(rows)
    if len(traces) == 2:  # noqa: PLR2004  both sides
        return first_divergence(*traces), remarks
    return None, remarks


def sparkline(values: list[float], low: float, high: float) -> str:
    """Return a line of block characters, one per value, scaled between low and high."""
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(7, int((value - low) / span * 8))] for value in values)


def show_curves(a: pathlib.Path, b: pathlib.Path, picture: pathlib.Path) -> None:
    """Draw the metrics of both runs, at most `MAX_CURVES`, in the terminal and in a PNG file."""
    rows = {name: read_metrics(attempt) for name, attempt in (("A", a), ("B", b))}
    names = order_names((name for side in rows.values() for row in side for name in metric_values(row)), "loss")
    panels: dict[str, list[Line]] = {}
    for metric in sorted(names, key=lambda name: name.startswith(VALIDATION))[:MAX_CURVES]:
        drawn = {name: [row for row in side if math.isfinite(row.get(metric, math.nan))] for name, side in rows.items()}
        everything = [row[metric] for side in drawn.values() for row in side]
        panels[metric] = []
        for name, side in drawn.items():
            line = [row[metric] for row in side]
            shape = sparkline(line, min(everything), max(everything)) if line else "not recorded"
            print(f"  {metric:>8} {name} {shape}")
            style = {"A": "-", "B": "--"}[name]
            panels[metric].append((f"{name} {metric}", [row["global_step"] for row in side], line, style))
    draw_lines(picture, panels, x_label="step")
    print(f"  curves: {picture}")


def show_inputs(a: pathlib.Path, b: pathlib.Path) -> list[InputDifference]:
    """Print the inputs that differ and the diff of the code, and return these inputs."""
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
    """Compare two attempts, print what differs, and end with a verdict of one sentence.

    Returns:
        0: bitwise identical; 1: they differ.
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
            + ("" if same_length else "; one trace is longer")
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
