"""Comet: one experiment per attempt, live or as offline archives, also when the attempt is stopped and resumed.

The record of the run is the source of truth. `samebits.launch.tracker` reads it and calls this module. If an upload
fails, the record is written to an offline archive at once (mode auto), or uploaded later by `samebits comet …`.
`comet/state.json` holds the experiment key and the number of rows that Comet has, so a resumed attempt continues it.
"""

import concurrent.futures
import json
import logging
import os
import pathlib
import shlex
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, Self, TypeVar

from samebits.core.config import Config, flatten
from samebits.core.errors import RecordError, TrackerError
from samebits.core.files import make_folder, write_json
from samebits.core.metrics import held_out_names
from samebits.core.seeds import resolve_points
from samebits.runs.folder import INPUTS, MACHINE, RESULT, SEEDS, SOURCE, is_finished, metric_values, read_json
from samebits.runtime.machine import remote_has_credentials

logger = logging.getLogger(__name__)

POLL_S = 0.2
CONNECT_TIMEOUT_S = 5
START_TIMEOUT_S = 20
FOLDER = "comet"
STATE = "state.json"
CURVES = "curves.png"
OFFLINE_BECAUSE = "SAMEBITS_COMET_OFFLINE_BECAUSE"  # the variable that `restart_offline` sets for its new process

T = TypeVar("T")
Start = Callable[[str, str | None], Any]  # mode and key of an experiment -> the experiment


@dataclass(frozen=True)
class State:
    """The contents of `comet/state.json`, shared by the processes that upload one attempt.

    Attributes:
        experiment: Comet's key of the experiment.
        online: Whether the server had the experiment when this was written. The user may upload an archive later.
        rows: How many rows of metrics the experiment has; None: unknown, an online upload is running or failed.
        archives: Names of the complete offline archives, in the order in which to upload them.
        summary: One line for the user.
    """

    experiment: str
    online: bool
    rows: int | None = None
    archives: list[str] = field(default_factory=list)
    summary: str = "Comet: unfinished"

    @classmethod
    def read(cls, folder: pathlib.Path) -> Self | None:
        """Return the state in the `comet` folder of an attempt, or None if it is missing or damaged."""
        try:
            return cls(**read_json(folder / STATE))
        except (RecordError, TypeError):
            return None

    def write(self, folder: pathlib.Path) -> None:
        """Write the state into the `comet` folder of an attempt."""
        write_json(folder / STATE, asdict(self))


