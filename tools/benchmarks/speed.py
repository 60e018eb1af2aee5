"""Compares samebits with plain Keras: python -m benchmarks.speed [--repeats=3] [--out=docs/performance.png].

Every contender trains the same reviews for the same epochs in a fresh process, in turns, on one core and on two. Then
it measures start times, and a study of eight seeds against the same runs one after another. Ratios compare values from
the same turn, because the speed of a machine varies. Memory is measured afterwards in separate runs. Exit code 1: a
target is missed.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.measuring import (
    ROOT,
    Command,
    describe_this_machine,
    median_and_range,
    ratios,
    train,
    train_command,
    train_megabytes,
)
from samebits.compose import compose
from samebits.core.seeds import Seeds
from samebits.core.terminal import print_table
from samebits.runs.folder import RESULT, read_json
from samebits.train.worker import load_dataset

SEEDS, SEED = 8, 56
STUDY_STEPS = 200  # of each run of the study
PLAIN, DETERMINISTIC, ARTICLE = (
    "plain Keras",
    "Keras, seeded, deterministic operations",
    "the article: seeds, one thread",
)
MACHINE, PORTABLE, TRACKED = "samebits, machine", "samebits, portable", "samebits, portable, Comet offline"
RECIPES = {PLAIN: "plain", DETERMINISTIC: "deterministic", ARTICLE: "article"}
OVERRIDES = {
    MACHINE: ("runtime=machine", "tracker=none"),
    PORTABLE: ("tracker=none",),
    TRACKED: ("tracker.mode=offline",),
}
CONTENDERS = (*RECIPES, *OVERRIDES)


@dataclass(frozen=True)
class Row:
    """The measurements of one training.

    Attributes:
        rate: Training samples per second after the first step; for samebits including all recording.
        evaluation: Validation samples per second.
        first_step_s: Time from the command to the end of the first step.
        total_s: Duration of the command.
        recording: Share of the training time for records and checkpoints.
        data_s: Time to load the data.
    """

    rate: float
    evaluation: float
    first_step_s: float
    total_s: float
    recording: float = 0.0
    data_s: float = 0.0


class Race:
    """The contenders and their trainings.

    Args:
        folder: Folder for files of the benchmark.
        epochs: Epochs per training.
    """

    def __init__(self, folder: pathlib.Path, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        self.config = compose(ROOT, [f"seed.root={SEED}"])
        data = load_dataset(self.config, Seeds.of(self.config.seed), ROOT)
        self.reviews, self.validation_rows = folder / "reviews.npz", len(data.validation.labels)
        self.rows = len(data.train.labels)
        np.savez(
            self.reviews,
            train_inputs=data.train.inputs,
            train_labels=data.train.labels,
            validation_inputs=data.validation.inputs,
            validation_labels=data.validation.labels,
        )

    def train(self, name: str, cores: Sequence[int]) -> Row:
        """Train one contender once."""
        return self.train_plain(name, cores) if name in RECIPES else self.train_ours(name, cores)

    def plain_command(self, name: str, cores: Sequence[int]) -> Command:
        """Return the command of a contender of plain Keras."""
        words = str(self.reviews), RECIPES[name], str(self.epochs), str(self.config.training.batch_size)
        script = str(ROOT / "tools" / "benchmarks" / "plain_keras.py")
        environment = {"PYTHONHASHSEED": "0"} if name == ARTICLE else {}
        return Command([sys.executable, script, *words], cores, environment)

    def train_plain(self, name: str, cores: Sequence[int]) -> Row:
        """Train a contender of plain Keras."""
        began, began_s = time.time(), time.monotonic()
        said = json.loads(self.plain_command(name, cores).run().splitlines()[-1])
        return Row(
            said["rows"] / said["steps_s"],
            self.epochs * self.validation_rows / said["evaluate_s"],
            said["first_step_at"] - began,
            time.monotonic() - began_s,
        )

    def our_overrides(self, name: str) -> list[str]:
        """Return the overrides of a contender of samebits."""
        return [*OVERRIDES[name], f"seed.root={SEED}", f"training.epochs={self.epochs}"]

    def train_ours(self, name: str, cores: Sequence[int]) -> Row:
        """Train one of ours."""
        done = train(self.our_overrides(name), cores)
        phases = done.result["phases"]
        return Row(
            (self.epochs * self.rows - self.config.training.batch_size) / (phases["steps_s"] + phases["record_s"]),
            self.epochs * self.validation_rows / phases["evaluate_s"],
            done.first_step_s,
            done.seconds,
            phases["record_s"] / sum(phases.values()),
            done.result["timing"]["data_s"],
        )

    def megabytes(self, name: str, cores: Sequence[int]) -> float:
        """Train one contender once, untimed, and return its peak memory in MB."""
        if name in RECIPES:
            return self.plain_command(name, cores).peak_megabytes()
        return train_megabytes(self.our_overrides(name), cores)


Rows = dict[int, dict[str, list[Row]]]  # number of cores -> contender -> one row per turn
Memory = dict[int, dict[str, float]]  # number of cores -> contender -> MB


def race(folder: pathlib.Path, repeats: int, epochs: int, cores: Sequence[int]) -> tuple[Rows, Memory]:
    """Return the rows of every contender in every turn, and then its memory, by number of cores."""
    track = Race(folder, epochs)
    rows: Rows = {n: {name: [] for name in CONTENDERS} for n in (1, 2)}
    track.train(PORTABLE, cores)  # whatever is done once: caches of data and of Python's code
    for turn in range(repeats):
        for count, found in rows.items():
            for name in CONTENDERS:
                row = track.train(name, cores[:count])
                found[name].append(row)
                print(
                    f"turn {turn + 1} of {repeats}  {count} core(s)  {name:<42} {row.rate:6.0f} samples/s", flush=True
                )
    return rows, {n: {name: track.megabytes(name, cores[:n]) for name in CONTENDERS} for n in rows}


def show_race(rows: Rows, memory: Memory, epochs: int) -> None:
    """Print the contenders as a table."""
    turns = len(rows[1][PLAIN])
    title = f"{epochs} epochs and their evaluations: median (range) of {turns} turns; {describe_this_machine()}"
    heads = ("cores", "contender", "samples/s", "ratio to plain", "ratio to article", "evaluated samples/s",
             "to first step (s)", "total (s)", "memory (MB)", "recording")  # fmt: skip
    table = Table(*heads, title=title)
    for count, found in rows.items():
        for name, mine in found.items():
            rates = [row.rate for row in mine]
            against = [
                median_and_range(ratios(rates, [row.rate for row in found[other]]), ".2f") for other in (PLAIN, ARTICLE)
            ]
            table.add_row(
                str(count),
                name,
                median_and_range(rates, ".0f"),
                *against,
                f"{statistics.median(row.evaluation for row in mine):.0f}",
                f"{statistics.median(row.first_step_s for row in mine):.1f}",
                f"{statistics.median(row.total_s for row in mine):.1f}",
                f"{memory[count][name]:.0f}",
                f"{statistics.median(row.recording for row in mine):.1%}" if name in OVERRIDES else "",
            )
    print_table(table)


def draw_race(rows: Rows, picture: pathlib.Path) -> None:
    """Draw the training samples per second: a bar per median, a dot per turn."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes: Any = figure.subplots(1, len(rows), sharey=True, sharex=True)
    for axis, (count, found) in zip(axes, rows.items(), strict=True):
        places = np.arange(len(found))[::-1]
        rates = [[row.rate for row in mine] for mine in found.values()]
        colours = ["0.6" if name in RECIPES else "tab:blue" for name in found]
        axis.barh(places, [statistics.median(mine) for mine in rates], color=colours)
        for place, mine in zip(places, rates, strict=True):
            axis.plot(mine, [place] * len(mine), "k.", markersize=4)
        axis.axvline(statistics.median(rates[0]), color="0.3", linewidth=0.8, linestyle="--")
        axis.set_yticks(places, list(found))
        axis.set_title(f"{count} core{'s' if count > 1 else ''}")
        axis.set_xlabel("training samples per second")
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def start_ups(folder: pathlib.Path, repeats: int) -> dict[str, list[float]]:
    """Return the start times of all commands that must not import TensorFlow, and the time of TensorFlow's import."""
    settings = "experiment=smoke", "tracker=none", f"paths.runs={folder}/runs"
    samebits = [sys.executable, "-m", "samebits"]
    study = [*samebits, "study", "--seeds=1..2", *settings]
    Command(study).run()  # trains; later calls only summarize
    page, attempts = f"--out={folder}/report.html", [str(path.parent) for path in folder.glob(f"runs/*/*/*/{RESULT}")]
    commands: dict[str, list[str]] = {
        "import tensorflow": [sys.executable, "-c", "import tensorflow"],
        "samebits report": [*samebits, "report", page, *attempts],
        "samebits --help": [*samebits, "--help"],
        "the summary of a finished study": study,
    }
    for name in ("train", "verify"):
        commands[f"samebits {name} --help"] = [*samebits, name, "--help"]
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            taken[name].append(Command(command).seconds())
    return taken


