"""Splits each batch into a fixed number of parts, whose gradients are combined in a fixed order.

The number of parts is a setting of the training, `training.shards`, and decides bits. Who computes a part does not:
several threads of a process, or several processes (`team`). A part is a pure function of the weights, of its rows, of
its number and of the states at the start of the step, so `train_step` runs in a `keras.StatelessScope` for each part.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope  # no public names (Keras 3.15)
from keras.src.losses import loss as keras_loss
from keras.src.metrics import reduction_metrics

from samebits.core.errors import ConfigError
from samebits.train.compiling import attributes_of, updated_by
from samebits.train.draws import users_of
from samebits.train.logs import flatten_logs
from samebits.train.parts import own_parts, part_bounds
from samebits.train.replaced import replaced

KEY = "training.shards"
PART = "part "  # then its number, counted from 1: the names of what a part gives
ONE_PART = "training.shards=1"
SEED_STRIDE = 0x9E3779B1  # odd, so that the parts of a generator have different seeds
WRITES = ("Assign", "Resource")  # the operations that change a variable start with these
READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd")


class Exchange(Protocol):
    """Lets several processes share the parts of a step.

    Attributes:
        workers: Number of processes.
        rank: The number of this process, counted from 0.
    """

    workers: int
    rank: int

    def gather(self, parts: Mapping[int, list[Any]], count: int) -> list[list[Any]]:
        """Return the tensors of all parts, given those of this process. Called while a step is traced."""

    def agree(self, count: int, stop_requested: Callable[[], bool]) -> tuple[int, bool]:
        """Return how many steps all can take in one call now (0: the epoch ends), and whether they stop."""

    def check_same(self, evidence: Mapping[str, str]) -> None:
        """Check that all processes have the same digests.

        Raises:
            TrainingError: They differ.
        """


class Alone:
    """The exchange of a single process, which computes all parts."""

    workers, rank = 1, 0

    def gather(self, parts: Mapping[int, list[Any]], count: int) -> list[list[Any]]:
        """Return the tensors of all parts, which are there."""
        return [parts[number] for number in range(count)]

    def agree(self, count: int, stop_requested: Callable[[], bool]) -> tuple[int, bool]:  # noqa: ARG002
        """Return the number of steps. A process alone stops after a call."""
        return count, False

    def check_same(self, evidence: Mapping[str, str]) -> None:
        """Accept everything: there is nobody to compare with."""


def tree_sum(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the sum of tensors in an order that depends on their number alone: neighbors first, in several rounds."""
    while len(values) > 1:
        pairs = [values[place : place + 2] for place in range(0, len(values), 2)]
        values = [pair[0] if len(pair) == 1 else tf.add(pair[0], pair[1]) for pair in pairs]
    return values[0]


class PartScope(keras.StatelessScope):
    """Holds the states of one part while it is traced.

    Attributes:
        updated: The variables that the part has given a new value, by their id.
        updates: The updates of optimizers, which are not made.
        computed: The calls of `compute_metrics`.
        factor: Rows of the batch per row of the part, float32[].
    """

    factor: tf.Tensor

    def __init__(self, states: list[tuple[Any, tf.Tensor]]) -> None:
        super().__init__(states, collect_losses=True)
        self.updates: list[Update] = []
        self.gradients: set[int] = set()  # ids of what the tapes gave
        self.kept: list[Any] = []  # so that no id is used twice
        self.computed: list[Computed] = []
        self.updated: dict[int, Any] = {}

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Keep a new value."""
        self.updated[id(update[0])] = update[0]
        super().add_update(update)

    def get_current_value(self, variable: Any) -> Any:
        """Return the value of a variable: the part's own, or that of the variable itself."""
        found = super().get_current_value(variable)
        return variable._value if found is None else found  # noqa: SLF001  no public name (Keras 3.15)


