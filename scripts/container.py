"""The project's image: python3 scripts/container.py [options] build | verify | run COMMAND.

`make image`, `make image-verify` and `make docker-train` call this. It needs Python 3.11 or newer and no package.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    from samebits.image import container

    sys.exit(container.main(ROOT))
