"""A Comet server for the tests, on 127.0.0.1: keeps what it is told, and can refuse, fail, hang or die.

Answers the requests that comet_ml 3.58 makes for a live experiment and for `comet upload`. `read_archive` gives the
contents of an offline archive in the same form, so that both can be compared with the record of a run.
"""

import contextlib
import gzip
import http.server
import json
import pathlib
import socket
import threading
import time
import urllib.parse
import zipfile
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

PORT_CLOSED = "http://127.0.0.1:9/clientlib/"  # the port of "discard": nothing listens there
OWN_METRICS = ("process duration", "startup duration")  # beside sys.…, what Comet measures by itself
VERSION = "4.0.0"  # of the server; from 3.3.11 on, comet_ml keeps an offline copy of a live experiment

Answer = tuple[int, dict[str, Any]]  # status and body
ALWAYS: dict[str, Answer] = {  # by the end of the path
    "/isAlive/ver": (200, {"version": VERSION}),
    "/status-report/update": (200, {"is_alive_beat_duration_millis": 1000, "gpu_monitor_interval_millis": 60000}),
}


@dataclass
class Told:
    """What Comet was told of one experiment.

    Attributes:
        others: Values of log_other, by key.
        parameters: Values of log_parameters, by dotted name; not those that Comet adds by itself.
        metrics: (name, value, step, epoch) in the order of arrival; not Comet's own measurements of the system.
        files: {"type/name": bytes}; the types are source_code, asset and image.
        tags: The tags.
    """

    others: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)

    def add_parameter(self, name: str, value: Any, source: str) -> None:
        """Take one parameter."""
        if source == "manual":
            self.parameters[name] = value

    def add_metric(self, name: str, value: float, step: int, epoch: int) -> None:
        """Take one value of a metric."""
        if not name.startswith("sys.") and name not in OWN_METRICS:
            self.metrics.append((name, value, step, epoch))

    def add_file(self, details: dict[str, Any], kind: str, data: bytes) -> None:
        """Take one file with what came beside it."""
        if kind == "visualization":
            self.files[f"image/{details['figName']}"] = data
        else:
            self.files[f"{kind}/{details['fileName']}"] = data


def read_archive(path: pathlib.Path) -> Told:
    """Return the contents of an offline archive."""
    told = Told()
    with zipfile.ZipFile(path) as archive:
        told.tags = json.loads(archive.read("experiment.json"))["tags"]
        for line in archive.read("messages.json").splitlines():
            message = json.loads(line)
            payload = message["payload"]
            if message["type"] == "log_other":
                told.others[payload["key"]] = payload["value"]
            elif message["type"] == "parameter_msg":
                parameter = payload["param"]
                told.add_parameter(parameter["paramName"], parameter["paramValue"], parameter["source"])
            elif message["type"] == "metric_msg":
                metric = payload["metric"]
                told.add_metric(metric["metricName"], metric["metricValue"], metric["step"], metric["epoch"])
            elif message["type"] == "file_upload":
                data = archive.read(payload["file_path"])
                told.add_file(payload["additional_params"], payload["upload_type"], data)
    return told


