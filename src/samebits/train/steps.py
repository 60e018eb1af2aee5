"""Computes a training: the traced functions around Keras's own `train_step` and `test_step`, and digests of the state.

Does not know the order of rows, epochs or files. `loop` decides when to take a step, and a feed gives the batches.
"""

import contextlib
import gc
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.digest import array_digest, arrays_digest
from samebits.core.errors import SamebitsError, TrainingError, first_line
from samebits.portable import graph_check
from samebits.train.checks_of_data import stateful_layers
from samebits.train.compiling import attributes_of, names_of_losses, optimizers_of, updated_by
from samebits.train.draws import (
    OPAQUE_OPS,
    STATEFUL_RANDOM_OPS,
    check_graph_draws,
    graph_nodes,
    opaque_operations,
    operations_of,
    users_of,
)
from samebits.train.feeds import Feed
from samebits.train.logs import Logs, flatten_logs, numbers, split_entries
from samebits.train.python_state import check_python_state, contents, python_state
from samebits.train.replaced import replaced
from samebits.train.shard_checks import check_split
from samebits.train.shards import PART, Alone, Exchange, ShardedStep, States, refuse

logger = logging.getLogger(__name__)

Hooks = Callable[..., object]  # calls a hook of callbacks: name, batch, logs=logs
Tolerate = Callable[..., None]  # gets an error, the operations that cause it, and whether is_harmless
# Operations that only read a variable, so that its value stays the one of its construction.
READERS = frozenset(
    ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp", "Identity")
)
# Operations that change state which is no variable: tables, queues, iterators of a tf.data.Dataset.
WRITERS = (
    "LookupTableInsert", "LookupTableImport", "LookupTableRemove", "QueueEnqueue", "QueueDequeue", "StackPush",
    "TensorArrayV1", "IteratorGetNext", "Stage", "Unstage", "MapStage", "MapUnstage", "OrderedMap",
)  # fmt: skip


@contextlib.contextmanager
def captured_gradients(optimizers: list[keras.optimizers.Optimizer]) -> Iterator[dict[str, Any]]:
    """Collect the gradients that the optimizers get while a step is traced, by the path of their weight."""
    found: dict[str, Any] = {}
    graph = tf.compat.v1.get_default_graph()

    def spy(optimizer: Any, apply: Callable[..., Any]) -> Callable[..., Any]:
        def apply_and_keep(grads: Any, trainable_variables: Any = None) -> Any:
            variables = updated_by(optimizer, trainable_variables)
            for gradient, variable in zip(list(grads), variables, strict=True):
                if gradient is not None and tf.nest.flatten(gradient, expand_composites=True)[0].graph is graph:
                    again = sum(name.partition("#")[0] == variable.path for name in found)
                    found[f"{variable.path}#{again + 1}" if again else variable.path] = gradient
            return apply(grads, trainable_variables)

        return apply_and_keep

    with replaced(optimizers, "apply", spy):
        yield found


def trace_step(method: Callable[[Any], Logs], feed: Feed, optimizers: list[keras.optimizers.Optimizer]) -> Any:
    """Return the traced function of one step: argument of the feed -> (logs, gradients by weight).

    It is never inlined into a caller, so that a single step and several steps per call run exactly the same graph.

    Args:
        method: Returns the logs of a step, given the batch; a `ShardedStep` gets the argument of the feed.
        feed: The batches.
        optimizers: The optimizers whose gradients are returned.
    """
    is_sharded = isinstance(method, ShardedStep)
    whole = {"_noinline": True}

    @tf.function(input_signature=[feed.signature], jit_compile=False, experimental_attributes=whole, autograph=False)
    def step(argument: Any) -> tuple[Logs, dict[str, Any]]:
        with captured_gradients(optimizers) as gradients:
            logs = flatten_logs(method(argument if is_sharded else feed.fetch(argument)))
            of_parts = method.by_part if isinstance(method, ShardedStep) else {}
        return {name: tf.convert_to_tensor(value) for name, value in logs.items()}, gradients | of_parts

    return step


def call_only(step: Any, feed: Feed) -> Any:
    """Return a traced function that only calls a traced step.

    TensorFlow rewrites a graph that Python calls otherwise than one that another graph calls, as `trace_steps` does.
    With this function one step has the bits of several steps in one call.
    """

    @tf.function(input_signature=[feed.signature], jit_compile=False, autograph=False)
    def call(argument: Any) -> Any:
        return step(argument)

    return call