def sweep(folder: pathlib.Path, repeats: int, cores: Sequence[int]) -> list[tuple[float, float, bool]]:
    """Return per turn: duration of a study, duration of its runs one after another, and whether the bits agree."""
    steps = ["tracker=none", "training.epochs=1", f"training.steps_per_epoch={STUDY_STEPS}"]
    turns = []
    for _ in range(repeats):
        together, apart = folder / "together", folder / "apart"
        study = [sys.executable, "-m", "samebits", "study", f"--seeds=1..{SEEDS}", *steps, f"paths.runs={together}"]
        at_once = Command(study, cores).seconds()
        one_by_one = 0.0
        for seed in range(1, SEEDS + 1):
            one_by_one += train_command([*steps, f"seed.root={seed}"], apart, cores).seconds()
        digests = [
            {path.parent.parent.name: read_json(path)["weights_digest"] for path in runs.glob(f"*/*/*/{RESULT}")}
            for runs in (together, apart)
        ]
        turns.append((at_once, one_by_one, digests[0] == digests[1] and len(digests[0]) == SEEDS))
        shutil.rmtree(together)
        shutil.rmtree(apart)
        print(f"study of {SEEDS} seeds: {at_once:.0f} s; one after another: {one_by_one:.0f} s", flush=True)
    return turns


