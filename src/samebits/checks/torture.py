"""Kills trainings with SIGKILL at random moments, resumes them, and compares each with an uninterrupted training."""

import concurrent.futures
import copy
import os
import pathlib
import random
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace

from rich.table import Table

from samebits.core.config import Config, fewest_and_most_parts, to_dict
from samebits.core.config_rules import check
from samebits.core.errors import RecordError
from samebits.core.files import make_folder, write_yaml
from samebits.core.terminal import print_table
from samebits.launch.process import parent_command, project_environment
from samebits.launch.run import clear_leftovers
from samebits.runs.compare import first_difference
from samebits.runs.folder import RESULT, is_finished, list_all_attempts, list_leftovers, read_json
from samebits.runtime.machine import usable_cores

FOLDER = ".torture"
MOMENTS = ("at start", "inside a step", "inside a checkpoint's write", "at the end", "in the tracker")
VICTIMS = ("child", "parent", "both")
MAX_STARTS = 6
DEADLINE_S = 600.0
LEAVE_S = 10.0  # a process whose parent was killed stops after its current step or file


@dataclass(frozen=True)
class Plan:
    """One kill: a moment from `MOMENTS`, a victim, and a number from 0 to 1, the position within the moment."""

    moment: str
    victim: str
    place: float


@dataclass(frozen=True)
class Pace:
    """The duration of the uninterrupted training in seconds: start and end, and the training itself."""

    start_s: float
    training_s: float


@dataclass(frozen=True)
class Ending:
    """The outcome of one training: where it was killed and resumed, and what differs from the uninterrupted one."""

    plan: Plan
    killed_at: str
    resumed_at: str
    weights: str
    difference: str


def make_plans(kills: int, seed: int, workers: int = 1) -> list[Plan]:
    """Return the kills: each moment in turn, with random victims and positions. Several workers are victims too."""
    rng = random.Random(seed)  # noqa: S311  the moments of kills, not a secret
    victims = VICTIMS if workers == 1 else (*VICTIMS, "worker")
    plans = []
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        victim = "tracker" if moment == "in the tracker" else victims[rng.randrange(len(victims))]
        plans.append(Plan(moment, victim, rng.random()))
    return plans


def _processes(needle: str) -> dict[str, list[int]]:
    """Return kind (child, worker, tracker) -> ids of running processes whose command line contains a text.

    A child writes the record. The other workers of a training, if it has any, have its folder in their last argument.
    """
    found: dict[str, list[int]] = {"child": [], "worker": [], "tracker": []}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        for kind, module in (("child", "samebits.train.worker"), ("tracker", "samebits.launch.tracker")):
            if module in words and any(needle in word for word in words):
                is_other = kind == "child" and not any(word.startswith(needle) for word in words)
                found["worker" if is_other else kind].append(int(path.parent.name))
    return found


def _newest(runs: pathlib.Path) -> pathlib.Path | None:
    attempts = list_all_attempts(runs)
    return attempts[-1] if attempts else None


def _place_of(attempt: pathlib.Path | None) -> str:
    """Return an attempt's progress in words, from its newest checkpoint."""
    names = sorted(path.name for path in attempt.glob("checkpoint-*.arrays")) if attempt else []
    if not names:
        return "before the first checkpoint"
    epoch, step = names[-1].removesuffix(".arrays").split("-")[1:]
    return f"after epoch {int(epoch)}, step {int(step)}"


def _wait_for(plan: Plan, runs: pathlib.Path, parent: "subprocess.Popen[bytes]", pace: Pace) -> bool:
    """Wait for the plan's moment; returns whether the training still ran then."""
    began = time.monotonic()
    if plan.moment == "at start":
        while parent.poll() is None:
            if time.monotonic() - began >= plan.place * pace.start_s:
                return True
            time.sleep(0.01)
        return False
    patterns = {
        "inside a step": "*/*/*/trace.jsonl",
        "inside a checkpoint's write": "*/*/*/.checkpoint-*.partial",
        "at the end": "*/*/*/*.keras",
        "in the tracker": "*/*/*/comet",
    }
    skipped, seen = int(plan.place * 4), ""
    while parent.poll() is None and time.monotonic() - began < DEADLINE_S:
        found = next(runs.glob(patterns[plan.moment]), None)
        if found is not None and plan.moment == "inside a checkpoint's write" and skipped:
            skipped -= found.name != seen
            seen = found.name
        elif found is not None:
            if plan.moment in ("inside a step", "in the tracker"):
                time.sleep(plan.place * pace.training_s)
            return parent.poll() is None
        time.sleep(0.0005)
    return False


