"""Experiment trackers, and the process that tells one what a run has recorded.

The run's own record is the source of truth. `python -m samebits.launch.comet ATTEMPT ROOT` reads it as it grows and
tells the tracker; the result, or the end of its standard input, is the end of the training. So no tracker can slow a
training down, draw from its generators or end it, and whatever a tracker lost is told again from the record: at once
into an offline archive where Comet fails online (mode auto), later by `samebits comet RUN`.
"""

import concurrent.futures
import contextlib
import importlib
import logging
import os
import pathlib
import select
import sys
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, TypeVar

from samebits.core.config import Config, flatten, from_dict
from samebits.core.errors import SamebitsError, TrackerError
from samebits.core.files import hold_lock, make_folder, write_json
from samebits.core.seeds import resolve_points
from samebits.runs.folder import (
    CONFIG,
    INPUTS,
    LOCK,
    MACHINE,
    METRICS,
    RESULT,
    SEEDS,
    is_finished,
    read_json,
    read_rows,
    read_yaml,
)
from samebits.runtime.machine import remote_has_credentials
from samebits.runtime.pins import end_process

logger = logging.getLogger(__name__)

POLL_S = 0.2
CONNECT_TIMEOUT_S = 5
START_TIMEOUT_S = 20
FOLDER = "comet"
STATE = "state.json"
OFFLINE_BECAUSE = "SAMEBITS_COMET_OFFLINE_BECAUSE"  # the variable that `start_again` leaves to itself

T = TypeVar("T")


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


