"""The process that follows a run's record and uploads it to Comet: python -m samebits.launch.tracker ATTEMPT.

It reads the record as it grows; the result, or the end of its standard input, is the end of the training. So no tracker
can slow a training down, draw from its generators or end it.
"""

import contextlib
import importlib
import logging
import os
import pathlib
import select
import sys
import time
from typing import Any

from samebits.core.config import Config, from_dict
from samebits.core.errors import SamebitsError
from samebits.core.files import hold_lock
from samebits.core.plots import draw_lines
from samebits.launch.comet import CURVES, POLL_S, CometTracker
from samebits.runs.folder import CONFIG, LOCK, METRICS, is_finished, read_rows, read_yaml
from samebits.runtime.pins import end_process

logger = logging.getLogger(__name__)


def metric_rows(attempt: pathlib.Path) -> list[dict[str, Any]]:
    """Return the rows of metrics with `global_step`, the steps of all epochs so far."""
    rows = read_rows(attempt / METRICS)
    lengths = [row["step"] for row in rows if "val_loss" in row]
    steps = lengths[0] if lengths else 0
    return [{**row, "global_step": (row["epoch"] - 1) * steps + row["step"]} for row in rows]


def draw_curves(attempt: pathlib.Path) -> None:
    """Draw loss and accuracy by step into the attempt's curves.png."""
    rows = metric_rows(attempt)
    panels = {
        name: [
            (key, [row["global_step"] for row in rows if key in row], [row[key] for row in rows if key in row], style)
            for key, style in ((name, "-"), (f"val_{name}", "o-"))
        ]
        for name in ("loss", "accuracy")
    }
    draw_lines(attempt / CURVES, panels, x_label="step")


def _input_ended(timeout_s: float) -> bool:
    """Wait for the end of standard input, at most so long."""
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def follow(tracker: CometTracker, attempt: pathlib.Path, config: Config, *, live: bool) -> str:
    """Upload a run's record; returns one line for the user.

    Args:
        tracker: Takes it.
        attempt: The run's folder.
        config: The run's configuration.
        live: Wait for more until the result is there or standard input ends; else all there will be is there.
    """
    logged = tracker.start(attempt, config, live=live)
    if live:
        importlib.import_module("matplotlib.figure")  # a second that the end of the run need not wait
    ended = False
    while not ended:
        ended = not live or _input_ended(POLL_S) or is_finished(attempt)  # the result is the last that is written
        rows = metric_rows(attempt)  # a run that resumes from a checkpoint writes the same rows again
        tracker.log_rows(rows[logged:])
        logged = max(logged, len(rows))
    draw_curves(attempt)
    return tracker.finish(attempt, logged)


def upload(attempt: pathlib.Path, *, live: bool = False) -> int:
    """Upload one attempt and log every failure; returns the exit code.

    Args:
        attempt: The run's folder.
        live: Follow a training that is running; see `follow`.
    """
    began = time.monotonic()
    try:
        with contextlib.nullcontext(True) if live else hold_lock(attempt / LOCK) as ended:  # noqa: FBT003
            if not ended:
                logger.error("%s is still being trained: wait for its end", attempt)
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
    """Follow the attempt named on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(10)  # the training goes first
    return upload(pathlib.Path(sys.argv[1]), live=True)


if __name__ == "__main__":
    end_process(main())
