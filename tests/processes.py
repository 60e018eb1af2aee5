"""Processes for tests: fresh Pythons, which know the package and nothing of the test; the workers of a training."""

import json
import os
import pathlib
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


def start_at_once(code: str, count: int, *arguments: object) -> list[Process]:
    """Start processes that print "ready", and let them continue together: each waits for a line of input."""
    children = [start_python(code, *arguments) for _ in range(count)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return children


def run_python(code: str, *arguments: object) -> tuple[int, str]:
    """Run a fresh Python and return its exit code and what it printed."""
    with start_python(code, *arguments) as child:
        output, errors = child.communicate(timeout=60)

    assert not errors
    return child.returncode, output.strip()


def workers(root: pathlib.Path) -> dict[int, int]:
    """Return rank -> id of the running processes that share a project's training."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "samebits.train.worker" in words and str(root) in words and words[-2].startswith("{"):
            found[int(json.loads(words[-2])["rank"])] = int(path.name)
    return found
