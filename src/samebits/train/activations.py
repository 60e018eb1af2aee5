"""Checks that the outputs of a model are what its loss and its metrics read: logits or probabilities.

Reads the traced graph of the model, so that it finds an activation that is a layer, a function, or deep in a class.
"""

import logging
from typing import Any

import keras

from samebits.core.errors import ConfigError
from samebits.portable.graph_check import layer_of
from samebits.train.compiling import computes_own_loss, losses_by_output, name_of, reads_logits

logger = logging.getLogger(__name__)

PROBABILITIES = {"Sigmoid": "sigmoid", "Softmax": "softmax"}
# Operations after which the values are still logits or still probabilities.
KEEPING = ("Identity", "Reshape", "Squeeze", "ExpandDims", "Transpose", "Cast", "StridedSlice", "StopGradient")
# Operations whose results are no probabilities. Sums and products only if one of their inputs is a weight.
UNBOUNDED = {"Relu": "relu", "Relu6": "relu6", "Elu": "elu", "Selu": "selu", "LeakyRelu": "leaky_relu",
             "Softplus": "softplus", "Softsign": "softsign", "Tanh": "tanh"}  # fmt: skip
LINEAR = ("AddV2", "BiasAdd", "MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D")


def check_activations(model: keras.Model, predictions: Any) -> None:
    """Check each output that has a cross-entropy, unless the class of the model computes its loss itself.

    Args:
        model: The compiled model.
        predictions: The traced function of its outputs, or None.

    Raises:
        ConfigError: An output does not fit its loss. The message has the layer and the loss.
    """
    if predictions is None or computes_own_loss(model):
        return
    outputs = predictions.get_concrete_function().structured_outputs
    layers = {layer.name: layer for layer in model._flatten_layers()}  # noqa: SLF001  no public name (Keras 3.15)
    for _, output, loss in losses_by_output(model, outputs):
        expected = reads_logits(loss)
        if expected is not None:
            operation = last_operation(output)
            layer = layer_of(operation.name, layers)
            place = f"operation {operation.name}" if layer is None else f"layer {layer.name}"
            _check(place, operation, output, loss, expected)


def last_operation(tensor: Any) -> Any:
    """Return the operation that computed the values of a tensor, before changes of their shape or type."""
    operation = tensor.op
    while operation.type in KEEPING:
        operation = operation.inputs[0].op
    return operation


def _check(place: str, operation: Any, output: Any, loss: Any, reads: tuple[str, bool]) -> None:
    activation, from_logits = reads
    name, has = name_of(loss), PROBABILITIES.get(operation.type)
    if from_logits and has:
        raise ConfigError(
            place, expected=f"no activation, because the loss {name} has from_logits=True",
            received=f"activation {has}: the loss would read its probabilities as logits",
            fix=f"remove the activation, or use the loss with from_logits=False, e.g. "
            f"training.loss={{class: keras.losses.{_class_name(loss)}, from_logits: false}}",
        )  # fmt: skip
    if has == "softmax" and output.shape[-1] == 1:
        raise ConfigError(
            place, expected="sigmoid, or one output per class", received="softmax of one output, which is always 1",
            fix="use activation='sigmoid', or more outputs",
        )  # fmt: skip
    other = UNBOUNDED.get(operation.type)
    if not from_logits and (other or _is_linear(operation)):
        raise ConfigError(
            place, expected=f"probabilities, because the loss {name} has from_logits=False",
            received=f"{f'activation {other}' if other else 'no activation'}: the loss would read logits as "
            "probabilities",
            fix=f"use the loss with from_logits=True, or activation={activation!r} in {place}",
        )  # fmt: skip


def _is_linear(operation: Any) -> bool:
    """Return whether an operation adds or multiplies with a weight."""
    return operation.type in LINEAR and any(last_operation(each).type == "ReadVariableOp" for each in operation.inputs)


def warn_of_thresholds(model: keras.Model, outputs: Any = None) -> None:
    """Log a warning for each metric that expects probabilities of outputs whose loss reads logits. Keras computes both.

    Args:
        model: The compiled model, after its step was traced, so that its metrics are built.
        outputs: The outputs of a model without keras.Input.
    """
    built = getattr(model, "_compile_metrics", None)  # no public name (Keras 3.15)
    for kind in ("_flat_metrics", "_flat_weighted_metrics"):
        metrics = getattr(built, kind, None) or []
        for (_, _, loss), group in zip(losses_by_output(model, outputs), metrics, strict=False):
            if loss is not None and reads_logits(loss) == ("sigmoid", True):
                for metric in getattr(group, "metrics", []):
                    _warn_of_threshold(metric, name_of(loss))


def _warn_of_threshold(metric: Any, loss: str) -> None:
    thresholds = [getattr(metric, "threshold", None), *(getattr(metric, "thresholds", None) or [])]
    if isinstance(metric, keras.metrics.AUC):
        advice = "" if metric._from_logits else "from_logits=True"  # noqa: SLF001  no public name (Keras 3.15)
    else:
        parameter = "threshold" if hasattr(metric, "threshold") else "thresholds"
        advice = f"{parameter}=0.0" if any(each is not None and 0 < each < 1 for each in thresholds) else ""
    if advice:
        logger.warning(
            "metric %s reads probabilities, but the loss %s has from_logits=True: use keras.metrics.%s(%s)",
            metric.name, loss, type(metric).__name__, advice,
        )  # fmt: skip


def _class_name(loss: Any) -> str:
    name = getattr(getattr(loss, "fn", loss), "__name__", str(loss))
    return "".join(part.capitalize() for part in name.split("_"))
