"""Write requirements.lock anew: every package of pyproject.toml with its SHA-256 hashes and no index address."""

import argparse
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONS = ["--universal", "--python-version=3.11", "--generate-hashes", "--group=dev"]
PLAIN = ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", help="upgraded; without any: only what pyproject.toml demands")
    upgrades = [f"--upgrade-package={package}" for package in parser.parse_args().packages]
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *PLAIN, *upgrades]
    sys.exit(subprocess.call([*command, "pyproject.toml", "-o", "requirements.lock"], cwd=ROOT))
