"""Trains Keras's layers, activations, losses, optimizers and initializers, a few steps each, in this process.

`zoo.run` starts it as `python -m zoo.cases OUTPUT NAME…`, with the fixed settings of `portable`, on this CPU or an
emulated one. It writes one JSON line per case: digests of every stage, operations that raise an error, all operations.
"""

import functools
import json
import pathlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits.core.config import RuntimeConfig
from samebits.core.digest import array_digest, float_bits
from samebits.portable import graph_check, layers
from samebits.runtime import pins
from samebits.train import draws, steps
from samebits.train.data import Split

ROWS, BATCH, STEPS, SEED, CLASSES = 96, 32, 6, 56, 5
SHAPES: dict[str, tuple[int, ...]] = {
    "vector": (300,),
    "sequence": (20, 32),
    "image": (16, 16, 8),
    "volume": (6, 6, 6, 4),
    "words": (24,),
}
WORDS = 500
Factory = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One case to train: its input, its layers, its loss and its optimizer.

    Attributes:
        shape: A key of `SHAPES`.
        body: Returns the layers between input and head.
        head: Returns the last layer.
        loss: Returns the loss, a function of (labels, outputs).
        optimizer: Returns the optimizer.
        targets: "classes" (0 or 1), "labels" (class numbers), "one_hot" (of class numbers) or "numbers".
    """

    shape: str = "vector"
    body: Factory = list
    head: Factory = lambda: keras.layers.Dense(1)
    loss: Factory = lambda: layers.BinaryCrossentropy(from_logits=True, reduction=None)
    optimizer: Factory = lambda: keras.optimizers.SGD(0.05)
    targets: str = "classes"


def _recurrent(kind: str, package: Any = keras.layers, **options: Any) -> Any:
    return getattr(package, kind)(40, recurrent_initializer=layers.Orthogonal(seed=7), **options)


class _SelfAttention(keras.layers.Layer):
    """Attention from a sequence to itself."""

    def __init__(self, attention: keras.Layer) -> None:
        super().__init__()
        self.attention = attention

    def call(self, inputs: Any) -> Any:
        if isinstance(self.attention, keras.layers.Attention | keras.layers.AdditiveAttention):
            return self.attention([inputs, inputs])
        return self.attention(inputs, inputs)


def _make_all(makers: tuple[Factory, ...]) -> list[Any]:
    return [make() for make in makers]


def _layers_with_weights() -> dict[str, tuple[str, Factory]]:
    k, ours = keras.layers, layers
    return {
        "Dense": ("vector", lambda: k.Dense(300)),
        "EinsumDense": ("sequence", lambda: k.EinsumDense("abc,cd->abd", output_shape=(20, 48))),
        "Embedding": ("words", lambda: k.Embedding(WORDS, 32)),
        "Conv1D": ("sequence", lambda: k.Conv1D(48, 5)),
        "Conv1D, causal and dilated": ("sequence", lambda: k.Conv1D(48, 3, padding="causal", dilation_rate=2)),
        "Conv1DTranspose": ("sequence", lambda: k.Conv1DTranspose(24, 3)),
        "SeparableConv1D": ("sequence", lambda: k.SeparableConv1D(24, 3)),
        "Conv2D": ("image", lambda: k.Conv2D(24, 3)),
        "Conv2D, strides and same padding": ("image", lambda: k.Conv2D(24, 3, strides=2, padding="same")),
        "Conv2D, groups": ("image", lambda: k.Conv2D(24, 3, groups=2)),
        "Conv2DTranspose": ("image", lambda: k.Conv2DTranspose(8, 3, strides=2)),
        "DepthwiseConv1D": ("sequence", lambda: k.DepthwiseConv1D(3)),
        "DepthwiseConv2D": ("image", lambda: k.DepthwiseConv2D(3)),
        "SeparableConv2D": ("image", lambda: k.SeparableConv2D(12, 3)),
        "Conv3D": ("volume", lambda: k.Conv3D(8, 3)),
        "SimpleRNN": ("sequence", lambda: _recurrent("SimpleRNN")),
        "LSTM": ("sequence", lambda: _recurrent("LSTM")),
        "samebits LSTM": ("sequence", lambda: _recurrent("LSTM", ours)),
        "LSTM, recurrent dropout": ("sequence", lambda: _recurrent("LSTM", recurrent_dropout=0.2, seed=7)),
        "GRU": ("sequence", lambda: _recurrent("GRU")),
        "Bidirectional": ("sequence", lambda: k.Bidirectional(_recurrent("LSTM"))),
        "TimeDistributed": ("sequence", lambda: k.TimeDistributed(k.Dense(16))),
        "ConvLSTM1D": ("image", lambda: k.ConvLSTM1D(8, 3, recurrent_initializer=layers.Orthogonal(seed=7))),
        "MultiHeadAttention": ("sequence", lambda: _SelfAttention(k.MultiHeadAttention(4, 16))),
        "MultiHeadAttention, dropout": (
            "sequence",
            lambda: _SelfAttention(k.MultiHeadAttention(4, 16, dropout=0.1, seed=7)),
        ),
        "GroupQueryAttention": ("sequence", lambda: _SelfAttention(k.GroupQueryAttention(16, 4, 2))),
        "Attention": ("sequence", lambda: _SelfAttention(k.Attention())),
        "AdditiveAttention": ("sequence", lambda: _SelfAttention(k.AdditiveAttention())),
        "SpectralNormalization": ("vector", lambda: k.SpectralNormalization(k.Dense(32))),
    }


def _layers_without_weights() -> dict[str, tuple[str, Factory]]:
    k, ours = keras.layers, layers
    return {
        "MaxPooling1D": ("sequence", lambda: k.MaxPooling1D(4)),
        "MaxPooling2D": ("image", lambda: k.MaxPooling2D(2)),
        "AveragePooling1D": ("sequence", lambda: k.AveragePooling1D(3)),
        "AveragePooling2D": ("image", lambda: k.AveragePooling2D(3, padding="same")),
        "GlobalAveragePooling1D": ("sequence", k.GlobalAveragePooling1D),
        "GlobalAveragePooling2D": ("image", k.GlobalAveragePooling2D),
        "GlobalMaxPooling1D": ("sequence", k.GlobalMaxPooling1D),
        "GlobalMaxPooling2D": ("image", k.GlobalMaxPooling2D),
        "AdaptiveAveragePooling2D": ("image", lambda: k.AdaptiveAveragePooling2D(5)),
        "UpSampling2D, bilinear": ("image", lambda: k.UpSampling2D(2, interpolation="bilinear")),
        "Resizing": ("image", lambda: k.Resizing(9, 9)),
        "ZeroPadding2D": ("image", k.ZeroPadding2D),
        "Cropping2D": ("image", lambda: k.Cropping2D(2)),
        "Permute": ("sequence", lambda: k.Permute((2, 1))),
        "Rescaling": ("image", lambda: k.Rescaling(1 / 255, 0.1)),
        "Normalization": ("vector", lambda: k.Normalization(mean=0.3, variance=2.0)),
        "Dropout": ("vector", lambda: k.Dropout(0.3, seed=7)),
        "samebits Dropout": ("vector", lambda: ours.Dropout(0.3, seed=7)),
        "SpatialDropout1D": ("sequence", lambda: k.SpatialDropout1D(0.3, seed=7)),
        "GaussianDropout": ("vector", lambda: k.GaussianDropout(0.3, seed=7)),
        "GaussianNoise": ("vector", lambda: k.GaussianNoise(0.3, seed=7)),
        "AlphaDropout": ("vector", lambda: k.AlphaDropout(0.3, seed=7)),
        "RandomFlip": ("image", lambda: k.RandomFlip(seed=7)),
        "RandomRotation": ("image", lambda: k.RandomRotation(0.1, seed=7)),
        "PReLU": ("vector", k.PReLU),
        "ActivityRegularization": ("vector", lambda: k.ActivityRegularization(l1=0.01, l2=0.01)),
        "kernel regularizer L1L2": ("vector", lambda: k.Dense(64, kernel_regularizer=keras.regularizers.L1L2())),
        "kernel constraint MaxNorm": ("vector", lambda: k.Dense(64, kernel_constraint=keras.constraints.MaxNorm(0.5))),
        "kernel constraint UnitNorm": ("vector", lambda: k.Dense(64, kernel_constraint=keras.constraints.UnitNorm())),
    }


def _layer_cases() -> dict[str, Case]:
    k, ours = keras.layers, layers
    one = _layers_with_weights() | _layers_without_weights()
    normalizations: dict[str, tuple[str, dict[str, Any]]] = {
        "BatchNormalization": ("image", {}),
        "BatchNormalization of a matrix": ("vector", {}),
        "BatchNormalization, renorm": ("image", {"renorm": True}),
        "LayerNormalization": ("sequence", {}),
        "GroupNormalization": ("image", {"groups": 4}),
        "RMSNormalization": ("sequence", {}),
        "UnitNormalization": ("sequence", {}),
    }
    for name, (shape, options) in normalizations.items():
        kind = name.partition(" ")[0].rstrip(",")
        before = {"image": lambda: k.Conv2D(12, 3), "sequence": lambda: k.Dense(32), "vector": lambda: k.Dense(64)}
        for package, prefix in ((k, ""), (ours, "samebits ")):
            makers = before[shape], functools.partial(getattr(package, kind), **options)
            one[prefix + name] = (shape, functools.partial(_make_all, makers))
    return {f"layer {name}": Case(shape, body) for name, (shape, body) in one.items()}


def _activation_cases() -> dict[str, Case]:
    names = (
        "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_shrink", "hard_silu", "hard_tanh", "leaky_relu",
        "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax",
        "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "tanh_shrink",
        "threshold",
    )  # fmt: skip
    functions: dict[str, Callable[..., Any]] = {name: getattr(keras.activations, name) for name in names}
    functions["threshold"] = lambda x: keras.activations.threshold(x, 0.1, 0.0)
    functions["gelu"] = functools.partial(keras.activations.gelu, approximate=False)
    functions["gelu, approximate"] = functools.partial(keras.activations.gelu, approximate=True)
    functions["samebits gelu"] = layers.gelu
    functions["log"] = lambda x: keras.ops.log(keras.ops.abs(x) + 0.1)
    functions["samebits log"] = lambda x: layers.log(keras.ops.abs(x) + 0.1)
    functions["log1p"] = lambda x: keras.ops.log1p(keras.ops.abs(x))
    functions["samebits log1p"] = lambda x: layers.log1p(keras.ops.abs(x))
    functions["rsqrt"] = lambda x: keras.ops.rsqrt(keras.ops.abs(x) + 0.1)
    functions["samebits rsqrt"] = lambda x: layers.rsqrt(keras.ops.abs(x) + 0.1)
    functions["reciprocal"] = lambda x: keras.ops.reciprocal(keras.ops.abs(x) + 0.1)
    functions["one divided"] = lambda x: 1.0 / (keras.ops.abs(x) + 0.1)
    functions["divided by a square root"] = lambda x: x / keras.ops.sqrt(keras.ops.abs(x) + 0.1)
    functions["divided by a constant"] = lambda x: x / np.linspace(0.3, 3, 150, dtype="float32")
    functions["arctan"] = keras.ops.arctan
    functions["samebits arctan"] = layers.atan
    functions["l2 normalization"] = keras.ops.normalize
    functions["samebits l2 normalization"] = lambda x: layers.l2_normalize(x, -1)
    functions["logsumexp"] = lambda x: x - keras.ops.logsumexp(x, axis=-1, keepdims=True)
    functions["sin and cos"] = lambda x: keras.ops.sin(x) + keras.ops.cos(x)
    functions["power 2.5"] = lambda x: (keras.ops.abs(x) + 0.1) ** 2.5
    functions["power -0.5"] = lambda x: (keras.ops.abs(x) + 0.1) ** -0.5
    functions["cumulative sum"] = lambda x: keras.ops.cumsum(x, axis=-1)
    functions["standard deviation"] = lambda x: x * keras.ops.std(x, axis=-1, keepdims=True)
    functions["QR decomposition"] = lambda x: x + keras.ops.mean(keras.ops.stop_gradient(keras.ops.qr(x)[0]))
    made = {name: functools.partial(keras.layers.Dense, 150, activation=f) for name, f in functions.items()}
    # After a bias, TensorFlow fuses the three into a kernel that crashes qemu 7.2.
    made["tanh"] = functools.partial(keras.layers.Dense, 150, activation="tanh", use_bias=False)
    return {f"activation {name}": Case(body=body) for name, body in made.items()}


def _loss_cases() -> dict[str, Case]:
    made: dict[str, Case] = {}
    probability: dict[str, Any] = {"head": lambda: keras.layers.Dense(1, activation=keras.ops.sigmoid)}
    for package, prefix in ((keras.losses, ""), (layers, "samebits ")):
        for name, options, targets in (
            ("BinaryCrossentropy", {}, "classes"),
            ("CategoricalCrossentropy", {}, "one_hot"),
            ("SparseCategoricalCrossentropy", {}, "labels"),
            ("CategoricalCrossentropy, label smoothing", {"label_smoothing": 0.1}, "one_hot"),
        ):
            kind = getattr(package, name.partition(",")[0])
            for logits in (True, False):
                loss = functools.partial(kind, from_logits=logits, reduction=None, **options)
                title = f"loss {prefix}{name}" + (" from logits" if logits else " from probabilities")
                if targets == "classes":
                    made[title] = Case(loss=loss, **({} if logits else probability))
                else:
                    head = functools.partial(_class_head, logits=logits)
                    made[title] = Case(loss=loss, head=head, targets=targets)
    kinds: dict[str, dict[str, Any]] = {
        "BinaryFocalCrossentropy": probability,
        "CategoricalFocalCrossentropy": {"head": _class_head, "targets": "one_hot"},
        "CosineSimilarity": {"head": _class_head, "targets": "one_hot"},
        "KLDivergence": {"head": _class_head, "targets": "one_hot"},
        "Poisson": {"head": lambda: keras.layers.Dense(1, activation="softplus"), "targets": "classes"},
        "CategoricalHinge": {"head": _class_head, "targets": "one_hot"},
        "Hinge": {},
        "SquaredHinge": {},
    }
    numbers = ("Huber", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
               "MeanSquaredLogarithmicError")  # fmt: skip
    kinds |= {name: {"targets": "numbers"} for name in numbers}
    for name, parts in kinds.items():
        made[f"loss {name}"] = Case(loss=functools.partial(getattr(keras.losses, name), reduction=None), **parts)
    return made


def _class_head(*, logits: bool = False) -> keras.Layer:
    return keras.layers.Dense(CLASSES, activation=None if logits else "softmax")


def _optimizer_cases() -> dict[str, Case]:
    o = keras.optimizers
    made: dict[str, Factory] = {
        "SGD": lambda: o.SGD(0.05),
        "SGD, Nesterov momentum": lambda: o.SGD(0.05, momentum=0.9, nesterov=True),
        "SGD, clipnorm": lambda: o.SGD(0.05, clipnorm=0.01),
        "SGD, global_clipnorm": lambda: o.SGD(0.05, global_clipnorm=0.01),
        "SGD, weight decay and moving average": lambda: o.SGD(0.05, weight_decay=0.01, use_ema=True),
        "SGD, cosine schedule": lambda: o.SGD(o.schedules.CosineDecay(0.05, 10)),
        "SGD, exponential schedule": lambda: o.SGD(o.schedules.ExponentialDecay(0.05, 10, 0.5)),
        "RMSprop": o.RMSprop,
        "Adam": o.Adam,
        "Adam, amsgrad": lambda: o.Adam(amsgrad=True),
        "AdamW": o.AdamW,
        "samebits Adam": layers.Adam,
        "samebits RMSprop": layers.RMSprop,
        "samebits Adagrad": layers.Adagrad,
    }
    names = ("Adadelta", "Adafactor", "Adagrad", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam")
    made |= {name: getattr(o, name) for name in names}
    if hasattr(o, "ScheduleFreeAdamW"):
        made["ScheduleFreeAdamW"] = o.ScheduleFreeAdamW
    cases = {f"optimizer {name}": Case("words", _words_body, optimizer=factory) for name, factory in made.items()}
    # Keras 3.15 cannot centre the slices of an embedding's gradient.
    for package, prefix in ((o, ""), (layers, "samebits ")):
        factory = functools.partial(package.RMSprop, momentum=0.9, centered=True)
        cases[f"optimizer {prefix}RMSprop, centered with momentum"] = Case(optimizer=factory)
    return cases


def _words_body() -> list[Any]:
    return [keras.layers.Embedding(WORDS, 24), keras.layers.Flatten(), keras.layers.Dense(64, activation="relu")]


def _initializer_cases() -> dict[str, Case]:
    names = (
        "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal",
        "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling",
    )  # fmt: skip
    made: dict[str, Any] = {name: functools.partial(getattr(keras.initializers, name), seed=7) for name in names}
    made["samebits Orthogonal"] = functools.partial(layers.Orthogonal, seed=7)
    made["Identity"] = keras.initializers.Identity
    return {
        f"initializer {name}": Case(body=functools.partial(keras.layers.Dense, 300, kernel_initializer=make()))
        for name, make in made.items()
    }


def all_cases() -> dict[str, Case]:
    """Return name -> case. A name is "kind name"; in ours, "samebits" follows the kind."""
    return _layer_cases() | _activation_cases() | _loss_cases() | _optimizer_cases() | _initializer_cases()


def _make_targets(kind: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "numbers":
        return rng.random(ROWS, np.float32)
    return rng.integers(0, 2 if kind == "classes" else CLASSES, ROWS).astype(np.float32)


def run_case(name: str, case: Case) -> dict[str, Any]:
    """Train one case for a few steps and evaluate it.

    Returns:
        "stages": digests in order of time; "refused": the operations that raise an error in a run; "operations": types
        of operations of both graphs.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    shape = SHAPES[case.shape]
    is_words = case.shape == "words"
    inputs = rng.integers(0, WORDS, (ROWS, *shape)) if is_words else rng.standard_normal((ROWS, *shape))
    data = Split(inputs.astype(np.int32 if is_words else np.float32), _make_targets(case.targets, rng))
    body = case.body()
    body = body if isinstance(body, list) else [body]
    # With this layer, a case without weights also has something to train.
    first = [] if is_words else [keras.layers.Dense(shape[-1], name="first")]
    input_layer = keras.Input(shape, dtype="int32" if is_words else "float32")
    model = keras.Sequential([input_layer, *first, *body, keras.layers.Flatten(), case.head()])
    optimizer, function = case.optimizer(), case.loss()

    def row_losses(labels: Any, outputs: Any) -> Any:
        with tf.name_scope(graph_check.LOSS_SCOPE):
            if case.targets == "one_hot":
                return function(tf.one_hot(tf.cast(labels, tf.int32), CLASSES), outputs)
            return function(labels if case.targets == "labels" else labels[:, None], outputs)

    step = steps.make_train_step(model, optimizer, row_losses, data)
    evaluation = steps.make_evaluation_step(model, row_losses, data)
    nodes: list[Any] = []
    for each in (step, evaluation):
        traced: Any = each
        nodes += draws.graph_nodes(traced.get_concrete_function())
    names = type(function).__name__, type(optimizer).__name__
    findings = [*graph_check.inexact_initializers(model), *graph_check.inexact_operations(nodes, model, *names)]
    stages = {"initial weights": _digest(model)}
    for number in range(STEPS):
        rows = np.arange(number * BATCH, (number + 1) * BATCH, dtype=np.int32) % ROWS
        loss, _, gradients = step(rows)
        stages[f"step {number + 1}: forward loss"] = float_bits(float(loss))
        arrays = [np.asarray(keras.ops.convert_to_numpy(gradient)) for gradient in gradients]
        stages[f"step {number + 1}: gradients"] = array_digest("gradients", np.concatenate([a.ravel() for a in arrays]))
        stages[f"step {number + 1}: weights"] = _digest(model)
    losses, *_ = evaluation(np.arange(ROWS, dtype=np.int32))
    stages["evaluation"] = array_digest("losses", np.asarray(losses))
    return {
        "name": name,
        "stages": stages,
        "refused": sorted({found.what for found in findings}),
        "operations": sorted({node.op for node in nodes}),
    }


def _digest(model: keras.Model) -> str:
    return array_digest("weights", np.concatenate([np.asarray(weight).ravel() for weight in model.weights]))


def main() -> int:
    """Run the named cases that are not in the output yet, and append one JSON line per case."""
    output, wanted = pathlib.Path(sys.argv[1]), sys.argv[2:]
    done = {json.loads(line)["name"] for line in output.read_text().splitlines()} if output.exists() else set()
    pins.apply_pins(RuntimeConfig())
    pins.check_pins(RuntimeConfig(), 0, pins.effective_settings())
    cases = all_cases()
    for name in (name for name in wanted if name not in done):
        try:
            row = run_case(name, cases[name])
        except Exception as error:  # noqa: BLE001  one case that fails must not stop the others
            traceback.print_exc()
            row = {"name": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
