"""Trains the same steps on this CPU (one core and two) and on emulated CPUs, and compares every record."""

import copy
import pathlib
import shutil
import sys
import time

from rich.table import Table

from samebits.checks.golden import golden_path
from samebits.core.config import Config, to_dict
from samebits.core.config_rules import check
from samebits.core.files import make_folder, write_yaml
from samebits.core.terminal import print_table
from samebits.launch.process import child_command, project_environment
from samebits.runs.compare import first_difference
from samebits.runs.folder import CONFIG, RESULT, is_finished, make_attempt, read_json
from samebits.runtime.emulators import (
    CACHES_KIB,
    MODELS,
    Job,
    Machine,
    emulated_machines,
    native_machines,
    probe,
    run_jobs,
)
from samebits.runtime.machine import describe_cpu
from samebits.runtime.pins import check_machine

STEPS, VALIDATION_ROWS = 20, 1000  # of a shortened run
FOLDER = ".portability"
NO_EMULATOR = (
    "qemu-x86_64 is not installed (Debian: apt-get install qemu-user), so no CPU was emulated: native rows only"
)


def shorten(config: Config) -> Config:
    """Return the configuration with `STEPS` steps, a smaller validation set, and every step traced by stage."""
    short = copy.deepcopy(config)
    short.training.epochs = 1
    short.training.steps_per_epoch = min(STEPS, short.training.steps_per_epoch or STEPS)
    if "validation_size" in short.data:
        short.data["validation_size"] = min(VALIDATION_ROWS, short.data["validation_size"])
    short.trace.level, short.trace.epoch = "stage", 1
    return short


def choose_machines(names: list[str], folder: pathlib.Path) -> tuple[list[Machine], str]:
    """Return the machines to run on, this CPU first, and a remark if none can be emulated.

    Args:
        names: Emulated CPUs; empty: all.
        folder: Folder for emulators with other cache sizes.
    """
    emulated = emulated_machines(names or [*MODELS, *CACHES_KIB], folder)
    return [*native_machines(), *emulated], "" if emulated else NO_EMULATOR


def run_on(machines: list[Machine], config: Config, folder: pathlib.Path, root: pathlib.Path) -> dict[str, int]:
    """Train the configuration on each machine, each in its own folder; returns machine name -> exit code.

    Of several workers, the first one runs on the machine, and the others on this CPU.
    """
    jobs = []
    for machine in machines:
        attempt = folder / machine.folder
        make_folder(attempt)
        write_yaml(attempt / CONFIG, to_dict(config))
        command, environment = child_command(config, attempt, root)
        words = [*machine.prefix, *command]
        if config.training.workers > 1:
            words = [sys.executable, "-m", "samebits.launch.team", str(attempt), str(root), *machine.prefix]
            environment = project_environment(root)
        jobs.append(Job(machine.name, words, environment, attempt / "terminal.txt"))
    began = time.monotonic()
    done: list[str] = []

    def finished(name: str, code: int) -> None:
        done.append(name)
        said = "finished" if code == 0 else f"exit code {code}"
        print(f"[{len(done)}/{len(jobs)}] {name}: {said} after {time.monotonic() - began:.0f} s", flush=True)

    codes = run_jobs(jobs, finished)
    return {machine.name: codes[machine.name] for machine in machines}


def portability(config: Config, root: pathlib.Path, names: list[str], *, full: bool) -> int:
    """Train on every machine, and print a table and one verdict.

    Args:
        config: What to train; shortened to `STEPS` steps and an evaluation unless `full`.
        root: The project's folder.
        names: Emulated CPUs; empty: all.
        full: Train to the end, and compare with the golden digest if there is one for this seed.

    Returns:
        0: the same digest on all machines; 1: different digests, or a run did not finish, which is no verdict on bits.
    """
    check(config)
    check_machine(config.runtime)
    config = config if full else shorten(config)
    make_folder(root / config.paths.runs / FOLDER / config.name)
    folder = make_attempt(root / config.paths.runs / FOLDER / config.name)
    machines, missing = choose_machines(names, root / config.paths.cache)
    model = describe_cpu()["model"]
    what = "to the end" if full else f"{config.training.steps_per_epoch} steps, traced by stage, and an evaluation"
    print(f"{config.name}, seed {config.seed.root}, {config.runtime.promise}: {what} on {len(machines)} CPUs ({model})")
    if missing:
        print(missing)
    codes = run_on(machines, config, folder, root)

    attempts = {machine: folder / machine.folder for machine in machines}
    golden = _golden_digest(config, root) if full else None
    table = Table("CPU", "instruction sets", "L1 data, L2 cache", "steps", "weights", "compared with the first")
    verdicts: list[str] = []
    unfinished: list[str] = []
    reference: pathlib.Path | None = None
    for machine, attempt in attempts.items():
        seen = probe(machine)
        facts = machine.name, " ".join(seen["sets"]), seen["caches"]
        if codes[machine.name] != 0 or not is_finished(attempt):
            unfinished.append(f"{machine.name} did not finish (exit code {codes[machine.name]}; {attempt / 'log.txt'})")
            table.add_row(*facts, "-", "-", "did not finish")
            continue
        reference = reference or attempt
        result = read_json(attempt / RESULT)
        difference = first_difference(reference, attempt)
        if difference:
            verdicts.append(f"{machine.name} differs; first divergence: {difference}")
        elif golden is not None and result["weights_digest"] != golden:
            difference = f"differs from the golden digest {golden[:12]}"
            verdicts.append(f"{machine.name} {difference}")
        said = difference or ("-" if attempt == reference else "every record bit-identical")
        table.add_row(*facts, str(result["steps"]), result["weights_digest"][:12], said)
    print_table(table)
    native_only = f" ({missing})" if missing else ""
    if verdicts or unfinished:
        word = "NOT PORTABLE" if verdicts else "NOT DECIDED"  # a run that crashed says nothing about bits
        print(f"{word}: {'; '.join([*verdicts, *unfinished])}{native_only}; records: {folder}")
        return 1
    shutil.rmtree(folder)
    equal = ", equal to the golden digest" if golden is not None else ""
    print(f"PORTABLE: {len(machines)} rows with one digest{equal}{native_only}")
    return 0


def _golden_digest(config: Config, root: pathlib.Path) -> str | None:
    """Return the golden digest of this name and seed. None: there is none."""
    path = golden_path(root, config.name)
    if not path.exists():
        return None
    golden = read_json(path)
    return str(golden["weights_digest"]) if golden["seed"] == config.seed.root else None
