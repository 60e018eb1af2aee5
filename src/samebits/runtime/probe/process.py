"""The process of the probe: applies the conditions of a trial, runs the script as `__main__`, and records it."""

import builtins
import io
import json
import os
import pathlib
import sys
import time
import traceback
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any

from samebits.runtime.probe.libraries import Libraries
from samebits.runtime.probe.recorder import OwnFiles, Recorder, Tracer, open_record
from samebits.runtime.probe.sources import Sources


def main(trial: pathlib.Path) -> int:
    """Run one process of a trial and return its exit code.

    Args:
        trial: The JSON file that `samebits.checks.script.trial.Trials` writes.
    """
    options = json.loads(trial.read_text(encoding="utf-8"))
    time.tzset()
    os.sched_setaffinity(0, options["cores"])
    folders = [pathlib.Path(folder) for folder in options["folders"]]
    own, pins = OwnFiles(folders, options["changed"]), set(options["pins"])
    stream, write = open_record(pathlib.Path(options["record"]))
    recorder = Recorder(write, own, options["folders"])
    sources = Sources(recorder, pins, second=options["second"])
    libraries = Libraries(recorder, pins, sources.numpy_arrived)
    recorder.arrived = libraries.look
    tracer = Tracer(recorder)
    script = pathlib.Path(options["script"])
    with stream:
        sources.install()
        libraries.look()  # of a process that has imported them before
        builtins.print = printing(recorder)
        builtins.__import__ = importing(sources, libraries, tracer, script.parent)
        change_files(own)
        return run(script, options["arguments"], own, recorder, tracer)


def run(script: pathlib.Path, arguments: list[str], own: OwnFiles, recorder: Recorder, tracer: Tracer) -> int:
    """Run the code of the script as the module `__main__`, and return its exit code."""
    code = compile(own.text(own.name(str(script)), str(script)), str(script), "exec", dont_inherit=True)
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = str(script)
    if script.suffix == ".ipynb":
        module.__dict__["display"] = print
    sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
    sys.dont_write_bytecode = True
    sys.modules["__main__"] = module
    recorder.draws()
    sys.settrace(tracer.enter)
    try:
        exec(code, module.__dict__)  # noqa: S102  running it is the purpose
    except SystemExit as end:
        sys.settrace(None)
        if end.code not in (None, 0):
            print(f"the script ended with the exit code {end.code}", file=sys.stderr)
            return 1
    except BaseException as error:  # noqa: BLE001  as Python itself would
        sys.settrace(None)
        recorder.write({"error": type(error).__name__, "line": line_of(error, own), "text": str(error)[:300]})
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        return 1
    finally:
        sys.settrace(None)
        sys.stdout.flush()
    recorder.write({"end": True})
    return 0


def line_of(error: BaseException, own: OwnFiles) -> int:
    """Return the last line of the script's files in a traceback; 0: there is none."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if own.name(frame.f_code.co_filename)]
    return lines[-1] if lines else 0


def printing(recorder: Recorder) -> Callable[..., None]:
    """Return a `print` that also records what a line of the script prints, unless it is a time."""
    original = builtins.print

    def print_and_record(*values: Any, **options: Any) -> None:
        frame = sys._getframe(1)  # noqa: SLF001
        name, line = recorder.own.name(frame.f_code.co_filename), frame.f_lineno
        if name and options.get("file") in (None, sys.stdout):
            source = recorder.own.source(frame.f_code.co_filename)
            statement = source.statements.get(line) if source else None
            if not (statement and statement.measures):
                text = io.StringIO()
                original(*values, **{**options, "file": text, "flush": False})
                recorder.row(name, line, "print", "what it prints", text.getvalue())
        original(*values, **options)

    return print_and_record


def importing(
    sources: Sources, libraries: Libraries, tracer: Tracer, folder: pathlib.Path
) -> Callable[..., types.ModuleType]:
    """Return an `__import__` that prepares each library that the script imports, and does not trace inside it."""
    original, own = builtins.__import__, tracer.own

    def is_own(name: str, level: int, path: str) -> bool:
        top = folder / name.partition(".")[0]
        return bool(level and own.name(path)) or top.is_dir() or top.with_suffix(".py").is_file()

    def import_module(name: str, *given: Any, **named: Any) -> types.ModuleType:
        names = dict(enumerate(given)) | named
        path = (names.get(0, names.get("globals")) or {}).get("__file__") or ""
        level = names.get(3, names.get("level")) or 0
        if sources.quiet or is_own(name, level, path):
            return original(name, *given, **named)
        if name in sources.modules and level == 0 and path and own.name(path):
            return sources.modules[name]
        follow = sys.gettrace()
        sources.quiet = True
        sys.settrace(None)
        try:
            return original(name, *given, **named)
        finally:
            sources.quiet = False
            libraries.look()
            if follow is not None:
                sys.settrace(follow)

    return import_module


def change_files(own: OwnFiles) -> None:
    """Let imports read the changed text of the script's files."""
    if not own.changed:
        return
    read, stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def get_data(loader: SourceFileLoader, path: str) -> bytes:
        text = own.changed.get(own.name(str(path)))
        return read(loader, path) if text is None else text.encode()

    def path_stats(loader: SourceFileLoader, path: str) -> Any:
        if own.name(str(path)) in own.changed:
            raise OSError  # no compiled file is right
        return stats(loader, path)

    SourceFileLoader.get_data, SourceFileLoader.path_stats = get_data, path_stats  # type: ignore[method-assign,assignment]
