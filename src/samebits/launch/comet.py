"""Comet: one experiment per attempt, live or as offline archives, also when the attempt is stopped and resumed.

The run's own record is the source of truth; `samebits.launch.tracker` reads it and calls this. What a server did not
take is uploaded again from the record: at once into an offline archive (mode auto), later by `samebits comet …`.
`comet/state.json` names the experiment and how many rows of metrics it has, so that a resumed attempt continues it.
"""

import concurrent.futures
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
from samebits.core.seeds import resolve_points
from samebits.runs.folder import INPUTS, MACHINE, RESULT, SEEDS, SOURCE, is_finished, read_json
from samebits.runtime.machine import remote_has_credentials

logger = logging.getLogger(__name__)

POLL_S = 0.2
CONNECT_TIMEOUT_S = 5
START_TIMEOUT_S = 20
FOLDER = "comet"
STATE = "state.json"
CURVES = "curves.png"
OFFLINE_BECAUSE = "SAMEBITS_COMET_OFFLINE_BECAUSE"  # the variable that `start_again` leaves to itself

T = TypeVar("T")
Start = Callable[[str, str | None], Any]  # mode and key of an experiment -> the experiment


@dataclass(frozen=True)
class State:
    """What `comet/state.json` keeps between the processes that upload one attempt.

    Attributes:
        experiment: Comet's key of the experiment.
        online: Whether the server had it when this was written; an archive may have been uploaded since.
        rows: How many rows of metrics the experiment has; None: unknown, an online upload is running or broke off.
        archives: Names of the complete offline archives, in the order in which they are to be uploaded.
        summary: One line for the user.
    """

    experiment: str
    online: bool
    rows: int | None = None
    archives: list[str] = field(default_factory=list)
    summary: str = "Comet: unfinished"

    @classmethod
    def read(cls, folder: pathlib.Path) -> Self | None:
        """Return the state in an attempt's `comet` folder, or None if there is none that can be read."""
        try:
            return cls(**read_json(folder / STATE))
        except (RecordError, TypeError):
            return None

    def write(self, folder: pathlib.Path) -> None:
        """Write it into an attempt's `comet` folder."""
        write_json(folder / STATE, asdict(self))


