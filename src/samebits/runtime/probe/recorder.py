"""Writes the record of one process: rows with the digests of values, and events between them, as JSON lines."""

import os
import pathlib
import random
import sys
import types
from collections.abc import Callable
from typing import Any, TextIO

from samebits.runtime.probe.statements import Source, Statement
from samebits.runtime.probe.values import Values, text_digest

MAX_ROWS = 20  # per statement; it is silent after that
MAX_BYTES_OF_STATEMENT = 1 << 28
MAX_CALLS = 200  # of a function that are traced
PLACES_OF_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class OwnFiles:
    """Knows the files of the script's own folder.

    Args:
        folders: The folders: where this process runs, and the original.
        changed: Relative path -> the text that the file has in this trial.
    """

    def __init__(self, folders: list[pathlib.Path], changed: dict[str, str]) -> None:
        self.folders, self.changed = folders, changed
        self._names: dict[str, str] = {}
        self._sources: dict[str, Source | None] = {}

    def name(self, path: str) -> str:
        """Return the path of an own file relative to its folder; "" for any other file."""
        if path not in self._names:
            self._names[path] = self._find(path)
        return self._names[path]

    def _find(self, path: str) -> str:
        place = pathlib.Path(os.path.abspath(path))  # noqa: PTH100  resolves no link
        if path.startswith("<") or any(part in path for part in PLACES_OF_PACKAGES):
            return ""
        for folder in self.folders:
            if place.is_relative_to(folder) and not place.is_relative_to(sys.prefix):
                return place.relative_to(folder).as_posix()
        return ""

    def text(self, name: str, path: str) -> str:
        """Return the source of an own file, with the changes of this trial."""
        return self.changed.get(name) or pathlib.Path(path).read_text(encoding="utf-8")

    def source(self, path: str) -> Source | None:
        """Return the statements of an own file; None for any other file, or one that cannot be read."""
        if path not in self._sources:
            self._sources[path] = None
            name = self.name(path)
            if name:
                try:
                    self._sources[path] = Source(self.text(name, path))
                except (OSError, SyntaxError, ValueError):
                    return None
        return self._sources[path]

    def caller(self) -> tuple[str, int, str]:
        """Return file, line and path of the nearest frame of an own file; "" if there is none."""
        frame: Any = sys._getframe(1)  # noqa: SLF001  the public functions read the source of each frame
        while frame is not None:
            name = self.name(frame.f_code.co_filename)
            if name:
                return name, frame.f_lineno, frame.f_code.co_filename
            frame = frame.f_back
        return "", 0, ""


class Recorder:
    """Records a process.

    Args:
        write: Gets each row as a dict.
        own: The script's own files.
        folders: See `Values`.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None], own: OwnFiles, folders: list[str]) -> None:
        self.write, self.own = write, own
        self.rows = 0
        self.ignored: set[str] = set()
        self.values = Values(folders, self.ignored)
        self.counts: dict[tuple[str, int], int] = {}
        self.sizes: dict[tuple[str, int], int] = {}
        self.states: dict[str, Any] = {}
        self.arrived: Callable[[], None] = lambda: None  # looks for libraries that the script has imported

    def row(self, name: str, line: int, kind: str, what: str, value: Any, **more: Any) -> None:
        """Write the digest of one value."""
        seen = self.values.see(value)
        if seen is None:
            return
        self.rows += 1
        row = {"row": self.rows, "file": name, "line": line, "kind": kind, "what": what, "digest": seen.digest[:24]}
        parts = {part: digest[:12] for part, digest in seen.parts.items()}
        self.write(row | {"shown": seen.shown, "type": seen.kind} | ({"parts": parts} if parts else {}) | more)

    def event(self, kind: str, verb: str, place: tuple[str, int] | None = None, digest: str = "") -> None:
        """Write that the script has used a source of randomness, or a seed."""
        name, line = place or self.own.caller()[:2]
        if name:
            source = {"event": kind, "verb": verb, "file": name, "line": line, "digest": digest}
            self.write(source | {"before": self.rows + 1})

    def leave(self, frame: types.FrameType, statement: Statement, name: str) -> None:
        """Record the variables of a statement that has been executed."""
        key = (name, statement.line)
        count = self.counts.get(key, 0)
        if count >= MAX_ROWS or self.sizes.get(key, 0) > MAX_BYTES_OF_STATEMENT:
            return
        self.counts[key] = count + 1
        self.arrived()
        self.draws(name, statement.line)
        before = self.values.size
        for variable in statement.names:
            value = frame.f_locals.get(variable, frame.f_globals.get(variable))
            if value is not None and not isinstance(value, types.ModuleType | types.FunctionType | type):
                self.row(name, statement.line, "variable", variable, value)
        self.sizes[key] = self.sizes.get(key, 0) + self.values.size - before

    def draws(self, name: str = "", line: int = 0) -> None:
        """Write an event for each global generator whose state has changed since the last call."""
        states: dict[str, Any] = {"python": random.getstate()}
        numpy: Any = sys.modules.get("numpy.random")
        if numpy is not None and hasattr(numpy, "get_state"):
            state = numpy.get_state(legacy=False)
            states["numpy"] = (state["state"]["key"].tobytes(), state["state"]["pos"], state["gauss"])
        for kind, state in states.items():
            if name and kind in self.states and self.states[kind] != state:
                self.event(kind, "draw", (name, line), text_digest(repr(state))[:16])
            self.states[kind] = state


class Tracer:
    """Follows the statements of the script's own files in the main thread.

    Args:
        recorder: Gets each statement that was executed.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.own = recorder, recorder.own
        self.calls: dict[types.CodeType, int] = {}

    def enter(self, frame: types.FrameType, _event: str, _argument: Any) -> Any:
        """Return the function that follows a frame; None for frames of other files."""
        code = frame.f_code
        name = self.own.name(code.co_filename)
        if not name or (code.co_name.startswith("<") and code.co_name != "<module>"):
            return None
        calls = self.calls[code] = self.calls.get(code, 0) + 1
        source = self.own.source(code.co_filename)
        if source is None or calls > MAX_CALLS:
            return None
        self.recorder.ignored |= source.times.parts
        return self.follow(source, name)

    def follow(self, source: Source, name: str) -> Callable[..., Any]:
        """Return the trace function of one frame: a statement is recorded when the next one begins."""
        statements, leave = source.statements, self.recorder.leave
        last: Statement | None = None

        def trace(frame: types.FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                now = statements.get(frame.f_lineno)
                if last is not None and now is not last and (now is None or now != last):
                    leave(frame, last, name)
                last = now
            elif event == "return" and last is not None:
                leave(frame, last, name)
                if argument is not None and frame.f_code.co_name != "<module>":
                    self.value(name, last, argument)
            return trace

        return trace

    def value(self, name: str, statement: Statement, argument: Any) -> None:
        """Record what a function returns."""
        if not statement.measures and self.recorder.counts.get((name, statement.line), 0) < MAX_ROWS:
            self.recorder.row(name, statement.line, "result", "the returned value", argument)


def open_record(path: pathlib.Path) -> tuple[TextIO, Callable[[dict[str, Any]], None]]:
    """Return a record's stream, and the function that writes a row to it."""
    import json  # noqa: PLC0415  bound here, whatever the script does

    stream = path.open("w", encoding="utf-8", buffering=1)
    owner = os.getpid()

    def write(row: dict[str, Any]) -> None:
        if os.getpid() == owner:  # not in processes that the script forks
            stream.write(json.dumps(row, ensure_ascii=True) + "\n")

    return stream, write
