"""Checks before the training: do the rows fit the batches, the inputs of the model, and its loss?

Each error names the array and the cause. Of a source, only the number of rows and the first batch are checked.
"""

import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.config import TrainingConfig
from samebits.core.digest import changed_names
from samebits.core.errors import ConfigError, DataError
from samebits.runs.predictions import named_arrays
from samebits.train.arrays import is_text, map_named
from samebits.train.compiling import compiled_metrics, computes_own_loss, losses_by_output, name_of
from samebits.train.data import Dataset, Split
from samebits.train.feeds import as_floatx
from samebits.train.sources import source_kind

logger = logging.getLogger(__name__)

# Losses that compare each label with one output.
ELEMENTWISE = frozenset(
    ("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error",
     "huber", "log_cosh", "hinge", "squared_hinge", "categorical_hinge", "poisson", "kl_divergence",
     "cosine_similarity", "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy",
     "categorical_focal_crossentropy", "dice", "tversky")
)  # fmt: skip
SPARSE = "sparse_categorical_crossentropy"
CLASS_NUMBERS = (SPARSE, "categorical_generalized_cross_entropy")  # losses whose labels are numbers of classes
REGIONS = ("dice", "tversky")  # losses whose values are of whole images or batches
# The labels that a loss can read. Keras changes others without a word, or trains with them.
PROBABILITY = (0, 1)
RANGES = {
    "binary_crossentropy": PROBABILITY, "binary_focal_crossentropy": PROBABILITY,
    "categorical_crossentropy": PROBABILITY, "categorical_focal_crossentropy": PROBABILITY,
    "kl_divergence": PROBABILITY, "dice": PROBABILITY, "tversky": PROBABILITY,
    "hinge": (-1, 1), "squared_hinge": (-1, 1), "categorical_hinge": (-1, 1),
    "poisson": (0, np.inf), "mean_squared_logarithmic_error": (0, np.inf),
}  # fmt: skip
ROWS = 7919  # a prime for the number of rows, which no other axis has by chance
Shape = tuple[int | None, ...]
SAME_SHAPE = "give the labels the shape of the output"


def check_same_data(first: dict[str, str], now: dict[str, str]) -> None:
    """Check that a resumed run has the same data as at its start, because a data file may have changed.

    Args:
        first: Array name -> digest, from the first row of the trace.
        now: The same for this process.

    Raises:
        DataError: Arrays differ. The message has their names.
    """
    changed = changed_names(first, now)
    if changed:
        raise DataError(
            "the data of a resumed run",
            expected="the same arrays as at its start",
            received=f"different {', '.join(changed)}",
            fix="restore the file that the data function reads, or restart with resume=never",
        )


# --- batches ---


def check_batches(model: keras.Model, dataset: Dataset, training: TrainingConfig) -> None:
    """Check that the batch is not larger than the training data, and that a stateful model gets no other batch.

    A recurrent layer with `stateful=True` has a state per row of the batch that it was built for. Other models with a
    fixed batch also take a smaller one, as in Keras.

    Raises:
        ConfigError: It is, or it would. The message has the number of rows.
    """
    fixed = fixed_batch_size(model) if stateful_layers(model) else None
    for name, part in dataset.splits().items():
        if not isinstance(part, Split) and source_kind(part) != "rows":
            continue
        rows = part.rows if isinstance(part, Split) else len(part)
        is_training = name == "train"
        size = training.batch_size if is_training else training.validation_batch_size or fixed
        if is_training and training.batch_size > rows:
            raise ConfigError(
                "training.batch_size", expected=f"1 to {rows}, the number of training samples",
                received=training.batch_size, fix="choose a smaller batch_size",
            )  # fmt: skip
        if fixed is None:
            continue
        key = "training.batch_size" if is_training else "training.validation_batch_size"
        if size != fixed:
            raise ConfigError(
                key, expected=f"{fixed}, for which the model was built", received=size, fix=f"set it to {fixed}"
            )
        steps = training.steps_per_epoch if is_training else None
        if rows % fixed and (steps is None or steps * fixed > rows):
            advice = "choose another data.validation_size" if not is_training else (
                f"set training.steps_per_epoch={rows // fixed}, or choose another data.validation_size"
            )  # fmt: skip
            raise ConfigError(
                f"the {name} data", expected=f"a multiple of {fixed} rows, the batch of the model",
                received=f"{rows} rows: the last batch would have {rows % fixed}",
                fix=f"{advice}, or build the model without a batch size",
            )  # fmt: skip


