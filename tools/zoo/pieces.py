"""Lists every layer, activation, loss, metric, optimizer, schedule and initializer of Keras with how it is tried.

A name is "kind name" or "kind name, variant". `LEFT_OUT` has the classes that are not tried, with the reason.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from samebits.portable import layers as ours

Factory = Callable[[], Any]
k, o = keras.layers, keras.optimizers
CLASSES, WORDS = 5, 500
# Two shapes of each kind of input, because oneDNN chooses its kernels by shape: round numbers and odd ones.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vector": ((300,), (37,)),
    "sequence": ((20, 32), (7, 5)),
    "image": ((16, 16, 8), (11, 9, 3)),
    "picture": ((16, 16, 3), (11, 9, 3)),
    "volume": ((6, 6, 6, 4), (5, 4, 7, 3)),
    "frames": ((4, 8, 8, 3), (3, 7, 5, 2)),
    "cube frames": ((3, 4, 4, 4, 2),),
    "words": ((24,), (9,)),
    "text": ((1,),),
    "wave": ((400,), (311,)),
}
RAW = ("picture", "words", "text", "wave")  # reach the layer as they are; before the others is a trained Dense layer

BASE = "a base class"
LEFT_OUT = {
    "layer": {
        **dict.fromkeys(("InputLayer", "InputSpec", "Layer", "Wrapper"), BASE),
        **dict.fromkeys(("FlaxLayer", "JaxLayer", "TorchModuleWrapper"), "runs another framework"),
        "TFSMLayer": "runs a saved graph, whose operations are checked in every run",
        "MaxNumBoundingBoxes": "takes bounding boxes",
    },
    "loss": {"Loss": BASE},
    "metric": {"Metric": BASE, "MeanMetricWrapper": BASE},
    "optimizer": {"Optimizer": BASE, "OptimizerMap": BASE},
    "schedule": {"LearningRateSchedule": BASE},
    "initializer": {"Initializer": BASE},
}


@dataclass(frozen=True)
class Case:
    """One case to train: its input, its layers, its loss and its optimizer.

    Attributes:
        shape: A key of `SHAPES`.
        body: Returns the layers between input and head.
        head: Returns the last layer.
        loss: Returns the loss.
        optimizer: Returns the optimizer.
        targets: The labels: see `zoo.cases.make_targets`.
        steps: How many steps to take per shape.
        sizes: How many shapes of its kind to try.
    """

    shape: str = "vector"
    body: Factory = list
    head: Factory = lambda: k.Dense(1)
    loss: Factory = lambda: ours.BinaryCrossentropy(from_logits=True)
    optimizer: Factory = lambda: o.SGD(0.05)
    targets: str = "classes"
    steps: int = 2
    sizes: int = 2


@dataclass(frozen=True)
class MetricCase:
    """A metric, which is computed without a model: its factory and its labels."""

    make: Factory
    targets: str = "numbers"


@dataclass(frozen=True)
class InitializerCase:
    """An initializer, which is called without a model."""

    make: Factory
    shapes: tuple[tuple[int, ...], ...] = field(default=((300, 300), (3, 3, 8, 24), (37, 5)))


class Several(keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    """Calls a layer with several tensors made from one."""

    def __init__(self, layer: keras.Layer, count: int = 2, *, as_list: bool = True) -> None:
        super().__init__()
        self.layer, self.count, self.as_list = layer, count, as_list

    def call(self, inputs: Any) -> Any:
        """Return the layer's output for a tensor and its multiples."""
        tensors = [inputs * (1 + 0.5 * number) for number in range(self.count)]
        return self.layer(tensors) if self.as_list else self.layer(*tensors)


def recurrent(kind: str, package: Any = k, **options: Any) -> Any:
    """Return a recurrent layer with the exact orthogonal initializer."""
    return getattr(package, kind)(40, recurrent_initializer=ours.Orthogonal(seed=7), **options)


