"""Finds the first difference of two records, and the causes of it: pins that move it later, one at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from samebits.checks.script.trial import Record, Row, Trial, Trials

# Source of randomness -> what it is called. The order decides between equally likely ones.
NAMES = {
    "unseeded": "a generator made without a seed",
    "python": "Python's global generator",
    "numpy": "NumPy's global generator",
    "listings": "the order in which a folder lists its files",
    "system": "random bytes or numbers from the operating system",
    "clock": "the clock",
    "order": "a tf.data pipeline that may change the order",
    "tensorflow": "TensorFlow's global generator",
    "hash": "the order of a set, or hash(), which change with each start of Python",
    "threads": "the number of threads, which is that of the cores",
    "determinism": "operations of TensorFlow whose result depends on the timing of threads",
    "zone": "the time zone",
    "locale": "the language settings",
}
WITNESSED = ("unseeded", "python", "numpy", "listings", "system", "clock", "order")  # each use is an event
OF_TENSORFLOW = ("tensorflow", "determinism")


@dataclass(frozen=True)
class Divergence:
    """The first difference of two records.

    Attributes:
        index: The number of equal rows before it.
        a: The row of the first run; empty if it has ended.
        b: The row of the second run.
    """

    index: int
    a: Row
    b: Row

    @property
    def place(self) -> Row:
        """Return a row that names the place."""
        return self.a or self.b


@dataclass(frozen=True)
class Cause:
    """One proved cause.

    Attributes:
        name: A key of `NAMES`.
        divergence: The first difference without its pin.
        after: The first difference with its pin; None: the runs agree.
        lines: (file, line) of the uses of the source up to the divergence, the last first.
        late_seed: (file, line) of a seed that the script sets after it has drawn.
    """

    name: str
    divergence: Divergence
    after: Divergence | None
    lines: list[tuple[str, int]] = field(default_factory=list)
    late_seed: tuple[str, int] | None = None


@dataclass
class Findings:
    """The result of the search.

    Attributes:
        divergence: The first difference of two runs without pins; None: they agree.
        causes: The proved causes, in the order in which they appear.
        rest: The difference that no pin removes; None: there is none.
        records: The records of the runs without pins.
    """

    divergence: Divergence | None
    causes: list[Cause]
    rest: Divergence | None
    records: tuple[Record, Record]


def same(a: Row, b: Row) -> bool:
    """Return whether two rows are of the same place and have the same bits."""
    return all(a.get(key) == b.get(key) for key in ("file", "line", "kind", "what", "call", "epoch", "step", "digest"))


def first_divergence(records: tuple[Record, Record]) -> Divergence | None:
    """Return the first difference of two records; None: they are equal."""
    a, b = (record.rows for record in records)
    for index, (row_a, row_b) in enumerate(zip(a, b, strict=False)):
        if not same(row_a, row_b):
            return Divergence(index, row_a, row_b)
    if len(a) == len(b):
        return None
    index = min(len(a), len(b))
    return Divergence(index, *(rows[index] if index < len(rows) else {} for rows in (a, b)))


def is_later(new: Divergence | None, old: Divergence) -> bool:
    """Return whether a difference comes later than another, or not at all."""
    return new is None or new.index > old.index


def uses(record: Record, name: str, index: int) -> list[Row]:
    """Return the events of a source up to a row, the last first."""
    found = [
        row for row in record.events if row["event"] == name and row["verb"] == "draw" and row["before"] <= index + 1
    ]
    return found[::-1]


def candidates(records: tuple[Record, Record], divergence: Divergence, kept: Iterable[str]) -> list[str]:
    """Return the pins that may move a divergence, the likeliest first.

    A source whose uses are events is a candidate if there was one up to the divergence. A global generator must also
    have had different states then.
    """
    likely: dict[str, float] = {}
    for name in WITNESSED:
        a, b = (uses(record, name, divergence.index) for record in records)
        if a and b and (name not in ("python", "numpy") or draws_differ(a, b)):
            likely[name] = a[0]["before"]
    place = divergence.place
    loaded = any(row["event"] == "tensorflow" and row["before"] <= divergence.index + 1 for row in records[0].events)
    seeds = [row for row in records[0].events if row["event"] == "tensorflow" and row["verb"] == "seed"]
    if loaded:
        in_step = place.get("kind") == "fit" and "step" in place
        likely["tensorflow"] = divergence.index + 2 if in_step and not seeds else 0.3
        likely["determinism"] = 0.1
    likely["threads"] = 0.5 if place.get("kind") == "fit" and seeds else 0.2
    sets = [row for row in records[0].rows if row["line"] == place.get("line") and row["type"] in ("set", "frozenset")]
    likely["hash"] = divergence.index + 1.5 if sets else 0.4
    likely["zone"] = likely["locale"] = 0.0
    order = list(NAMES)
    return sorted(likely.keys() - set(kept), key=lambda name: (-likely[name], order.index(name)))


def draws_differ(a: list[Row], b: list[Row]) -> bool:
    """Return whether a global generator had another state after its last draw."""
    return [row["digest"] for row in a] != [row["digest"] for row in b]


class Search:
    """Searches for the causes.

    Args:
        trials: Runs the trials.
        disabled: Pins that are not tried.
    """

    def __init__(self, trials: Trials, disabled: Iterable[str] = ()) -> None:
        self.trials, self.disabled = trials, set(disabled)

    def find(self) -> Findings:
        """Return the first divergence and its causes."""
        records = unpinned = self.trials.run(Trial())
        divergence = first = first_divergence(records)
        kept: list[str] = []
        causes: list[Cause] = []
        while divergence is not None:
            step = self._one(records, divergence, kept) or self._several(records, divergence, kept)
            if not step:
                break
            for name in step:
                kept.append(name)
                after_records = self.trials.run(Trial(frozenset(kept)))
                after = first_divergence(after_records)
                causes.append(self._cause(name, records, divergence, after))
            records, divergence = after_records, after
        return Findings(first, causes, divergence, unpinned)

    def _after(self, pins: Iterable[str]) -> tuple[Divergence | None, bool]:
        """Return the first divergence with these pins, and whether both processes ended."""
        records = self.trials.run(Trial(frozenset(pins)))
        return first_divergence(records), all(record.code == 0 for record in records)

    def _one(self, records: tuple[Record, Record], divergence: Divergence, kept: list[str]) -> list[str]:
        """Return the one pin that moves the divergence."""
        for name in candidates(records, divergence, [*kept, *self.disabled]):
            after, ended = self._after([*kept, name])
            if ended and is_later(after, divergence):
                return [name]
        return []

    def _several(self, records: tuple[Record, Record], divergence: Divergence, kept: list[str]) -> list[str]:
        """Return the fewest pins that move the divergence together, in case that no single one does."""
        names = candidates(records, divergence, [*kept, *self.disabled])
        after, ended = self._after([*kept, *names])
        if not ended or not is_later(after, divergence):
            return []
        for name in reversed(list(names)):
            fewer = [other for other in names if other != name]
            after, ended = self._after([*kept, *fewer])
            if ended and is_later(after, divergence):
                names = fewer
        return names

    def _cause(
        self, name: str, records: tuple[Record, Record], divergence: Divergence, after: Divergence | None
    ) -> Cause:
        """Return a cause with the lines that use its source."""
        used = uses(records[0], name, divergence.index)
        lines = list(dict.fromkeys((row["file"], row["line"]) for row in used))
        events = records[0].events
        seeds = [row for row in events if row["event"] == name and row["verb"] == "seed"]
        drawn = events.index(used[0]) if used else sum(row["before"] <= divergence.index + 1 for row in events)
        early = [row for row in seeds if events.index(row) < drawn]
        late = (seeds[0]["file"], seeds[0]["line"]) if seeds and not early else None
        return Cause(name, divergence, after, lines or [(divergence.place["file"], divergence.place["line"])], late)
