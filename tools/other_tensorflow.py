"""Replace tensorflow-cpu with the locked tensorflow in this environment; --gpu: with its CUDA libraries too."""

import argparse
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
import setup_env

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="install requirements-gpu.lock")
    venv = pathlib.Path(sys.prefix)
    wanted = setup_env.ROOT / "requirements-gpu.lock"
    if not parser.parse_args().gpu:
        (block,) = setup_env.locked(setup_env.TRAINING, "tensorflow".__eq__)
        wanted = venv / "tensorflow.txt"
        wanted.write_text(re.sub(r" ; [^\\]*", " ", block, count=1))  # the lock excludes Linux x86-64
    setup_env.must(setup_env.pip(venv, "uninstall", "-y", "tensorflow-cpu"))
    setup_env.install(venv, wanted)
