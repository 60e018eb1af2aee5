"""Runs the jobs of a study below one of Hydra's launchers: python -m samebits.job ROOT --multirun folder='…' job=1,2.

Started by `samebits.studies.execute`, and by nobody else.
"""

import os
import pathlib
import signal
import sys
import threading
import traceback

import hydra
from omegaconf import DictConfig

from samebits.studies.execute import CLUSTER, await_others, cancel_jobs, run_job


def main(root: pathlib.Path) -> None:
    """Run the jobs of a study, which `conf/study.yaml` describes, by the launcher that the command line names.

    Ends with the process that started it: that one holds the other end of the standard input. A job that is lost
    stops no other; jobs on a cluster are cancelled when this process is asked to stop.

    Args:
        root: The project's folder.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    study = next(pathlib.Path(word[8:-1]) for word in sys.argv if word.startswith("folder='"))

    def end_with_the_parent() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock, held at the exit, ends Python with an error
            pass
        os.killpg(0, signal.SIGTERM)

    def job(composed: DictConfig) -> int:
        return run_job(pathlib.Path(composed.folder), int(composed.job), root)

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        cancel_jobs(study)
        sys.exit(128 + number)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    if CLUSTER in sys.argv:
        signal.signal(signal.SIGTERM, stop)
    try:
        hydra.main(version_base="1.3", config_path=str(root / "conf"), config_name="study")(job)()
    except RuntimeError as error:
        traceback.print_exc()
        # submitit's, or one of its kinds; Hydra waits for no other job then.
        if "UncompletedJobError" not in [kind.__name__ for kind in type(error).__mro__]:
            sys.exit(1)
        await_others(study)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv.pop(1)))
