"""Below this process Hydra's launchers start the runs of a study: python scripts/job.py --multirun folder=… job=1,2."""

import pathlib

from samebits import compose
from samebits.studies import execute

if __name__ == "__main__":
    compose.multirun(pathlib.Path(__file__).resolve().parent.parent, execute.run_job)
