"""Gives each random weight and each random layer the seed of its own point when Keras creates it.

A weight or layer without a seed would get one that Keras 3.15 draws from Python's global generator, which depends on
everything that was created before. Here it gets the seed of the point "model/" + its Keras path, e.g.
"model/conv/kernel". Five functions of Keras are wrapped: the choice of a seed, the creation of a variable, the draw
with a seed, the name scope of a layer, and the draw from a SeedGenerator.
"""

import contextlib
import functools
import itertools
import random
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state  # the modules below keras.src have no public names (Keras 3.15)
from keras.src.backend.common.name_scope import current_path
from keras.src.backend.tensorflow import image as keras_image
from keras.src.backend.tensorflow import random as keras_random
from keras.src.random import seed_generator

from samebits.core.seeds import DRAWS, MODEL, WEIGHT, PointSeed, Seeds
from samebits.portable.initializers import exact_version


class KerasChoice(int):
    """A seed that Keras chose, because the code gave none."""


@dataclass
class Weight:
    """The variable that is being created."""

    path: str
    point: str = ""
    seed: int | None = None
    draws: int = 0


def point_of(path: str) -> str:
    """Return the point of a Keras path. Characters that a key on the command line cannot have become "_"."""
    parts = (re.sub("[^A-Za-z0-9_-]", "_", part) for part in path.split("/"))
    return MODEL + "/".join(part if re.match("[A-Za-z_]|[0-9]+$", part) else f"_{part}" for part in parts)


def is_literal(seed: object) -> bool:
    """Return whether a seed is an integer that the user wrote."""
    return seed is not None and not isinstance(seed, PointSeed | KerasChoice)


def generators_of(layer: keras.Layer) -> Iterator[tuple[str, keras.random.SeedGenerator]]:
    """Yield each generator of a layer, without those of inner layers, with the name of its attribute."""
    names = {id(value): name for name, value in vars(layer).items()}
    for index, generator in enumerate(layer._seed_generators):  # noqa: SLF001
        yield names.get(id(generator), f"seed_generators/{index}"), generator