@dataclass
class Part:
    """What one part of a step computes: gradients by their place, new states, and logs."""

    gradients: list[Any]
    trainable: list[Any]
    optimizer: Any
    scope: PartScope
    logs: dict[str, tf.Tensor]
    results: dict[str, tuple[Any, int]]  # log -> (metric, place in its result)
    computed: "Computed | None"  # if the logs are those of compute_metrics


@dataclass
class Computed:
    """A call of `compute_metrics` in a part: its arguments and its result, and the variables updated before it."""

    arguments: dict[str, Any]
    result: Any
    before: set[int]


def refuse(what: str, received: str, fix: str = f"use {ONE_PART}, or write the step so that it can be split") -> None:
    """Refuse a training that cannot be split.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(KEY, expected=f"1, because {what}", received=received, fix=fix)


class ShardedStep:
    """Keras's `train_step` for a batch that is split into parts: argument of the feed -> logs.

    Args:
        model: The compiled and built model.
        fetch: Returns the batch for an argument of the feed.
        states: How the states that a part changes are combined.
        optimizers: The optimizers of the model.
        count: Number of parts.
        exchange: Shares the parts with other processes.

    Attributes:
        by_part: What each part gave, by "part N: path" of a weight or of a metric's variable, after a trace.

    Raises:
        ConfigError: The training cannot be split. The message has the reason.
    """

    def __init__(
        self, model: keras.Model, fetch: Callable[[Any], Any], states: "States", optimizers: list[Any], count: int,
        exchange: Exchange,
    ) -> None:  # fmt: skip
        self.model, self.fetch, self.states, self.optimizers = model, fetch, states, optimizers
        self.count, self.exchange = count, exchange
        self.by_part: dict[str, Any] = {}

    def __call__(self, argument: Any) -> dict[str, Any]:
        """Trace a step, and return what it logs."""
        rows = tf.shape(keras.tree.flatten(argument)[0])[0]
        weights = [row_weight(rows, self.count, number) for number in range(self.count)]
        own = self.trace_parts(argument, rows, weights)
        layout = Layout(next(iter(own.values())), self.states)
        gathered = self.exchange.gather(
            {number: layout.flatten(part, weights[number]) for number, part in own.items()}, self.count
        )
        combined = layout.combine(gathered)
        self.by_part = layout.by_part(gathered)
        batch = {id(leaf) for leaf in keras.tree.flatten(argument)}
        logs = combined.assign_states(self.model, self.states.metrics, batch)
        layout.part.optimizer.apply(combined.gradients, layout.part.trainable)
        return logs

    def trace_parts(self, argument: Any, rows: tf.Tensor, weights: Sequence[tf.Tensor]) -> dict[int, "Part"]:
        """Trace the parts of this process, one after another, or side by side if they need each other's numbers."""
        from samebits.train.lockstep import Lockstep, is_synchronized  # noqa: PLC0415  it imports this module

        numbers = own_parts(self.count, self.exchange.workers, self.exchange.rank)
        traces = {number: partial(self.trace_part, number, argument, rows) for number in numbers}
        with self.recording():
            if is_synchronized(self.model):
                return Lockstep(self.exchange, self.count, weights).trace(traces)
            return {number: trace() for number, trace in traces.items()}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note what the parts do that are traced in the block, instead of doing it."""
        with (
            recorded_update(self.optimizers),
            reductions(),
            results_of(self.states.metrics) as self.results,
            recorded_metrics(self.model),
            recorded_gradients(),
        ):
            yield

    def trace_part(self, number: int, argument: Any, rows: tf.Tensor) -> "Part":
        """Trace `train_step` for the rows of one part."""
        first, end = part_bounds(rows, self.count, number)
        end = tf.maximum(end, first + 1)  # a part without rows computes one, which does not count
        batch = self.fetch(keras.tree.map_structure(lambda leaf: leaf[first:end], argument))
        scope = PartScope(self.states.at_start(number))
        scope.factor = tf.cast(rows, tf.float32) / tf.cast(end - first, tf.float32)
        return self.trace_rows(batch, scope)

    def trace_rows(self, batch: Any, scope: PartScope) -> "Part":
        """Trace `train_step` for some rows, while `recording`, and check that it can be split."""
        with scope:
            logs = self.call_train_step(batch, scope)
        self.check_writes()
        if len(scope.updates) != 1:
            refuse(
                "a step that is split has one gradient and one update of the weights",
                f"a train_step of {type(self.model).__name__} with {len(scope.updates) or 'no'} updates",
            )
        update = scope.updates[0]
        if any(id(each) not in scope.gradients for each in update.gradients if each is not None):
            refuse(
                "the gradients of the parts are added before anything else happens to them",
                f"a train_step of {type(self.model).__name__} that changes the gradients, e.g. clips them",
                fix=f"use {ONE_PART}, or clipnorm, global_clipnorm or clipvalue of the optimizer",
            )
        self.check_order(update, scope)
        flat = tensors_of(logs)
        found = {name: self.results[id(value)] for name, value in flat.items() if id(value) in self.results}
        computed = next((each for each in scope.computed if each.result is logs), None)
        if computed is None:
            self.check_logs(flat, found, scope)
        return Part(update.gradients, update.trainable, update.optimizer, scope, flat, found, computed)

    def call_train_step(self, batch: Any, scope: PartScope) -> Any:
        """Return the logs of the model's `train_step`.

        Raises:
            ConfigError: A layer changes a weight that is trained, whose gradient is then unknown.
        """
        try:
            return self.model.train_step(batch)
        except AttributeError:
            changed = [weight.path for weight in self.model.trainable_weights if id(weight) in scope.updated]
            if changed:
                refuse("no layer changes a weight that is trained", f"a layer that changes {changed[0]}")
            raise

    def check_writes(self) -> None:
        """Check that the parts have changed no variable itself, as a tf.function does that was traced before.

        Raises:
            ConfigError: One has.
        """
        graph = tf.compat.v1.get_default_graph()
        for outer, inner in graph.captures:
            if id(outer) in self.states.handles:
                written = [
                    each.name for each in users_of(inner) if each.type.startswith(WRITES) and each.type not in READS
                ]
                if written:
                    refuse(
                        "a part changes no variable of the model itself",
                        f"a train_step of {type(self.model).__name__} with a tf.function inside ({written[0]})",
                        fix=f"use {ONE_PART}, or remove @tf.function: the whole step is one already",
                    )

    def check_logs(self, logs: Mapping[str, tf.Tensor], results: Mapping[str, Any], scope: PartScope) -> None:
        """Check that a `train_step` logs results of metrics as they are, or numbers whose mean is that of the batch.

        Raises:
            ConfigError: It logs a number that it computes from a result or from the gradients, or an integer.
        """
        for name, value in logs.items():
            if name in results:
                continue
            for kind, tensors in (("the result of a metric", set(self.results)), ("the gradients", scope.gradients)):
                if depends(value, tensors):
                    refuse(
                        f"only all parts together have {kind}",
                        f"a train_step of {type(self.model).__name__} that computes {name} from {kind}",
                        fix=f"use {ONE_PART}, log the result itself, or compute it in compute_metrics",
                    )
            if not value.dtype.is_floating:
                refuse(
                    "a logged number is the mean of the parts", f"{name} of type {value.dtype.name}",
                    fix=f"use {ONE_PART}, or do not log it",
                )  # fmt: skip

    def check_order(self, update: "Update", scope: PartScope) -> None:
        """Check that a part uses no weights after their update, which comes later than the user wrote.

        Raises:
            ConfigError: It does.
        """
        graph = tf.compat.v1.get_default_graph()
        handles = {id(inner) for outer, inner in graph.captures if id(outer) in self.states.weight_handles}
        later = graph.get_operations()[update.operations :]
        read = [each.name for each in later if each.type in READS and id(each.inputs[0]) in handles]
        written = [
            variable.path
            for key, variable in scope.updated.items()
            if key not in update.updated and self.states.kind(variable) == MEAN
        ]
        if read or written:
            refuse(
                "the parts of a step are computed before the weights are updated",
                f"a train_step of {type(self.model).__name__} that uses weights after the update "
                f"({', '.join([*written, *read][:4])})",
                fix=f"use {ONE_PART}, or do this in a callback after the batch",
            )


def row_weight(rows: tf.Tensor, count: int, number: int) -> tf.Tensor:
    """Return the share of the batch's rows that a part has: float32[]."""
    first, end = part_bounds(rows, count, number)
    return tf.cast(end - first, tf.float32) / tf.cast(rows, tf.float32)


