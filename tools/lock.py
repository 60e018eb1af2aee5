"""Rewrite the locks, with SHA-256 hashes for every package and no index address.

requirements.lock has the packages for training, requirements-dev.lock what the test and lint tools need in addition. In
the samebits repository, requirements-gpu.lock has TensorFlow's GPU build of the same version and its CUDA libraries.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

GPU = ("tensorflow==", "nvidia-")
ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONS = ["--universal", "--python-version=3.11", "--generate-hashes"]
PLAIN = ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]


def blocks(text: str) -> list[str]:
    """Return the packages of a lock, each with its hashes."""
    return re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]


def resolve(output: pathlib.Path, *options: str, source: str = "pyproject.toml") -> None:
    """Let uv choose the versions. Versions in the existing output stay if possible."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *PLAIN, *options, source]
    subprocess.run([*command, "-o", str(output)], cwd=ROOT, check=True)


def resolve_gpu(training: pathlib.Path, gpu: pathlib.Path, folder: pathlib.Path, upgrades: list[str]) -> None:
    """Write the lock of TensorFlow's GPU build. All other packages that it needs are in the training lock."""
    (version,) = re.findall(r"^tensorflow==(\S+)", training.read_text(), re.MULTILINE)
    wanted, everything = folder / "gpu.txt", folder / "gpu.lock"
    wanted.write_text(f"tensorflow[and-cuda]=={version}\n")
    everything.write_text(gpu.read_text())
    resolve(everything, f"--constraint={training}", *upgrades, source=str(wanted))
    gpu.write_text("".join(block for block in blocks(everything.read_text()) if block.startswith(GPU)))


def main() -> None:
    """Write the lock files."""
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
        gpu = ROOT / "requirements-gpu.lock"
        if gpu.exists():
            resolve_gpu(training, gpu, pathlib.Path(folder), upgrades)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