def _dense() -> dict[str, tuple[str, Factory]]:
    return {
        "Dense": ("vector", lambda: k.Dense(300)),
        "Dense, one unit": ("vector", lambda: k.Dense(1)),
        "Dense, of a sequence": ("sequence", lambda: k.Dense(33, activation="relu")),
        "EinsumDense": ("sequence", lambda: k.EinsumDense("...c,cd->...d", output_shape=48)),
        "Embedding": ("words", lambda: k.Embedding(WORDS, 32)),
        "ReversibleEmbedding": ("words", lambda: k.ReversibleEmbedding(WORDS, 32)),
        "SpectralNormalization": ("vector", lambda: k.SpectralNormalization(k.Dense(32))),
        "SpectralNormalization, of a convolution": ("image", lambda: k.SpectralNormalization(k.Conv2D(8, 3))),
        "TimeDistributed": ("sequence", lambda: k.TimeDistributed(k.Dense(16))),
        "Lambda": ("vector", lambda: k.Lambda(lambda x: x * 1.5, output_shape=lambda shape: shape)),
        "MultiHeadAttention": ("sequence", lambda: Several(k.MultiHeadAttention(4, 16), as_list=False)),
        "MultiHeadAttention, dropout": (
            "sequence", lambda: Several(k.MultiHeadAttention(3, 5, dropout=0.1), as_list=False),
        ),
        "GroupQueryAttention": ("sequence", lambda: Several(k.GroupQueryAttention(16, 4, 2), as_list=False)),
        "Attention": ("sequence", lambda: Several(k.Attention())),
        "AdditiveAttention": ("sequence", lambda: Several(k.AdditiveAttention())),
    }  # fmt: skip


def _convolutions() -> dict[str, tuple[str, Factory]]:
    return {
        "Conv1D": ("sequence", lambda: k.Conv1D(48, 5)),
        "Conv1D, causal and dilated": ("sequence", lambda: k.Conv1D(48, 3, padding="causal", dilation_rate=2)),
        "Conv1DTranspose": ("sequence", lambda: k.Conv1DTranspose(24, 3)),
        "SeparableConv1D": ("sequence", lambda: k.SeparableConv1D(24, 3)),
        "DepthwiseConv1D": ("sequence", lambda: k.DepthwiseConv1D(3)),
        "Conv2D": ("image", lambda: k.Conv2D(24, 3)),
        "Conv2D, 1x1": ("image", lambda: k.Conv2D(7, 1, activation="relu")),
        "Conv2D, 5x5 and dilated": ("image", lambda: k.Conv2D(16, 5, dilation_rate=2, padding="same")),
        "Conv2D, strides and same padding": ("image", lambda: k.Conv2D(24, 3, strides=2, padding="same")),
        "Conv2D, groups": ("image", lambda: [k.Conv2D(4, 1), k.Conv2D(24, 3, groups=2)]),
        "Conv2DTranspose": ("image", lambda: k.Conv2DTranspose(8, 3, strides=2)),
        "DepthwiseConv2D": ("image", lambda: k.DepthwiseConv2D(3)),
        "SeparableConv2D": ("image", lambda: k.SeparableConv2D(12, 3)),
        "Conv3D": ("volume", lambda: k.Conv3D(8, 3)),
        "Conv3DTranspose": ("volume", lambda: k.Conv3DTranspose(5, 3)),
    }


