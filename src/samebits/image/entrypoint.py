"""The image's entry point: checks packages and CPU, then runs a command.

The packages must match the lock, and the CPU must be able to keep the promise of `portable`.
Usage: python -m samebits.image.entrypoint COMMAND [ARGUMENT …]. The process then becomes the command.
"""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from samebits.core.config import RuntimeConfig
from samebits.core.errors import EngineError, MachineError, report_errors
from samebits.core.project import find_root
from samebits.runtime.lockfile import locked_versions
from samebits.runtime.machine import image_digest, package_versions
from samebits.runtime.pins import check_machine


def check_packages(locked: Mapping[str, str], installed: Mapping[str, str]) -> None:
    """Compare the installed packages with the lock.

    tensorflow-cpu counts as tensorflow, because the GPU variant of the image has tensorflow in the same version.

    Raises:
        MachineError: A package is missing or has another version; the error names all of them.
    """
    locked, have = (
        {name.removesuffix("-cpu"): version for name, version in versions.items()} for versions in (locked, installed)
    )
    wrong = [name for name in sorted(locked) if have.get(name) != locked[name]]
    if wrong:
        raise MachineError(
            "the image's packages",
            expected=", ".join(f"{name} {locked[name]}" for name in wrong) + " as in requirements.lock",
            received=", ".join(f"{name} {have.get(name, 'absent')}" for name in wrong),
            fix="build the image again with samebits image build",
        )


def check_cpu() -> None:
    """Refuse a machine that cannot keep the promise of `portable`, for every command.

    Raises:
        MachineError: Not Linux on x86-64 with AVX2 and FMA.
    """
    try:
        check_machine(RuntimeConfig())
    except MachineError as error:
        raise MachineError(
            "the image",
            expected=error.expected,
            received=error.received,
            fix="use such a machine, or train outside the image with runtime=machine, which has fewer requirements",
        ) from error


def start(root: pathlib.Path, command: Sequence[str]) -> int:
    """Check packages and CPU, then become the command; returns only if that fails.

    Args:
        root: The project's folder, with requirements.lock.
        command: Program and arguments.

    Raises:
        MachineError: The packages differ from the lock, or the CPU has no AVX2 and FMA.
        ConfigError: The image's digest was given but is not a digest.
        EngineError: The program does not exist.
    """
    check_packages(locked_versions(root), package_versions())
    check_cpu()
    image_digest()
    try:
        os.execvp(command[0], list(command))  # noqa: S606  what the user asked the container to run
    except (OSError, IndexError) as error:
        raise EngineError(
            "the container's command",
            expected="a program that is in the image",
            received=" ".join(command) or "nothing",
            fix="name a program of the image, e.g. .venv/bin/samebits",
        ) from error


if __name__ == "__main__":
    sys.exit(report_errors(lambda: start(find_root(pathlib.Path.cwd()), sys.argv[1:])))
