"""Seed points: named places that use randomness, and their independent streams.

A seed point is a path ("data/order", "model/lstm/recurrent"). Its seed is derived from the root seed and its name,
unless the user sets it. Code gets its seed here, by the name of its point. A point that the configuration lists and
nothing uses is an error. A point that it does not list is an error, except below "model/": weights and layers create
theirs when they are used. None means unseeded on purpose; zero is a seed. Pure: no TensorFlow, no Hydra, no I/O.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from samebits.core.config import SeedConfig
from samebits.core.errors import SeedError

ROOT_SEED_END = 2**32
POINT_SEED_END = 2**31 - 2  # Keras takes seeds modulo this number, so seeds below it are distinct (Keras 3.15)
MODEL = "model/"  # weights and layers create the points below it when they are used
WEIGHT, DRAWS = "weight ", "draws of layer "  # start the consumer of a point of a model, when Keras has used it
POLICIES = ("derived", "data_only", "root_everywhere", "unseeded")
CONSUMERS = {
    "python/hash": "PYTHONHASHSEED of the training process",
    "python/random": "Python's global generator (random.seed)",
    "numpy/global": "NumPy's global generator (numpy.random.seed)",
    "tensorflow/global": "TensorFlow's global seed (tf.random.set_seed)",
    "data/load": "order of the raw rows",
    "data/split": "training and validation split",
    "data/folds": "K-fold and leave-one-out splits",
    "data/oversample": "copies of minority-class training rows",
    "data/bootstrap": "bootstrap sample of the training rows",
    "data/order": "batches of each epoch",
    "data/augment": "draws of a row source, PyDataset or tf.data pipeline in each batch",
    "algorithm/forest": "bootstrap samples and features of a random forest",
}


def _name_words(point: str) -> tuple[int, ...]:
    """Return the SHA-256 of a point's name as eight 32-bit words, for SeedSequence's spawn key."""
    sha = hashlib.sha256(point.encode()).digest()
    return tuple(int.from_bytes(sha[i : i + 4], "little") for i in range(0, 32, 4))


def check_seed(value: object, name: str, end: int) -> int:
    """Return `value` if it is a valid seed: an int (not a bool), 0 <= value < end.

    Raises:
        SeedError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < end:
        raise SeedError(
            name,
            expected=f"an integer from 0 to {end - 1}",
            received=f"{value!r} ({type(value).__name__})",
            fix=f"use a whole number in that range, e.g. {name}=56",
        )
    return value


def derive_seed(root_seed: int, point: str) -> int:
    """Return the seed of one seed point.

    Points are independent. Adding or renaming one leaves every other seed unchanged, unlike drawing all seeds from one
    generator.

    Args:
        root_seed: The user's seed, 0 <= root_seed < 2**32. Zero is a seed.
        point: Path of the seed point, e.g. "model/lstm/recurrent".

    Returns:
        An int in [0, 2**31 - 2), the range in which no two Keras seeds alias.

    Raises:
        SeedError: `root_seed` is not an int (bool included) or out of range.

    Source: NumPy's SeedSequence (spawn keys); SHA-256 per FIPS 180-4.
    """
    check_seed(root_seed, "seed.root", ROOT_SEED_END)
    sequence = np.random.SeedSequence(root_seed, spawn_key=_name_words(point))
    return int(sequence.generate_state(1, np.uint64)[0] % POINT_SEED_END)


def dotted_key(point: str) -> str:
    """Return the configuration key that sets one point."""
    return "seed.points." + point.replace("/", ".")


def describe_consumer(point: str) -> str:
    """Return in words what uses a point."""
    if point in CONSUMERS:
        return CONSUMERS[point]
    owner, _, part = point.rpartition("/")
    kind, _, path = owner.partition("/")
    return f"layer {path}: {part}" if kind == "model" and path else f"{owner}: {part}"