def server_answers(timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Return why Comet's server cannot be reached, or "" if it can; takes little longer than the timeout.

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
    """Replace this process by the same command, started anew, which uploads nothing and writes an archive.

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


def hide_in_logs(key: str) -> None:
    """Blot a key out of everything that this process logs."""
    for name in ("", "comet_ml"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(_WithoutKey(handler.formatter, key))


class _FirstError(logging.Handler):
    """Keeps the first error that Comet logs: it says there, and nowhere else, that it gave something up."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; a missed heartbeat and trouble with measuring the machine lose nothing of the run."""
        if not self.text and not record.name.startswith(("comet_ml.heartbeat", "comet_ml.system")):
            self.text = record.getMessage().partition("\n")[0].partition(". ")[0].strip()


def experiment_options(attempt: pathlib.Path, config: Config) -> Any:
    """Return Comet's options: nothing is logged by itself, but for git's metadata and the environment."""
    import comet_ml  # noqa: PLC0415

    credentials = remote_has_credentials(pathlib.Path.cwd())
    if credentials:
        logger.warning("the address of git's remote holds a user's name or token: git's metadata are not uploaded")
    return comet_ml.ExperimentConfig(
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
        offline_directory=str(attempt / FOLDER),
        name=f"{config.name} {attempt.parent.name[:8]}/{attempt.name}",
        tags=[config.name, config.runtime.promise, f"seed {config.seed.root}", *config.tracker.tags],
    )


def uploaded_metrics(key: str) -> set[tuple[str, int]]:
    """Return the name and step of every metric that the server has of an experiment."""
    import comet_ml  # noqa: PLC0415

    experiment = comet_ml.API(cache=False).get_experiment_by_key(key)
    rows = experiment.get_metrics() if experiment else []
    return {(row["metricName"], int(row["step"])) for row in rows or () if row["step"] is not None}


def log_inputs(experiment: Any, attempt: pathlib.Path, config: Config) -> None:
    """Log what is known before the training: seeds, configuration, code. A second time replaces the first."""
    experiment.log_other("random seed", config.seed.root)
    experiment.log_other("promise", config.runtime.promise)
    experiment.log_other("inputs digest", attempt.parent.name)
    experiment.log_other("attempt", attempt.name)
    if config.tracker.group is not None:
        experiment.log_other("group", config.tracker.group)
    for name, point in resolve_points(config.seed.root, config.seed.policy, config.seed.points).items():
        experiment.log_other(f"seed {name}", "unseeded" if point.value is None else point.value)
    experiment.log_parameters(flatten(read_json(attempt.parent / INPUTS)["config"]))
    source = attempt.parent / SOURCE
    for path in sorted(source.rglob("*.py")):
        experiment.log_code(file_name=str(path), code_name=path.relative_to(source).as_posix(), overwrite=True)


def log_end(experiment: Any, attempt: pathlib.Path) -> None:
    """Log what is known after the training: result, machine, curves. A second time replaces the first."""
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
    experiment.log_other("ended", "with its result" if finished else "before its result: killed, stopped or failed")
    experiment.log_image(str(attempt / CURVES), name="curves", overwrite=True)


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
        self._earlier: list[pathlib.Path] = []  # archives that were there before
        self._uploaded: set[tuple[str, int]] = set()  # (metric, step) that the server says it has
        self._why_offline = ""
        self._key = ""
        self._first_error = _FirstError()
        self._patience_s = 0.0

    def start(self, attempt: pathlib.Path, config: Config, *, live: bool) -> int:
        """Begin the attempt's experiment, or continue it, and log what is known before the training.

        Args:
            attempt: The run's folder.
            config: The run's configuration.
            live: The training is running; else all the record that there will be is there.

        Returns:
            How many rows of metrics the experiment has for certain.

        Raises:
            TrackerError: mode=online and there is no key, or the server cannot be reached or did not take everything.
        """
        self._choose_mode()
        folder = attempt / FOLDER
        make_folder(folder)
        # The parent waits so long in all: the other half is for writing everything again, offline.
        self._patience_s = config.tracker.finish_timeout_s / 2
        options = experiment_options(attempt, config)

        def start(mode: str, key: str | None) -> Any:
            import comet_ml  # noqa: PLC0415

            return comet_ml.start(
                workspace=config.tracker.workspace,
                project_name=config.tracker.project,
                online=self._online,
                mode=mode,
                experiment_key=key,
                experiment_config=options,
            )

        before = State.read(folder)
        rows = self._begin_online(start, folder, before) if self._online else 0
        if not self._online:
            rows = self._begin_offline(start, folder, before, live=live)
        log_inputs(self._experiment, attempt, config)
        return rows

    def _choose_mode(self) -> None:
        from comet_ml.config import get_api_key, get_config  # noqa: PLC0415

        self._key = get_api_key(None, get_config()) or ""  # a key can carry the address of its server
        if self._key:
            hide_in_logs(self._key)
        if self._mode == "offline":
            return
        self._why_offline = os.environ.get(OFFLINE_BECAUSE) or (server_answers() if self._key else "no COMET_API_KEY")
        self._online = not self._why_offline
        if self._mode == "online" and not self._online:
            raise TrackerError(
                "Comet could not be used online.",
                expected="COMET_API_KEY in the environment, and a server that accepts it and takes everything",
                received=self._why_offline,
                fix="samebits comet … uploads it from the run's own record; tracker.mode=offline needs no server.",
            )

    def _begin_online(self, start: Start, folder: pathlib.Path, before: State | None) -> int:
        """Continue the experiment that the state names, if the server has it, else create one."""
        logging.getLogger("comet_ml").addHandler(self._first_error)
        self._earlier = list(folder.glob("*.zip"))
        rows: int | None = 0
        if before is not None and self._continue_online(start, before.experiment):
            rows = before.rows if before.online else None
            if rows is None:  # the record does not say what the server has
                key = before.experiment
                self._uploaded = self._or_leave_online("say which metrics it has", lambda: uploaded_metrics(key))
        else:
            self._experiment = self._or_leave_online("begin an experiment", lambda: start("create", None))
            if not self._experiment.alive:  # Comet logs a refusal and returns this
                self._leave_online(self._first_error.text or "Comet refused the experiment")
        State(self._experiment.get_key(), online=True).write(folder)
        return rows or 0

    def _continue_online(self, start: Start, key: str) -> bool:
        """Continue an experiment; returns whether the server lets us: it may be deleted, or somebody else's."""
        from comet_ml.exceptions import CometRestApiException, ExperimentNotFound  # noqa: PLC0415

        def resume() -> Any:
            try:
                return start("get", key)
            except ExperimentNotFound:
                return None
            except CometRestApiException as error:
                if error.response.status_code >= 500:  # noqa: PLR2004  the server's trouble, no refusal
                    raise
                return None

        experiment = self._or_leave_online("continue the experiment", resume)
        if experiment is None or not experiment.alive:
            logger.warning("the server has no experiment %s that this key may continue: a new one is created", key)
            self._first_error.text = ""
            return False
        self._experiment = experiment
        return True

    def _begin_offline(self, start: Start, folder: pathlib.Path, before: State | None, *, live: bool) -> int:
        """Begin one more archive of the state's experiment where its rows are known, else one of the whole record."""
        known = before if before is not None and before.rows is not None else None
        continued = known if known is not None and (known.online or (live and known.rows)) else None
        self._earlier = [folder / name for name in continued.archives] if continued else []
        for archive in folder.glob("*.zip"):
            if archive not in self._earlier:
                archive.unlink()
        # An archive that continues is refused by `comet upload` until the experiment is there; a first one, once it is.
        self._experiment = start("get" if continued else "create", known.experiment if known else None)
        look_up_often(self._experiment)
        rows = continued.rows or 0 if continued else 0
        names = [archive.name for archive in self._earlier]
        State(self._experiment.get_key(), online=False, rows=rows, archives=names).write(folder)
        return rows

    def _or_leave_online(self, what: str, action: Callable[[], T]) -> T:
        """Return what an action on the server returns, or give the live experiment up."""
        try:
            return within(START_TIMEOUT_S, action)
        except TimeoutError:
            self._leave_online(f"Comet did not {what} within {START_TIMEOUT_S} s")
        except Exception as error:  # noqa: BLE001  Comet's own, of many kinds
            self._leave_online(f"{type(error).__name__}: {error}")

    def _leave_online(self, reason: str) -> NoReturn:
        """Give the live experiment up: continue offline, or fail if the user wants it online or not at all."""
        start_again(reason.replace(self._key, "***"))

    def log_rows(self, rows: list[dict[str, Any]]) -> None:
        """Log rows of metrics, but for what the server has already. The step counts over all epochs."""
        for row in rows:
            step = row["global_step"]
            values = {name: value for name, value in row.items() if name not in ("epoch", "step", "global_step")}
            missing = {name: value for name, value in values.items() if (name, step) not in self._uploaded}
            if missing:
                self._experiment.log_metrics(missing, step=step, epoch=row["epoch"])

    def finish(self, attempt: pathlib.Path, rows: int) -> str:
        """Log what is known after the training, and end; returns one line for the user.

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
            summary = f"Comet: offline archive{'' if them == 'it' else 's'}{why}; send {them} with: {command}"
        names = [archive.name for archive in archives]
        State(experiment.get_key(), self._online, rows, names, summary).write(folder)
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
        broke = any(path not in self._earlier for path in folder.glob("*.zip"))
        if self._first_error.text or broke or not flushed:
            self._leave_online(f"{experiment.url} is incomplete: {self._first_error.text or 'the connection broke'}")
