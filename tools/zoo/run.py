"""Finds which parts of Keras are portable: trains each on this CPU and emulated ones, and compares."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from samebits.checks.portability import NO_EMULATOR
from samebits.core.config import RuntimeConfig
from samebits.core.errors import MachineError
from samebits.core.files import make_folder, write_bytes
from samebits.runs.identity import import_path
from samebits.runtime.emulators import CACHES_KIB, Job, Machine, emulated_machines, probe, run_jobs
from samebits.runtime.machine import describe_cpu
from samebits.runtime.pins import check_machine, child_environment

DEFAULT_MACHINES = (*CACHES_KIB, "EPYC-Milan")
CHUNK = 48  # cases per process
OURS = "samebits "
TABLE = "docs/zoo.md"
MEASURED = "src/samebits/portable/measured_operations.json"
KINDS = {
    "layer": "Layers",
    "activation": "Activations and functions",
    "loss": "Losses",
    "metric": "Metrics",
    "optimizer": "Optimizers",
    "schedule": "Learning-rate schedules",
    "initializer": "Initializers",
}

PROGRAM = ("-m", "zoo.cases")  # what each process of the zoo runs; a test can put its own


@dataclass(frozen=True)
class Verdict:
    """The result of one case.

    Attributes:
        name: The kind and the name, such as "layer Dense".
        difference: The first stage and machine that differ from this CPU; "": none.
        refused: The operations that raise an error in a portable run.
        error: Why it could not be trained; "": it was trained.
    """

    name: str
    difference: str
    refused: tuple[str, ...]
    error: str = ""

    @property
    def is_hole(self) -> bool:
        """Whether the case is not covered: its bits differ but it is allowed, ours raises an error, or it failed."""
        ours_refused = OURS in self.name and self.refused
        return bool(self.error or (self.difference and not self.refused) or ours_refused)


def first_difference(name: str, rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the first stage and machine at which a case differs from the first machine, or "" for no difference.

    Args:
        name: The case.
        rows: Machine -> case -> the row that `zoo.cases` wrote.
    """
    reference, *others = rows
    stages = rows[reference][name]["stages"]
    for machine in others:
        for stage, digest in rows[machine][name]["stages"].items():
            if digest != stages[stage]:
                return f"{stage} ({machine})"
    return ""


def judge(rows: dict[str, dict[str, dict[str, Any]]]) -> list[Verdict]:
    """Return the verdict of every case of the first machine."""
    verdicts = []
    for name, first in next(iter(rows.values())).items():
        errors = [side[name]["error"] if name in side else f"no result on {machine}" for machine, side in rows.items()
                  if "stages" not in side.get(name, {})]  # fmt: skip
        if errors:
            verdicts.append(Verdict(name, "", (), errors[0]))
            continue
        verdicts.append(Verdict(name, first_difference(name, rows), tuple(first["refused"])))
    return verdicts


def measured_operations(verdicts: list[Verdict], rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the types of operations in all cases that have the same bits on all machines."""
    good = [verdict.name for verdict in verdicts if not verdict.difference and not verdict.error]
    return sorted({operation for name in good for operation in rows[name]["operations"]})


def describe(verdict: Verdict, stages: Iterable[str]) -> tuple[str, str, str]:
    """Return a case's cells of the table: the shapes compared, its bits, its use under portable."""
    if verdict.error:
        return "-", f"not compared: {verdict.error}", "-"
    shapes = ", ".join(dict.fromkeys(stage.partition(":")[0] for stage in stages))
    bits = f"differ from {verdict.difference}" if verdict.difference else "same"
    if verdict.refused:
        return shapes, bits, f"error: {', '.join(verdict.refused)}"
    return shapes, bits, "**NOT REFUSED**" if verdict.difference else "**allowed**"


def render(verdicts: list[Verdict], rows: dict[str, dict[str, Any]], machines: list[Machine]) -> str:
    """Return the table as Markdown.

    Args:
        verdicts: Of all cases.
        rows: The rows of the first machine.
        machines: That were compared.
    """
    from zoo.pieces import LEFT_OUT  # noqa: PLC0415  imports Keras

    seen = {machine.name: probe(machine) for machine in machines}
    where = "; ".join(f"{name} ({' '.join(facts['sets'])}; {facts['caches']})" for name, facts in seen.items())
    lines = [
        "# Tested operations: which parts of Keras are portable",
        "",
        "`python -m zoo --write` generates this page; do not edit it. It trains each layer, activation, loss,",
        "optimizer and schedule under `runtime=portable`, on this CPU and on emulated CPUs, with Keras's own",
        "`train_step`. It compares the bits of every stage: the initial weights; the loss of each step; the weights",
        "and the optimizer's state after each step; predictions. A metric is computed over two batches: its result",
        "after each, its state. An initializer is called.",
        "",
        f'CPUs (instruction sets; L1 data and L2 cache): {where}. "This CPU" is {describe_cpu()["model"]}.',
        "",
        '"compared" has the shapes of the batches (rows first), of a metric the number of rows, of an initializer the',
        'shapes of the weights. "differ from" names the first stage and CPU whose bits differ from this CPU. "error"',
        "lists the operations that stop a portable run before it trains. TensorFlow's inexact operations have exact",
        "versions under `portable` ([decision 9](decisions/0009-exact-operations-instead-of-own-layers.md)), and",
        "Keras's orthogonal initializer is replaced.",
    ]
    for kind, heading in KINDS.items():
        lines += ["", f"## {heading}", "", f"| {kind} | compared | bits | under `portable` |", "|---|---|---|---|"]
        for verdict in verdicts:
            name = verdict.name.removeprefix(f"{kind} ")
            if verdict.name != name:
                lines.append(f"| {name} | {' | '.join(describe(verdict, rows[verdict.name].get('stages', ())))} |")
        if left_out := LEFT_OUT.get(kind):
            lines += ["", "Left out: " + "; ".join(f"{name} ({reason})" for name, reason in left_out.items()) + "."]
    return "\n".join(lines) + "\n"


def list_cases(environment: dict[str, str]) -> list[str]:
    """Return the names of all cases, from a process that imports Keras."""
    code = "from zoo.pieces import all_cases; print('\\n'.join(all_cases()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def read_cases(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Return case -> the row that the processes of one machine wrote."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row for row in map(json.loads, lines)}


