"""Experiment trackers, and the process that tells one what a run has recorded.

The run's own record is the source of truth. `python -m samebits.tracking ATTEMPT ROOT` reads it as it grows and tells
the tracker; the end of its standard input is the end of the training. So no tracker can slow a training down, draw
from its generators or end it, and whatever a tracker lost is told again from the record (`make comet RUN=…`).
"""

import logging
import os
import pathlib
import select
import sys
import time
import urllib.parse
import zipfile
from typing import Any, Protocol

from samebits.config import Config, from_dict
from samebits.errors import SamebitsError, TrackerError
from samebits.record import (
    CONFIG,
    INPUTS,
    MACHINE,
    METRICS,
    RESULT,
    SEEDS,
    is_finished,
    make_folder,
    read_json,
    read_rows,
    read_yaml,
    write_json,
)
from samebits.seeds import resolve_points

logger = logging.getLogger(__name__)

POLL_S = 0.5
CONNECT_TIMEOUT_S = 5
FOLDER = "comet"
STATE = "state.json"


class Tracker(Protocol):
    """What a tracker is told, in this order; every method may raise, and the training never notices."""

    def start(self, attempt: pathlib.Path, config: Config) -> None:
        """Begin the experiment: configuration, seeds, code."""

    def log_rows(self, rows: list[dict[str, Any]]) -> None:
        """Take rows of metrics, each once, in order."""

    def finish(self, attempt: pathlib.Path) -> str:
        """Take the result, the machine and the plots, and end; returns one line for the user."""


class NullTracker:
    """Tells nobody."""

    def start(self, attempt: pathlib.Path, config: Config) -> None:
        """Do nothing."""

    def log_rows(self, rows: list[dict[str, Any]]) -> None:
        """Do nothing."""

    def finish(self, attempt: pathlib.Path) -> str:  # noqa: ARG002  the protocol's argument
        """Do nothing."""
        return ""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data as one level with dotted names, in the order of the tree."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def server_answers(timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Return why Comet's server cannot be reached, or "" if it can; never takes longer than the timeout and a bit.

    Comet's own start would block for half a minute and keep nothing (comet_ml 3.58).
    """
    import requests  # noqa: PLC0415
    from comet_ml.config import get_backend_address  # noqa: PLC0415

    parts = urllib.parse.urlsplit(get_backend_address())
    try:
        answer = requests.get(
            f"{parts.scheme}://{parts.netloc}/", timeout=timeout_s, stream=True, allow_redirects=False
        )
    except requests.RequestException as error:
        return f"{parts.netloc} cannot be reached: {type(error).__name__}"
    return f"{parts.netloc} answered {answer.status_code}" if answer.status_code >= 500 else ""  # noqa: PLR2004


class CometTracker:
    """Comet, live with a key and a reachable server, else as an offline archive in the run's folder.

    Args:
        mode: "auto", "online" or "offline".
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._experiment: Any = None
        self._online = False
        self._why_offline = ""

    def start(self, attempt: pathlib.Path, config: Config) -> None:
        """Begin the experiment; see `Tracker`.

        Raises:
            TrackerError: mode=online and there is no key or no server.
        """
        import comet_ml  # noqa: PLC0415

        self._choose_mode()
        folder = attempt / FOLDER
        make_folder(folder)
        for old in folder.glob("*.zip"):
            old.unlink()
        tracker = config.tracker
        experiment_config = comet_ml.ExperimentConfig(
            disabled=False,
            log_code=False,  # the run's own source/ is logged below, not this process's
            log_graph=False,
            parse_args=False,
            display_summary_level=0,
            log_git_metadata=True,
            log_git_patch=True,
            log_env_details=True,
            log_env_host=False,
            log_env_network=False,
            auto_output_logging=False,
            auto_param_logging=False,
            auto_metric_logging=False,
            auto_log_co2=False,
            offline_directory=str(folder),
            name=f"{config.name} {attempt.parent.name[:8]}/{attempt.name}",
            tags=[config.name, config.runtime.promise, f"seed {config.seed.root}", *tracker.tags],
        )
        self._experiment = comet_ml.start(
            workspace=tracker.workspace,
            project_name=tracker.project,
            online=self._online,
            mode="create",
            experiment_config=experiment_config,
        )
        experiment = self._experiment
        write_json(
            folder / STATE, {"experiment": experiment.get_key(), "online": self._online, "summary": "Comet: unfinished"}
        )
        experiment.log_other("random seed", config.seed.root)
        experiment.log_other("promise", config.runtime.promise)
        experiment.log_other("inputs digest", attempt.parent.name)
        experiment.log_other("attempt", attempt.name)
        for name, point in resolve_points(config.seed.root, config.seed.policy, config.seed.points).items():
            experiment.log_other(f"seed {name}", "unseeded" if point.value is None else point.value)
        experiment.log_parameters(flatten(read_json(attempt.parent / INPUTS)["config"]))
        for path in sorted((attempt.parent / "source").rglob("*.py")):
            experiment.log_code(file_name=str(path), code_name=path.relative_to(attempt.parent / "source").as_posix())

    def _choose_mode(self) -> None:
        import comet_ml  # noqa: PLC0415

        key = comet_ml.get_config()["comet.api_key"]
        if self._mode == "offline":
            return
        self._why_offline = "no COMET_API_KEY" if not key else server_answers()
        self._online = not self._why_offline
        if self._mode == "online" and not self._online:
            raise TrackerError(
                "Comet cannot be used online.",
                expected="COMET_API_KEY in the environment and a reachable server",
                received=self._why_offline,
                fix="set the key, or use tracker.mode=offline and send the archive later with comet upload.",
            )

    def log_rows(self, rows: list[dict[str, Any]]) -> None:
        """Take rows of metrics; see `Tracker`. The step counts over all epochs."""
        for row in rows:
            measured = {name: value for name, value in row.items() if name not in ("epoch", "step", "global_step")}
            self._experiment.log_metrics(measured, step=row["global_step"], epoch=row["epoch"])

    def finish(self, attempt: pathlib.Path) -> str:
        """Take the rest of the record and end; see `Tracker`."""
        experiment = self._experiment
        for name in (SEEDS, MACHINE, RESULT):
            if (attempt / name).exists():
                experiment.log_asset(str(attempt / name), file_name=name)
        if (attempt / MACHINE).exists():
            machine = read_json(attempt / MACHINE)
            experiment.log_other("arithmetic fingerprint", machine["arithmetic"]["fingerprint"])
            experiment.log_other("cpu", machine["cpu"]["model"])
        if is_finished(attempt):
            result = read_json(attempt / RESULT)
            experiment.log_other("weights digest", result["weights_digest"])
            experiment.log_other("data digest", result["data_digest"])
        else:
            experiment.log_other("ended", "before its result: killed, stopped or failed")
        plot_curves(attempt)
        experiment.log_image(str(attempt / "curves.png"), name="curves")
        delivered = experiment.flush() if self._online else True
        experiment.end()
        folder = attempt / FOLDER
        if not delivered:
            raise TrackerError(
                "Comet did not take everything.",
                expected="an upload without errors",
                received="see the lines above",
                fix="make comet RUN=… tells it again from the run's own record.",
            )
        if self._online:
            summary = f"Comet: {experiment.url}"
        else:
            (archive,) = folder.glob("*.zip")
            with zipfile.ZipFile(archive) as opened:
                opened.getinfo("experiment.json")
            why = f" ({self._why_offline})" if self._why_offline else ""
            summary = f"Comet: offline archive{why}; send it with: comet upload {os.path.relpath(archive)}"
        write_json(folder / STATE, {"experiment": experiment.get_key(), "online": self._online, "summary": summary})
        return summary


