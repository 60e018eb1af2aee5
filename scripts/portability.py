"""Train on this CPU and on emulated ones and compare: python scripts/portability.py [--full] [--cpus=Haswell,EPYC]."""

import pathlib
import sys

from samebits import compose
from samebits.checks import portability

if __name__ == "__main__":
    options = [word for word in sys.argv[1:] if word == "--full" or word.startswith("--cpus=")]
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in options]
    names = [name for word in options if word != "--full" for name in word.removeprefix("--cpus=").split(",") if name]
    project = pathlib.Path(__file__).resolve().parent.parent
    task = lambda config, root: portability.portability(config, root, names, full="--full" in options)  # noqa: E731
    sys.exit(compose.main(project, task))
