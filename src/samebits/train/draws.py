"""Finds random numbers without a seed point: in the traced step and in global generators."""

from collections.abc import Iterable
from typing import Any

from samebits.core.errors import UncoveredDrawError
from samebits.core.seeds import Seeds
from samebits.runtime.pins import global_generator_states

OPAQUE_OPS = frozenset(("EagerPyFunc", "PyFunc", "PyFuncStateless"))
# Operations that use TensorFlow's stateful generators. (The stateless ones of Keras take a seed in each call.)
STATEFUL_RANDOM_OPS = frozenset(
    ("Multinomial", "NonDeterministicInts", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
     "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "ParameterizedTruncatedNormal", "TruncatedNormal",
     "RandomCrop", "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2", "Skipgram", "AllCandidateSampler",
     "FixedUnigramCandidateSampler", "LearnedUnigramCandidateSampler", "LogUniformCandidateSampler",
     "ThreadUnsafeUnigramCandidateSampler", "UniformCandidateSampler")
)  # fmt: skip


def opaque_operations(nodes: Iterable[Any]) -> list[str]:
    """Return "type in layer" for every operation of a traced step that runs Python code, which cannot be checked."""
    return sorted({f"{node.op} in {node.name}" for node in nodes if node.op in OPAQUE_OPS})


def graph_nodes(function: Any) -> list[Any]:
    """Return the nodes of a traced function and of the functions that it calls (loops, branches), without the calls."""
    graph = function.graph.as_graph_def()
    called = {part.signature.name for part in graph.library.function}
    nodes = [*graph.node, *(node for part in graph.library.function for node in part.node_def)]
    return [node for node in nodes if node.op not in called]


def bodies_of(operation: Any) -> list[Any]:
    """Return the graphs of the functions that an operation of a graph calls (loops, branches)."""
    attributes = operation.node_def.attr.values()
    names = [each.name for part in attributes for each in (part.func, *part.list.func) if each.name]
    return [operation.graph._get_function(name).graph for name in names]  # noqa: SLF001  no public name (TensorFlow 2.21)


def users_of(tensor: Any) -> list[Any]:
    """Return the operations that use a tensor, also in the functions that get it, instead of their calls."""
    found = []
    for operation in tensor.consumers():
        bodies = bodies_of(operation)
        if not bodies:
            found.append(operation)
        place = next(number for number, each in enumerate(operation.inputs) if each is tensor)
        for body in bodies:  # its arguments are the last inputs; a condition comes before them
            found += users_of(body.inputs[place + len(body.inputs) - len(operation.inputs)])
    return found


def operations_of(function: Any, types: frozenset[str]) -> list[Any]:
    """Return the operations of some types in a traced function, and in the functions that it calls."""
    found, waiting = [], [function.graph]
    while waiting:
        for operation in waiting.pop().get_operations():
            found += [operation] if operation.type in types else []
            waiting += bodies_of(operation)
    return found


def check_graph_draws(function: Any, nodes: Iterable[Any]) -> None:
    """Check that a traced step uses neither TensorFlow's stateful generators nor Keras's global one.

    Args:
        function: The traced step.
        nodes: Its nodes, from `graph_nodes`.

    Raises:
        UncoveredDrawError: It does. The message has the path of the operation, which starts with the layer.
    """
    stateful = [node for node in nodes if node.op in STATEFUL_RANDOM_OPS]
    draws = [(node.name, f"TensorFlow's stateful {node.op}") for node in stateful]
    draws += [(name, "Keras's global generator") for name in _readers_of_keras_generator(function)]
    for name, received in draws:
        raise UncoveredDrawError(
            f"operation {name} draws random numbers without a seed point.",
            expected="keras.random with a SeedGenerator made from a seed point",
            received=received,
            fix="draw with keras.random.…(seed=self.seed_generator) in that layer.",
        )


def _readers_of_keras_generator(function: Any) -> list[str]:
    """Return the operations that read the generator that keras.random uses if it gets no seed."""
    from keras.src.backend.common.global_state import get_global_attribute  # noqa: PLC0415  no public name (Keras 3.15)

    generator = get_global_attribute("global_seed_generator")
    if generator is None:
        return []
    handle = generator.state.value.handle
    readers = [inner.consumers() for outer, inner in function.graph.captures if outer is handle]
    return [operation.name for operations in readers for operation in operations]


class GeneratorWatch:
    """Detects draws from Python's and NumPy's global generators during training."""

    def __init__(self, seeds: Seeds) -> None:
        self._points = [point for point in ("python/random", "numpy/global") if seeds.is_seeded(point)]
        self._states = global_generator_states()

    def check(self, epoch: int, step: int) -> None:
        """Check that the global generators were not used.

        Raises:
            UncoveredDrawError: One was used. The message has the generator and the step.
        """
        if not self._points:
            return
        states = global_generator_states()
        for point in self._points:
            if states[point] != self._states[point]:
                module = {"python/random": "random", "numpy/global": "numpy.random"}[point]
                raise UncoveredDrawError(
                    f"the global generator {point} was used in epoch {epoch}, step {step}: "
                    f"code draws from the module {module} during training.",
                    expected="random numbers only from seed points",
                    received=f"a draw from {module}'s global generator",
                    fix="use keras.random with a SeedGenerator in the model, or context.rng(…) in the data function.",
                )
