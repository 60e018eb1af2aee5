"""Write requirements.lock anew: every package of pyproject.toml with its SHA-256 hashes and no index address.

Usage: python scripts/lock.py [package …]      (named packages are upgraded; none: only what pyproject.toml demands)
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONS = ["--universal", "--python-version=3.11", "--generate-hashes", "--group=dev"]
PLAIN = ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]

if __name__ == "__main__":
    if sys.argv[1:2] == ["--help"]:
        print(__doc__)
        sys.exit(0)
    upgrades = [f"--upgrade-package={package}" for package in sys.argv[1:]]
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *PLAIN, *upgrades]
    sys.exit(subprocess.call([*command, "pyproject.toml", "-o", "requirements.lock"], cwd=ROOT))
