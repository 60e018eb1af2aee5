"""Kills trainings with SIGKILL at random moments, goes on with them, and compares each with an undisturbed one."""

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

from samebits.core.config import Config, to_dict
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
LEAVE_S = 10.0  # a process whose parent was killed notices after a step, or ends what it has nearly done


@dataclass(frozen=True)
class Plan:
    """When whom to kill: a moment of `MOMENTS`, a victim, and a number from 0 to 1 that places the kill within it."""

    moment: str
    victim: str
    place: float


@dataclass(frozen=True)
class Pace:
    """How long the undisturbed training took, in seconds: to its first step and after its last, and between them."""

    start_s: float
    training_s: float


@dataclass(frozen=True)
class Ending:
    """How one training ended: where it was killed and went on, and what differs from the undisturbed one."""

    plan: Plan
    killed_at: str
    resumed_at: str
    weights: str
    difference: str


def make_plans(kills: int, seed: int) -> list[Plan]:
    """Return the kills, every moment and victim in turn at random places."""
    rng = random.Random(seed)  # noqa: S311  the moments of kills, not a secret
    plans = []
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        victim = "tracker" if moment == "in the tracker" else VICTIMS[rng.randrange(len(VICTIMS))]
        plans.append(Plan(moment, victim, rng.random()))
    return plans


def _processes(needle: str) -> dict[str, list[int]]:
    """Return the live processes of this project whose command line holds a text, by kind: child, tracker."""
    found: dict[str, list[int]] = {"child": [], "tracker": []}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        for kind, module in (("child", "samebits.train.worker"), ("tracker", "samebits.launch.tracker")):
            if module in words and any(needle in word for word in words):
                found[kind].append(int(path.parent.name))
    return found


def _newest(runs: pathlib.Path) -> pathlib.Path | None:
    attempts = list_all_attempts(runs)
    return attempts[-1] if attempts else None


def _place_of(attempt: pathlib.Path | None) -> str:
    """Return in words how far an attempt had come, by its newest checkpoint."""
    names = sorted(path.name for path in attempt.glob("checkpoint-*.arrays")) if attempt else []
    if not names:
        return "before the first checkpoint"
    epoch, step = names[-1].removesuffix(".arrays").split("-")[1:]
    return f"after epoch {int(epoch)}, step {int(step)}"


def _wait_for(plan: Plan, runs: pathlib.Path, parent: "subprocess.Popen[bytes]", pace: Pace) -> bool:
    """Wait until the plan's moment; returns whether the training was still there then."""
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
    pids = list(kinds["tracker"] if victim == "tracker" else [])
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
    """Train to the end, killed once by the plan on the way; returns the attempt and where it was killed.

    A training that was over before the kill is done again, with the kill placed in half the time: a machine that was
    busy when the pace was taken may be free now.

    Raises:
        RecordError: It did not finish.
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
        attempt = _newest(runs)
        if attempt is None or not is_finished(attempt):
            continue
        if plan is None or killed_at != "not killed":
            return attempt, killed_at
        shutil.rmtree(runs)  # it was faster than the kill
    raise RecordError(
        f"the training in {folder} did not finish.",
        expected=f"an end after at most {MAX_STARTS} starts",
        received="none",
        fix="see terminal.txt and log.txt there.",
    )


def compare(undisturbed: pathlib.Path, attempt: pathlib.Path, runs: pathlib.Path) -> str:
    """Return what differs between a killed training and the undisturbed one, or was left behind ("": nothing)."""
    clear_leftovers(attempt.parent)  # as the next start of these inputs does
    difference = first_difference(undisturbed, attempt, ignore=())
    if difference:
        return difference
    left = [path.name for path in list_leftovers(attempt)]
    if left:
        return f"left behind: {', '.join(left)}"
    deadline = time.monotonic() + LEAVE_S
    while any(_processes(str(runs)).values()):
        if time.monotonic() > deadline:
            return "a process was left"
        time.sleep(0.1)
    return ""


def torture(config: Config, root: pathlib.Path, kills: int, seed: int | None) -> int:
    """Kill as many trainings as asked, each once, go on with them, and print a table and one verdict.

    Args:
        config: What to train.
        root: The project's folder.
        kills: How many.
        seed: Of the moments and victims; None: a new one, which is printed.

    Returns:
        0: all ended as the undisturbed training; 1: not.
    """
    check(config)
    seed = secrets.randbelow(2**32) if seed is None else seed
    folder = root / config.paths.runs / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{kills} kills of {config.name}, seed {config.seed.root}; the kills have the seed {seed}", flush=True)
    began = time.monotonic()
    undisturbed, _ = train(config, folder / "undisturbed", root, None, None)
    training_s = float(read_json(undisturbed / RESULT)["timing"]["training_s"])
    pace = Pace(time.monotonic() - began - training_s, training_s)
    plans = make_plans(kills, seed)

    def run(number: int) -> Ending:
        own = folder / str(number + 1)
        try:
            attempt, killed_at = train(config, own, root, plans[number], pace)
        except RecordError as error:
            return Ending(plans[number], "-", "-", "-", error.what)
        result = read_json(attempt / RESULT)
        resumed = result["resumed_at"]
        went_on = f"epoch {resumed['epoch']}, step {resumed['step']}" if resumed else "the beginning"
        if plans[number].victim == "tracker":
            went_on = "not needed"
        return Ending(
            plans[number], killed_at, went_on, result["weights_digest"], compare(undisturbed, attempt, own / "runs")
        )

    endings: dict[int, Ending] = {}
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        futures = {pool.submit(run, number): number for number in range(kills)}
        for future in concurrent.futures.as_completed(futures):
            number = futures[future]
            endings[number] = future.result()
            said = endings[number].difference or "identical"
            print(f"[{len(endings)}/{kills}] {plans[number].moment}, {plans[number].victim}: {said}", flush=True)
    table = Table("kill", "when", "whom", "killed", "went on at", "weights", "against the undisturbed training")
    for number, ending in sorted(endings.items()):
        words = ending.plan.moment, ending.plan.victim, ending.killed_at, ending.resumed_at, ending.weights[:12]
        table.add_row(str(number + 1), *words, ending.difference or "identical: weights, optimizer, every row")
    print_table(table)
    identical = sum(not ending.difference for ending in endings.values())
    verdict = "SURVIVED" if identical == kills else "NOT SURVIVED"
    print(f"{verdict}: {identical} of {kills} identical to the undisturbed training (kill seed {seed})")
    if identical == kills:
        shutil.rmtree(folder)
    return int(identical != kills)
