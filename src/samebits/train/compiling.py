"""Compiles a model with the loss, optimizer and metrics of the configuration, and checks a compiled model.

A name is a short name, package.module.name, or a mapping with `class` and arguments, such as
`{class: keras.optimizers.AdamW, weight_decay: 0.01}`. An argument can be such a mapping too, or
`{function: package.module.name}`. Does not know data or steps.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from samebits.core.config import TrainingConfig
from samebits.core.errors import ConfigError, first_line
from samebits.core.old_names import import_advice
from samebits.core.short_names import LOSSES, OPTIMIZERS

COMPILED_KEYS = ("loss", "optimizer", "learning_rate", "metrics")  # of `training`; null if the model is compiled
LOOPS = ("fit", "evaluate", "make_train_function", "make_test_function")  # methods of a model that are not called
CROSSENTROPIES = {
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
    "categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "categorical_generalized_cross_entropy": "softmax",
}


def find_named(
    key: str, named: Any, short_names: Mapping[str, str], registry: Any = None
) -> tuple[Any, dict[str, Any]]:
    """Return what a name in the configuration refers to, and its arguments.

    Args:
        key: The key of the configuration, for messages.
        named: The name, possibly with arguments.
        short_names: Short name -> dotted name.
        registry: The Keras module whose `get` knows more short names, e.g. keras.losses.

    Raises:
        ConfigError: There is nothing with this name. The message has the key.
    """
    arguments, name = {}, named
    if isinstance(named, Mapping):
        arguments = {part: _argument(f"{key}.{part}", value) for part, value in named.items() if part != "class"}
        name = named.get("class")
    known = f"a name that keras.{registry.__name__.rpartition('.')[2]}.get knows, " if registry is not None else ""
    expected = known + "package.module.name or {class: package.module.name, argument: value}"
    if not isinstance(name, str):
        raise ConfigError(key, expected=expected, received=repr(named), fix="name a class or a function")
    module, _, attribute = short_names.get(name, name).rpartition(".")
    if not module and registry is None:
        home = key.partition("[")[0].removeprefix("training.")
        example = f", e.g. keras.{home}.{name}" if home in ("callbacks", "metrics") else ""
        raise ConfigError(key, expected=expected, received=name, fix=f"write the module too{example}")
    try:
        if not module and registry is not None:
            found = registry.get(name)
            return (found if inspect.isfunction(found) or inspect.isclass(found) else type(found)), arguments
        return getattr(importlib.import_module(module), attribute), arguments
    except (ImportError, AttributeError, ValueError) as error:
        fix, received = import_advice(error) or "fix the typo", f"{name} ({' '.join(str(error).split())[:200]})"
        raise ConfigError(key, expected=expected, received=received, fix=fix) from error


def _argument(key: str, value: Any) -> Any:
    """Return an argument: a mapping with `class` becomes an object, one with `function` that function."""
    if isinstance(value, list):
        return [_argument(key, part) for part in value]
    if isinstance(value, Mapping) and "class" in value:
        return make_named(key, value)
    if isinstance(value, Mapping) and set(value) == {"function"}:
        return find_named(key, value["function"], {})[0]
    return value


def make_named(
    key: str, named: Any, short_names: Mapping[str, str] | None = None, registry: Any = None, **defaults: Any
) -> Any:
    """Return the object of a class, or the result of a function, that the configuration names.

    Args:
        key: The key of the configuration, for messages.
        named: The name, possibly with arguments.
        short_names: Short name -> dotted name.
        registry: The Keras module whose `get` knows more short names.
        defaults: Arguments for it, if it has these parameters and the configuration does not set them.

    Raises:
        ConfigError: There is nothing with this name, or it has other arguments.
    """
    function, arguments = find_named(key, named, short_names or {}, registry)
    return call_named(key, function, arguments, **defaults)


def call_named(key: str, function: Any, arguments: Mapping[str, Any], **defaults: Any) -> Any:
    """Call a class or function with arguments of the configuration, and with the defaults that it has parameters for.

    Raises:
        ConfigError: It has other parameters, or refuses a value.
    """
    parameters = inspect.signature(function).parameters
    given = {name: value for name, value in defaults.items() if name in parameters or has_any_keyword(parameters)}
    try:
        return function(**{**given, **arguments})
    except (TypeError, ValueError) as error:
        received = f"{dict(arguments)} ({' '.join(str(error).split())[:200]})"
        name = getattr(function, "__name__", "function")
        raise ConfigError(key, expected=f"arguments of {name}", received=received, fix="fix the arguments") from error


def has_any_keyword(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether a function takes keyword arguments with any name."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def make_loss(named: Any) -> Any:
    """Return the loss that `training.loss` names. A loss that can use logits uses them, if nothing else is set.

    Args:
        named: The name of a Keras loss class, or of a function (labels, outputs), possibly with arguments; or a mapping
            with one of these per output of the model.
    """
    if isinstance(named, Mapping) and "class" not in named:
        return {output: make_loss(part) for output, part in named.items()}
    function, arguments = find_named("training.loss", named, LOSSES, keras.losses)
    if "from_logits" in inspect.signature(function).parameters:
        arguments = {"from_logits": True, **arguments}
    if inspect.isclass(function):
        return call_named("training.loss", function, arguments)
    from keras.src.losses.losses import LossFunctionWrapper  # noqa: PLC0415  no public name (Keras 3.15)

    return LossFunctionWrapper(function, name=function.__name__, **arguments)


def make_optimizer(settings: TrainingConfig) -> keras.optimizers.Optimizer:
    """Return the optimizer of the settings, with its learning rate."""
    defaults = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
    optimizer: keras.optimizers.Optimizer = make_named(
        "training.optimizer", settings.optimizer, OPTIMIZERS, keras.optimizers, **defaults
    )
    return optimizer


def make_metrics(named: Any, loss: Any) -> Any:
    """Return the metrics that `training.metrics` names: a list, or a mapping with one list per output.

    "accuracy" is Keras's accuracy for the shape of the output. Of a single logit it has the threshold 0.
    """
    if isinstance(named, Mapping) and "class" not in named:
        return {
            output: make_metrics(part, loss.get(output) if isinstance(loss, dict) else loss)
            for output, part in named.items()
        }
    if named is None:
        return None
    if isinstance(named, list):
        return [make_metrics(part, loss) for part in named]
    if named == "accuracy":
        is_logit = reads_logits(loss) == ("sigmoid", True)
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0) if is_logit else "accuracy"
    if isinstance(named, str) and "." not in named:
        return named
    return make_named("training.metrics", named)


def compile_model(model: keras.Model, settings: TrainingConfig) -> None:
    """Compile the model with the settings, unless it is compiled.

    Raises:
        ConfigError: The model is compiled and the settings say how to compile it, or neither does; or its class has its
            own `fit`.
    """
    check_methods(model)
    given = [f"training.{key}" for key in COMPILED_KEYS if getattr(settings, key) not in (None, [], {})]
    if model.compiled:
        if given:
            raise ConfigError(
                ", ".join(given), expected="null, because the model function returns a compiled model",
                received="a loss, an optimizer or metrics in the configuration too",
                fix="remove these keys from conf/ and the command line, or do not compile the model",
            )  # fmt: skip
        check_compiled(model)
        return
    optimizer = None if settings.optimizer is None else make_optimizer(settings)
    if optimizer is None and not overrides(model, "train_step"):
        raise _not_compiled("optimizer")
    loss = None if settings.loss is None else make_loss(settings.loss)
    try:
        model.compile(optimizer, loss, metrics=make_metrics(settings.metrics, loss), jit_compile=False)
    except TypeError as error:  # of a compile() of its own, e.g. with two optimizers
        raise ConfigError(
            "model._target_", expected="a compiled model, because compile() of this class has its own parameters",
            received=first_line(error), fix="call model.compile(…) in the model function",
        ) from error  # fmt: skip


def computes_own_loss(model: keras.Model) -> bool:
    """Return whether the class of a model decides itself what its loss compares."""
    return overrides(model, "train_step") or overrides(model, "compute_loss")


def overrides(model: keras.Model, method: str) -> bool:
    """Return whether a model or its class has its own method instead of Keras's."""
    return method in vars(model) or getattr(type(model), method) is not getattr(keras.Model, method)