def fixed_batch_size(model: keras.Model) -> int | None:
    """Return the number of rows that a model was built for, or None if it takes any number."""
    states = [state for layer in stateful_layers(model) for state in keras.tree.flatten(layer.states or [])]
    sizes = {tensor.shape[0] for tensor in [*(getattr(model, "inputs", None) or []), *states]}
    return next(iter(sizes)) if len(sizes) == 1 else None


def stateful_layers(model: keras.Model) -> list[Any]:
    """Return the recurrent layers that keep their state from batch to batch."""
    layers = model._flatten_layers()  # noqa: SLF001  no public name (Keras 3.15)
    return [layer for layer in layers if isinstance(layer, keras.layers.RNN) and layer.stateful]


def build_stateful(model: keras.Model, part: Any, batch_size: int) -> None:
    """Build a model without keras.Input for one size of batch, as Keras's `fit` does, if it has stateful layers."""
    if not model.built and isinstance(part, Split) and stateful_layers(model):
        first = map_named(lambda array, _: tf.TensorSpec([batch_size, *array.shape[1:]], as_floatx(array[:0]).dtype),
                          part.inputs, "inputs")  # fmt: skip
        tf.function(model, autograph=False).get_concrete_function(first)


# --- inputs ---


def model_inputs(model: keras.Model) -> dict[str, Any]:
    """Return the inputs of a model by the names that arrays of a split have; empty if the model has no keras.Input."""
    tensors = getattr(model, "inputs", None) or []
    structure = getattr(model, "_inputs_struct", None)  # no public name (Keras 3.15)
    named = named_arrays(structure, "inputs")
    is_nested = any("/" in name.removeprefix("inputs/") for name in named)
    if isinstance(structure, Mapping) or is_nested:
        return named
    names = {f"inputs/{tensor.name}": tensor for tensor in tensors}
    if len(tensors) == 1:
        return {"inputs": tensors[0], "inputs/0": tensors[0]} | names
    return {f"inputs/{number}": tensor for number, tensor in enumerate(tensors)} | names


def check_inputs(model: keras.Model, examples: Mapping[str, Split]) -> None:
    """Check that each input of the model has an array of its shape, and strings where it takes strings.

    Raises:
        ConfigError: It has not. The message has the split, the array and the shapes.
    """
    expected = model_inputs(model)
    tensors = {id(tensor): tensor for tensor in expected.values()}
    for split, example in examples.items():
        arrays = named_arrays(example.inputs, "inputs")
        for name, array in arrays.items():
            warn_about_nan(f"{split}/{name}", array)
        given = {name: expected[name] for name in arrays if name in expected}
        found = {id(tensor) for tensor in given.values()}
        required = {key for key, tensor in tensors.items() if not _is_optional(tensor)}
        extra = tensors and not isinstance(example.inputs, Mapping) and len(arrays) > len(given)
        if not required <= found or extra:
            raise ConfigError(
                f"{split}: inputs", expected=f"{len(tensors)} arrays for the model: {_describe(expected)}",
                received=", ".join(f"{name} {array.shape}" for name, array in arrays.items()),
                fix="give a dict with the names of the model's inputs, or a tuple in their order",
            )  # fmt: skip
        for name, tensor in given.items():
            _check_input(f"{split}/{name}", arrays[name], tensor)


def _is_optional(tensor: Any) -> bool:
    """Return whether a model also works without an input: keras.Input(optional=True)."""
    return bool(getattr(tensor._keras_history.operation, "optional", False))  # noqa: SLF001  no public name (Keras 3.15)


def _describe(expected: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(f"{tensor.name} {tuple(tensor.shape)}" for tensor in expected.values()))


