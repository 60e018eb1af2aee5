"""The sources of randomness outside TensorFlow: reports each use by the script, and pins those that a trial names.

The pins apply at the start of the process, so that no file of the script is changed.
"""

import datetime as dt
import functools
import itertools
import os
import random
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Self

from samebits.runtime.probe.recorder import Recorder

BETWEEN = {random.__file__, uuid.__file__, os.__file__, "<frozen os>"}  # between a line and the operating system
CLOCK_FUNCTIONS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
)  # fmt: skip
LOCAL_FUNCTIONS = ("localtime", "gmtime", "ctime")
OFFSET_S = 31 * 86_400 + 7 * 3_600 + 11 * 60 + 13  # of the clock in the second process
FIXED_S = 1_700_000_000


class Sources:
    """Installs what reports and pins.

    Args:
        recorder: Gets an event per use.
        pins: The names of the pinned sources.
        second: Whether this is the second of two processes, whose clock and folders are different.
    """

    def __init__(self, recorder: Recorder, pins: set[str], *, second: bool) -> None:
        self.recorder, self.own, self.pins, self.second = recorder, recorder.own, pins, second
        self.count = itertools.count()
        self.quiet = False  # while a library is imported

    def install(self) -> None:
        """Install everything that needs no library."""
        random.seed(0 if "python" in self.pins else None)
        self._generators()
        self._listings()
        self._system()
        self.modules = {"time": self.time_module(), "datetime": self.datetime_module()}

    def _event(self, kind: str) -> None:
        if not self.quiet:
            name, line, path = self.own.caller()
            source = self.own.source(path) if name else None
            statement = source.statements.get(line) if source else None
            if name and not (statement and statement.imports):
                self.recorder.event(kind, "draw", (name, line))

    def _generators(self) -> None:
        """Report seeds, and generators that are made without one."""
        of_class, of_module, sources = random.Random.seed, random.seed, self

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
            if a is None and sources._is_own_call():
                sources._event("unseeded")
                a = next(sources.count) if "unseeded" in sources.pins else None
            of_class(generator, a, version)

        def seed_global(a: Any = None, version: int = 2) -> None:
            if a is None and sources._is_own_call():
                sources._event("unseeded")
                a = 0 if "unseeded" in sources.pins else None
            elif a is not None:
                sources.recorder.event("python", "seed")
            of_module(a, version)
            sources.recorder.draws()

        random.Random.seed, random.seed = seed, seed_global  # type: ignore[method-assign,assignment]

    def _is_own_call(self) -> bool:
        """Return whether a line of the script calls, at most through modules in between."""
        frame: Any = sys._getframe(2)  # noqa: SLF001
        while frame is not None and frame.f_code.co_filename in BETWEEN:
            frame = frame.f_back
        return frame is not None and bool(self.own.name(frame.f_code.co_filename))

    def numpy_arrived(self, numpy: Any) -> None:
        """Pin and report NumPy's generators, right after the script has imported NumPy."""
        if "numpy" in self.pins:
            numpy.random.seed(0)
        else:
            numpy.random.seed(None)
        of_module, draw = numpy.random.seed, random.SystemRandom().getrandbits

        def bits(count: int) -> int:
            self._event("unseeded")
            return next(self.count) if "unseeded" in self.pins else draw(count)

        def seed(seed: Any = None) -> None:
            if seed is None:
                self._event("unseeded")
                seed = 0 if "unseeded" in self.pins else None
            else:
                self.recorder.event("numpy", "seed")
            of_module(seed)
            self.recorder.draws()

        vars(sys.modules["numpy.random.bit_generator"])["randbits"] = bits  # asked by every generator without a seed
        numpy.random.seed = seed
        self.recorder.draws()

    def _listings(self) -> None:
        """List folders in alphabetical order, in the second process in the opposite one unless that is pinned."""
        listed, scanned = os.listdir, os.scandir
        backwards = self.second and "listings" not in self.pins

        @functools.wraps(listed)
        def listdir(*arguments: Any) -> Any:
            names = listed(*arguments)
            if self.quiet:
                return names
            self._event("listings")
            return sorted(names, reverse=backwards)

        @functools.wraps(scanned)
        def scandir(*arguments: Any) -> Any:
            entries = scanned(*arguments)
            if self.quiet or isinstance(next(iter(arguments), None), int):
                return entries
            self._event("listings")
            return Entries(entries, backwards=backwards)

        os.listdir, os.scandir = listdir, scandir  # type: ignore[assignment]

    def _system(self) -> None:
        """Report and pin what comes from the operating system: os.urandom, secrets, uuid, the number of the process."""
        urandom, uuid1, getpid = os.urandom, uuid.uuid1, os.getpid
        pinned = "system" in self.pins

        def bytes_of(size: int) -> bytes:
            own = self._is_own_call()
            if own:
                self._event("system")
            return next(self.count).to_bytes(8, "little").ljust(size, b"\1")[:size] if own and pinned else urandom(size)

        def uuid_of(*arguments: Any, **named: Any) -> uuid.UUID:
            self._event("system")
            return uuid.UUID(int=next(self.count)) if pinned else uuid1(*arguments, **named)

        def number() -> int:
            own = self._is_own_call()
            if own:
                self._event("system")
            return 1 if own and pinned else getpid()

        os.urandom = random._urandom = bytes_of  # type: ignore[attr-defined]  # noqa: SLF001  of SystemRandom and secrets
        uuid.uuid1, os.getpid = uuid_of, number

    def now_s(self) -> float:
        """Return the time that the script sees."""
        self._event("clock")
        if "clock" in self.pins:
            return FIXED_S + next(self.count) / 1000
        return time.time() + (OFFSET_S if self.second else 0)

    def time_module(self) -> types.ModuleType:
        """Return the module `time` that the script's own files import. Libraries have the real one."""
        module = types.ModuleType("time", time.__doc__)
        module.__dict__.update(vars(time))

        def clock(name: str) -> Callable[[], float]:
            original, scale = getattr(time, name), 10**9 if name.endswith("_ns") else 1

            def read() -> Any:
                now = self.now_s()
                if "clock" not in self.pins and name not in ("time", "time_ns"):
                    return original()
                return round(now * scale) if scale > 1 else now

            return read

        def local(name: str) -> Callable[..., Any]:
            original = getattr(time, name)
            return lambda seconds=None: original(self.now_s() if seconds is None else seconds)

        def strftime(text: str, moment: Any = None) -> str:
            return time.strftime(text, time.localtime(self.now_s()) if moment is None else moment)

        functions = {name: clock(name) for name in CLOCK_FUNCTIONS} | {name: local(name) for name in LOCAL_FUNCTIONS}
        module.__dict__.update(functions, strftime=strftime)
        return module

    def datetime_module(self) -> types.ModuleType:
        """Return the module `datetime` that the script's own files import."""
        module = types.ModuleType("datetime", dt.__doc__)
        module.__dict__.update(vars(dt))
        moments, days, sources = dt.datetime, dt.date, self

        class Moment(moments, metaclass=Stand):  # type: ignore[misc,valid-type]
            stands_for = moments
            now = classmethod(lambda _cls, tz=None: moments.fromtimestamp(sources.now_s(), tz))
            today = classmethod(lambda _cls: moments.fromtimestamp(sources.now_s()))
            utcnow = classmethod(lambda _cls: moments.fromtimestamp(sources.now_s(), dt.UTC).replace(tzinfo=None))

        class Day(days, metaclass=Stand):  # type: ignore[misc,valid-type]
            stands_for = days
            today = classmethod(lambda _cls: days.fromtimestamp(sources.now_s()))

        module.__dict__.update(datetime=Moment, date=Day)
        return module


class Stand(type):
    """The type of a class that stands for another: its instances are those of the other."""

    stands_for: type

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        """Return an instance of the other class."""
        return (
            cls.stands_for(*arguments, **named)
            if "stands_for" in vars(cls)
            else type.__call__(cls, *arguments, **named)
        )

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.stands_for)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.stands_for)


class Entries:
    """What `os.scandir` returns, in order of the names.

    Args:
        entries: The real one.
        backwards: Whether the order is the opposite one.
    """

    def __init__(self, entries: Any, *, backwards: bool) -> None:
        with entries:
            self._entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        """Do nothing: all entries have been read."""