def _recurrent() -> dict[str, tuple[str, Factory]]:
    exact: dict[str, Any] = {"recurrent_initializer": ours.Orthogonal(seed=7)}
    return {
        "SimpleRNN": ("sequence", lambda: recurrent("SimpleRNN")),
        "LSTM": ("sequence", lambda: recurrent("LSTM")),
        "samebits LSTM": ("sequence", lambda: recurrent("LSTM", ours)),
        "LSTM, recurrent dropout": ("sequence", lambda: recurrent("LSTM", recurrent_dropout=0.2)),
        "GRU": ("sequence", lambda: recurrent("GRU")),
        "Bidirectional": ("sequence", lambda: k.Bidirectional(recurrent("LSTM"))),
        "Masking": ("sequence", lambda: [k.Masking(), recurrent("GRU")]),
        "RNN": ("sequence", lambda: k.RNN(k.SimpleRNNCell(9, **exact))),
        "SimpleRNNCell": ("sequence", lambda: k.RNN(k.SimpleRNNCell(17, **exact), return_sequences=True)),
        "LSTMCell": ("sequence", lambda: k.RNN(k.LSTMCell(17, **exact))),
        "GRUCell": ("sequence", lambda: k.RNN(k.GRUCell(17, **exact))),
        "StackedRNNCells": (
            "sequence",
            lambda: k.RNN(k.StackedRNNCells([k.LSTMCell(9, **exact), k.GRUCell(8, **exact)])),
        ),
        "ConvLSTM1D": ("image", lambda: k.ConvLSTM1D(8, 3, **exact)),
        "ConvLSTM2D": ("frames", lambda: k.ConvLSTM2D(5, 3, **exact)),
        "ConvLSTM3D": ("cube frames", lambda: k.ConvLSTM3D(3, 3, **exact)),
    }


def _pooling() -> dict[str, tuple[str, Factory]]:
    made: dict[str, tuple[str, Factory]] = {}
    for rank, shape in ((1, "sequence"), (2, "image"), (3, "volume")):
        for kind in ("Max", "Average"):
            made[f"{kind}Pooling{rank}D"] = (shape, functools.partial(getattr(k, f"{kind}Pooling{rank}D"), 2))
            made[f"Global{kind}Pooling{rank}D"] = (shape, getattr(k, f"Global{kind}Pooling{rank}D"))
            made[f"Adaptive{kind}Pooling{rank}D"] = (
                shape,
                functools.partial(getattr(k, f"Adaptive{kind}Pooling{rank}D"), 3),
            )
        made[f"UpSampling{rank}D"] = (shape, functools.partial(getattr(k, f"UpSampling{rank}D"), 2))
        made[f"ZeroPadding{rank}D"] = (shape, getattr(k, f"ZeroPadding{rank}D"))
        made[f"Cropping{rank}D"] = (shape, functools.partial(getattr(k, f"Cropping{rank}D"), 1))
        made[f"SpatialDropout{rank}D"] = (shape, functools.partial(getattr(k, f"SpatialDropout{rank}D"), 0.3))
    return made | {
        "AveragePooling2D, same padding": ("image", lambda: k.AveragePooling2D(3, padding="same")),
        "UpSampling2D, bilinear": ("image", lambda: k.UpSampling2D(2, interpolation="bilinear")),
    }


def _several(make: Factory) -> keras.Layer:
    return Several(make())


def _shapes_and_merges() -> dict[str, tuple[str, Factory]]:
    merges = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
    made: dict[str, tuple[str, Factory]] = {
        name: ("sequence", functools.partial(_several, getattr(k, name))) for name in merges
    }
    return made | {
        "Dot": ("sequence", lambda: Several(k.Dot(axes=2))),
        "Dot, normalized": ("sequence", lambda: Several(k.Dot(axes=2, normalize=True))),
        "Flatten": ("image", k.Flatten),
        "Identity": ("vector", k.Identity),
        "Permute": ("sequence", lambda: k.Permute((2, 1))),
        "RepeatVector": ("vector", lambda: k.RepeatVector(3)),
        "Reshape": ("sequence", lambda: k.Reshape((-1, 1))),
    }


