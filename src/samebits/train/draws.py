"""Finds draws of random numbers that no seed point covers: in layers, in the traced step, in global generators."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from samebits.core.errors import UncoveredDrawError
from samebits.core.seeds import Seeds
from samebits.runtime.pins import global_generator_states

OPAQUE_OPS = frozenset(("EagerPyFunc", "PyFunc", "PyFuncStateless"))
# Operations that draw from TensorFlow's stateful generators (the stateless ones of Keras take a seed with each call).
STATEFUL_RANDOM_OPS = frozenset(
    ("Multinomial", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal",
     "RandomUniform", "RandomUniformInt", "ParameterizedTruncatedNormal", "TruncatedNormal", "RandomCrop")
)  # fmt: skip


def _unseeded_parts(layer: keras.Layer) -> Iterator[str]:
    """Yield what in one layer draws with a seed of Keras's own choice."""
    for name, value in vars(layer).items():
        if isinstance(value, keras.initializers.Initializer) and getattr(value, "_init_seed", 0) is None:
            yield name.lstrip("_")
        is_generator = isinstance(value, keras.random.SeedGenerator)
        # A recurrent layer always has a generator; it draws only with dropout.
        rates = [
            getattr(layer, rate)
            for rate in ("dropout", "recurrent_dropout")
            if isinstance(getattr(layer, rate, None), float | int)
        ]
        if is_generator and value._initial_seed is None and (not rates or any(rates)):  # noqa: SLF001  no public name (Keras 3.15)
            yield "seed"


def check_layers_seeded(model: keras.Model) -> None:
    """Refuse a layer that draws without a seed point.

    Raises:
        UncoveredDrawError: Names the layer and its argument.
    """
    for layer in model._flatten_layers():  # noqa: SLF001  no public name (Keras 3.15)
        for part in _unseeded_parts(layer):
            raise UncoveredDrawError(
                f"layer {layer.name} draws random numbers that no seed point covers: {part} has no seed.",
                expected=f"a seed for {part}",
                received="None, so Keras chooses one",
                fix=f'pass seed=seed("{layer.name}/…") to it in the model function and list the point in conf/model/.',
            )


def opaque_operations(nodes: Iterable[Any]) -> list[str]:
    """Return "type in layer" for every operation of a traced step that runs Python code, whose bits nobody can know."""
    return sorted({f"{node.op} in {node.name}" for node in nodes if node.op in OPAQUE_OPS})


def graph_nodes(function: Any) -> list[Any]:
    """Return the nodes of a traced function, with those of the functions that it calls (loops, branches)."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for part in graph.library.function for node in part.node_def)]


def check_graph_draws(function: Any, nodes: Iterable[Any]) -> None:
    """Refuse operations in a traced step that draw from TensorFlow's stateful generators, or from Keras's global one.

    Args:
        function: The traced step.
        nodes: What `graph_nodes` gave of it.

    Raises:
        UncoveredDrawError: Names the operation with its path, which begins with the layer's.
    """
    stateful = [node for node in nodes if node.op in STATEFUL_RANDOM_OPS]
    draws = [(node.name, f"TensorFlow's stateful {node.op}") for node in stateful]
    draws += [(name, "Keras's global generator") for name in _readers_of_keras_generator(function)]
    for name, received in draws:
        raise UncoveredDrawError(
            f"operation {name} draws random numbers that no seed point covers.",
            expected="keras.random with a SeedGenerator made from a seed point",
            received=received,
            fix="draw with keras.random.…(seed=self.seed_generator) in that layer.",
        )


def _readers_of_keras_generator(function: Any) -> list[str]:
    """Return the operations that read the generator which keras.random uses without a seed."""
    from keras.src.backend.common.global_state import get_global_attribute  # noqa: PLC0415  no public name (Keras 3.15)

    generator = get_global_attribute("global_seed_generator")
    if generator is None:
        return []
    handle = generator.state.value.handle
    readers = [inner.consumers() for outer, inner in function.graph.captures if outer is handle]
    return [operation.name for operations in readers for operation in operations]


class GeneratorWatch:
    """Notices draws from Python's and NumPy's global generators while training."""

    def __init__(self, seeds: Seeds) -> None:
        self._points = [point for point in ("python/random", "numpy/global") if seeds.is_seeded(point)]
        self._states = global_generator_states()

    def check(self, epoch: int, step: int) -> None:
        """Refuse a generator that has moved.

        Raises:
            UncoveredDrawError: Names the generator and the step.
        """
        if not self._points:
            return
        states = global_generator_states()
        for point in self._points:
            if states[point] != self._states[point]:
                module = {"python/random": "random", "numpy/global": "numpy.random"}[point]
                raise UncoveredDrawError(
                    f"the global generator {point} moved in epoch {epoch}, step {step}: "
                    f"something draws from the module {module} while training.",
                    expected="every draw from a seed point of its own",
                    received=f"a draw from {module}'s global generator",
                    fix="draw with keras.random and a SeedGenerator in the model, or with context.rng(…) in the data.",
                )
