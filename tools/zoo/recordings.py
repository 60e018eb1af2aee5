"""Records the traced functions of a case with their calls, and plays them again without tracing.

An emulated CPU needs twenty times as long as this one to trace a case, nearly all of it in Python, but little to run
the graph. So this CPU traces, and the others run the same graphs from the same weights on the same inputs.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context  # no public name (TensorFlow 2.21)

from samebits.core.digest import bytes_digest
from samebits.core.files import read_arrays, write_arrays

HEADER = "header"


def values_digest(values: Sequence[Any]) -> str:
    """Return the digest of the bytes of variables or tensors."""
    return bytes_digest(b"".join(np.asarray(value).tobytes() for value in values))


@dataclass(frozen=True)
class Function:
    """A traced function.

    Attributes:
        name: Its name in the library.
        library: The name of the array with it and the functions that it calls.
        captured: The numbers of the variables that follow its inputs.
        output_count: How many outputs it has.
    """

    name: str
    library: str
    captured: list[int]
    output_count: int


@dataclass(frozen=True)
class Call:
    """A call of a function.

    Attributes:
        function: Its number.
        inputs: The names of the arrays.
        result: The stage that is the digest of the outputs.
        state: The stage that is the digest of the variables after the call, or "": none.
    """

    function: int
    inputs: list[str]
    result: str
    state: str


class Recorder:
    """Calls traced functions, and keeps what another CPU needs to do so too.

    Attributes:
        stages: The digest of each stage, in order of time.
        traced_only: Why other CPUs must trace the case too; "": they need not.
    """

    def __init__(self) -> None:
        self.stages: dict[str, str] = {}
        self.traced_only = ""
        self._arrays: dict[str, np.ndarray] = {}
        self._models: list[dict[str, Any]] = []

    def begin(self, functions: Sequence[Any], state: Sequence[Any]) -> None:
        """Take the traced functions of one model, and the variables that are its state."""
        self._functions, self._state = functions, [variable.value for variable in state]
        used = [*self._state, *(variable for function in functions for variable in function.graph.variables)]
        variables = list({id(variable.handle): variable for variable in used}.values())
        numbers = {id(variable.handle): number for number, variable in enumerate(variables)}
        self._models.append({
            "functions": [self._function(function, numbers) for function in functions],
            "variables": [self._keep(variable.numpy()) for variable in variables],
            "state": [numbers[id(variable.handle)] for variable in self._state],
            "calls": [],
        })  # fmt: skip

    def _keep(self, array: np.ndarray) -> str:
        name = f"array {len(self._arrays)}"
        if array.dtype.hasobject:
            self.traced_only = "text"
        else:
            self._arrays[name] = array
        return name

    def _function(self, function: Any, numbers: dict[int, int]) -> dict[str, Any]:
        graph = function.graph.as_graph_def()
        captured = [numbers.get(id(each), -1) for each in function.captured_inputs]
        if -1 in captured:
            self.traced_only = "a captured tensor"  # such as a lookup table
        if any(is_computed(node) for node in all_nodes(graph)):
            self.traced_only = "constants that Python computes"
        definition = function.function_def
        library = tf.compat.v1.GraphDef(library=graph.library)
        library.library.function.append(definition)
        content = self._keep(np.frombuffer(library.SerializeToString(), np.uint8))
        return asdict(Function(definition.signature.name, content, captured, len(function.outputs)))

    def call(self, number: int, inputs: Sequence[Any], result: str, state: str = "") -> None:
        """Call a function of `begin`, and add the digests of its outputs and, if named, of the state."""
        outputs = self._functions[number](*inputs)
        flat = [np.asarray(each) for each in tf.nest.flatten(inputs)]
        self._models[-1]["calls"].append(asdict(Call(number, [self._keep(each) for each in flat], result, state)))
        self.stages[result] = values_digest(tf.nest.flatten(outputs))
        if state:
            self.stages[state] = values_digest(self._state)

    def write(self, path: pathlib.Path) -> None:
        """Write the recording, unless other CPUs must trace the case too."""
        if self._models and not self.traced_only:
            header = np.frombuffer(json.dumps(self._models).encode(), np.uint8)
            write_arrays(path, {HEADER: header, **self._arrays})


def all_nodes(graph: Any) -> list[Any]:
    """Return the nodes of a graph and of its functions."""
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def is_computed(node: Any) -> bool:
    """Return whether a node is a constant with several numbers, which NumPy may have computed while tracing."""
    if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
        return False
    return len(np.unique(tf.make_ndarray(node.attr["value"].tensor))) > 1


def rename_functions(graph: Any, prefix: str) -> None:
    """Put a prefix before the names of all functions, because another recording may have the same names."""
    names = {function.signature.name: f"{prefix}{function.signature.name}" for function in graph.library.function}
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    for node in all_nodes(graph):
        node.op = names.get(node.op, node.op)
        for called in (called for value in node.attr.values() for called in (value.func, *value.list.func)):
            if called.name in names:
                called.name = names[called.name]


def _register(function: Function, content: bytes, prefix: str) -> Callable[..., Any]:
    """Give a recorded function to TensorFlow; returns a Python function that calls it."""
    library = tf.compat.v1.GraphDef.FromString(content)
    rename_functions(library, prefix)
    for definition in library.library.function:
        context.context().add_function_def(definition)
    name = f"{prefix}{function.name}".encode()
    return lambda inputs: context.context().call_function(name, inputs, function.output_count)


def play(path: pathlib.Path) -> dict[str, str]:
    """Return the stages of a recording, computed on this CPU."""
    arrays = read_arrays(path)
    stages = {}
    for model in json.loads(arrays[HEADER].tobytes()):
        variables = [tf.Variable(arrays[name]) for name in model["variables"]]
        functions = [Function(**each) for each in model["functions"]]
        calls = [_register(each, arrays[each.library].tobytes(), f"{path.stem}_") for each in functions]
        for call in (Call(**each) for each in model["calls"]):
            captured = [variables[number].handle for number in functions[call.function].captured]
            outputs = calls[call.function]([*(tf.constant(arrays[name]) for name in call.inputs), *captured])
            stages[call.result] = values_digest(outputs)
            if call.state:
                stages[call.state] = values_digest([variables[number] for number in model["state"]])
    return stages