def server_answers(timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Return why Comet's server cannot be reached, or "" if it can; never takes longer than the timeout and a bit.

    Comet's own start would block for half a minute and keep nothing (comet_ml 3.58).
    """
    import requests  # noqa: PLC0415
    from comet_ml.config import get_backend_address, get_check_tls_certificate, get_config  # noqa: PLC0415
    from comet_ml.connection.connection_url_helpers import get_ping_backend_url  # noqa: PLC0415
    from comet_ml.connection.http_session import get_http_session  # noqa: PLC0415  with the user's certificates

    config = get_config()
    address = get_ping_backend_url(get_backend_address(config))
    server = urllib.parse.urlsplit(address).netloc
    try:
        with get_http_session(config, verify_tls=get_check_tls_certificate(config)) as session:
            answer = session.get(address, timeout=timeout_s, stream=True, allow_redirects=False)
    except requests.RequestException as error:
        return f"{server} cannot be reached: {type(error).__name__}"
    return f"{server} answered {answer.status_code}" if answer.status_code >= 500 else ""  # noqa: PLR2004


def within(timeout_s: float, action: Callable[[], T]) -> T:
    """Return what an action returns, or abandon it in its thread.

    Raises:
        TimeoutError: It took longer.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def act() -> None:
        try:
            future.set_result(action())
        except Exception as error:  # noqa: BLE001  raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    return future.result(timeout_s)


def start_again(reason: str) -> NoReturn:
    """Replace this process by the same command, started anew, which tells the whole record without going online.

    Comet's threads cannot be stopped: they may wait an hour for a server, and the end of the process for them
    (comet_ml 3.58). They do not outlive this.
    """
    logger.warning("%s; starts again without the server", reason)
    os.environ[OFFLINE_BECAUSE] = reason
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  no shell


def look_up_often(experiment: Any) -> None:
    """Let an offline experiment's threads look up often: each sleeps a second, and its end waits for both (3.58)."""
    for name, setting in (("streamer", "queue_timeout"), ("system_metrics_thread", "probe_interval")):
        thread = getattr(experiment, name, None)
        if hasattr(thread, setting):
            setattr(thread, setting, POLL_S)


class _WithoutKey(logging.Formatter):
    """Formats as another formatter does, with the user's key blotted out: Comet prints a key that it refused."""

    def __init__(self, formatter: logging.Formatter | None, key: str) -> None:
        super().__init__()
        self._formatter, self._key = formatter or logging.Formatter(), key

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return self._formatter.format(record).replace(self._key, "***")


class _FirstError(logging.Handler):
    """Keeps the first error that Comet logs: it says there, and nowhere else, that it gave something up."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; a missed heartbeat and trouble with measuring the machine lose nothing of the run."""
        if not self.text and not record.name.startswith(("comet_ml.heartbeat", "comet_ml.system")):
            self.text = record.getMessage().partition("\n")[0].partition(". ")[0].strip()


class CometTracker:
    """Comet, live with a key and a reachable server, else as an offline archive in the run's folder.

    Args:
        mode: "auto", "online" or "offline".
    """

    def __init__(self, mode: str) -> None:
        os.environ.setdefault("COMET_ERROR_TRACKING_ENABLE", "false")  # else its errors go to a third party
        self._mode = mode
        self._experiment: Any = None
        self._online = False
        self._why_offline = ""
        self._key = ""
        self._first_error = _FirstError()
        self._patience_s = 0.0

    def start(self, attempt: pathlib.Path, config: Config) -> None:
        """Begin the experiment; see `Tracker`.

        Raises:
            TrackerError: mode=online and there is no key, or the server cannot be reached or did not take everything.
        """
        import comet_ml  # noqa: PLC0415

        self._choose_mode()
        folder = attempt / FOLDER
        make_folder(folder)
        tracker = config.tracker
        # The parent waits so long in all: the other half is for telling everything again, offline.
        self._patience_s = tracker.finish_timeout_s / 2
        credentials = remote_has_credentials(pathlib.Path.cwd())
        if credentials:
            logger.warning("the address of git's remote holds a user's name or token: git's metadata are not told")
        experiment_config = comet_ml.ExperimentConfig(
            disabled=False,
            log_code=False,  # the run's own source/ is logged below, not this process's
            log_graph=False,
            parse_args=False,
            display_summary_level=0,
            log_git_metadata=not credentials,
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

        def begin() -> Any:
            return comet_ml.start(
                workspace=tracker.workspace,
                project_name=tracker.project,
                online=self._online,
                mode="create",
                experiment_config=experiment_config,
            )

        self._experiment = self._begin_online(begin) if self._online else begin()
        experiment = self._experiment
        if not self._online:
            look_up_often(experiment)
        write_json(
            folder / STATE, {"experiment": experiment.get_key(), "online": self._online, "summary": "Comet: unfinished"}
        )
        experiment.log_other("random seed", config.seed.root)
        experiment.log_other("promise", config.runtime.promise)
        experiment.log_other("inputs digest", attempt.parent.name)
        experiment.log_other("attempt", attempt.name)
        if tracker.group is not None:
            experiment.log_other("group", tracker.group)
        for name, point in resolve_points(config.seed.root, config.seed.policy, config.seed.points).items():
            experiment.log_other(f"seed {name}", "unseeded" if point.value is None else point.value)
        experiment.log_parameters(flatten(read_json(attempt.parent / INPUTS)["config"]))
        for path in sorted((attempt.parent / "source").rglob("*.py")):
            experiment.log_code(file_name=str(path), code_name=path.relative_to(attempt.parent / "source").as_posix())

    def _choose_mode(self) -> None:
        from comet_ml.config import get_api_key, get_config  # noqa: PLC0415

        self._key = get_api_key(None, get_config()) or ""  # a key can carry the address of its server
        if self._key:
            for name in ("", "comet_ml"):
                for handler in logging.getLogger(name).handlers:
                    handler.setFormatter(_WithoutKey(handler.formatter, self._key))
        if self._mode == "offline":
            return
        self._why_offline = os.environ.get(OFFLINE_BECAUSE) or (server_answers() if self._key else "no COMET_API_KEY")
        self._online = not self._why_offline
        if self._mode == "online" and not self._online:
            raise TrackerError(
                "Comet could not be used online.",
                expected="COMET_API_KEY in the environment, and a server that accepts it and takes everything",
                received=self._why_offline,
                fix="samebits comet RUN uploads it again from the run's record; tracker.mode=offline needs no server.",
            )

    def _begin_online(self, begin: Callable[[], Any]) -> Any:
        """Return the live experiment: Comet logs a refusal, and returns an experiment that is not alive."""
        logging.getLogger("comet_ml").addHandler(self._first_error)
        try:
            experiment = within(START_TIMEOUT_S, begin)
        except TimeoutError:
            self._leave_online(f"Comet did not begin an experiment within {START_TIMEOUT_S} s")
        except Exception as error:  # noqa: BLE001  Comet's own, of many kinds
            self._leave_online(f"{type(error).__name__}: {error}")
        if not experiment.alive:
            self._leave_online(self._first_error.text or "Comet refused the experiment")
        return experiment

    def _leave_online(self, reason: str) -> NoReturn:
        """Give the live experiment up: go on offline, or fail if the user wants it online or not at all."""
        start_again(reason.replace(self._key, "***"))

    def log_rows(self, rows: list[dict[str, Any]]) -> None:
        """Take rows of metrics; see `Tracker`. The step counts over all epochs."""
        for row in rows:
            measured = {name: value for name, value in row.items() if name not in ("epoch", "step", "global_step")}
            self._experiment.log_metrics(measured, step=row["global_step"], epoch=row["epoch"])

    def finish(self, attempt: pathlib.Path) -> str:
        """Take the rest of the record and end; see `Tracker`."""
        experiment, folder = self._experiment, attempt / FOLDER
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
        archive = folder / f"{experiment.get_key()}.zip"
        if self._online:
            self._end_online(folder)
            summary = f"Comet: {experiment.url}"
        else:
            experiment.end()
            with zipfile.ZipFile(archive) as opened:
                opened.getinfo("experiment.json")
            why = f" ({self._why_offline})" if self._why_offline else ""
            summary = f"Comet: offline archive{why}; send it with: comet upload {os.path.relpath(archive)}"
        for old in folder.glob("*.zip"):
            if old != archive:
                old.unlink()
        write_json(folder / STATE, {"experiment": experiment.get_key(), "online": self._online, "summary": summary})
        return summary

    def _end_online(self, folder: pathlib.Path) -> None:
        """Send what is left and end; a loss has three signs, and each comes without the others.

        Comet drops what a server answers with an error, and says so in its log alone; it leaves an archive if the
        connection broke and stayed broken; `flush` is false where it took too long (comet_ml 3.58).
        """
        experiment = self._experiment

        def send() -> bool:
            flushed: bool = experiment.flush()
            experiment.end()
            return flushed

        try:
            flushed = within(self._patience_s, send)
        except TimeoutError:
            self._leave_online(f"{experiment.url} is incomplete: not all was taken within {self._patience_s:g} s")
        broke = any(folder.glob(f"{experiment.get_key()}*.zip"))
        if self._first_error.text or broke or not flushed:
            self._leave_online(f"{experiment.url} is incomplete: {self._first_error.text or 'the connection broke'}")


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


def follow(tracker: Tracker, attempt: pathlib.Path, config: Config, *, live: bool) -> str:
    """Tell a tracker a run's record; returns the tracker's line for the user.

    Args:
        tracker: Is told.
        attempt: The run's folder.
        config: The run's configuration.
        live: The training goes on until its result is there or standard input ends; else all there will be is there.
    """
    tracker.start(attempt, config)
    if live:
        importlib.import_module("matplotlib.figure")  # a second that the end of the run need not wait
    sent = 0
    ended = False
    while not ended:
        ended = not live or _input_ended(POLL_S) or is_finished(attempt)  # the result is the last that is written
        rows = metric_rows(attempt)  # a run that went on from a checkpoint writes the same rows again
        tracker.log_rows(rows[sent:])
        sent = max(sent, len(rows))
    return tracker.finish(attempt)


def make_tracker(config: Config) -> Tracker:
    """Return the tracker that the configuration names."""
    if config.tracker.name == "none":
        return NullTracker()
    return CometTracker(config.tracker.mode)


def tell(attempt: pathlib.Path, *, live: bool = False) -> int:
    """Tell a tracker about one attempt and log every failure; returns the exit code.

    Args:
        attempt: The run's folder.
        live: Follow a training that goes on; see `follow`.
    """
    began = time.monotonic()
    try:
        with contextlib.nullcontext(True) if live else hold_lock(attempt / LOCK) as ended:  # noqa: FBT003
            if not ended:
                logger.error("%s is still going on: wait for its end", attempt)
                return 1
            config = from_dict(read_yaml(attempt / CONFIG))
            # A run that was trained without a tracker can still be told.
            tracker = make_tracker(config) if live else CometTracker(config.tracker.mode)
            summary = follow(tracker, attempt, config, live=live)
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
    return tell(pathlib.Path(sys.argv[1]), live=True)


if __name__ == "__main__":
    end_process(main())