def _check_input(name: str, array: np.ndarray, tensor: Any) -> None:
    takes_text = tensor.dtype == "string"
    if is_text(array) != takes_text:
        raise ConfigError(
            name, expected=f"{'strings' if takes_text else 'numbers'}, as input {tensor.name} of the model takes",
            received="numbers" if takes_text else f"strings such as {str(array.flat[0])[:40]!r}",
            fix="use keras.Input(…, dtype='string') with StringLookup or TextVectorization in the model, or encode "
            "the strings in the data function",
        )  # fmt: skip
    if not fits(array.shape, tuple(tensor.shape)):
        raise ConfigError(
            name, expected=f"shape {describe_shape(tensor.shape)}, as input {tensor.name} of the model",
            received=f"shape {describe_shape((None, *array.shape[1:]))}", fix="change the Input or the arrays",
        )  # fmt: skip


def describe_shape(shape: Any) -> str:
    """Return a shape in words: [rows, 8, any]."""
    return f"[{', '.join(['rows', *('any' if size is None else str(size) for size in tuple(shape)[1:])])}]"


def fits(found: Shape, expected: Shape) -> bool:
    """Return whether arrays have the expected shape but for the rows. Keras adds or drops a last axis of 1."""
    found, expected = found[1:], expected[1:]
    if len(found) == len(expected) + 1 and found[-1] == 1:
        found = found[:-1]
    elif len(expected) == len(found) + 1 and expected[-1] == 1:
        expected = expected[:-1]
    return len(found) == len(expected) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(found, expected, strict=True)
    )


def warn_about_nan(name: str, array: np.ndarray) -> None:
    """Log a warning if numbers are missing in an array."""
    if array.dtype.kind == "f" and np.isnan(array).any():
        count = int(np.isnan(array).reshape(len(array), -1).any(1).sum())
        logger.warning("%s has NaN in %d of %d rows", name, count, len(array))


# --- labels ---


def check_labels(model: keras.Model, examples: Mapping[str, Split], outputs: Any = None) -> None:
    """Check that the labels and weights have the shape and the values that the loss and the metrics read.

    Does nothing if the model's class computes its loss itself, and for outputs without a loss.

    Args:
        model: The compiled model.
        examples: The rows of each split.
        outputs: The outputs of a model without keras.Input, as its traced function returns them.

    Raises:
        ConfigError: They have not. The message has the split, the loss and the labels.
    """
    every = [] if computes_own_loss(model) else losses_by_output(model, outputs)
    compared = [(number, *each) for number, each in enumerate(every) if each[2] is not None]
    for split, example in examples.items():
        for place, array in named_arrays(example.sample_weight, "sample_weight").items():
            if is_text(array):
                raise ConfigError(f"{split}/{place}", expected="numbers", received="strings", fix="convert them")
        for number, name, output, loss in compared:
            labels = _of_output(example.labels, name, number, len(every))
            place = f"{split}/labels" if len(every) == 1 else f"{split}/labels/{name}"
            if _are_missing(labels, example.labels, len(compared)):
                raise ConfigError(
                    place, expected=f"labels, which the loss {name_of(loss)} compares with output {name}",
                    received=", ".join(named_arrays(example.labels, "labels")) or "none",
                    fix="give the Split one array, or a dict with one array per output; or remove this loss",
                )  # fmt: skip
            if labels is not None:
                weights = _of_output(example.sample_weight, name, number, len(every))
                check_output_labels(place, labels, output.shape, loss, weights)
                check_loss_shape(loss, output.shape, labels, weights)
        if len(every) == 1 and isinstance(example.labels, np.ndarray):
            check_metrics(model, every[0][1].shape, example.labels)


def _are_missing(labels: Any, given: Any, compared: int) -> bool:
    """Return whether an output has no labels: a split has none, not under this name, or one array for several."""
    if labels is None:
        return given is None or isinstance(given, Mapping)
    return labels is given and compared > 1


def _of_output(part: Any, name: str, number: int, count: int) -> Any:
    """Return the labels or weights of one of several outputs: by name, by number, or those of all outputs."""
    if isinstance(part, Mapping):
        return part.get(name)
    if isinstance(part, tuple | list):
        return part[number] if len(part) == count else None
    return part