def make_rng(seed: int | None, point: str, *index: int) -> np.random.Generator:
    """Return a NumPy generator of a point.

    Args:
        seed: The point's seed, or None for entropy from the operating system (unseeded).
        point: The point's path. Two points with the same seed still have different streams.
        index: Numbers below 2**32 that select one stream of the point, e.g. the epoch.
    """
    if seed is None:
        return np.random.Generator(np.random.PCG64())
    sequence = np.random.SeedSequence(seed, spawn_key=(*_name_words(point), *index))
    return np.random.Generator(np.random.PCG64(sequence))


def flatten_points(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of a nested mapping of points: {"data": {"order": None}} gives ("data/order", None)."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flatten_points(value, f"{path}/")
        else:
            yield path, value


Seed = Callable[[str], int | None]  # the argument of a model function: seed("lstm/recurrent") returns that point's seed


@dataclass(frozen=True)
class SeedPoint:
    """One point: its path, its value (None: unseeded) and where the value comes from."""

    name: str
    value: int | None
    source: str


class PointSeed(int):
    """The seed of a point, for code that must know from which point an integer comes."""

    point: str

    def __new__(cls, value: int, point: str) -> Self:
        """Return the seed `value` of `point`."""
        seed = super().__new__(cls, value)
        seed.point = point
        return seed

    def __reduce__(self) -> tuple[type[Self], tuple[int, str]]:
        """Return how to make a copy."""
        return type(self), (int(self), self.point)


def resolve_point(root_seed: int, policy: str, name: str, value: object = None) -> SeedPoint:
    """Return one point with its value; see `resolve_points`."""
    if value is not None:
        return SeedPoint(name, check_seed(value, dotted_key(name), POINT_SEED_END), "set")
    if policy == "root_everywhere":
        return SeedPoint(name, root_seed, "root")
    if policy == "derived" or (policy == "data_only" and name.startswith("data/")):
        return SeedPoint(name, derive_seed(root_seed, name), "derived")
    return SeedPoint(name, None, "unseeded")


def resolve_points(root_seed: int, policy: str, points: Mapping[str, Any]) -> dict[str, SeedPoint]:
    """Return every listed point with its value.

    Args:
        root_seed: The root seed, 0 <= root_seed < 2**32.
        policy: "derived": each null becomes a seed derived from root and name. "data_only": the same for `data/`, all
            other points are unseeded. "root_everywhere": each null becomes the root seed. "unseeded": all unseeded.
        points: Nested mapping of the points. An integer sets one point, under any policy.

    Raises:
        SeedError: A value is not a valid seed, or the policy is unknown.
    """
    check_seed(root_seed, "seed.root", POINT_SEED_END if policy == "root_everywhere" else ROOT_SEED_END)
    if policy not in POLICIES:
        raise SeedError("seed.policy", expected=" or ".join(POLICIES), received=repr(policy), fix="choose one of them")
    return {name: resolve_point(root_seed, policy, name, value) for name, value in flatten_points(points)}


class Seeds:
    """The seed points of one run, and which of them were used.

    Example:
        >>> seeds = Seeds(resolve_points(56, "derived", {"data": {"order": None}}))
        >>> rng = seeds.rng("data/order", 1)
    """

    def __init__(self, points: Mapping[str, SeedPoint], unlisted: Callable[[str], SeedPoint] | None = None) -> None:
        """Take the listed points, and a function that returns an unlisted one below "model/" (None: an error)."""
        self._points, self._unlisted = dict(points), unlisted
        self._consumed: dict[str, str] = {}  # point -> what uses it
        self._literals: dict[str, tuple[int, str]] = {}  # point -> the integer in the code, and what uses it
        self._unused: dict[str, str] = {}

    @classmethod
    def of(cls, settings: SeedConfig) -> Self:
        """Return the seeds of a configuration."""
        root, policy = settings.root, settings.policy
        return cls(resolve_points(root, policy, settings.points), lambda point: resolve_point(root, policy, point))

    def find(self, point: str) -> SeedPoint:
        """Return a point.

        Raises:
            SeedError: The configuration does not list the point, and it is not below "model/".
        """
        if point in self._points:
            return self._points[point]
        if self._unlisted is not None and point.startswith(MODEL):
            return self._unlisted(point)
        raise SeedError(
            f"seed point {point} ({describe_consumer(point)})",
            expected="a listed seed point",
            received="a point that the configuration does not list",
            fix=f"list {point.replace('/', '.')} as null under seed.points in the file of its data, in conf/data/",
        )

    def take(self, point: str, consumer: str = "") -> int | None:
        """Return a point's seed (None: unseeded) and record that it is used, and by what.

        Raises:
            SeedError: The configuration does not list the point.
        """
        found = self._points[point] = self.find(point)
        self._consumed[point] = consumer or self._consumed.get(point) or describe_consumer(point)
        return found.value

    def note_literal(self, point: str, value: int, consumer: str) -> None:
        """Record that the code of a weight or layer has an integer as its seed, so that its own point is not used."""
        self._literals[point] = (value, consumer)

    def rng(self, point: str, *index: int) -> np.random.Generator:
        """Return a NumPy generator of a point; see `make_rng`."""
        return make_rng(self.take(point), point, *index)

    def for_model(self) -> Seed:
        """Return the `seed` argument of a model function: `seed("lstm/recurrent")` takes "model/lstm/recurrent".

        A path below "algorithm/" is used unchanged, for an algorithm that is itself random.
        """

        def seed(path: str) -> int | None:
            if path.startswith("algorithm/"):
                return self.take(path)
            value = self.take(MODEL + path)
            return None if value is None else PointSeed(value, MODEL + path)

        return seed

    def mark_unused(self, point: str, *, because: str) -> None:
        """Declare that this configuration does not use a point, and why."""
        self._unused[point] = because

    def check_consumed(self) -> None:
        """Check that every listed point was used: an unused seed has no effect.

        Raises:
            SeedError: A listed point is unused, or the user set a point that is marked unused.
        """
        for name, point in self._points.items():
            if name in self._consumed or (name in self._unused and point.source != "set"):
                continue
            literal = f"the code has the seed {self._literals[name][0]}" if name in self._literals else ""
            fix = "remove it from seed.points, or use the listed name in the layer or function"
            if name.startswith("data/") and point.source != "set":
                fix = f"""use it in the data function, or declare it: context.mark_unused("{name}", because="…")"""
            raise SeedError(
                f"seed point {name}",
                expected="code that uses it",
                received=f"none: {literal or self._unused.get(name, 'nothing in this run uses it')}",
                fix=fix,
            )

    def is_seeded(self, point: str) -> bool:
        """Return whether a listed point has a seed."""
        return point in self._points and self._points[point].value is not None

    def all_seeded(self, prefix: str) -> bool:
        """Return whether every listed point below a prefix has a seed."""
        return all(point.value is not None for name, point in self._points.items() if name.startswith(prefix))

    def table_with(self, recorded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the table with the points and consumers that a run recorded, possibly with other seeds."""
        for row in recorded:
            if row["source"] == "literal":
                self.note_literal(row["point"], row["value"], row["consumer"])
            elif row["consumed"]:
                self.take(row["point"], row["consumer"])
            elif row["point"] != "data/order":  # whose use depends on the settings of the training
                self.mark_unused(row["point"], because=row["rests"])
        return self.table()

    def table(self) -> list[dict[str, Any]]:
        """Return one row per point: point, value, source, consumer, and why it is unused (`rests`, empty if used).

        A row with the source "literal" is a weight or layer whose seed is an integer in the code.
        """
        rows = [
            {
                "point": name,
                "value": point.value,
                "source": point.source,
                "consumer": self._consumed.get(name) or describe_consumer(name),
                "consumed": name in self._consumed,
                "rests": "" if name in self._consumed else self._unused.get(name, ""),
            }
            for name, point in self._points.items()
        ]
        return rows + [
            {"point": name, "value": value, "source": "literal", "consumer": consumer, "consumed": True, "rests": ""}
            for name, (value, consumer) in self._literals.items()
        ]
