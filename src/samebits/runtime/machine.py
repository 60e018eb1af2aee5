"""Describes the machine: CPU, caches, memory, versions, git. Only reads, and never imports TensorFlow."""

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

from samebits.core.digest import json_digest
from samebits.core.errors import ConfigError
from samebits.runtime.lockfile import normalise

IMAGE_DIGEST = "SAMEBITS_IMAGE_DIGEST"  # set by `samebits image train`, because an image cannot contain its own digest
ARITHMETIC_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")


def package_versions() -> dict[str, str]:
    """Return the version of every installed package, sorted by normalized name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata  # parses a file at each access
        if metadata["Name"]:
            found[normalise(metadata["Name"])] = metadata["Version"]
    return dict(sorted(found.items()))


def _cpuinfo() -> dict[str, str]:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    sizes = {}
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        sizes[f"L{level} {kind.lower()}"] = size
    return sizes


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_cpu() -> dict[str, Any]:
    """Return the model, flags, caches (as the kernel prints them) and cores (all, and usable by this process)."""
    info = _cpuinfo()
    return {
        "architecture": platform.machine(),
        "vendor": info.get("vendor_id", "unknown"),
        "model": info.get("model name", platform.processor() or "unknown"),
        "family_model_stepping": [info.get(key, "") for key in ("cpu family", "model", "stepping")],
        "flags": sorted(info.get("flags", "").split()),
        "caches": _caches(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
    }


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_git(root: pathlib.Path) -> dict[str, Any]:
    """Return the commit and whether the working tree was clean (None: not a git repository)."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain") if commit else None
    return {"commit": commit, "clean": None if status is None else status == ""}


def remote_has_credentials(root: pathlib.Path) -> bool:
    """Return whether the URL of the git remote contains a user name or token."""
    address = _git(root, "config", "remote.origin.url") or ""
    return "://" in address and "@" in address.partition("://")[2].partition("/")[0]


def image_digest() -> str | None:
    """Return the digest of the container image of this process, or None if the environment has none.

    Raises:
        ConfigError: The value is not a digest.
    """
    digest = os.environ.get(IMAGE_DIGEST)
    if digest is not None and not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise ConfigError(
            IMAGE_DIGEST,
            expected="sha256: and 64 hexadecimal digits",
            received=repr(digest),
            fix="unset it, or start the container with samebits image train, which sets it",
        )
    return digest


def describe_machine(root: pathlib.Path) -> dict[str, Any]:
    """Return the description of machine and software for the record, without host name, user or paths."""
    libc, libc_version = platform.libc_ver()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": describe_cpu(),
        "memory_bytes": memory_bytes,
        "system": f"{platform.system()} {platform.release()}",
        "libc": f"{libc} {libc_version}".strip(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "image_digest": image_digest(),
        "git": describe_git(root),
    }


def arithmetic_versions(packages: dict[str, str]) -> dict[str, str]:
    """Return the versions of the packages that do the arithmetic. TensorFlow's CPU build counts as TensorFlow."""
    return {name.removesuffix("-cpu"): packages[name] for name in ARITHMETIC_PACKAGES if name in packages}


def decisive_parts(machine: dict[str, Any], settings: dict[str, Any], promise: str) -> dict[str, Any]:
    """Return everything that decides the arithmetic under a promise.

    Under `portable` it covers the versions and the fixed settings. Under the others it also covers the CPU, and under
    `free` the number of cores. It never covers the inter-op threads, which do not change bits. Two runs with the same
    inputs and the same fingerprint must have the same bits (not under `free`).
    """
    versions = arithmetic_versions(machine["packages"])
    pinned = {key: value for key, value in settings.items() if key not in ("environment", "inter_op_threads")}
    cpu = machine["cpu"]
    decides: dict[str, Any] = {"versions": versions, "architecture": cpu["architecture"], "settings": pinned}
    if promise != "portable":
        decides["cpu"] = {key: cpu[key] for key in ("vendor", "family_model_stepping", "flags", "caches")}
    if promise == "free":
        decides["cores"] = cpu["cores_usable"]
    return decides


def arithmetic_fingerprint(machine: dict[str, Any], settings: dict[str, Any], promise: str) -> str:
    """Return the digest of everything that decides the arithmetic under a promise; see `decisive_parts`."""
    return json_digest(decisive_parts(machine, settings, promise))
