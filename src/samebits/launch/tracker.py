"""The process that uploads a run's record to Comet: python -m samebits.launch.tracker ATTEMPT.

It reads the record while the training writes it, until the result exists or its standard input ends. So a tracker
cannot slow down or stop a training, or use its random generators.
"""

import contextlib
import importlib
import logging
import os
import pathlib
import select
import sys
import time

from samebits.core.config import Config, from_dict
from samebits.core.errors import SamebitsError
from samebits.core.files import hold_lock
from samebits.core.metrics import VALIDATION, base_name, order_names
from samebits.core.plots import Line, draw_lines
from samebits.launch.comet import CURVES, POLL_S, CometTracker
from samebits.runs.folder import CONFIG, LOCK, is_finished, metric_values, read_metrics, read_yaml
from samebits.runtime.pins import end_process

logger = logging.getLogger(__name__)


def draw_curves(attempt: pathlib.Path) -> None:
    """Plot each metric by step, with its validation values, into curves.png of the attempt."""
    rows = read_metrics(attempt)
    panels: dict[str, list[Line]] = {}
    for key in order_names((name for row in rows for name in metric_values(row)), "loss"):
        drawn = [row for row in rows if key in row]
        style = "o-" if key.startswith(VALIDATION) else "-"
        line = key, [row["global_step"] for row in drawn], [row[key] for row in drawn], style
        panels.setdefault(base_name(key), []).append(line)
    draw_lines(attempt / CURVES, panels, x_label="step")


def _input_ended(timeout_s: float) -> bool:
    """Return whether standard input has ended. Waits up to `timeout_s`."""
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def follow(tracker: CometTracker, attempt: pathlib.Path, config: Config, *, live: bool) -> str:
    """Upload the record of a run. Returns one line for the user.

    Args:
        tracker: Uploads the record.
        attempt: The run's folder.
        config: The run's configuration.
        live: Whether to wait for more rows until the result exists or standard input ends. False: the record is
            complete.
    """
    logged = tracker.start(attempt, config, live=live)
    if live:
        importlib.import_module("matplotlib.figure")  # takes a second, so import it before the run ends
    ended = False
    while not ended:
        ended = not live or _input_ended(POLL_S) or is_finished(attempt)  # the result is written last
        rows = read_metrics(attempt)  # a run that resumes from a checkpoint writes some rows again
        tracker.log_rows(rows[logged:])
        logged = max(logged, len(rows))
    draw_curves(attempt)
    return tracker.finish(attempt, logged)


def upload(attempt: pathlib.Path, *, live: bool = False) -> int:
    """Upload one attempt and log every failure. Returns the exit code.

    Args:
        attempt: The run's folder.
        live: Whether the training is running; see `follow`.
    """
    began = time.monotonic()
    try:
        with contextlib.nullcontext(True) if live else hold_lock(attempt / LOCK) as ended:  # noqa: FBT003
            if not ended:
                logger.error("%s is still being trained: wait until it ends", attempt)
                return 1
            config = from_dict(read_yaml(attempt / CONFIG))
            summary = follow(CometTracker(config.tracker.mode), attempt, config, live=live)
    except SamebitsError as error:
        logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400  the message is for a user
        return 1
    except Exception:
        logger.exception("the tracker failed")
        return 1
    logger.info("%s (%.1f s)", summary, time.monotonic() - began)
    return 0


def main() -> int:
    """Upload the attempt that the command line names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(10)  # the training has priority
    return upload(pathlib.Path(sys.argv[1]), live=True)


if __name__ == "__main__":
    end_process(main())