def _file_of_form(content_type: str, body: bytes) -> bytes:
    """Return the part named "file" of a multipart form."""
    boundary = content_type.partition("boundary=")[2].encode()
    for part in body.split(b"--" + boundary):
        head, _, data = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return data.removesuffix(b"\r\n")
    raise ValueError("a form without a file")


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads one request, and answers it as the server's behaviour says."""

    protocol_version = "HTTP/1.1"
    server: "FakeComet"

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        status, answer = self.server.respond(self.path, self.headers.get("Content-Type") or "", body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _respond  # noqa: N815  the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in http.server
        """Say nothing."""


class FakeComet(http.server.ThreadingHTTPServer):
    """The server; runs in threads of the test's process while a `with` block does.

    Args:
        failures: {end of a path: (status, body)} of the requests that are answered so; "" is every path.
        before: A server that died: this one has its address and goes on with what it was told.

    Attributes:
        told: What it was told, by the experiment's key.
        refused_experiments: Keys of experiments that it has no more, or that nobody may write to.
        metrics_came: Set once a metric of a training arrived.
    """

    daemon_threads = True

    def __init__(self, failures: dict[str, Answer] | None = None, before: "FakeComet | None" = None) -> None:
        super().__init__(("127.0.0.1", before.server_address[1] if before else 0), _Handler)
        self.told: dict[str, Told] = before.told if before else {}
        self.refused_experiments: set[str] = set()
        self.metrics_came = threading.Event()
        self._last_message = time.monotonic()
        self._failures = failures or {}
        self._hanging: str | None = None
        self._released = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The address for COMET_URL_OVERRIDE."""
        return f"http://127.0.0.1:{self.server_address[1]}/clientlib/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()

    def hang(self, path: str = "") -> None:
        """From now on, read requests whose path ends so, and never answer them."""
        self._hanging = path

    def die(self) -> None:
        """Stop listening and cut every connection, as a server that is killed does."""
        if self._released.is_set():
            return
        self._released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)

    def quiet_s(self) -> float:
        """Return for how long it was told nothing of an experiment."""
        return time.monotonic() - self._last_message

    def only_experiment(self) -> Told:
        """Return what it was told of the one experiment that there is."""
        (told,) = self.told.values()
        return told

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that `die` can cut it."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ends."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away: some of the tests kill them."""

    def _describe(self, key: str, *, metrics: bool) -> Answer:
        """Return what it has of an experiment: where it lies, or its metrics."""
        if key not in self.told or key in self.refused_experiments:
            return 400, {"msg": "no such experiment"}
        if not metrics:
            return 200, {"experimentKey": key, "workspaceName": "workspace", "projectName": "project"}
        names = ("metricName", "metricValue", "step", "epoch")
        return 200, {"metrics": [dict(zip(names, row, strict=True)) for row in self.told[key].metrics]}

    def respond(self, address: str, content_type: str, body: bytes) -> Answer:
        """Return status and body of the answer to one request."""
        path = urllib.parse.urlsplit(address).path
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))
        if self._hanging is not None and path.endswith(self._hanging):
            self._released.wait()
        if self._released.is_set():
            raise ConnectionAbortedError
        for end, answer in (self._failures | ALWAYS).items():
            if path.endswith(end):
                return answer
        if path.endswith(("/experiment/metadata", "/experiment/metrics/get-all")):
            return self._describe(query["experimentKey"], metrics=path.endswith("/get-all"))
        if path.endswith("/upload"):
            data = _file_of_form(content_type, body)
            with self._lock:
                self._last_message = time.monotonic()
                kind = "visualization" if "visualizations" in path else query.get("type", "asset")
                self.told.setdefault(query["experimentId"], Told()).add_file(query, kind, data)
            return 200, {}
        if not body or not content_type.startswith("application/json"):
            return 200, {}
        return self._take(path, json.loads(body))

    def _take(self, path: str, message: dict[str, Any]) -> Answer:
        """Take one message in JSON; what the tests do not look at is accepted unseen."""
        if path.endswith(("/add/run", "/get/run")):
            return 200, {"runId": "run", "project_id": "project", "focusUrl": "http://comet.invalid/"}
        key = message.get("experimentKey")
        if key is None:
            return 200, {}
        with self._lock:
            self._last_message = time.monotonic()
            told = self.told.setdefault(key, Told())
            if path.endswith("/log-other"):
                told.others[message["key"]] = message["value"]
            elif path.endswith("/tags/add-tags-to-experiment"):
                told.tags += message["addedTags"]
            elif path.endswith("/experiment/parameter"):
                for row in message["values"]:
                    told.add_parameter(row["parameterName"], row["parameterValue"], row["source"])
            elif path.endswith("/experiment/metric"):
                for row in message["values"]:
                    told.add_metric(row["metricName"], row["metricValue"], row["step"], row["epoch"])
                if told.metrics:
                    self.metrics_came.set()
        return 200, {}