class Seeding:
    """Gives points to weights and generators. The wrapped functions of Keras call it.

    An explicit `seed("layer/weight")` belongs to the first weight or generator that uses it. A layer that copies its
    initializer (MultiHeadAttention, Bidirectional) would start several weights with the same values, so each further
    one gets its own point.
    """

    def __init__(self, seeds: Seeds, *, exact_initializers: bool) -> None:
        self.seeds, self.exact_initializers = seeds, exact_initializers
        self._claimed: set[str] = set()
        self._weight: Weight | None = None
        self._generators: weakref.WeakKeyDictionary[keras.random.SeedGenerator, tuple[str, str]] = (
            weakref.WeakKeyDictionary()
        )  # generator -> its point and its path
        # Keras may create layers while a step is traced, when a draw from Python's generator is an error.
        self._choices = random.Random(0)  # noqa: S311  it continues like the global one
        self._choices.setstate(random.getstate())
        self._is_seeded = seeds.find(MODEL).value is not None

    def forget(self) -> None:
        """Give all points anew, to a model that replaces the one before."""
        self._claimed.clear()

    def choose(self, choose: Callable[[], int]) -> int:
        """Return a seed that Keras chooses, from Python's global generator only if the model is unseeded."""
        return KerasChoice(self._choices.randint(1, 10**9) if self._is_seeded else choose())

    def claim(self, seed: int | None, path: str) -> str:
        """Return the point of a weight or generator with a Keras path: the first free one."""
        explicit = [seed.point] if isinstance(seed, PointSeed) else []
        own = point_of(path)
        numbered = (f"{own}-{number}" for number in itertools.count(2))
        point = next(name for name in itertools.chain(explicit, [own], numbered) if name not in self._claimed)
        self._claimed.add(point)
        return point

    def use(self, seed: int | None, point: str, consumer: str) -> int | None:
        """Record who uses a point, and return its seed. An integer in the code is kept."""
        if is_literal(seed):
            self.seeds.note_literal(point, int(seed or 0), consumer)
            return seed
        return self.seeds.take(point, consumer)

    # --- weights ---

    def create(self, create: Callable[..., None], variable: keras.Variable, initializer: Any) -> None:
        """Create a variable. Its initializer draws with the seed of its point."""
        outer, self._weight = self._weight, Weight(variable.path)
        try:
            create(variable, exact_version(initializer, variable.path) if self.exact_initializers else initializer)
        finally:
            self._weight = outer

    def draw(self, draw: Callable[[Any], Any], seed: Any) -> Any:
        """Return the state for one draw with a seed. Only the draws of a weight's initializer are changed."""
        weight = self._weight
        if weight is None or isinstance(seed, keras.random.SeedGenerator):
            return draw(seed)
        if not weight.point:
            weight.point = self.claim(seed, weight.path)
            weight.seed = self.use(seed, weight.point, WEIGHT + weight.path)
        if is_literal(seed) or weight.seed is None:
            return draw(seed)
        state, weight.draws = draw(weight.seed), weight.draws + 1
        return state if weight.draws == 1 else state + tf.constant([0, weight.draws - 1], state.dtype)

    # --- generators of layers ---

    def place_all(self, layer: object, parent: str = "", seen: set[int] | None = None) -> None:
        """Seed the generators of a model and of the layers in it, also of those that were not called yet."""
        seen = set() if seen is None else seen
        if id(layer) in seen or not isinstance(layer, keras.Layer):
            return
        seen.add(id(layer))
        scope = layer._parent_path  # noqa: SLF001
        path = f"{parent if scope is None else scope}/{layer.name}".lstrip("/")
        for name, generator in generators_of(layer):
            self.place(generator, f"{path}/{name}")
        for inner in layer._layers:  # noqa: SLF001
            self.place_all(inner, path, seen)

    def place(self, generator: keras.random.SeedGenerator, path: str) -> None:
        """Give a generator its point and its state, once."""
        if generator in self._generators:
            return
        seed = generator._initial_seed  # noqa: SLF001
        point = self.claim(seed, path)
        self._generators[generator] = point, path
        value = None if is_literal(seed) else self.seeds.find(point).value
        if value is None:
            return
        if generator.state._value is None:  # noqa: SLF001  Keras creates it when the scope of a symbolic call ends
            generator.state._initializer = lambda _, dtype: tf.constant([value, 0], dtype)  # noqa: SLF001
            return
        with tf.init_scope():
            generator.state._direct_assign([value, 0])  # noqa: SLF001

    def enter(self, enter: Callable[..., Any], layer: keras.Layer) -> Any:
        """Open the name scope of a layer, which fixes its path."""
        scope = enter(layer)
        for name, generator in generators_of(layer) if layer._seed_generators else ():  # noqa: SLF001
            self.place(generator, f"{layer._parent_path}/{layer.name}/{name}".lstrip("/"))  # noqa: SLF001
        return scope

    def advance(
        self, advance: Callable[..., Any], generator: keras.random.SeedGenerator, *args: Any, **named: Any
    ) -> Any:
        """Draw from a generator. Its point is used from the first draw on."""
        if generator is not global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR):
            if generator not in self._generators:
                self.search(generator)
            point, path = self._generators[generator]
            owner, _, name = path.rpartition("/")
            self.use(generator._initial_seed, point, f"{DRAWS}{owner}: {name}")  # noqa: SLF001
        return advance(generator, *args, **named)

    def search(self, generator: keras.random.SeedGenerator) -> None:
        """Place a generator whose layer was never called itself, or that no layer holds."""
        for scope in reversed(global_state.get_global_attribute("name_scope_stack") or []):
            if isinstance(scope.caller, keras.Layer):
                self.place_all(scope.caller)
        self.place(generator, self._weight.path if self._weight else f"{current_path()}/{generator.name}".lstrip("/"))


@contextlib.contextmanager
def seed_by_path(seeds: Seeds, *, exact_initializers: bool = False) -> Iterator[Seeding]:
    """Seed the weights and layers that are created while the block runs.

    Args:
        seeds: Resolves the points and records which are used.
        exact_initializers: Whether initializers whose bits depend on the CPU are replaced.
    """
    seeding = Seeding(seeds, exact_initializers=exact_initializers)
    with contextlib.ExitStack() as stack:

        def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
            original = getattr(owner, name)
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, functools.wraps(original)(lambda *args, **named: wrapper(original, *args, **named)))

        for module in (seed_generator, keras_random, keras_image):
            wrap(module, "draw_seed", seeding.draw)
        for module in (seed_generator, keras_random):
            wrap(module, "make_default_seed", seeding.choose)
        wrap(keras.Variable, "_initialize_with_initializer", seeding.create)
        wrap(keras.Layer, "_open_name_scope", seeding.enter)
        wrap(keras.random.SeedGenerator, "next", seeding.advance)
        yield seeding
