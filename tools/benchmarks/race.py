"""Races three trainings of gallery kinds against their plain `compile` and `fit`: python -m benchmarks.race.

Both train the same arrays with the same model in fresh processes, in turns, on one core and on two. Ratios compare
values from the same turn. Exit code 1: samebits under `portable` is slower than plain Keras.
"""

import importlib
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence

from rich.table import Table

from benchmarks.measuring import ROOT, Command, describe_this_machine, median_and_range, parse_turns, ratios
from samebits.core.terminal import print_table
from samebits.runs.folder import RESULT, read_json

LEAST = 1.0  # ratio of samples per second, samebits to plain Keras
Rates = tuple[float, float]  # samples per second of training and of evaluation


def make_project(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the project with the package `kinds`."""
    root = folder / "project"
    for name in ("conf", "scripts", "src"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tools" / "benchmarks" / "kinds", root / "src" / "kinds")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    for part, function in (("data", "load"), ("model", "build")):
        (root / "conf" / part / "kinds.yaml").write_text(f"_target_: kinds.project.{function}\nkind: image\n")
    return root


def train_plain(kind: str, epochs: int, cores: Sequence[int]) -> Rates:
    """Train a kind in plain Keras."""
    words = [sys.executable, "-m", "benchmarks.plain_kind", kind, str(epochs)]
    said = json.loads(Command(words, cores, {"PYTHONPATH": str(ROOT / "tools")}).run().splitlines()[-1])
    return said["rows"] / said["steps_s"], said["validation_rows"] / said["evaluate_s"]


def train_ours(kind: str, epochs: int, cores: Sequence[int], root: pathlib.Path) -> Rates:
    """Train a kind under `portable`, with all recording."""
    module = importlib.import_module(f"benchmarks.kinds.{kind}")
    shutil.rmtree(root / "runs", ignore_errors=True)
    words = ["data=kinds", "model=kinds", f"data.kind={kind}", f"model.kind={kind}", "name=race", "tracker=none",
             f"training.epochs={epochs}", f"training.batch_size={module.BATCH}"]  # fmt: skip
    Command([sys.executable, "scripts/train.py", *words], cores, folder=root).run()
    (path,) = (root / "runs").glob(f"*/*/*/{RESULT}")
    phases = read_json(path)["phases"]
    rows = epochs * module.ROWS - module.BATCH
    return rows / (phases["steps_s"] + phases["record_s"]), epochs * module.VALIDATION / phases["evaluate_s"]


def main() -> int:
    """Race, print the table, and return 1 if samebits is slower."""
    given = parse_turns(__doc__, 3, "per training")
    cores = sorted(os.sched_getaffinity(0))[:2]
    heads = ("kind", "cores", "plain samples/s", "samebits samples/s", "ratio", "ratio of evaluations")
    measured = f"{given.epochs} epochs: median (range) of {given.repeats} turns"
    table = Table(*heads, title=f"{measured}; {describe_this_machine()}")
    met = []
    with tempfile.TemporaryDirectory() as name:
        root = make_project(pathlib.Path(name))
        for kind in given.kinds.split(","):
            for count in range(1, len(cores) + 1):
                on = cores[:count]
                turns = [
                    (train_plain(kind, given.epochs, on), train_ours(kind, given.epochs, on, root))
                    for _ in range(given.repeats)
                ]
                plain, ours = ([turn[side] for turn in turns] for side in (0, 1))
                found, evaluated = (ratios([r[i] for r in ours], [r[i] for r in plain]) for i in (0, 1))
                met.append(statistics.median(found) >= LEAST)
                speeds = (median_and_range([each[0] for each in side], ".0f") for side in (plain, ours))
                table.add_row(kind, str(count), *speeds, *(median_and_range(r, ".2f") for r in (found, evaluated)))
                print(f"{kind}, {count} core(s): {median_and_range(found, '.2f')} times plain Keras", flush=True)
    print_table(table)
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
