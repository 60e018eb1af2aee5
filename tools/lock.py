"""Rewrite requirements.lock and requirements-dev.lock, with SHA-256 hashes for every package and no index address.

The first has the packages for training. The second has the additional packages of the test and lint tools, in versions
that are compatible with the first.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONS = ["--universal", "--python-version=3.11", "--generate-hashes"]
PLAIN = ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]


def blocks(text: str) -> list[str]:
    """Return the packages of a lock, each with its hashes."""
    return re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]


def resolve(output: pathlib.Path, *options: str) -> None:
    """Let uv choose the versions. Versions in the existing output stay if possible."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *PLAIN, *options, "pyproject.toml"]
    subprocess.run([*command, "-o", str(output)], cwd=ROOT, check=True)


def main() -> None:
    """Write both lock files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", help="packages to upgrade (default: only what pyproject.toml requires)")
    upgrades = [f"--upgrade-package={package}" for package in parser.parse_args().packages]
    training, dev = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
    before = "".join(path.read_text() for path in (training, dev) if path.exists())
    needed = ["--group=setup", "--group=image"]
    resolve(training, *needed, *upgrades)
    with tempfile.TemporaryDirectory() as folder:
        everything = pathlib.Path(folder) / "everything.lock"
        everything.write_text(before)
        resolve(everything, *needed, "--group=dev", f"--constraint={training}", *upgrades)
        known = blocks(training.read_text())
        dev.write_text("".join(block for block in blocks(everything.read_text()) if block not in known))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