def check_methods(model: keras.Model) -> None:
    """Check that the class of a model does not replace Keras's loop, which nothing here would call.

    Raises:
        ConfigError: It does. The message has the method.
    """
    for method in LOOPS:
        if overrides(model, method):
            raise ConfigError(
                f"{type(model).__name__}.{method}", expected="Keras's method, because the training has its own loop",
                received="a method of the model, which would not be called",
                fix="override train_step or test_step, use a callback, or prepare the rows in the data function",
            )  # fmt: skip


def _not_compiled(key: str) -> ConfigError:
    return ConfigError(
        f"training.{key}", expected=f"a name, because the model has no {key} of its own",
        received="null", fix=f"compile the model in the model function, or set training.{key} in conf/model/",
    )  # fmt: skip


def explain_missing_loss(error: ValueError) -> ValueError | ConfigError:
    """Return what to tell the user instead of an error of the first trace: a model without any loss has its own."""
    return _not_compiled("loss") if "No loss to compute" in str(error) else error


def check_compiled(model: keras.Model, *, may_jit: bool = False) -> None:
    """Check that a compiled model is trained as the user wrote it.

    Args:
        model: The model.
        may_jit: Whether it may ask for XLA, which nothing here uses.

    Raises:
        ConfigError: It asks for something that has other bits or no meaning here.
    """
    refused = {"run_eagerly": "the step is traced once", "jit_compile": "XLA has other bits on every machine"}
    for name, because in refused.items():
        if getattr(model, name) and not (may_jit and name == "jit_compile"):
            raise ConfigError(
                "model.compile", expected=f"{name}=False: {because}", received=f"{name}=True", fix=f"remove {name}"
            )


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers of a model and of the models in it, each once: the compiled one and all attributes."""
    found: dict[int, keras.optimizers.Optimizer] = {}
    for _, value in attributes_of(model):
        if isinstance(value, keras.optimizers.Optimizer):
            found.setdefault(id(value), value)
    return list(found.values())


def updated_by(optimizer: Any, given: Any) -> list[Any]:
    """Return the variables that `apply` of an optimizer updates: those that it was given, or else all of its own."""
    return list(optimizer._trainable_variables if given is None else given)  # noqa: SLF001  no public name (Keras 3.15)


def attributes_of(model: keras.Model) -> Iterator[tuple[keras.Layer, Any]]:
    """Yield the layer and the value of each attribute of a model and its layers, also of what lists and dicts hold."""
    for layer in model._flatten_layers():  # noqa: SLF001  no public name (Keras 3.15)
        for value in members(list(vars(layer).values())):
            yield layer, value


def members(value: Any) -> Iterator[Any]:
    """Yield what lists, tuples and dicts hold, at any depth."""
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from members(part)
    else:
        yield value


def losses_by_output(model: keras.Model, outputs: Any = None) -> list[tuple[str, Any, Any]]:
    """Return (name, output, loss) of each output; the loss may be None. Empty if the outputs are not known.

    Args:
        model: The compiled model.
        outputs: Its outputs, possibly nested; None: those of a functional model.
    """
    if outputs is None:
        outputs = getattr(model, "_outputs_struct", getattr(model, "outputs", None))  # (Keras 3.15)
    tensors = keras.tree.flatten(outputs)
    if model.loss is None or any(tensor is None for tensor in tensors):
        return []
    keys = sorted(outputs) if isinstance(outputs, Mapping) else getattr(model, "output_names", None) or []
    names = list(keys) if len(keys) == len(tensors) else [str(number) for number in range(len(tensors))]
    loss = model.loss
    if isinstance(loss, Mapping):
        losses = [loss.get(name) for name in names]
    else:
        losses = list(loss) if isinstance(loss, list | tuple) else [loss] * len(tensors)
    return list(zip(names, tensors, losses, strict=False))


def compiled_metrics(model: keras.Model) -> list[Any]:
    """Return the metrics that a model was compiled with: names, functions and objects."""
    metrics = getattr(model, "_compile_metrics", None)
    groups = [getattr(metrics, f"_user_{kind}", None) for kind in ("metrics", "weighted_metrics")]  # (Keras 3.15)
    return [part for part in members(groups) if part is not None]


def reads_logits(loss: Any) -> tuple[str, bool] | None:
    """Return the activation that a cross-entropy expects in a model, and whether it reads logits; else None."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    name = getattr(getattr(loss, "fn", loss), "__name__", "")
    if name not in CROSSENTROPIES:
        return None
    options = {**getattr(loss, "_fn_kwargs", {})}
    return CROSSENTROPIES[name], bool(options.get("from_logits", False))


def name_of(function: Any) -> str:
    """Return the name of a loss or a metric, for messages: its own, that of a function, or the word that names it."""
    return str(getattr(function, "name", None) or getattr(function, "__name__", function))


def names_of_losses(model: keras.Model) -> str:
    """Return the names of a model's losses, for messages."""
    losses = [part for part in members(getattr(model, "loss", None)) if part is not None]
    return ", ".join(dict.fromkeys(map(name_of, losses)))


def output_kind(model: keras.Model) -> str:
    """Return what the outputs of a model are for its loss: "logits" or "probabilities" of classes, else "outputs"."""
    kinds = {reads_logits(loss) for _, _, loss in losses_by_output(model) if loss is not None} or {
        reads_logits(model.loss)
    }
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    if kind is None:
        return "outputs"
    return "logits" if kind[1] else "probabilities"
