"""Below this process Hydra's launchers start the runs of a study: python scripts/job.py --multirun folder=… job=1,2."""

import pathlib

from samebits import entry, launchers

if __name__ == "__main__":
    entry.multirun(pathlib.Path(__file__).resolve().parent.parent, launchers.run_job)