def tensors_of(logs: Any) -> dict[str, tf.Tensor]:
    """Return what a step logs as one mapping of tensors."""
    return {name: tf.convert_to_tensor(value) for name, value in flatten_logs(logs).items()}


# --- what a part must not do, and what is noted while it is traced ---


@dataclass
class Update:
    """The update of an optimizer in a part, which is not made: its gradients, and the place in the trace."""

    optimizer: Any
    gradients: list[Any]
    trainable: list[Any]
    operations: int
    updated: set[int]


def running_part() -> PartScope:
    """Return the scope of the part that is being traced."""
    scope: PartScope = get_stateless_scope()
    return scope


@contextmanager
def recorded_update(optimizers: list[Any]) -> Iterator[None]:
    """Let each part note the updates of the optimizers instead of making them."""
    graph = tf.compat.v1.get_default_graph()

    def recorder(optimizer: Any, _: Any) -> Callable[..., None]:
        def apply(grads: Any, trainable_variables: Any = None) -> None:
            part, place = running_part(), len(graph.get_operations())
            chosen = updated_by(optimizer, trainable_variables)
            part.updates.append(Update(optimizer, list(grads), chosen, place, set(part.updated)))

        return apply

    with replaced(optimizers, "apply", recorder):
        yield


@contextmanager
def recorded_gradients() -> Iterator[None]:
    """Let each part note what its tapes give as gradients."""

    def recorder(_: Any, gradient: Callable[..., Any]) -> Callable[..., Any]:
        def gradient_and_note(tape: Any, *args: Any, **options: Any) -> Any:
            value, scope = gradient(tape, *args, **options), running_part()
            for leaf in tf.nest.flatten(value):
                if leaf is not None:
                    parts = [leaf, *([leaf.values] if isinstance(leaf, tf.IndexedSlices) else [])]
                    scope.kept += parts
                    scope.gradients |= {id(each) for each in parts}
            return value

        return gradient_and_note

    with replaced([tf.GradientTape], "gradient", recorder):
        yield


