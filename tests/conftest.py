"""Shared pieces of the tests: a project to run commands in, and runs in fresh processes."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT_FILES = ("conf", "scripts", "src", "requirements.lock", "pyproject.toml")
QUIET = {key: value for key, value in os.environ.items() if not key.startswith("COMET_")}

Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the project in a folder of its own, so that a test may break it and its runs are apart."""
    root = folder / "project"
    root.mkdir()
    for name in PROJECT_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a fresh copy of the project for one test."""
    return copy_project(tmp_path)


def run_script(
    root: pathlib.Path,
    script: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    cwd: pathlib.Path | None = None,
    python: str = sys.executable,
) -> Result:
    """Run one of the project's scripts in a fresh process and return its output and exit code."""
    variables = QUIET | {"PYTHONPATH": str(root / "src")} | dict(environment or {})
    command = [*prefix, python, str(root / "scripts" / script), *arguments]
    return subprocess.run(
        command, cwd=cwd or root, env=variables, capture_output=True, text=True, timeout=900, check=False
    )


def train(root: pathlib.Path, *overrides: str, **options: object) -> Result:
    """Train the smoke experiment, without a tracker unless an override names one."""
    return run_script(root, "train.py", "experiment=smoke", "tracker=none", *overrides, **options)  # type: ignore[arg-type]