def _activity() -> dict[str, tuple[str, Factory]]:
    return {
        "Activation": ("vector", lambda: k.Activation("tanh")),
        "ELU": ("vector", k.ELU),
        "LeakyReLU": ("vector", k.LeakyReLU),
        "PReLU": ("vector", k.PReLU),
        "ReLU": ("vector", k.ReLU),
        "Softmax": ("sequence", k.Softmax),
        "ActivityRegularization": ("vector", lambda: k.ActivityRegularization(l1=0.01, l2=0.01)),
        "Dropout": ("vector", lambda: k.Dropout(0.3)),
        "samebits Dropout": ("vector", lambda: ours.Dropout(0.3)),
        "GaussianDropout": ("vector", lambda: k.GaussianDropout(0.3)),
        "GaussianNoise": ("vector", lambda: k.GaussianNoise(0.3)),
        "AlphaDropout": ("vector", lambda: k.AlphaDropout(0.3)),
        "Dense, L1L2": ("vector", lambda: k.Dense(64, kernel_regularizer=keras.regularizers.L1L2())),
        "Dense, OrthogonalRegularizer": (
            "vector",
            lambda: k.Dense(64, kernel_regularizer=keras.regularizers.OrthogonalRegularizer()),
        ),
        "Dense, MaxNorm": ("vector", lambda: k.Dense(64, kernel_constraint=keras.constraints.MaxNorm(0.5))),
        "Dense, MinMaxNorm": ("vector", lambda: k.Dense(64, kernel_constraint=keras.constraints.MinMaxNorm(0.2, 0.5))),
        "Dense, UnitNorm": ("vector", lambda: k.Dense(64, kernel_constraint=keras.constraints.UnitNorm())),
    }


def _normalizations() -> dict[str, tuple[str, Factory]]:
    return {
        "BatchNormalization": ("image", lambda: [k.Conv2D(12, 3), k.BatchNormalization()]),
        "BatchNormalization, of a matrix": ("vector", lambda: [k.Dense(64), k.BatchNormalization()]),
        "BatchNormalization, of a sequence": ("sequence", lambda: [k.Dense(31), k.BatchNormalization(axis=1)]),
        "BatchNormalization, renorm": ("image", lambda: [k.Conv2D(12, 3), k.BatchNormalization(renorm=True)]),
        "LayerNormalization": ("sequence", lambda: [k.Dense(32), k.LayerNormalization()]),
        "LayerNormalization, of an image": ("image", lambda: k.LayerNormalization(axis=[1, 2])),
        "GroupNormalization": ("image", lambda: [k.Conv2D(12, 3), k.GroupNormalization(4)]),
        "GroupNormalization, of a matrix": ("vector", lambda: [k.Dense(30), k.GroupNormalization(3)]),
        "RMSNormalization": ("sequence", lambda: [k.Dense(32), k.RMSNormalization()]),
        "UnitNormalization": ("sequence", lambda: [k.Dense(32), k.UnitNormalization()]),
    }


def _preprocessing() -> dict[str, tuple[str, Factory]]:
    names = [f"w{number}" for number in range(20)]
    return {
        "Normalization": ("vector", lambda: k.Normalization(mean=0.3, variance=2.0)),
        "Rescaling": ("image", lambda: k.Rescaling(1 / 255, 0.1)),
        "Discretization": ("wave", lambda: [k.Discretization([-1.0, 0.0, 1.0]), k.Embedding(4, 3)]),
        "CategoryEncoding": ("words", lambda: k.CategoryEncoding(WORDS, output_mode="multi_hot")),
        "Hashing": ("words", lambda: [k.Hashing(50), k.Embedding(50, 8)]),
        "HashedCrossing": ("text", lambda: [Crossed(), k.Embedding(20, 4)]),
        "IntegerLookup": ("words", lambda: [k.IntegerLookup(vocabulary=list(range(100))), k.Embedding(101, 8)]),
        "StringLookup": ("text", lambda: [k.StringLookup(vocabulary=names), k.Embedding(21, 8)]),
        "TextVectorization": (
            "text",
            lambda: [k.TextVectorization(vocabulary=names, output_sequence_length=3), k.Embedding(22, 8)],
        ),
        "STFTSpectrogram": (
            "wave",
            lambda: [k.Reshape((-1, 1)), k.STFTSpectrogram(frame_length=64, frame_step=32, fft_length=64)],
        ),
        "MelSpectrogram": (
            "wave",
            lambda: k.MelSpectrogram(
                fft_length=64, sequence_stride=32, sampling_rate=4000, num_mel_bins=16, max_freq=1900
            ),
        ),
    }  # fmt: skip


