"""Repeats the article's experiments, two runs per round: no seeds, data seeds only, all seeds and fixed settings."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from samebits.core.config import Config
from samebits.core.metrics import table_names
from samebits.core.terminal import describe_value, print_table
from samebits.launch import run
from samebits.runs.folder import RESULT, is_finished, read_json, read_metrics

RUNS_PER_ROUND = 2


@dataclass(frozen=True)
class Round:
    """One round: its seed and runtime options, and whether its runs must agree (None: either is fine)."""

    name: str
    seed: str
    runtime: str
    must_agree: bool | None


ROUNDS = (
    Round("1: no seeds", "none", "free", must_agree=False),
    Round("2: seeds of the data", "data_only", "free", must_agree=False),
    Round("3: all seeds, fixed settings", "all", "portable", must_agree=True),
    Round("article: one seed, one thread", "article", "article", must_agree=None),
)
Runs = list[tuple[Round, list[pathlib.Path]]]


def train_rounds(compose: Callable[[list[str]], Config], root: pathlib.Path) -> Runs | None:
    """Train the runs of every round. None: one of them failed."""
    trained: Runs = []
    for part in ROUNDS:
        attempts = []
        for number in range(RUNS_PER_ROUND):
            print(f"--- round {part.name}, run {number + 1} of {RUNS_PER_ROUND}", flush=True)
            config = compose([f"seed={part.seed}", f"runtime={part.runtime}"])
            config.tracker.group = "rounds"
            config.tracker.tags = [*config.tracker.tags, f"round {part.name.partition(':')[0]}"]
            outcome = run.run(config, root)
            if outcome.attempt is None or not is_finished(outcome.attempt):
                return None
            attempts.append(outcome.attempt)
        trained.append((part, attempts))
    return trained


def judge(part: Round, digests: list[str]) -> tuple[str, bool]:
    """Return whether a round's digests agree, in words, and whether that is as expected."""
    agree = len(set(digests)) == 1
    said = "same bits" if agree else "different bits"
    if part.must_agree is None or agree == part.must_agree:
        return said, True
    return f"{said}, expected {'the same' if part.must_agree else 'different'}", False


def points(rows: list[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Return the steps and values of a metric in the rows that have it."""
    drawn = [row for row in rows if metric in row]
    return [row["global_step"] for row in drawn], [row[metric] for row in drawn]


def draw(trained: Runs, picture: pathlib.Path) -> None:
    """Draw training loss and validation loss of every run, one panel per round."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, len(trained), sharey=True)
    for axis, (part, attempts) in zip(axes, trained, strict=True):
        for number, attempt in enumerate(attempts):
            rows, run_name = read_metrics(attempt), f"run {number + 1}"
            style: dict[str, Any] = {"linestyle": ("-", (0, (4, 3)))[number], "linewidth": (3.0, 1.5)[number]}
            axis.plot(*points(rows, "loss"), label=run_name, **style)
            axis.plot(*points(rows, "val_loss"), ("o", "x")[number], label=f"{run_name}, validation")
        axis.set_title(part.name, fontsize=10)
        axis.set_xlabel("step")
    axes[0].set_ylabel("loss")
    axes[-1].legend(fontsize=8)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def show(trained: Runs, monitor: str) -> int:
    """Print the table and the verdict; returns 0 if every round is as expected, else 1.

    Args:
        trained: The attempts of each round.
        monitor: The metric whose range is shown.
    """
    results = {part: [read_json(attempt / RESULT) for attempt in attempts] for part, attempts in trained}
    names = table_names((name for runs in results.values() for run in runs for name in run["metrics"]), monitor)
    table = Table("round", "run", *names, "weights", f"range of {monitor}", "verdict")
    wrong = []
    for part, runs in results.items():
        said, is_right = judge(part, [result["weights_digest"] for result in runs])
        if not is_right:
            wrong.append(part.name)
        values = [run["metrics"][monitor] for run in runs if monitor in run["metrics"]]
        spread = describe_value(max(values) - min(values)) if values else "not recorded"
        for number, result in enumerate(runs):
            numbers = (*(describe_value(result["metrics"].get(name)) for name in names), result["weights_digest"][:12])
            ends = (spread, said) if number == 0 else ("", "")
            table.add_row(part.name if number == 0 else "", str(number + 1), *numbers, *ends)
    print_table(table)
    if wrong:
        print(f"NOT AS PROMISED: round {'; round '.join(wrong)}")
        return 1
    print("round 3 is bitwise identical; rounds 1 and 2 are not")
    return 0


def rounds(compose: Callable[[list[str]], Config], root: pathlib.Path, picture: pathlib.Path) -> int:
    """Train all rounds, print the table, and draw the figure.

    Args:
        compose: Returns the configuration for some overrides.
        root: The project's folder.
        picture: The figure's path.

    Returns:
        0: as expected; 1: otherwise, or a run failed.
    """
    trained = train_rounds(compose, root)
    if trained is None:
        print("a run did not finish, so there is no table")
        return 1
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(trained, picture)
    code = show(trained, compose([]).training.monitor)
    print(f"figure: {picture}")
    return code
