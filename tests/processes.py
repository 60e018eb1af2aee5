"""Fresh Python processes for tests: they know the package and nothing of the test."""

import os
import subprocess
import sys

from conftest import ROOT

Process = subprocess.Popen[str]


def start_python(code: str, *arguments: object) -> Process:
    """Start a fresh Python that knows the package."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run_python(code: str, *arguments: object) -> tuple[int, str]:
    """Run a fresh Python and return its exit code and what it printed."""
    with start_python(code, *arguments) as child:
        output, errors = child.communicate(timeout=60)

    assert not errors
    return child.returncode, output.strip()
