"""Runs the jobs of a study with one of Hydra's launchers: python -m samebits.job ROOT --multirun folder='…' job=1,2.

Only `samebits.studies.execute` starts it.
"""

import os
import pathlib
import signal
import sys
import threading
import traceback

import hydra
from omegaconf import DictConfig

from samebits.core.project import HARNESS_CONF
from samebits.studies.execute import CLUSTER, await_others, cancel_jobs, run_job


def main(root: pathlib.Path) -> None:
    """Run the jobs of a study, described in `core/conf/study.yaml`, with the launcher that the command line names.

    Ends when the process that started it ends, because that process holds the other end of the standard input. A lost
    job does not stop the others. SIGTERM cancels the jobs on a cluster.

    Args:
        root: The project's folder, whose conf/ may have more launchers; or the one with the runs of a script.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    study = next(pathlib.Path(word[8:-1]) for word in sys.argv if word.startswith("folder='"))

    def end_with_the_parent() -> None:
        while os.read(0, 1):  # not sys.stdin: if its lock is held at exit, Python ends with an error
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
    if (root / "conf").is_dir():
        sys.argv.append(f"hydra.searchpath=['file://{root / 'conf'}']")
    try:
        hydra.main(version_base="1.3", config_path=str(HARNESS_CONF), config_name="study")(job)()
    except RuntimeError as error:
        traceback.print_exc()
        # For this error of submitit or a subclass, Hydra does not wait for the other jobs.
        if "UncompletedJobError" not in [kind.__name__ for kind in type(error).__mro__]:
            sys.exit(1)
        await_others(study)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv.pop(1)))