def check_output_labels(
    name: str, labels: np.ndarray, output: Shape, loss: Any, weights: np.ndarray | None = None
) -> None:
    """Check the labels of one output; see `check_labels`. The value of a label with the weight 0 does not matter."""
    if is_text(labels):
        raise ConfigError(
            name, expected="numbers", received=f"strings such as {str(labels.flat[0])[:40]!r}",
            fix="encode them in the data function, e.g. classes, labels = numpy.unique(labels, return_inverse=True)",
        )  # fmt: skip
    kind = loss_kind(loss)
    if kind in CLASS_NUMBERS:
        _check_class_numbers(name, labels, output, loss)
    elif kind in ELEMENTWISE:
        advice = SAME_SHAPE
        if kind.startswith("categorical") and fits(labels.shape, (*output[:-1], 1)):
            advice = f"use the loss {SPARSE}, or keras.utils.to_categorical(labels)"
        if not fits(labels.shape, output):
            raise ConfigError(
                name, expected=f"shape {describe_shape(output)}, as the output, because the loss {kind} compares them",
                received=f"shape {describe_shape(labels.shape)}: it would be broadcast", fix=advice,
            )  # fmt: skip
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise ConfigError(name, expected="numbers", received="NaN", fix="drop these rows or fill them in")
        if kind in RANGES:
            _check_range(name, _weighed(labels, weights), *RANGES[kind], kind)


def _weighed(labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the labels whose sample weight is not 0. Weights of another shape are refused elsewhere."""
    if weights is None or weights.ndim > labels.ndim:
        return labels
    counts = (weights != 0).reshape(*weights.shape, *[1] * (labels.ndim - weights.ndim))
    try:
        found: np.ndarray = labels[np.broadcast_to(counts, labels.shape)]
    except ValueError:
        return labels
    return found


def loss_kind(loss: Any) -> str:
    """Return the name of the function of one of Keras's losses or of `portable`, or "" if it is another loss."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    function = getattr(loss, "fn", loss)
    is_known = getattr(function, "__module__", "").startswith(("keras.", "samebits.portable."))
    return str(getattr(function, "__name__", "")) if is_known else ""


def _check_class_numbers(name: str, labels: np.ndarray, output: Shape, loss: Any) -> None:
    classes = output[-1]
    if not fits(labels.shape, (*output[:-1], 1)):
        one_hot = fits(labels.shape, output) and labels.ndim == len(output)
        raise ConfigError(
            name, expected=f"shape {describe_shape(output[:-1])}, the number of one of {classes} classes",
            received=f"shape {describe_shape(labels.shape)}",
            fix="use the loss categorical_crossentropy, or labels.argmax(-1)" if one_hot else "one label per output",
        )  # fmt: skip
    if classes is not None:
        ignored = getattr(loss, "ignore_class", None)
        kept = labels if ignored is None else labels[labels != ignored]
        _check_range(name, kept, 0, classes - 1, f"{loss_kind(loss)} with {classes} outputs", is_whole=True)


def _check_range(name: str, labels: np.ndarray, low: float, high: float, loss: str, *, is_whole: bool = False) -> None:
    """Check that all labels are in a range."""
    if not labels.size:
        return
    lowest, highest = labels.min(), labels.max()
    has_fractions = is_whole and labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels))
    if has_fractions or not (low <= lowest and highest <= high):
        raise ConfigError(
            name, expected=f"{'whole numbers ' if is_whole else ''}{low} to {high}, because the loss is {loss}",
            received=f"{lowest} to {highest}{' with fractions' if has_fractions else ''}",
            fix="number the classes from 0, with one output per class" if is_whole else "scale them or change the loss",
        )  # fmt: skip


