"""Replace tensorflow-cpu by tensorflow in this environment, by hash."""

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    block = next(block for block in blocks if block.startswith("tensorflow=="))
    wanted = pathlib.Path(sys.prefix) / "tensorflow.txt"
    wanted.write_text(re.sub(r" ; [^\\]*", " ", block, count=1))  # the lock installs it elsewhere than on Linux x86-64
    uv = [sys.executable, "-m", "uv", "pip"]
    subprocess.run([*uv, "uninstall", "--quiet", "--python", sys.executable, "tensorflow-cpu"], check=True)
    options = ["--require-hashes", "--no-deps", "--quiet", "--python", sys.executable]
    sys.exit(subprocess.run([*uv, "install", *options, "-r", str(wanted)], check=False).returncode)