def _kill(victim: str, runs: pathlib.Path, parent: "subprocess.Popen[bytes]") -> None:
    kinds = _processes(str(runs))
    pids = list(kinds[victim] if victim in ("tracker", "worker") else [])
    if victim in ("child", "both"):
        pids += kinds["child"]
    if victim in ("parent", "both"):
        pids.append(parent.pid)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _start(config: Config, folder: pathlib.Path, root: pathlib.Path) -> "subprocess.Popen[bytes]":
    write_yaml(folder / "run.yaml", to_dict(config))
    command, environment = parent_command(folder / "run.yaml", root), project_environment(root)
    with (folder / "terminal.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)


def train(
    config: Config, folder: pathlib.Path, root: pathlib.Path, plan: Plan | None, pace: Pace | None
) -> tuple[pathlib.Path, str]:
    """Train to the end, with one kill by the plan; returns the attempt and where it was killed.

    If a training ends before the kill, it starts again with the kill at half the time. The machine may be faster than
    when the pace was measured.

    Each start has another number of workers, if the batches have several parts.

    Raises:
        RecordError: The training did not finish.
    """
    own = copy.deepcopy(config)
    own.paths.runs = str(folder / "runs")
    runs = folder / "runs"
    if plan is None or plan.moment != "in the tracker":
        own.tracker.name = "none"
    make_folder(folder)
    killed_at = "not killed"
    for _ in range(MAX_STARTS):
        parent = _start(own, folder, root)
        if plan is not None and pace is not None and killed_at == "not killed":
            if _wait_for(plan, runs, parent, pace):
                killed_at = _place_of(_newest(runs))
                _kill(plan.victim, runs, parent)
            plan = replace(plan, place=plan.place / 2)
        parent.wait()
        own.training.workers = own.training.workers % fewest_and_most_parts(own)[0] + 1  # any number resumes
        attempt = _newest(runs)
        if attempt is None or not is_finished(attempt):
            continue
        if plan is None or killed_at != "not killed":
            return attempt, killed_at
        shutil.rmtree(runs)  # it ended before the kill
    raise RecordError(
        f"the training in {folder} did not finish.",
        expected=f"a finished run after at most {MAX_STARTS} starts",
        received="none",
        fix="read terminal.txt and log.txt there.",
    )


def compare(uninterrupted: pathlib.Path, attempt: pathlib.Path, runs: pathlib.Path) -> str:
    """Return what differs between a killed and the uninterrupted training, or which leftovers exist ("": nothing)."""
    clear_leftovers(attempt.parent)  # the next start of this run would do it
    difference = first_difference(uninterrupted, attempt, ignore=())
    if difference:
        return difference
    left = [path.name for path in list_leftovers(attempt)]
    if left:
        return f"leftover files: {', '.join(left)}"
    deadline = time.monotonic() + LEAVE_S
    while any(_processes(str(runs)).values()):
        if time.monotonic() > deadline:
            return "a leftover process"
        time.sleep(0.1)
    return ""


def torture(config: Config, root: pathlib.Path, kills: int, seed: int | None) -> int:
    """Kill each of some trainings once, resume them, and print a table and one verdict.

    Args:
        config: What to train.
        root: The project's folder.
        kills: The number of trainings, each killed once.
        seed: Seed of the moments and victims. None: a random one, which is printed.

    Returns:
        0: all ended with the bits of the uninterrupted training; 1: otherwise.
    """
    check(config)
    seed = secrets.randbelow(2**32) if seed is None else seed
    folder = root / config.paths.runs / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{kills} kills of {config.name}, seed {config.seed.root}; kill seed {seed}", flush=True)
    began = time.monotonic()
    uninterrupted, _ = train(config, folder / "uninterrupted", root, None, None)
    training_s = float(read_json(uninterrupted / RESULT)["timing"]["training_s"])
    pace = Pace(time.monotonic() - began - training_s, training_s)
    plans = make_plans(kills, seed, config.training.workers)

    def run(number: int) -> Ending:
        own = folder / str(number + 1)
        try:
            attempt, killed_at = train(config, own, root, plans[number], pace)
        except RecordError as error:
            return Ending(plans[number], "-", "-", "-", error.what)
        result = read_json(attempt / RESULT)
        point = result["resumed_at"]
        resumed_at = f"epoch {point['epoch']}, step {point['step']}" if point else "the beginning"
        if plans[number].victim == "tracker":
            resumed_at = "not needed"
        difference = compare(uninterrupted, attempt, own / "runs")
        return Ending(plans[number], killed_at, resumed_at, result["weights_digest"], difference)

    endings: dict[int, Ending] = {}
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        futures = {pool.submit(run, number): number for number in range(kills)}
        for future in concurrent.futures.as_completed(futures):
            number = futures[future]
            endings[number] = future.result()
            verdict = endings[number].difference or "identical"
            print(f"[{len(endings)}/{kills}] {plans[number].moment}, {plans[number].victim}: {verdict}", flush=True)
    table = Table("kill", "moment", "victim", "killed", "resumed at", "weights", "vs. the uninterrupted training")
    for number, ending in sorted(endings.items()):
        words = ending.plan.moment, ending.plan.victim, ending.killed_at, ending.resumed_at, ending.weights[:12]
        table.add_row(str(number + 1), *words, ending.difference or "identical: weights, optimizer, every record")
    print_table(table)
    identical = sum(not ending.difference for ending in endings.values())
    verdict = "SURVIVED" if identical == kills else "NOT SURVIVED"
    print(f"{verdict}: {identical} of {kills} identical to the uninterrupted training (kill seed {seed})")
    if identical == kills:
        shutil.rmtree(folder)
    return int(identical != kills)