def plot_curves(attempt: pathlib.Path) -> None:
    """Draw loss and accuracy by step into the attempt's curves.png."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import; no global state of pyplot

    rows = metric_rows(attempt)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, marker in ((name, ""), (f"val_{name}", "o")):
            points = [(row["global_step"], row[key]) for row in rows if key in row]
            axis.plot([x for x, _ in points], [y for _, y in points], marker=marker, label=key)
        axis.set_xlabel("step")
        axis.set_ylabel(name)
        axis.legend()
    figure.savefig(attempt / "curves.png", dpi=120, metadata={"Software": None})


def metric_rows(attempt: pathlib.Path) -> list[dict[str, Any]]:
    """Return the rows of metrics with `global_step`, the steps of all epochs so far."""
    rows = read_rows(attempt / METRICS)
    lengths = [row["step"] for row in rows if "val_loss" in row]
    steps = lengths[0] if lengths else 0
    return [{**row, "global_step": (row["epoch"] - 1) * steps + row["step"]} for row in rows]


def _input_ended(timeout_s: float) -> bool:
    """Wait for the end of standard input, at most so long."""
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def follow(tracker: Tracker, attempt: pathlib.Path, config: Config) -> str:
    """Tell a tracker a run's record until the training has ended; returns the tracker's line for the user."""
    tracker.start(attempt, config)
    sent = 0
    ended = False
    while not ended:
        ended = _input_ended(POLL_S)
        rows = metric_rows(attempt)  # a run that went on from a checkpoint writes the same rows again
        tracker.log_rows(rows[sent:])
        sent = max(sent, len(rows))
    return tracker.finish(attempt)


def make_tracker(config: Config) -> Tracker:
    """Return the tracker that the configuration names."""
    if config.tracker.name == "none":
        return NullTracker()
    return CometTracker(config.tracker.mode)


def tell(attempt: pathlib.Path) -> int:
    """Follow one attempt and log every failure; returns the exit code."""
    began = time.monotonic()
    try:
        config = from_dict(read_yaml(attempt / CONFIG))
        summary = follow(make_tracker(config), attempt, config)
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
    return tell(pathlib.Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