@contextmanager
def reductions() -> Iterator[None]:
    """Let the losses of the parts, weighted by their rows, add up to the loss of the batch.

    A metric that gets one number per batch, such as a loss, counts it with the share of the part's rows.
    """
    reduce, reduce_metric = keras_loss.reduce_weighted_values, reduction_metrics.reduce_to_samplewise_values

    def reduce_part(
        values: Any, sample_weight: Any = None, mask: Any = None, reduction: Any = "sum_over_batch_size",
        dtype: Any = None,
    ) -> Any:  # fmt: skip
        if mask is not None and reduction != "sum":
            refuse(
                "a masked loss is divided by the valid entries of the whole batch", "a loss with a mask",
                fix=f"use {ONE_PART}, or reduction='sum' in the loss",
            )  # fmt: skip
        if reduction not in ("sum_over_batch_size", "mean", "sum"):
            refuse(
                "this loss cannot be added up from parts", f"a loss with reduction={reduction!r}",
                fix=f"use {ONE_PART}, or reduction='sum_over_batch_size' in the loss",
            )  # fmt: skip
        value = reduce(values, sample_weight=sample_weight, mask=mask, reduction=reduction, dtype=dtype)
        return value * tf.cast(running_part().factor, value.dtype) if reduction == "sum" else value

    def reduce_metric_of_part(values: Any, sample_weight: Any, reduce_fn: Any, dtype: Any) -> Any:
        if sample_weight is None and len(values.shape) == 0:
            sample_weight = 1.0 / running_part().factor
        return reduce_metric(values, sample_weight, reduce_fn, dtype)

    with (
        replaced([keras_loss], "reduce_weighted_values", lambda *_: reduce_part),
        replaced([reduction_metrics], "reduce_to_samplewise_values", lambda *_: reduce_metric_of_part),
    ):
        yield