def judge_starts(taken: dict[str, list[float]], rows: Rows | None) -> list[bool]:
    """Print the start times and their targets."""
    table = Table("command", "seconds: median (range)", title="Start times")
    for name, seconds in taken.items():
        table.add_row(name, median_and_range(seconds, ".2f"))
    print_table(table)
    importing = statistics.median(taken["import tensorflow"])
    slowest = max(statistics.median(seconds) for name, seconds in taken.items() if name != "import tensorflow")
    met = [at_most(1.5, "s, slowest command without TensorFlow", slowest)]
    if rows is not None:
        beyond = statistics.median(row.first_step_s for row in rows[2][PORTABLE]) - importing
        loading = statistics.median(row.data_s for row in rows[2][PORTABLE])
        met.append(at_most(3.0, "s to the first step, without TensorFlow's import", beyond))
        met.append(at_most(1.0, "s, loading the data for the second time", loading))
    return met


def at_least(least: float, name: str, value: float) -> bool:
    """Print and return whether a value reaches its target."""
    print(f"{'met   ' if value >= least else 'MISSED'}  {name}: {value:.2f} (target: {least:g} or more)")
    return value >= least


def at_most(most: float, name: str, value: float) -> bool:
    """Print and return whether a value stays within its target."""
    print(f"{'met   ' if value <= most else 'MISSED'}  {name}: {value:.2f} (target: {most:g} or less)")
    return value <= most


def judge_race(rows: Rows, memory: Memory) -> list[bool]:
    """Print the results and targets of the contenders."""

    def ratio(count: int, name: str, other: str) -> float:
        mine, theirs = ([row.rate for row in rows[count][each]] for each in (name, other))
        return float(statistics.median(ratios(mine, theirs)))

    def middle(count: int, name: str, what: str) -> float:
        return float(statistics.median(getattr(row, what) for row in rows[count][name]))

    more = statistics.median(ratios(*([r.total_s for r in rows[2][name]] for name in (TRACKED, PORTABLE)))) - 1
    return [
        at_least(1.25, "samples/s, portable to plain, two cores", ratio(2, PORTABLE, PLAIN)),
        at_least(1.8, "samples/s, portable to the article, two cores", ratio(2, PORTABLE, ARTICLE)),
        at_least(1.2, "samples/s, portable to plain, one core", ratio(1, PORTABLE, PLAIN)),
        at_most(0.03, "recording's share of a training", middle(2, PORTABLE, "recording")),
        at_most(0.03, "share of time that Comet offline adds to a run", more),
        at_most(1.0, "memory, portable to plain, two cores", memory[2][PORTABLE] / memory[2][PLAIN]),
    ]


def main() -> int:
    """Measure and print everything; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="number of turns (default: 3)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per training (default: 2)")
    parser.add_argument("--out", type=pathlib.Path, help="path of the figure")
    parser.add_argument("--parts", default="race,start,study", help="parts to measure (default: race,start,study)")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:  # noqa: PLR2004
        sys.exit("cores: expected two, received one; fix: use a machine with two cores")
    met: list[bool] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if "race" in given.parts:
            rows, memory = race(folder, given.repeats, given.epochs, cores)
            show_race(rows, memory, given.epochs)
            met += judge_race(rows, memory)
            if given.out:
                draw_race(rows, given.out)
        if "start" in given.parts:
            met += judge_starts(start_ups(folder, given.repeats), rows if "race" in given.parts else None)
        if "study" in given.parts:
            turns = sweep(folder, given.repeats, cores)
            gain = statistics.median(apart / together for together, apart, _ in turns)
            met.append(at_least(1.3, f"speed of a study of {SEEDS} seeds to one run after another", gain))
            met.append(at_least(1, "share of turns with the same digests", statistics.mean(same for *_, same in turns)))
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