def trace_steps(step: Any, feed: Feed) -> Any:
    """Return a traced function that takes several steps in one call.

    Returns:
        A function from stacked arguments of the feed to float64[steps, logs]; `scalar_logs` has the names.
    """
    names = scalar_logs(step)
    stacked = keras.tree.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape], spec.dtype), feed.signature)

    # Without AutoGraph, whose conversion of this function takes a tenth of the start of a small training.
    @tf.function(input_signature=[stacked], jit_compile=False, autograph=False)
    def steps(arguments: Any) -> tf.Tensor:
        count = tf.shape(keras.tree.flatten(arguments)[0])[0]

        def take(number: tf.Tensor, written: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            logs, _ = step(keras.tree.map_structure(lambda each: each[number], arguments))
            row = [tf.reshape(tf.cast(logs[name], tf.float64), []) for name in names]
            return number + 1, written.write(number, tf.convert_to_tensor(row, tf.float64))

        written = tf.TensorArray(tf.float64, count, element_shape=[len(names)])
        return tf.while_loop(lambda number, _: number < count, take, [0, written])[1].stack()

    return steps


class Calls:
    """A traced step, and the traced functions that take it: `one` a single time, `many` several times."""

    def __init__(self, step: Any, feed: Feed) -> None:
        self.step, self.one, self.many = step, call_only(step, feed), trace_steps(step, feed)
        self.names = scalar_logs(step)


def scalar_logs(step: Any) -> list[str]:
    """Return the names of the values that a traced step logs as single numbers."""
    logs, _ = step.get_concrete_function().structured_outputs
    return [name for name, tensor in logs.items() if tensor.shape.num_elements() == 1]


def logs_of_steps(stacked: tf.Tensor, names: list[str]) -> list[Logs]:
    """Return the logs of each step: float64[steps, logs] as dicts."""
    return [dict(zip(names, row, strict=True)) for row in stacked.numpy().tolist()]


def all_variables(model: keras.Model, optimizers: list[keras.optimizers.Optimizer]) -> list[Any]:
    """Return all state of a training that Keras knows, each variable once.

    That is: weights, seed generators, metrics, optimizers, and the states of stateful recurrent layers, which are not
    among the model's variables (Keras 3.15). Metrics are also those that a `metrics` property leaves out.
    """
    layers = model._flatten_layers()  # noqa: SLF001  no public name (Keras 3.15)
    states = [keras.tree.flatten(layer.states or []) for layer in layers if isinstance(layer, keras.layers.RNN)]
    metrics = [value.variables for _, value in attributes_of(model) if isinstance(value, keras.metrics.Metric)]
    groups = [
        model.variables, model.metrics_variables, *(optimizer.variables for optimizer in optimizers), *states, *metrics
    ]  # fmt: skip
    return list({id(variable): variable for group in groups for variable in group}.values())


def other_variables(step: Any, known: list[Any]) -> dict[int, tf.Variable]:
    """Return the variables that a traced step uses and Keras does not know, by the id of their handle."""
    handles = {id(variable.value.handle) for variable in known}
    outer = [each for each, _ in step.get_concrete_function().graph.captures]
    found = {id(each): _variable_of(each) for each in outer if each.dtype == tf.resource and id(each) not in handles}
    return {handle: variable for handle, variable in found.items() if variable is not None}


def writers(step: Any, variables: Mapping[int, tf.Variable]) -> list[Any]:
    """Return the operations of a traced step that change variables, given by the id of their handle."""
    captures = step.get_concrete_function().graph.captures
    users = [users_of(inner) for outer, inner in captures if id(outer) in variables]
    return [each for each in itertools.chain(*users) if each.type not in READERS]


def check_no_lost_state(step: Any, others: Mapping[int, tf.Variable]) -> None:
    """Check that a traced step changes no state that Keras does not know.

    Args:
        step: The traced step.
        others: Its variables that Keras does not know. It may read them; a callback may change them.

    Raises:
        TrainingError: It changes such state. The message has the variable.
    """
    lost = [_describe(one) for handle, one in others.items() if writers(step, {handle: one})]
    lost += [node.name for node in graph_nodes(step.get_concrete_function()) if node.op.startswith(WRITERS)]
    if lost:
        raise TrainingError(
            f"the step changes state that Keras does not know: {', '.join(lost)}.",
            expected="state in Keras weights, metrics, seed generators and optimizers that are attributes of the model",
            received="a tf.Variable, a generator of a plain object, a table or an iterator of a tf.data.Dataset, which "
            "no checkpoint would hold",
            fix="use self.add_weight(..., trainable=False) of a layer instead of a tf.Variable; make a metric, a layer "
            "or a keras.random.SeedGenerator an attribute of a layer or of the model; give all data by the Dataset",
        )


def check_all_trained(others: Mapping[int, tf.Variable], model: keras.Model) -> None:
    """Check that no layer has a trainable tf.Variable.

    Raises:
        TrainingError: One has. The message has the variable.
    """
    trainable = [(variable, _layer_with(variable, model)) for variable in others.values() if variable.trainable]
    untrained = [f"{_describe(variable)} of layer {layer}" for variable, layer in trainable if layer]
    if untrained:
        raise TrainingError(
            f"Keras does not train {', '.join(untrained)}.",
            expected="trainable weights made with self.add_weight(...) or keras.Variable(...)",
            received="a tf.Variable with trainable=True, which is no weight of a Keras layer",
            fix="use self.add_weight(...) instead, or tf.Variable(..., trainable=False) if it is a constant",
        )


def _describe(variable: tf.Variable) -> str:
    return f"{variable.name.partition(':')[0]} (shape {tuple(variable.shape)})"


def _layer_with(variable: tf.Variable, model: keras.Model) -> str:
    """Return the name of the layer that has a variable as an attribute, also in a list or a dict; else ""."""
    return next((str(layer.name) for layer, value in attributes_of(model) if value is variable), "")


def _variable_of(handle: Any) -> Any:
    """Return the variable with this handle, or None if it belongs to something else, such as a table."""
    for found in gc.get_objects():
        if isinstance(found, tf.Variable) and getattr(found, "_handle", None) is handle:
            return found
    return None


def check_no_python(opaque: list[str]) -> None:
    """Check that a step has no operations that run Python code.

    Raises:
        TrainingError: It has these.
    """
    if opaque:
        raise TrainingError(
            f"the step runs Python code: {', '.join(opaque)}.",
            expected="TensorFlow or Keras operations only",
            received="tf.numpy_function or tf.py_function, whose state (such as a generator) no checkpoint holds",
            fix="use keras.ops and keras.random with a SeedGenerator, or move it to the data. If the function has no "
            "state at all, set training.allow_python_operations=true",
        )


def training_step(model: keras.Model, feed: Feed, shards: int, exchange: Exchange) -> Callable[[Any], Logs]:
    """Return what computes a training step: Keras's `train_step`, or one that splits the batch into parts."""
    if shards == 1:
        method: Callable[[Any], Logs] = model.train_step
        return method
    if stateful_layers(model):
        refuse(
            "a recurrent layer with stateful=True keeps a state for each row of a batch", stateful_layers(model)[0].name
        )
    # Makes what a step makes at its first call, such as the metrics: they start at zero in each part.
    trace_step(model.train_step, feed, optimizers_of(model)).get_concrete_function()
    optimizers = optimizers_of(model)
    states = States(model, optimizers, all_variables(model, optimizers))
    step = ShardedStep(model, feed.fetch, states, optimizers, shards, exchange)
    check_split(step, feed)
    return step


class Steps:
    """Trains and evaluates a compiled model, and returns digests of its state.

    Args:
        model: The compiled and built model.
        train: The training batches.
        validation: The validation batches, or None.
        promise: The runtime level. Under "portable", anything that is not portable raises an error.
        allow_python: Whether the step may run Python code.
        tolerate: Gets each error below, with the operations that cause it, instead of the caller. Not NotPortableError.
        shards: Number of parts of a training batch; see `samebits.train.shards`.
        exchange: Shares the parts with other processes; None: this one computes all.

    Attributes:
        model: The model.
        opaque: "type in layer" of each operation that runs Python code.
        one_by_one: Whether each step needs its own call: it runs Python code, or uses a stateful generator.
        unmeasured: Types of operations that are not among the tested operations.

    Raises:
        NotPortableError: Something is not portable, under "portable".
        UncoveredDrawError: The step uses a stateful generator.
        TrainingError: The step changes state that a checkpoint would lose.
    """

    def __init__(
        self, model: keras.Model, train: Feed, validation: Feed | None, promise: str, *, allow_python: bool = False,
        tolerate: Tolerate | None = None, shards: int = 1, exchange: Exchange | None = None,
    ) -> None:  # fmt: skip
        self.model, self.train_feed, self.validation_feed, self._tolerate = model, train, validation, tolerate
        self._others: dict[int, tf.Variable] = {}  # variables that Keras does not know, by the id of their handle
        before = python_state(model)
        step = training_step(model, train, shards, exchange or Alone())
        self._train = Calls(trace_step(step, train, optimizers_of(model)), train)
        self.optimizers = optimizers_of(model)  # the step has made what a custom step makes at its first call
        self._test = None if validation is None else Calls(trace_step(model.test_step, validation, []), validation)
        nodes = self._check(allow_python=allow_python)
        with self._tolerated():
            again = trace_step(step, train, optimizers_of(model))
            check_python_state(before, model, self._train.step, again)
        self.unmeasured = graph_check.unmeasured_operations(nodes)
        if promise == "portable":
            self._check_portable(nodes)
        self._tolerate = None  # it may hold much

    def _check(self, *, allow_python: bool) -> list[Any]:
        """Check draws and state of the traced steps. Return the nodes of their graphs."""
        steps = [calls.step for calls in (self._train, self._test) if calls is not None]
        functions = [step.get_concrete_function() for step in steps]
        nodes_of = list(map(graph_nodes, functions))
        nodes = [node for each in nodes_of for node in each]
        self.opaque = opaque_operations(nodes)
        self.one_by_one = bool(self.opaque) or any(node.op in STATEFUL_RANDOM_OPS for node in nodes)
        for function, own in zip(functions, nodes_of, strict=True):
            with self._tolerated(partial(operations_of, function, STATEFUL_RANDOM_OPS)):
                check_graph_draws(function, own)
            if not allow_python:
                with self._tolerated(partial(operations_of, function, OPAQUE_OPS)):
                    check_no_python(opaque_operations(own))
        for step in steps:
            others = other_variables(step, all_variables(self.model, self.optimizers))
            self._others |= others
            with self._tolerated(partial(writers, step, others)):
                check_no_lost_state(step, others)
            with self._tolerated(is_harmless=True):
                check_all_trained(others, self.model)
        return nodes

    def contents(self) -> list[tuple[str, bytes]]:
        """Return the operations of the step, and its constants, to compare two traces."""
        return contents(self._train.step)

    @contextlib.contextmanager
    def _tolerated(self, find: Callable[[], list[Any]] = list, *, is_harmless: bool = False) -> Iterator[None]:
        """Give an error of the block to `tolerate`, if there is one, with the operations that cause it."""
        try:
            yield
        except SamebitsError as error:
            if self._tolerate is None:
                raise
            self._tolerate(error, find(), is_harmless=is_harmless)

    def _check_portable(self, nodes: list[Any]) -> None:
        scopes = graph_check.scopes_of(names_of_losses(self.model), self.optimizers)
        operations = graph_check.inexact_operations(nodes, self.model, scopes)
        graph_check.check_portable(operations)
        if self.unmeasured:
            logger.warning("portable was never tested with these operations: %s", ", ".join(self.unmeasured))

    def variables(self) -> list[Any]:
        """Return all variables that a checkpoint must hold, also those that only callbacks change."""
        return [*all_variables(self.model, self.optimizers), *self._others.values()]

    def train_one(self, step: int) -> tuple[Logs, dict[str, Any]]:
        """Take the step after `step` steps. Returns (logs, gradients by weight)."""
        logs, gradients = self._train.one(self.train_feed.take(step))
        return numbers({name: logs[name] for name in self._train.names}), gradients

    def train_many(self, step: int, count: int) -> list[Logs]:
        """Take steps in one call, with the same bits as one by one. Returns the logs of each.

        A single step goes the same way, so that TensorFlow prepares one graph only.
        """
        return logs_of_steps(self._train.many(self.train_feed.take(step, count)), self._train.names)

    def evaluate(self, call: Hooks | None = None) -> dict[str, float]:
        """Return the metrics of the validation rows, as Keras's `evaluate` does.

        Args:
            call: Calls a hook of callbacks at each batch, then each batch has a call of its own.
        """
        if self.validation_feed is None or self._test is None:
            return {}
        return self._evaluate(self.validation_feed, self._test, call)

    def evaluate_on(self, feed: Feed) -> dict[str, float]:
        """Return the metrics of other rows."""
        return self._evaluate(feed, Calls(trace_step(self.model.test_step, feed, []), feed), None)

    def _evaluate(self, feed: Feed, calls: Calls, call: Hooks | None) -> dict[str, float]:
        self.model.reset_metrics()
        logs: Logs = {}
        step, several = 0, call is None and not self.one_by_one
        feed.start_epoch(1)
        while step < feed.steps:
            count = min(feed.equal_batches(step), feed.steps - step) if several else 1
            if call:
                call("on_test_batch_begin", step)
            if several:
                logs = logs_of_steps(calls.many(feed.take(step, count)), calls.names)[-1]
            else:
                logs = numbers(calls.one(feed.take(step))[0])
            if call:
                call("on_test_batch_end", step, logs=logs)
            step += count
        return self.results(logs, calls.step)

    def results(self, logs: Mapping[str, Any], step: Any = None) -> dict[str, float]:
        """Return the metrics of an epoch, given the logs of its last step, as Keras does.

        Args:
            logs: The logs that are single numbers. A metric with several numbers has no number of its own in them.
            step: The traced step; None: of the training.
        """
        names = (step or self._train.step).get_concrete_function().structured_outputs[0]
        found = self.model._get_metrics_result_or_logs(dict.fromkeys(names) | dict(logs))  # noqa: SLF001  no public name (Keras 3.15)
        return numbers(split_entries(found))

    @staticmethod
    def trace_predictions(model: keras.Model, feed: Feed) -> Any:
        """Return the traced function of the outputs of one batch, or None if the model cannot predict."""

        @tf.function(input_signature=[feed.signature], jit_compile=False, autograph=False)
        def predict(argument: Any) -> Any:
            return model.predict_step(feed.fetch(argument))

        try:
            predict.get_concrete_function()
        except Exception as error:  # noqa: BLE001  a model for a train_step of its own need not have outputs
            logger.info("no predictions will be written, because the model has no outputs: %s", first_line(error))
            return None
        return predict

    @staticmethod
    def predict(traced: Any, feed: Feed) -> tuple[Any, Any]:
        """Return the outputs of the model for all rows of a feed, and their labels: [rows, ...], possibly nested."""
        feed.start_epoch(1)
        outputs, labels = [], []
        for step in range(feed.steps):
            outputs.append(keras.tree.map_structure(lambda t: t.numpy(), traced(feed.take(step))))
            labels.append(feed.labels(step))
        return join(outputs), join(labels)

    def weight_digests(self) -> dict[str, str]:
        """Return the digest of each weight by its path, without seed generators."""
        return path_digests(self.model.weights)

    def optimizer_digest(self) -> str:
        """Return one digest of the state of all optimizers."""
        return arrays_digest(path_digests([v for optimizer in self.optimizers for v in optimizer.variables]))

    @staticmethod
    def gradient_digests(gradients: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """Return the digests of the gradients by the path of their weight, and of what the parts of the batch give."""
        found: dict[str, dict[str, str]] = {"parts": {}, "gradients": {}}
        for name, tensor in gradients.items():
            stage = "parts" if name.startswith(PART) else "gradients"
            found[stage][name] = array_digest(name, tf.convert_to_tensor(tensor).numpy())
        return found if found["parts"] else {"gradients": found["gradients"]}


def join(parts: list[Any]) -> Any:
    """Return the arrays of all batches as one, with zeros after the end of shorter ones; None if there are none."""
    return None if parts[0] is None else keras.tree.map_structure(lambda *arrays: concatenate(arrays), *parts)


def concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return batches of rows as one array. Where sizes vary, such as lengths, shorter rows are filled with zeros."""
    sizes = [max(each) for each in zip(*(array.shape[1:] for array in arrays), strict=True)]
    whole = np.zeros((sum(map(len, arrays)), *sizes), np.result_type(*arrays))
    first = 0
    for array in arrays:
        whole[(slice(first, first + len(array)), *map(slice, array.shape[1:]))] = array
        first += len(array)
    return whole


def by_path(variables: Iterable[Any]) -> dict[str, Any]:
    """Return variables by their path. Variables with the same path get a number."""
    found: dict[str, Any] = {}
    for variable in variables:
        name, number = variable.path, 1
        while name in found:
            number += 1
            name = f"{variable.path}#{number}"
        found[name] = variable
    return found


def path_digests(variables: Iterable[Any]) -> dict[str, str]:
    """Return the digest of each variable by its path."""
    return {name: array_digest(name, variable.numpy()) for name, variable in by_path(variables).items()}