def zoo(root: pathlib.Path, names: list[str], pattern: str = "", *, write: bool = False) -> int:
    """Train every case on every machine and print which are portable.

    Args:
        root: The project's folder.
        names: Emulated CPUs; empty: `DEFAULT_MACHINES`.
        pattern: Train only the cases whose names contain this.
        write: Write the table and the list of measured operations.

    Returns:
        0: every case whose bits differ raises an error, and ours have the same bits on all machines; 1: otherwise.

    Raises:
        MachineError: There is no emulator, so there is nothing to compare.
    """
    runtime = RuntimeConfig()
    check_machine(runtime)
    emulated = emulated_machines(names or list(DEFAULT_MACHINES), root / ".cache")
    if not emulated:
        raise MachineError("zoo", expected="qemu-x86_64", received="none", fix=NO_EMULATOR)
    machines = [Machine("this CPU"), *emulated]
    environment = child_environment(runtime, 0, os.environ)
    environment["PYTHONPATH"] = os.pathsep.join((import_path(root), str(root / "tools")))
    cases = [name for name in list_cases(environment) if pattern in name]
    folder = root / "runs" / ".zoo"
    shutil.rmtree(folder, ignore_errors=True)
    jobs = []
    for machine in reversed(machines):  # the slow ones first
        make_folder(folder / machine.folder)
        for number, start in enumerate(range(0, len(cases), CHUNK)):
            output = folder / machine.folder / f"{number}.jsonl"
            command = [*machine.prefix, sys.executable, *PROGRAM, str(output)]
            title = f"{machine.name}, part {number + 1}"
            jobs.append(Job(title, [*command, *cases[start : start + CHUNK]], environment, output.with_suffix(".txt")))
    print(f"{len(cases)} cases on {len(machines)} CPUs in {len(jobs)} parts", flush=True)
    began = time.monotonic()
    done: list[str] = []

    def finished(name: str, code: int) -> None:
        done.append(name)
        left_s = (time.monotonic() - began) / len(done) * (len(jobs) - len(done))
        ended = "" if code == 0 else f" (exit code {code})"
        print(f"[{len(done)}/{len(jobs)}] {name}{ended}  about {left_s:.0f} s left", flush=True)

    run_jobs(jobs, finished)
    rows = {machine.name: read_cases(folder / machine.folder) for machine in machines}
    verdicts = judge(rows)
    if write:
        (root / TABLE).write_text(render(verdicts, rows[machines[0].name], machines), encoding="utf-8")
        operations = measured_operations(verdicts, rows[machines[0].name])
        write_bytes(root / MEASURED, (json.dumps(operations, indent=0) + "\n").encode())
        print(f"wrote {TABLE} and {len(operations)} measured operations")
    return conclude(verdicts, cases)


def conclude(verdicts: list[Verdict], cases: list[str]) -> int:
    """Print the cases that are not covered and a verdict; returns the exit code."""
    missing = sorted(set(cases) - {verdict.name for verdict in verdicts})
    holes = [verdict for verdict in verdicts if verdict.is_hole]
    for verdict in holes:
        print(f"  {verdict.name}: {verdict.error or verdict.difference or 'error: ' + ', '.join(verdict.refused)}")
    for name in missing:
        print(f"  {name}: no result")
    refused = sum(bool(verdict.refused) for verdict in verdicts)
    same = sum(not verdict.difference and not verdict.refused and not verdict.error for verdict in verdicts)
    if holes or missing:
        print(f"NOT COVERED: {len(holes) + len(missing)} of {len(cases)} cases")
        return 1
    print(f"COVERED: {len(cases)} cases; {same} allowed, {refused} raise an error; all that differ raise an error")
    return 0
