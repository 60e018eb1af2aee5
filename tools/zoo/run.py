"""Finds which parts of Keras are portable: trains each on this CPU and emulated ones, and compares."""

import json
import os
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from zoo.rows import Verdict, describe, judge_case, measured_operations, read_cases

from samebits.checks.portability import NO_EMULATOR
from samebits.core.config import RuntimeConfig
from samebits.core.digest import bytes_digest, json_digest
from samebits.core.errors import MachineError
from samebits.core.files import make_folder, write_bytes
from samebits.runs.identity import import_path
from samebits.runtime.emulators import CACHES_KIB, Job, Machine, emulated_machines, probe, run_jobs
from samebits.runtime.machine import describe_cpu, usable_cores
from samebits.runtime.pins import check_machine, child_environment

DEFAULT_MACHINES = (*CACHES_KIB, "EPYC-Milan")
TABLE = "docs/zoo.md"
DECIDING = (  # files that decide a row
    *(f"tools/zoo/{name}.py" for name in ("cases", "pieces", "recordings")),
    "src/samebits/portable/*.py",
    "src/samebits/runtime/pins.py",
    "requirements.lock",
)
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


def render(verdicts: list[Verdict], rows: dict[str, dict[str, Any]], machines: list[Machine]) -> str:
    """Return the table as Markdown.

    Args:
        verdicts: Of all cases.
        rows: The rows of this CPU.
        machines: This CPU and those that it was compared with.
    """
    from zoo.pieces import LEFT_OUT  # noqa: PLC0415  imports Keras

    seen = {machine.name: probe(machine) for machine in machines}
    where = "; ".join(f"{name} ({' '.join(facts['sets'])}; {facts['caches']})" for name, facts in seen.items())
    lines = [
        "# Tested operations: which parts of Keras are portable",
        "",
        "`python -m zoo --write` generates this page; do not edit it. It trains each layer, activation, loss,",
        "optimizer and schedule under `runtime=portable`, on this CPU and on emulated CPUs, with Keras's own",
        "`train_step`. It compares the bits of every stage: the loss of each step; the weights and the optimizer's",
        "state after each step; predictions. A metric is computed over two batches: its result and its state after",
        "each. An initializer is called.",
        "",
        f'CPUs (instruction sets; L1 data and L2 cache): {where}. "This CPU" is {describe_cpu()["model"]}.',
        "",
        "This CPU traces each case. An emulated CPU runs the same graph, from the same weights on the same inputs. It",
        "traces a case itself if that has text, a lookup table or constants that Python computes. So initial weights",
        "are compared in the table of initializers.",
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
                lines.append(
                    f"| {name} | {' | '.join(describe(verdict, rows.get(verdict.name, {}).get('stages', ())))} |"
                )
        if left_out := LEFT_OUT.get(kind):
            lines += ["", "Left out: " + "; ".join(f"{name} ({reason})" for name, reason in left_out.items()) + "."]
    return "\n".join(lines) + "\n"


def list_cases(environment: dict[str, str]) -> list[str]:
    """Return the names of all cases, from a process that imports Keras."""
    code = "from zoo.pieces import all_cases; print('\\n'.join(all_cases()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def inputs_digest(root: pathlib.Path) -> str:
    """Return a digest of what decides a row: the cases, `portable`, the fixed settings, the packages and this CPU."""
    files = sorted(path for name in DECIDING for path in root.glob(name))
    digests = {str(path.relative_to(root)): bytes_digest(path.read_bytes()) for path in files}
    return json_digest([digests, describe_cpu()["model"]])[:12]


@dataclass(frozen=True)
class Work:
    """What one call of the zoo does.

    Attributes:
        folder: Where rows and recordings are kept, so that another call skips them.
        environment: Of the processes.
        deadline: When to start no more cases, in seconds since 1970.
    """

    folder: pathlib.Path
    environment: dict[str, str]
    deadline: float

    def run(self, machines: list[Machine], cases: list[str], parts: int) -> None:
        """Run the cases without a row on each machine, in several processes each."""
        recordings = self.folder / "recordings"
        make_folder(recordings)
        jobs = []
        for machine in machines:
            make_folder(self.folder / machine.folder)
            done = read_cases(self.folder / machine.folder)
            left = [name for name in cases if name not in done]
            role = "play" if machine.prefix else "record"
            for number in range(parts if time.time() < self.deadline else 0):
                output = self.folder / machine.folder / f"{number}.jsonl"
                command = [*machine.prefix, sys.executable, *PROGRAM, str(output), str(recordings), role]
                names = left[number::parts]
                job = Job(f"{machine.name}, part {number + 1}", [*command, str(self.deadline), *names],
                          self.environment, output.with_suffix(".txt"))  # fmt: skip
                jobs += [job] if names else []
            print(f"{machine.name}: {len(done.keys() & set(cases))} of {len(cases)} cases have rows", flush=True)

        def finished(name: str, code: int) -> None:
            print(f"{name}: ended" + ("" if code == 0 else f" with exit code {code}"), flush=True)

        run_jobs(jobs, finished)


def zoo(
    root: pathlib.Path, names: list[str], pattern: str = "", *, minutes: float = 600, write: bool = False
) -> int:  # fmt: skip
    """Train every case on every machine and print which are portable.

    Args:
        root: The project's folder.
        names: Emulated CPUs; empty: `DEFAULT_MACHINES`.
        pattern: Train only the cases whose names contain this.
        minutes: Start no case later. Cases that have a row are not trained again.
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
    everything = list_cases(environment)
    cases = [name for name in everything if pattern in name]
    work = Work(root / "runs" / ".zoo" / inputs_digest(root), environment, time.time() + minutes * 60)
    work.run(machines[:1], cases, usable_cores())
    work.run(emulated, cases, max(1, usable_cores() // len(emulated)))
    rows = {machine.name: read_cases(work.folder / machine.folder) for machine in machines}
    if write:
        verdicts = [judge_case(name, rows) for name in everything]
        (root / TABLE).write_text(render(verdicts, rows[machines[0].name], machines), encoding="utf-8")
        operations = set(measured_operations(verdicts, rows[machines[0].name]))
        if any(verdict.missing for verdict in verdicts):  # what an earlier call measured stays
            operations |= set(json.loads((root / MEASURED).read_text(encoding="utf-8")))
        write_bytes(root / MEASURED, (json.dumps(sorted(operations), indent=0) + "\n").encode())
        print(f"wrote {TABLE} and {len(operations)} measured operations")
    return conclude([judge_case(name, rows) for name in cases])


def conclude(verdicts: list[Verdict]) -> int:
    """Print the cases that are not covered and a verdict; returns the exit code."""
    holes = [verdict for verdict in verdicts if verdict.is_hole]
    for verdict in holes:
        problems = [verdict.difference, *verdict.missing] if verdict.difference or verdict.missing else verdict.refused
        print(f"  {verdict.name}: {'; '.join(filter(None, problems))}")
    refused = sum(bool(verdict.refused) for verdict in verdicts)
    if holes:
        print(f"NOT COVERED: {len(holes)} of {len(verdicts)} cases")
        return 1
    allowed = len(verdicts) - refused
    print(
        f"COVERED: {len(verdicts)} cases; {allowed} allowed, {refused} raise an error; all that differ raise an error"
    )
    return 0