class Crossed(keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    """Crosses a text with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = k.HashedCrossing(num_bins=20)

    def call(self, inputs: Any) -> Any:
        """Return the bin of each row."""
        return self.cross((inputs, inputs))


def _augment(make: Factory) -> list[keras.Layer]:
    # The pooling gives one shape also where RandomCrop resizes its inputs instead (Keras 3.15, without training).
    return [make(), k.Rescaling(1 / 255), k.AdaptiveAveragePooling2D(4)]


def _augmentations() -> dict[str, tuple[str, Factory]]:
    makers: dict[str, Factory] = {
        "AugMix": lambda: k.AugMix((0, 255)),
        "AutoContrast": lambda: k.AutoContrast(value_range=(0, 255)),
        "CenterCrop": lambda: k.CenterCrop(7, 5),
        "ContrastLimitedAdaptiveHistogramEqualization": lambda: k.ContrastLimitedAdaptiveHistogramEqualization(
            value_range=(0, 255), tile_grid_size=(2, 2)
        ),
        "CutMix": k.CutMix,
        "Equalization": lambda: k.Equalization((0, 255)),
        "MixUp": k.MixUp,
        "Pipeline": lambda: k.Pipeline([k.RandomFlip(), k.RandomBrightness(0.2)]),
        "RandAugment": lambda: k.RandAugment((0, 255)),
        "RandomBrightness": lambda: k.RandomBrightness(0.3),
        "RandomColorDegeneration": lambda: k.RandomColorDegeneration(0.5),
        "RandomColorJitter": lambda: k.RandomColorJitter((0, 255), 0.3, 0.3, 0.3, 0.3),
        "RandomContrast": lambda: k.RandomContrast(0.3),
        "RandomCrop": lambda: k.RandomCrop(7, 5),
        "RandomElasticTransform": k.RandomElasticTransform,
        "RandomErasing": k.RandomErasing,
        "RandomFlip": k.RandomFlip,
        "RandomGaussianBlur": k.RandomGaussianBlur,
        "RandomGrayscale": k.RandomGrayscale,
        "RandomHue": lambda: k.RandomHue(0.3, value_range=(0, 255)),
        "RandomInvert": k.RandomInvert,
        "RandomPerspective": k.RandomPerspective,
        "RandomPosterization": lambda: k.RandomPosterization(4, value_range=(0, 255)),
        "RandomRotation": lambda: k.RandomRotation(0.2),
        "RandomSaturation": lambda: k.RandomSaturation(0.5),
        "RandomSharpness": lambda: k.RandomSharpness(0.5),
        "RandomShear": lambda: k.RandomShear(0.3, 0.3),
        "RandomTranslation": lambda: k.RandomTranslation(0.2, 0.2),
        "RandomZoom": lambda: k.RandomZoom(0.3),
        "Resizing": lambda: k.Resizing(9, 9),
        "Resizing, bicubic": lambda: k.Resizing(9, 13, interpolation="bicubic"),
        "Resizing, lanczos3": lambda: k.Resizing(9, 13, interpolation="lanczos3"),
        "Solarization": lambda: k.Solarization(0.1, 0.5, value_range=(0, 255)),
    }
    made: dict[str, tuple[str, Factory]] = {
        name: ("picture", functools.partial(_augment, make)) for name, make in makers.items()
    }
    inner = "image", lambda: [k.RandomRotation(0.1), k.RandomZoom(0.2)]  # with a gradient
    return made | {"RandomRotation, after a layer": inner}


def layer_cases() -> dict[str, Case]:
    """Return name -> case of every layer."""
    parts = (_dense, _convolutions, _recurrent, _normalizations, _pooling, _shapes_and_merges, _activity,
             _preprocessing, _augmentations)  # fmt: skip
    return {f"layer {name}": Case(shape, body) for part in parts for name, (shape, body) in part().items()}


def activation_cases() -> dict[str, Case]:
    """Return name -> case of every activation, and of functions of keras.ops with inexact operations."""
    left_out = ("deserialize", "get", "serialize", "hard_swish", "swish", "linear", "glu", "threshold", "tanh")
    names = [name for name in dir(keras.activations) if name[0] != "_" and name not in left_out]
    ops = keras.ops
    functions: dict[str, Callable[..., Any]] = {name: getattr(keras.activations, name) for name in names} | {
        "glu": lambda x: ops.concatenate([keras.activations.glu(x), x[..., :75]], -1),
        "threshold": lambda x: keras.activations.threshold(x, 0.1, 0.0),
        "gelu": functools.partial(keras.activations.gelu, approximate=False),
        "gelu, approximate": functools.partial(keras.activations.gelu, approximate=True),
        "log": lambda x: ops.log(ops.abs(x) + 0.1),
        "log1p": lambda x: ops.log1p(ops.abs(x)),
        "rsqrt": lambda x: ops.rsqrt(ops.abs(x) + 0.1),
        "reciprocal": lambda x: ops.reciprocal(ops.abs(x) + 0.1),
        "one divided": lambda x: 1.0 / (ops.abs(x) + 0.1),
        "divided by a square root": lambda x: x / ops.sqrt(ops.abs(x) + 0.1),
        "divided by a constant": lambda x: x / np.linspace(0.3, 3, 150, dtype="float32"),
        "arctan": ops.arctan,
        "arctan2": lambda x: ops.arctan2(x, ops.abs(x) + 0.1),
        "erf": ops.erf,
        "erfinv": lambda x: ops.erfinv(0.9 * ops.sin(x)),
        "l2 normalization": ops.normalize,
        "logsumexp": lambda x: x - ops.logsumexp(x, axis=-1, keepdims=True),
        "sin and cos": lambda x: ops.sin(x) + ops.cos(x),
        "power 2.5": lambda x: (ops.abs(x) + 0.1) ** 2.5,
        "power -0.5": lambda x: (ops.abs(x) + 0.1) ** -0.5,
        "cumulative sum": lambda x: ops.cumsum(x, axis=-1),
        "standard deviation": lambda x: x * ops.std(x, axis=-1, keepdims=True),
        "inverse of 5x5": lambda x: ops.reshape(ops.inv(ops.reshape(x, (-1, 6, 5, 5)) + 9 * ops.eye(5)), (-1, 150)),
        "QR decomposition": lambda x: x + ops.mean(ops.stop_gradient(ops.qr(x)[0])),
    }
    made = {name: functools.partial(k.Dense, 150, activation=f) for name, f in functions.items()}
    # After a bias, TensorFlow fuses the three into a kernel that crashes qemu 7.2.
    made["tanh"] = functools.partial(k.Dense, 150, activation="tanh", use_bias=False)
    return {f"activation {name}": Case(body=body, sizes=1) for name, body in made.items()}


def _class_head(*, logits: bool = False) -> keras.Layer:
    return k.Dense(CLASSES, activation=None if logits else "softmax")


def loss_cases() -> dict[str, Case]:
    """Return name -> case of every loss."""
    l = keras.losses  # noqa: E741  as short as k and o
    one: dict[str, Any] = {"head": lambda: k.Dense(1, activation="sigmoid")}
    raw: dict[str, Any] = {}
    shares: dict[str, Any] = {"head": _class_head, "targets": "one_hot"}
    logits: dict[str, Any] = {"head": functools.partial(_class_head, logits=True), "targets": "one_hot"}
    sparse: dict[str, Any] = {"head": _class_head, "targets": "labels"}
    numbers: dict[str, Any] = {"targets": "numbers"}
    kinds: dict[str, tuple[Factory, dict[str, Any]]] = {
        "BinaryCrossentropy": (l.BinaryCrossentropy, one),
        "BinaryCrossentropy, from logits": (lambda: l.BinaryCrossentropy(from_logits=True), raw),
        "samebits BinaryCrossentropy": (ours.BinaryCrossentropy, one),
        "samebits BinaryCrossentropy, from logits": (lambda: ours.BinaryCrossentropy(from_logits=True), raw),
        "CategoricalCrossentropy": (l.CategoricalCrossentropy, shares),
        "CategoricalCrossentropy, from logits": (lambda: l.CategoricalCrossentropy(from_logits=True), logits),
        "CategoricalCrossentropy, label smoothing": (lambda: l.CategoricalCrossentropy(label_smoothing=0.1), shares),
        "SparseCategoricalCrossentropy": (l.SparseCategoricalCrossentropy, sparse),
        "SparseCategoricalCrossentropy, from logits": (
            lambda: l.SparseCategoricalCrossentropy(from_logits=True),
            logits | {"targets": "labels"},
        ),
        "BinaryFocalCrossentropy": (l.BinaryFocalCrossentropy, one),
        "CategoricalFocalCrossentropy": (l.CategoricalFocalCrossentropy, shares),
        "CategoricalGeneralizedCrossEntropy": (l.CategoricalGeneralizedCrossEntropy, sparse),
        "CTC": (l.CTC, {"targets": "sequences", "head": lambda: k.Reshape((-1, 6)), "body": lambda: k.Dense(48)}),
        "Circle": (l.Circle, {"head": lambda: k.Dense(8), "targets": "labels"}),
        "CosineSimilarity": (l.CosineSimilarity, shares),
        "Dice": (l.Dice, one),
        "Tversky": (l.Tversky, one),
        "KLDivergence": (l.KLDivergence, shares),
        "Poisson": (l.Poisson, {"head": lambda: k.Dense(1, activation="softplus")}),
        "CategoricalHinge": (l.CategoricalHinge, shares),
        "Hinge": (l.Hinge, raw),
        "SquaredHinge": (l.SquaredHinge, raw),
    }
    names = ("Huber", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
             "MeanSquaredLogarithmicError")  # fmt: skip
    kinds |= {name: (getattr(l, name), numbers) for name in names}
    return {f"loss {name}": Case(loss=make, sizes=1, **parts) for name, (make, parts) in kinds.items()}


def metric_cases() -> dict[str, MetricCase]:
    """Return name -> case of every metric."""
    m = keras.metrics
    groups: dict[str, tuple[str, ...]] = {
        "numbers": ("ConcordanceCorrelation", "LogCoshError", "MeanAbsoluteError", "MeanAbsolutePercentageError",
                    "MeanSquaredError", "MeanSquaredLogarithmicError", "PearsonCorrelation", "Poisson", "R2Score",
                    "RootMeanSquaredError"),
        "classes": ("AUC", "BinaryAccuracy", "BinaryCrossentropy", "FalseNegatives", "FalsePositives", "Hinge",
                    "Precision", "Recall", "SquaredHinge", "TrueNegatives", "TruePositives"),
        "one_hot": ("CategoricalAccuracy", "CategoricalCrossentropy", "CategoricalHinge", "CosineSimilarity", "F1Score",
                    "FBetaScore", "KLDivergence", "TopKCategoricalAccuracy"),
        "labels": ("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "SparseTopKCategoricalAccuracy"),
    }  # fmt: skip
    made = {name: MetricCase(getattr(m, name), kind) for kind, names in groups.items() for name in names}
    for name in ("PrecisionAtRecall", "RecallAtPrecision", "SensitivityAtSpecificity", "SpecificityAtSensitivity"):
        made[name] = MetricCase(functools.partial(getattr(m, name), 0.5), "classes")
    made |= {
        "Accuracy": MetricCase(m.Accuracy, "rounded"),
        "Mean": MetricCase(m.Mean, "values"),
        "Sum": MetricCase(m.Sum, "values"),
        "BinaryIoU": MetricCase(m.BinaryIoU, "classes"),
        "IoU": MetricCase(lambda: m.IoU(2, [0, 1]), "rounded"),
        "MeanIoU": MetricCase(lambda: m.MeanIoU(2), "rounded"),
        "OneHotIoU": MetricCase(lambda: m.OneHotIoU(CLASSES, [0, 2]), "one_hot"),
        "OneHotMeanIoU": MetricCase(lambda: m.OneHotMeanIoU(CLASSES), "one_hot"),
        "AUC, precision and recall": MetricCase(lambda: m.AUC(curve="PR"), "classes"),
    }
    return {f"metric {name}": case for name, case in made.items()}


def _descend(make: Factory) -> keras.optimizers.Optimizer:
    return o.SGD(make())


def optimizer_cases() -> dict[str, Case]:
    """Return name -> case of every optimizer and every schedule."""
    rates = o.schedules
    made: dict[str, Factory] = {
        "SGD": lambda: o.SGD(0.05),
        "SGD, Nesterov momentum": lambda: o.SGD(0.05, momentum=0.9, nesterov=True),
        "SGD, clipnorm": lambda: o.SGD(0.05, clipnorm=0.01),
        "SGD, global_clipnorm": lambda: o.SGD(0.05, global_clipnorm=0.01),
        "SGD, weight decay and moving average": lambda: o.SGD(0.05, weight_decay=0.01, use_ema=True),
        "Adam, amsgrad": lambda: o.Adam(amsgrad=True),
        "samebits Adam": ours.Adam,
        "MultiOptimizer": lambda: o.MultiOptimizer(o.OptimizerMap(o.SGD(0.05), {"dense.*": o.Adam()})),
        "LossScaleOptimizer": lambda: o.LossScaleOptimizer(o.Adam()),
    }
    names = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam",
             "RMSprop", "ScheduleFreeAdamW")  # fmt: skip
    made |= {name: getattr(o, name) for name in names}
    schedules: dict[str, Factory] = {
        "CosineDecay": lambda: rates.CosineDecay(0.05, 10, warmup_target=0.1, warmup_steps=3),
        "CosineDecayRestarts": lambda: rates.CosineDecayRestarts(0.05, 3),
        "ExponentialDecay": lambda: rates.ExponentialDecay(0.05, 10, 0.5),
        "InverseTimeDecay": lambda: rates.InverseTimeDecay(0.05, 3, 0.5),
        "PiecewiseConstantDecay": lambda: rates.PiecewiseConstantDecay([2, 4], [0.1, 0.05, 0.01]),
        "PolynomialDecay": lambda: rates.PolynomialDecay(0.05, 5, power=0.7),
    }
    cases = {
        f"optimizer {name}": Case("words", _words_body, optimizer=make, steps=6, sizes=1) for name, make in made.items()
    }
    for name, make in schedules.items():
        cases[f"schedule {name}"] = Case(optimizer=functools.partial(_descend, make), steps=6, sizes=1)
    # Keras 3.15 cannot centre the slices of an embedding's gradient.
    centered = functools.partial(o.RMSprop, momentum=0.9, centered=True)
    cases["optimizer RMSprop, centered with momentum"] = Case(optimizer=centered, steps=6, sizes=1)
    return cases


def _words_body() -> list[Any]:
    return [k.Embedding(WORDS, 24), k.Flatten(), k.Dense(64, activation="relu")]


def initializer_cases() -> dict[str, InitializerCase]:
    """Return name -> case of every initializer."""
    i = keras.initializers
    names = (
        "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal",
        "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling",
    )  # fmt: skip
    made = {name: InitializerCase(functools.partial(getattr(i, name), seed=7)) for name in names}
    made |= {name: InitializerCase(getattr(i, name)) for name in ("Constant", "Ones", "Zeros")}
    made["Identity"] = InitializerCase(i.Identity, ((300, 300), (37, 5)))
    made["STFT"] = InitializerCase(lambda: i.STFT(window="hann"), ((64, 1, 33),))
    return {f"initializer {name}": case for name, case in made.items()}


def all_cases() -> dict[str, Case | MetricCase | InitializerCase]:
    """Return name -> case. In ours, "samebits" follows the kind."""
    return {
        **layer_cases(), **activation_cases(), **loss_cases(), **metric_cases(), **optimizer_cases(),
        **initializer_cases(),
    }  # fmt: skip
