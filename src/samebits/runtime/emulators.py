"""Emulates other CPUs on this machine, with Debian's qemu-x86_64, also with other cache sizes.

The emulator reports the instruction sets and cache sizes of the CPU model. It differs from a real CPU in the
approximate instructions, which it computes exactly for every model.
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from samebits.core.errors import ConfigError, MachineError
from samebits.runtime.machine import usable_cores

MODELS = ("Haswell", "Broadwell", "Skylake-Client", "EPYC", "EPYC-Rome", "EPYC-Milan")
# Stock models of Intel report a 32 KB L1 data cache and 4 MB of L2. Real Haswell to Skylake clients have 256 KB of L2;
# Sapphire Rapids has 48 KB and 2 MB, Ice Lake and Alder Lake lie between.
CACHES_KIB = {"Haswell-32K-256K": (32, 256), "Haswell-48K-2M": (48, 2048)}
SHOWN_SETS = ("AVX2", "FMA3", "AVX512F", "AVX512_ICL", "AVX512_SPR")
# Calls CPUID directly, as oneDNN and Eigen do. A leaf lists the caches one by one (type, level, line, ways, sets).
# The machine code saves rbx, calls cpuid with the arguments, stores its four registers, restores rbx and returns.
PROBE = """
import ctypes, json, mmap
from numpy._core._multiarray_umath import __cpu_features__ as features
code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("534989d089f889f10fa24189004189580441894808418950" "0c5bc3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
call = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))(address)
def cpuid(leaf, part):
    registers = (ctypes.c_uint32 * 4)()
    call(leaf, part, registers)
    return list(registers)
vendor = b"".join(cpuid(0, 0)[i].to_bytes(4, "little") for i in (1, 3, 2))
caches = {}
for part in range(8):
    a, b, c, _ = cpuid(0x8000001D if vendor == b"AuthenticAMD" else 4, part)
    kind, level = a & 31, a >> 5 & 7
    if kind in (1, 3):
        caches[level] = ((b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) * (c + 1)
print(json.dumps({"sets": [name for name, has in features.items() if has], "caches": caches}))
"""


@dataclass(frozen=True)
class Machine:
    """A CPU to run on: its name, and the prefix of a command that runs on it."""

    name: str
    prefix: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name without commas and spaces, for a folder."""
        return self.name.replace(", ", "-").replace(" ", "-")


def native_machines() -> list[Machine]:
    """Return this CPU with one core and, if it has more, with two."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not usable or shutil.which("taskset") is None:
        return [Machine("this CPU")]
    counts = [count for count in (1, 2) if len(usable) >= count]
    return [
        Machine(f"this CPU, {count} core{'s' * (count > 1)}", ("taskset", "--cpu-list", ",".join(map(str, cores))))
        for count in counts
        for cores in [usable[:count]]
    ]


def _cache_entry(kib: int, sets: int) -> bytes:
    """Return the bytes that describe a cache with 64-byte lines in the CPU tables of qemu 7.2."""
    return struct.pack("<IHBBI", kib * 1024, 64, kib * 1024 // 64 // sets, 1, sets)


def write_emulator(emulator: pathlib.Path, target: pathlib.Path, l1d_kib: int, l2_kib: int) -> None:
    """Write a copy of the emulator whose Intel models report other cache sizes.

    Args:
        emulator: Stock qemu-x86_64.
        target: The copy.
        l1d_kib: Size of the L1 data cache, a multiple of 4.
        l2_kib: Size of the L2 cache, a power of two.

    Raises:
        MachineError: The emulator does not have these tables, because it is another version.
    """
    binary = emulator.read_bytes()
    for stock, wanted in (
        (_cache_entry(32, 64), _cache_entry(l1d_kib, 64)),
        (_cache_entry(4096, 4096), _cache_entry(l2_kib, l2_kib)),
    ):
        if stock not in binary:
            raise MachineError(
                str(emulator),
                expected="the cache tables of qemu 7.2",
                received="another layout",
                fix=f"remove {' and '.join(CACHES_KIB)} from --cpus",
            )
        binary = binary.replace(stock, wanted)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(binary)
    partial.chmod(0o755)
    partial.replace(target)  # another process may be running the old file


def emulated_machines(names: list[str], folder: pathlib.Path) -> list[Machine]:
    """Return the emulated CPUs with these names, or none if there is no emulator.

    Args:
        names: From `MODELS` and `CACHES_KIB`.
        folder: Where to write an emulator with other cache sizes.

    Raises:
        ConfigError: A name is unknown.
    """
    known = (*MODELS, *CACHES_KIB)
    for name in names:
        if name not in known:
            raise ConfigError("--cpus", expected=", ".join(known), received=name, fix="choose from these")
    found = shutil.which("qemu-x86_64")
    if found is None:
        return []
    machines = []
    for name in names:
        emulator = pathlib.Path(found)
        if name in CACHES_KIB:
            folder.mkdir(parents=True, exist_ok=True)
            emulator = folder / f"qemu-x86_64-{name}"
            write_emulator(pathlib.Path(found), emulator, *CACHES_KIB[name])
        machines.append(Machine(name, (str(emulator), "-cpu", name.partition("-")[0] if name in CACHES_KIB else name)))
    return machines


def probe(machine: Machine) -> dict[str, Any]:
    """Return the instruction sets and caches that a process on this CPU sees.

    Returns:
        "sets": its instruction sets out of `SHOWN_SETS`; "caches": sizes of its L1 data cache and its L2 cache.

    Raises:
        MachineError: NumPy does not run on it.
    """
    done = subprocess.run(
        [*machine.prefix, sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MachineError(machine.name, expected="a CPU that runs NumPy", received=reason, fix="remove it from --cpus")
    seen = json.loads(done.stdout)
    return {
        "sets": [name for name in SHOWN_SETS if name in seen["sets"]],
        "caches": ", ".join(f"{size // 1024} KB" for level, size in seen["caches"].items() if level in ("1", "2")),
    }


@dataclass(frozen=True)
class Job:
    """One command on one machine. Its output goes to a file."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: pathlib.Path


def run_jobs(jobs: list[Job], finished: Callable[[str, int], None]) -> dict[str, int]:
    """Run commands in parallel, one per core. A command that was killed by a signal is run once more.

    The retry is needed because qemu 7.2 sometimes crashes in programs with many threads.

    Args:
        jobs: What to run.
        finished: Called with the name and exit code of each job when it ends.

    Returns:
        The exit codes by the names of the jobs.
    """

    def run(job: Job) -> tuple[str, int]:
        code = 0
        for _ in range(2):
            with job.log.open("ab") as log:
                code = subprocess.run(
                    job.command, env=job.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
                ).returncode
            if code >= 0:
                break
        return job.name, code

    codes: dict[str, int] = {}
    cores = usable_cores()
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, job) for job in jobs]):
            name, code = future.result()
            codes[name] = code
            finished(name, code)
    return codes