def check_loss_shape(loss: Any, output: Shape, labels: np.ndarray, weights: np.ndarray | None) -> None:
    """Check what a loss returns: one value per row, or for no sample weights, one for all.

    Args:
        loss: The loss.
        output: The shape of the output.
        labels: The labels.
        weights: The sample weights; None: all rows weigh the same.

    Raises:
        ConfigError: It returns another shape, as a loss does that compares each row with each row.
    """
    name = f"loss {name_of(loss)}"
    found: Shape | None = (ROWS, *output[1:-1])
    if loss_kind(loss) not in {*ELEMENTWISE, *CLASS_NUMBERS}.difference(REGIONS):
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
        from keras.src.losses.losses import LossFunctionWrapper  # noqa: PLC0415  no public name (Keras 3.15)

        whole = loss if isinstance(loss, keras.losses.Loss) else LossFunctionWrapper(loss)
        found = shape_of_values(name, whole.call, output, labels)
    if found is None:
        return
    is_square = found[1:2] == (ROWS,)
    if is_square or (weights is not None and not (found[:1] == (ROWS,) and can_weigh(weights.shape, found))):
        sizes = ", ".join("rows" if size == ROWS else "any" if size is None else str(size) for size in found)
        compared = f": labels {describe_shape(labels.shape)} against outputs {describe_shape(output)}"
        weighed = "" if weights is None else f", because the rows have weights {describe_shape(weights.shape)}"
        raise ConfigError(
            name, expected=f"one value per row{weighed}",
            received=f"shape [{sizes}]{compared if is_square else ''}",
            fix=SAME_SHAPE if is_square else "take the mean over all axes but the first, or weigh each value",
        )  # fmt: skip


def can_weigh(weights: Shape, values: Shape) -> bool:
    """Return whether Keras can multiply the values of a loss with sample weights. It adds or drops a last axis of 1."""
    if len(weights) == len(values) + 1 and weights[-1] == 1:
        weights = weights[:-1]
    elif len(values) == len(weights) + 1 and values[-1] == 1:
        values = values[:-1]
    sizes = zip(weights[1:], values[1:], strict=False)
    return len(weights) == len(values) and all(weight in (1, value) or value is None for weight, value in sizes)


def shape_of_values(name: str, function: Any, output: Shape, labels: np.ndarray) -> Shape | None:
    """Return the shape of what a loss or a metric of one's own returns, or None if it is not known.

    Raises:
        ConfigError: It returns no tensor, or compares each row with each row, because the labels lack an axis.
    """
    dtype = keras.config.floatx()
    specs = [tf.TensorSpec([ROWS, *shape[1:]], dtype) for shape in (labels.shape, output)]
    try:
        traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    except Exception:  # noqa: BLE001  the training step has the same error, with its cause
        return None
    values = traced.structured_outputs
    if not isinstance(values, tf.Tensor):
        raise ConfigError(name, expected="a tensor", received=type(values).__name__, fix="return one value per row")
    if labels.ndim != len(output) and any(map(_is_every_pair, _binary(traced.graph))):
        raise ConfigError(
            name, expected="each row compared with its label", fix=SAME_SHAPE,
            received=f"labels {describe_shape(labels.shape)} against outputs {describe_shape(output)}, which compares "
            "each row with each label",
        )  # fmt: skip
    return None if values.shape.rank is None else tuple(values.shape)


def _binary(graph: tf.Graph) -> list[Any]:
    """Return the operations of two tensors whose ranks are known."""
    known = [each for each in graph.get_operations() if all(tensor.shape.rank is not None for tensor in each.inputs)]
    return [each for each in known if len(each.inputs) == 2]  # noqa: PLR2004


def _is_every_pair(operation: Any) -> bool:
    """Return whether an operation compares each label with the output of each row."""
    shapes = sorted((each.shape.as_list() for each in operation.inputs), key=len)
    return shapes == [[ROWS], [ROWS, 1]] and len({frozenset(_sources(each)) for each in operation.inputs}) > 1


def _sources(tensor: Any) -> set[str]:
    """Return the names of the arguments that a tensor of a traced function is computed from."""
    found, waiting, seen = set(), [tensor.op], set()
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            found |= {operation.name} if operation.type == "Placeholder" else set()
            waiting += [each.op for each in operation.inputs]
    return found


def check_metrics(model: keras.Model, output: Shape, labels: np.ndarray) -> None:
    """Check that the metric functions of one's own compare each row with its label.

    Raises:
        ConfigError: One compares each row with each label.
    """
    for metric in compiled_metrics(model):
        function = getattr(metric, "_fn", metric)
        if callable(function) and not isinstance(function, keras.metrics.Metric) and not loss_kind(function):
            shape_of_values(f"metric {name_of(metric)}", function, output, labels)
