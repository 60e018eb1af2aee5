"""Measures a study's summary and the report with 10,000 finished runs: python -m benchmarks.many_runs [--out=…].

Trains one real run (the smoke experiment) and copies its folder with other seeds and other numbers, to the places where
`make train` would write them. Then runs the real commands over a tenth, half and all of them, as fresh processes: once
for the time and once for the peak memory. Deletes everything at the end.
"""

import argparse
import copy
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from rich.table import Table

from benchmarks.measuring import ROOT, Command, describe_this_machine
from samebits.compose import compose
from samebits.core.terminal import print_table
from samebits.runs.folder import INPUTS, RESULT, SOURCE, read_json
from samebits.studies.plan import Run, Study
from samebits.studies.report.report import MAX_RUNS

OVERRIDES = ["experiment=smoke", "tracker=none"]


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the project, to keep its runs separate."""
    for name in ("conf", "scripts", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make_runs(root: pathlib.Path, runs: int) -> None:
    """Train seed 0, and make the folders of the other seeds from its files."""
    command = [sys.executable, str(root / "scripts" / "train.py"), *OVERRIDES, "seed.root=0"]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    base = compose(root, OVERRIDES)
    study = Study("made", [Run("base", seed, base) for seed in range(runs)], root)
    (real,) = (root / "runs" / "smoke").iterdir()
    inputs, result = read_json(real / INPUTS), read_json(real / "1" / RESULT)
    for seed in range(1, runs):
        folder = study.inputs_folder(seed)
        shutil.copytree(real, folder, ignore=shutil.ignore_patterns(SOURCE, "model.keras", "curves.png"))
        other, mine = copy.deepcopy(result), copy.deepcopy(inputs)
        mine["config"]["seed"]["root"] = seed
        for name, value in result["metrics"].items():
            other["metrics"][name] = value + seed * 7919 % 1000 / 10_000
        other["weights_digest"] = f"{seed:064x}"
        (folder / INPUTS).write_text(json.dumps(mine, indent=1))
        (folder / "1" / RESULT).write_text(json.dumps(other, indent=1))


def draw(found: dict[str, dict[int, tuple[float, float]]], picture: pathlib.Path) -> None:
    """Draw seconds and memory of each command against the number of runs."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    for place, (axis, label) in enumerate(zip(axes, ("seconds", "MB"), strict=True)):
        for command, rows in found.items():
            axis.plot(list(rows), [costs[place] for costs in rows.values()], "o-", label=command)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("runs")
        axis.set_ylabel(label)
    axes[0].legend()
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def main() -> int:
    """Make the runs, measure, and print a table; stops at the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="path of the figure")
    parser.add_argument("runs", nargs="?", type=int, default=10_000, help="number of runs (default: 10000)")
    given = parser.parse_args()
    table = Table("command", "runs", "seconds", "peak memory", title=describe_this_machine())
    found: dict[str, dict[int, tuple[float, float]]] = {}

    def measure(some: int, word: str, *arguments: str) -> None:
        name, command = f"samebits {word}", Command([sys.executable, "-m", "samebits", word, *arguments], folder=root)
        seconds, megabytes = found.setdefault(name, {})[some] = command.seconds(), command.peak_megabytes()
        table.add_row(name, str(some), f"{seconds:.1f}", f"{megabytes:.0f} MB")

    with tempfile.TemporaryDirectory() as name:
        root = copy_project(pathlib.Path(name))
        make_runs(root, given.runs)
        for some in (given.runs // 10, given.runs // 2, given.runs):
            measure(some, "study", f"--seeds=0..{some - 1}", *OVERRIDES)
        for some in (MAX_RUNS // 10, MAX_RUNS // 2, MAX_RUNS):
            for path in sorted((root / "runs" / "smoke").iterdir())[some:]:
                path.rename(root / path.name)
            measure(some, "report")
            for path in root.glob("[0-9a-f]" * 16):
                path.rename(root / "runs" / "smoke" / path.name)
    print_table(table)
    if given.out:
        draw(found, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