def server_answers(timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Return why Comet's server cannot be reached, or "" if it can. Takes little longer than the timeout.

    Without this check, Comet's own start blocks for half a minute and saves nothing (comet_ml 3.58).
    """
    import requests  # noqa: PLC0415
    from comet_ml.config import get_backend_address, get_check_tls_certificate, get_config  # noqa: PLC0415
    from comet_ml.connection.connection_url_helpers import get_ping_backend_url  # noqa: PLC0415
    from comet_ml.connection.http_session import get_http_session  # noqa: PLC0415  uses the user's certificates

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
    """Return the result of an action. If it takes too long, abandon it in its thread.

    Raises:
        TimeoutError: It took longer.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def act() -> None:
        try:
            future.set_result(action())
        except Exception as error:  # noqa: BLE001  raised again by future.result
            future.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    return future.result(timeout_s)


def restart_offline(reason: str) -> NoReturn:
    """Restart this process with the same command, which then writes an offline archive instead of uploading.

    Comet's threads cannot be stopped. They may wait an hour for a server, and the process waits for them (comet_ml
    3.58). A restart ends them.
    """
    logger.warning("%s; restarting offline", reason)
    os.environ[OFFLINE_BECAUSE] = reason
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  no shell


def poll_often(experiment: Any) -> None:
    """Make the threads of an offline experiment poll often. By default its end waits a second for each (3.58)."""
    for name, setting in (("streamer", "queue_timeout"), ("system_metrics_thread", "probe_interval")):
        thread = getattr(experiment, name, None)
        if hasattr(thread, setting):
            setattr(thread, setting, POLL_S)


class _WithoutKey(logging.Formatter):
    """Wraps a formatter and masks the user's API key, because Comet prints a key that it rejects."""

    def __init__(self, formatter: logging.Formatter | None, key: str) -> None:
        super().__init__()
        self._formatter, self._key = formatter or logging.Formatter(), key

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log record, with the key masked."""
        return self._formatter.format(record).replace(self._key, "***")


def hide_in_logs(key: str) -> None:
    """Mask a key in everything that this process logs."""
    for name in ("", "comet_ml"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(_WithoutKey(handler.formatter, key))


class _FirstError(logging.Handler):
    """Keeps the first error that Comet logs. Comet reports lost data only in its log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of an error, except errors of heartbeats and system metrics, which lose no data of the run."""
        if not self.text and not record.name.startswith(("comet_ml.heartbeat", "comet_ml.system")):
            self.text = record.getMessage().partition("\n")[0].partition(". ")[0].strip()


def experiment_options(attempt: pathlib.Path, config: Config) -> Any:
    """Return Comet's options. Automatic logging is off, except git metadata and the environment."""
    import comet_ml  # noqa: PLC0415

    credentials = remote_has_credentials(pathlib.Path.cwd())
    if credentials:
        logger.warning("the URL of the git remote contains a user name or token: git metadata is not uploaded")
    return comet_ml.ExperimentConfig(
        disabled=False,
        log_code=False,  # the run's source/ is logged below, not the code of this process
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
        offline_directory=str(attempt / FOLDER),
        name=f"{config.name} {attempt.parent.name[:8]}/{attempt.name}",
        tags=[config.name, config.runtime.promise, f"seed {config.seed.root}", *config.tracker.tags],
    )


def uploaded_metrics(key: str) -> set[tuple[str, int]]:
    """Return the name and step of every metric that the server has for an experiment."""
    import comet_ml  # noqa: PLC0415

    experiment = comet_ml.API(cache=False).get_experiment_by_key(key)
    rows = experiment.get_metrics() if experiment else []
    return {(row["metricName"], int(row["step"])) for row in rows or () if row["step"] is not None}


def log_inputs(experiment: Any, attempt: pathlib.Path, config: Config) -> None:
    """Log seeds, configuration and code, which are known before the training. A second call replaces the first."""
    experiment.log_other("random seed", config.seed.root)
    experiment.log_other("promise", config.runtime.promise)
    experiment.log_other("monitor", config.training.monitor)
    experiment.log_other("inputs digest", attempt.parent.name)
    experiment.log_other("attempt", attempt.name)
    if config.tracker.group is not None:
        experiment.log_other("group", config.tracker.group)
    for name, point in resolve_points(config.seed.root, config.seed.policy, config.seed.points).items():
        log_seed(experiment, name, point.value)
    parameters = flatten(read_json(attempt.parent / INPUTS)["config"])
    experiment.log_parameters({key: json.dumps(v) if isinstance(v, list) else v for key, v in parameters.items()})
    source = attempt.parent / SOURCE
    for path in sorted(source.rglob("*.py")):
        experiment.log_code(file_name=str(path), code_name=path.relative_to(source).as_posix(), overwrite=True)


def log_seed(experiment: Any, point: str, value: int | None) -> None:
    """Log the seed of a point; None: it has none."""
    experiment.log_other(f"seed {point}", "unseeded" if value is None else value)


def log_end(experiment: Any, attempt: pathlib.Path) -> None:
    """Log result, machine, curves and the seeds that the model took by path. A second call replaces the first."""
    if (attempt / SEEDS).exists():
        for row in read_json(attempt / SEEDS)["points"]:
            log_seed(experiment, row["point"], row["value"])
    for name in (SEEDS, MACHINE, RESULT):
        if (attempt / name).exists():
            experiment.log_asset(str(attempt / name), file_name=name, overwrite=True)
    if (attempt / MACHINE).exists():
        machine = read_json(attempt / MACHINE)
        experiment.log_other("arithmetic fingerprint", machine["arithmetic"]["fingerprint"])
        experiment.log_other("cpu", machine["cpu"]["model"])
    finished = is_finished(attempt)
    if finished:
        result = read_json(attempt / RESULT)
        experiment.log_other("weights digest", result["weights_digest"])
        experiment.log_other("data digest", result["data_digest"])
        for name in held_out_names(result["metrics"]):
            experiment.log_other(name, result["metrics"][name])
    experiment.log_other("ended", "finished" if finished else "without a result: killed, stopped or failed")
    experiment.log_image(str(attempt / CURVES), name="curves", overwrite=True)


def experiment_starter(attempt: pathlib.Path, config: Config, *, online: bool) -> Start:
    """Return the function that starts or continues an experiment: (mode, key) -> Comet's experiment."""
    options = experiment_options(attempt, config)

    def start(mode: str, key: str | None) -> Any:
        import comet_ml  # noqa: PLC0415

        return comet_ml.start(
            workspace=config.tracker.workspace,
            project_name=config.tracker.project,
            online=online,
            mode=mode,
            experiment_key=key,
            experiment_config=options,
        )

    return start


class CometTracker:
    """Uploads to Comet live if there is a key and a reachable server, else writes an offline archive.

    Args:
        mode: "auto", "online" or "offline".
    """

    def __init__(self, mode: str) -> None:
        os.environ.setdefault("COMET_ERROR_TRACKING_ENABLE", "false")  # no errors to a third party
        self._mode = mode
        self._experiment: Any = None
        self._online = False
        self._earlier: list[pathlib.Path] = []  # archives of earlier parts of the run
        self._uploaded: set[tuple[str, int]] = set()  # (metric, step) that the server already has
        self._why_offline = ""
        self._key = ""
        self._first_error = _FirstError()
        self._patience_s = 0.0

    def start(self, attempt: pathlib.Path, config: Config, *, live: bool) -> int:
        """Start or continue the experiment of an attempt, and log seeds, configuration and code.

        Args:
            attempt: The run's folder.
            config: The run's configuration.
            live: Whether the training is running. False: the record is complete.

        Returns:
            How many rows of metrics the experiment has at least.

        Raises:
            TrackerError: mode=online, but there is no key, or the server cannot be reached or rejected data.
        """
        self._choose_mode()
        folder = attempt / FOLDER
        make_folder(folder)
        # The parent waits for `finish_timeout_s`. The second half of it is for writing an offline archive.
        self._patience_s = config.tracker.finish_timeout_s / 2
        start = experiment_starter(attempt, config, online=self._online)
        before = State.read(folder)
        rows = self._begin_online(start, folder, before) if self._online else 0
        if not self._online:
            rows = self._begin_offline(start, folder, before, live=live)
        log_inputs(self._experiment, attempt, config)
        return rows

    def _choose_mode(self) -> None:
        from comet_ml.config import get_api_key, get_config  # noqa: PLC0415

        self._key = get_api_key(None, get_config()) or ""  # a key can contain the address of its server
        if self._key:
            hide_in_logs(self._key)
        if self._mode == "offline":
            return
        self._why_offline = os.environ.get(OFFLINE_BECAUSE) or (server_answers() if self._key else "no COMET_API_KEY")
        self._online = not self._why_offline
        if self._mode == "online" and not self._online:
            raise TrackerError(
                "Comet could not be used online.",
                expected="COMET_API_KEY in the environment, and a server that accepts the key and all data",
                received=self._why_offline,
                fix="upload the run later with samebits comet …, or use tracker.mode=offline, which needs no server.",
            )

    def _begin_online(self, start: Start, folder: pathlib.Path, before: State | None) -> int:
        """Continue the experiment of the state if the server has it, else create one."""
        logging.getLogger("comet_ml").addHandler(self._first_error)
        self._earlier = list(folder.glob("*.zip"))
        rows: int | None = 0
        if before is not None and self._continue_online(start, before.experiment):
            rows = before.rows if before.online else None
            if rows is None:  # the state does not say which rows the server has
                key = before.experiment
                self._uploaded = self._or_leave_online("list its metrics", lambda: uploaded_metrics(key))
        else:
            self._experiment = self._or_leave_online("create an experiment", lambda: start("create", None))
            if not self._experiment.alive:  # Comet logs an error and returns an experiment that is not alive
                self._leave_online(self._first_error.text or "Comet refused the experiment")
        State(self._experiment.get_key(), online=True).write(folder)
        return rows or 0

    def _continue_online(self, start: Start, key: str) -> bool:
        """Continue an experiment. Returns False if the server refuses, e.g. because it was deleted."""
        from comet_ml.exceptions import CometRestApiException, ExperimentNotFound  # noqa: PLC0415

        def resume() -> Any:
            try:
                return start("get", key)
            except ExperimentNotFound:
                return None
            except CometRestApiException as error:
                if error.response.status_code >= 500:  # noqa: PLR2004  a server error, not a refusal
                    raise
                return None

        experiment = self._or_leave_online("continue the experiment", resume)
        if experiment is None or not experiment.alive:
            logger.warning("Comet has no experiment %s that this key can continue: creating a new one", key)
            self._first_error.text = ""
            return False
        self._experiment = experiment
        return True

    def _begin_offline(self, start: Start, folder: pathlib.Path, before: State | None, *, live: bool) -> int:
        """Start an archive. It continues the experiment of the state, or has the whole record if rows are unknown."""
        known = before if before is not None and before.rows is not None else None
        continued = known if known is not None and (known.online or (live and known.rows)) else None
        self._earlier = [folder / name for name in continued.archives] if continued else []
        for archive in folder.glob("*.zip"):
            if archive not in self._earlier:
                archive.unlink()
        # `comet upload` rejects a continuing archive if the experiment does not exist, and a first archive if it does.
        self._experiment = start("get" if continued else "create", known.experiment if known else None)
        poll_often(self._experiment)
        rows = continued.rows or 0 if continued else 0
        names = [archive.name for archive in self._earlier]
        State(self._experiment.get_key(), online=False, rows=rows, archives=names).write(folder)
        return rows

    def _or_leave_online(self, what: str, action: Callable[[], T]) -> T:
        """Return the result of a server action. If it fails, stop the online upload."""
        try:
            return within(START_TIMEOUT_S, action)
        except TimeoutError:
            self._leave_online(f"Comet did not {what} within {START_TIMEOUT_S} s")
        except Exception as error:  # noqa: BLE001  Comet's own, of many kinds
            self._leave_online(f"{type(error).__name__}: {error}")

    def _leave_online(self, reason: str) -> NoReturn:
        """Stop the online upload and restart offline. With mode=online the restart raises an error."""
        restart_offline(reason.replace(self._key, "***"))

    def log_rows(self, rows: list[dict[str, Any]]) -> None:
        """Log rows of metrics that the server does not have yet. The step counts over all epochs."""
        for row in rows:
            step = row["global_step"]
            missing = {name: value for name, value in metric_values(row).items() if (name, step) not in self._uploaded}
            if missing:
                self._experiment.log_metrics(missing, step=step, epoch=row["epoch"])

    def finish(self, attempt: pathlib.Path, rows: int) -> str:
        """Log result, machine and curves, and end the experiment. Returns one line for the user.

        Args:
            attempt: The run's folder.
            rows: How many rows of metrics the experiment has now.
        """
        experiment, folder = self._experiment, attempt / FOLDER
        log_end(experiment, attempt)
        archives: list[pathlib.Path] = []
        if self._online:
            self._end_online(folder)
            for archive in self._earlier:
                archive.unlink(missing_ok=True)
            summary = f"Comet: {experiment.url}"
        else:
            experiment.end()
            (created,) = set(folder.glob("*.zip")) - set(self._earlier)
            with zipfile.ZipFile(created) as opened:
                opened.getinfo("experiment.json")
            archives = [*(archive for archive in self._earlier if archive.exists()), created]
            them = "them" if len(archives) > 1 else "it"
            why = f" ({self._why_offline})" if self._why_offline else ""
            command = shlex.join(["comet", "upload", *map(os.path.relpath, archives)])
            summary = f"Comet: offline archive{'' if them == 'it' else 's'}{why}; upload {them} with: {command}"
        names = [archive.name for archive in archives]
        State(experiment.get_key(), self._online, rows, names, summary).write(folder)
        return summary

    def _end_online(self, folder: pathlib.Path) -> None:
        """Send the remaining data and end the experiment. If data was lost, restart offline.

        There are three independent signs of lost data (comet_ml 3.58). Comet drops data that the server rejects and
        reports that only in its log. It leaves an archive if the connection was lost. `flush` returns False if it took
        too long.
        """
        experiment = self._experiment

        def send() -> bool:
            flushed: bool = experiment.flush()
            experiment.end()
            return flushed

        try:
            flushed = within(self._patience_s, send)
        except TimeoutError:
            self._leave_online(f"{experiment.url} is incomplete: the upload took longer than {self._patience_s:g} s")
        broke = any(path not in self._earlier for path in folder.glob("*.zip"))
        if self._first_error.text or broke or not flushed:
            self._leave_online(f"{experiment.url} is incomplete: {self._first_error.text or 'the connection was lost'}")