@contextmanager
def results_of(metrics: list[Any]) -> Iterator[dict[int, tuple[Any, int]]]:
    """Note which metric, and which of its values, a tensor is the result of: id of the tensor -> (metric, place)."""
    found: dict[int, tuple[Any, int]] = {}
    kept: list[Any] = []  # so that no id is used twice

    def recorder(metric: Any, result: Callable[[], Any]) -> Callable[[], Any]:
        def result_and_note() -> Any:
            value = keras.tree.map_structure(tf.convert_to_tensor, result())
            for place, leaf in enumerate(keras.tree.flatten(value)):
                kept.append(leaf)
                found.setdefault(id(leaf), (metric, place))
            return value

        return result_and_note

    with replaced(metrics, "result", recorder):
        yield found


@contextmanager
def recorded_metrics(model: keras.Model) -> Iterator[None]:
    """Let each part note its calls of the model's `compute_metrics`."""
    compute = model.compute_metrics

    def compute_and_note(x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
        before = set(running_part().updated)
        result = compute(**arguments)
        running_part().computed.append(Computed(arguments, result, before))
        return result

    with replaced([model], "compute_metrics", lambda *_: compute_and_note):
        yield


def depends(tensor: tf.Tensor, on: set[int]) -> bool:
    """Return whether a tensor of a graph is computed from one of some tensors, given by their id."""
    waiting, seen = [tensor], set()
    while waiting:
        each = waiting.pop()
        if id(each) in on:
            return True
        if id(each) not in seen:
            seen.add(id(each))
            waiting += each.op.inputs
    return False


# --- the states of a step ---

SUM, MEAN, FIRST, SEED = "sum", "mean", "first", "seed"


class States:
    """How the states that a part changes are combined.

    - A metric's variable starts at zero in each part, and the sum of the parts is added to its value.
    - A seed generator draws other numbers in each part.
    - A weight that a layer changes, such as a moving mean, becomes the mean of the parts, weighted by their rows.
      Integers have no mean: a training whose layers change them is refused.

    Args:
        model: The model.
        optimizers: Its optimizers, whose variables no part may change.
        variables: All variables of the training.
    """

    def __init__(self, model: keras.Model, optimizers: list[Any], variables: list[Any]) -> None:
        self.metrics = metrics_of(model)
        metric_ids = {id(variable) for metric in self.metrics for variable in metric.variables}
        metric_ids |= {id(variable) for variable in model.metrics_variables}
        weight_ids = {id(variable) for variable in model.weights}
        optimizer_ids = {id(variable) for optimizer in optimizers for variable in optimizer.variables}
        updated = [*model.trainable_weights, *(each for optimizer in optimizers for each in optimizer.variables)]
        self.weight_handles = {id(variable.value.handle) for variable in updated}
        self.handles = self.weight_handles | {id(variable.value.handle) for variable in variables}
        self._variables = variables
        self._kinds: dict[int, str] = {}
        for variable in variables:
            key = id(variable)
            if key in optimizer_ids:
                continue
            if key in metric_ids:
                kind = {"sum": SUM, "mean": MEAN, "only_first_replica": FIRST}.get(variable.aggregation, "")
            elif is_seed_state(variable):
                kind = SEED
            elif key in weight_ids:
                kind = MEAN if tf.as_dtype(variable.dtype).is_floating else ""
            else:
                kind = ""
            self._kinds[key] = kind

    def of_kind(self, kind: str) -> list[Any]:
        """Return the variables that are combined in one way."""
        return [variable for variable in self._variables if self.kind(variable) == kind]

    def kind(self, variable: Any) -> str:
        """Return how a variable is combined; "" if it must not change."""
        return self._kinds.get(id(variable), "")

    def at_start(self, number: int) -> list[tuple[Any, tf.Tensor]]:
        """Return the states at the start of a part that are not those of the step."""
        found = [(variable, tf.zeros_like(tf.convert_to_tensor(variable.value))) for variable in self.of_kind(SUM)]
        for variable in self.of_kind(SEED):
            value = tf.convert_to_tensor(variable.value)
            shift = number * SEED_STRIDE % 2**32
            signed = shift if value.dtype.is_unsigned else (shift + 2**31) % 2**32 - 2**31
            found.append((variable, value + tf.constant([signed, 0], value.dtype)))
        return found


def metrics_of(model: keras.Model) -> list[Any]:
    """Return all metrics of a model and of its layers, each once, also those that others hold."""
    found: dict[int, Any] = {}

    def add(metric: Any) -> None:
        if id(metric) not in found:
            found[id(metric)] = metric
            for inner in getattr(metric, "_metrics", []):
                add(inner)

    for metric in [*model.metrics, *(value for _, value in attributes_of(model))]:
        if isinstance(metric, keras.metrics.Metric):
            add(metric)
    return list(found.values())


def is_seed_state(variable: Any) -> bool:
    """Return whether a variable is the state of a seed generator."""
    return bool(variable.name == "seed_generator_state" and tuple(variable.shape) == (2,))


# --- what the parts give each other ---


@dataclass
class Combined:
    """A step: the gradients of the batch, the new states, and what makes the logs once the states are assigned."""

    gradients: list[Any]
    states: list[tuple[Any, tf.Tensor]]
    part: Part
    plain_logs: dict[str, tf.Tensor]

    def assign_states(self, model: keras.Model, metrics: list[Any], batch: set[int]) -> dict[str, tf.Tensor]:
        """Give the variables their new values, and return the logs.

        These are results of metrics for all parts, and other values as their mean, weighted by rows. `compute_metrics`
        may read the result of a metric before it updates it, so it is called once more: each metric gets its new values
        when it is updated there. A value that still depends on the batch (the ids of its tensors) is that of one part.
        """
        part, found = self.part, dict(self.plain_logs)
        waiting = {id(variable): (variable, value) for variable, value in self.states}

        def assign(keys: Collection[int]) -> None:
            for key in [key for key in waiting if key in keys]:
                variable, value = waiting.pop(key)
                variable.assign(value)

        def instead(metric: Any, _: Any) -> Callable[..., None]:
            return lambda *_, **__: assign([id(variable) for variable in metric.variables])

        if part.computed is None:
            assign(list(waiting))
            for name, (metric, place) in part.results.items():
                found[name] = tf.convert_to_tensor(keras.tree.flatten(metric.result())[place])
        else:
            assign(part.computed.before)
            with replaced(metrics, "update_state", instead):
                again = tensors_of(model.compute_metrics(**part.computed.arguments))
            found |= {name: value for name, value in again.items() if not depends(value, batch)}
            assign(list(waiting))
        return {name: found[name] for name in part.logs}


class Layout:
    """The tensors of a part as a flat list, and back. All parts have the same layout.

    Args:
        part: Any part.
        kinds: How states are combined.

    Raises:
        ConfigError: The part changes a state that nobody can combine.
    """

    def __init__(self, part: Part, kinds: States) -> None:
        self.part = part
        self.variables = list(part.scope.updated.values())
        self.kinds = [kinds.kind(variable) for variable in self.variables]
        lost = [variable.path for variable, kind in zip(self.variables, self.kinds, strict=True) if not kind]
        if lost:
            refuse("nobody can combine a state that every part changes", ", ".join(lost[:4]))
        self.plain = [name for name in part.logs if name not in part.results]

    def flatten(self, part: Part, weight: tf.Tensor) -> list[tf.Tensor]:
        """Return gradients, states and logs of a part, multiplied by its share of the rows where they are means."""
        flat: list[tf.Tensor] = []
        for gradient in part.gradients:
            if isinstance(gradient, tf.IndexedSlices):
                indices, values = sum_by_index(gradient)
                flat += [indices, scaled(values, weight)]
            elif gradient is not None:
                flat.append(scaled(gradient, weight))
        for variable, kind in zip(self.variables, self.kinds, strict=True):
            value = tf.convert_to_tensor(part.scope.get_current_value(variable))
            if kind == SUM:
                value = tf.where(weight > 0, value, tf.zeros_like(value))
            flat.append(scaled(value, weight) if kind == MEAN else value)
        return flat + [scaled(part.logs[name], weight) for name in self.plain]

    def split(self, flat: Sequence[tf.Tensor]) -> tuple[list[Any], list[tf.Tensor], list[tf.Tensor]]:
        """Return (gradients, states, logs) of a flat list."""
        rest, gradients = list(flat), []
        for gradient in self.part.gradients:
            if isinstance(gradient, tf.IndexedSlices):
                indices, values = rest.pop(0), rest.pop(0)
                gradients.append(tf.IndexedSlices(values, indices, gradient.dense_shape))
            else:
                gradients.append(None if gradient is None else rest.pop(0))
        end = len(self.variables)
        return gradients, rest[:end], rest[end:]

    def combine(self, parts: list[list[tf.Tensor]]) -> Combined:
        """Return the step of a batch, given its parts."""
        split = [self.split(flat) for flat in parts]
        gradients = [combine_gradients(same) for same in zip(*(part[0] for part in split), strict=True)]
        states = []
        columns = zip(*(part[1] for part in split), strict=True)
        for variable, kind, values in zip(self.variables, self.kinds, columns, strict=True):
            if kind == SUM:
                states.append((variable, variable.value + tree_sum(values)))
            else:
                states.append((variable, tree_sum(values) if kind == MEAN else values[0]))
        logs = [tree_sum(same) for same in zip(*(part[2] for part in split), strict=True)]
        return Combined(gradients, states, self.part, dict(zip(self.plain, logs, strict=True)))

    def by_part(self, parts: list[list[tf.Tensor]]) -> dict[str, Any]:
        """Return metrics and gradients of each part by "part N: path", in the order of events."""
        found = {}
        for number, flat in enumerate(parts, 1):
            gradients, states, _ = self.split(flat)
            for state, kind, variable in zip(states, self.kinds, self.variables, strict=True):
                if kind == SUM:
                    found[f"{PART}{number}: {variable.path}"] = state
            for gradient, variable in zip(gradients, self.part.trainable, strict=True):
                if gradient is not None:
                    found[f"{PART}{number}: {variable.path}"] = gradient
        return found


def scaled(value: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Return a tensor times the share of the rows; zero if there are none, also where the tensor is not finite."""
    return tf.where(weight > 0, value * tf.cast(weight, value.dtype), tf.zeros_like(value))


def combine_gradients(parts: Sequence[Any]) -> Any:
    """Return the gradient of the batch: a sum in a fixed order; slices one after another, in the order of the parts."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([part.values for part in parts], 0), tf.concat([part.indices for part in parts], 0),
            parts[0].dense_shape,
        )  # fmt: skip
    return tree_sum(parts)


def sum_by_index(gradient: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (indices, values) of slices, with the sum of the rows of equal indices, in the order of the rows."""
    indices, places = tf.unique(gradient.indices)
    return indices, tf.math.unsorted_segment_sum(gradient.values, places, tf.size(indices))
