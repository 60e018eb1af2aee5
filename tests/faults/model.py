"""Model functions that are wrong, each in one way; all build the real model otherwise."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from faults.data import install_at_row
from imdb_cnn_lstm.model import build_model
from samebits import Seed


def abort(seed: Seed, **arguments: Any) -> keras.Model:
    """Crash as native code does."""
    os.abort()


def add_unseeded_dropout(seed: Seed, **arguments: Any) -> keras.Model:
    """Have a layer that gets no seed from the code, which is not wrong."""
    first, *others = build_model(seed, **arguments).layers
    return keras.Sequential([first, keras.layers.Dropout(0.1, name="loose"), *others], name="imdb_cnn_lstm")


def draw_from_the_system(seed: Seed, **arguments: Any) -> keras.Model:
    """Draw one seed from the operating system."""

    def drawn(point: str) -> int | None:
        value = seed(point)
        return int.from_bytes(os.urandom(3)) if point == "output/kernel" else value

    return build_model(drawn, **arguments)


def confuse_seeds(seed: Seed, **arguments: Any) -> keras.Model:
    """Have a dead seed, in whose place the code uses a constant, and a leaking one, which reaches two weights."""

    def confused(point: str) -> int | None:
        value = seed(point)
        if point == "conv/kernel":
            return 7
        return (value or 0) ^ (seed("lstm/kernel") or 0) if point == "output/kernel" else value

    return build_model(confused, **arguments)


def nudge(model: keras.Model) -> None:
    """Move one number of the convolution's kernel by one ulp."""
    kernel = next(weight for weight in model.weights if "conv/kernel" in weight.path)
    values = kernel.numpy()
    values.flat[3] = np.nextafter(values.flat[3], np.float32(2))
    kernel.assign(values)


def move_one_ulp(seed: Seed, **arguments: Any) -> keras.Model:
    """Move one weight by one ulp after the fourth row of metrics: epoch 2, step 5 of the smoke experiment."""
    model = build_model(seed, **arguments)
    install_at_row(4, lambda _: nudge(model), repeats=False)
    return model


def move_one_ulp_on_one_core(seed: Seed, **arguments: Any) -> keras.Model:
    """Do so after the first row, where the process has one core."""
    model = build_model(seed, **arguments)
    if len(os.sched_getaffinity(0)) == 1:
        install_at_row(1, lambda _: nudge(model), repeats=False)
    return model


def add_noise(seed: Seed, **arguments: Any) -> keras.Model:
    """Have a layer whose operation is not deterministic: it adds a number from the operating system."""

    def draw() -> np.float32:
        return np.float32(os.urandom(1)[0] / 1e4)

    def add(x: Any) -> Any:
        return x + tf.ensure_shape(tf.numpy_function(draw, [], tf.float32), [])

    return insert(keras.layers.Lambda(add, output_shape=lambda shape: shape, name="noise"), "lstm", seed, arguments)


def insert(layer: keras.Layer, before: str, seed: Seed, arguments: dict[str, Any]) -> keras.Model:
    """Return the model with one more layer before another."""
    layers = []
    for each in build_model(seed, **arguments).layers:
        layers += [layer, each] if each.name == before else [each]
    return keras.Sequential(
        [keras.Input((arguments["sequence_length"],), dtype="int32"), *layers], name="imdb_cnn_lstm"
    )


def normalize(seed: Seed, **arguments: Any) -> keras.Model:
    """Have Keras's batch normalization and gelu, which only exact operations make portable."""
    gelu = keras.layers.Activation("gelu", name="gelu")
    return insert(keras.Sequential([keras.layers.BatchNormalization(name="norm"), gelu]), "pool", seed, arguments)


def decompose(seed: Seed, **arguments: Any) -> keras.Model:
    """Have a layer with a decomposition, which is not portable."""

    def add(x: Any) -> Any:
        return x + keras.ops.mean(keras.ops.stop_gradient(keras.ops.qr(x)[0]))

    return insert(keras.layers.Activation(add, name="decomposition"), "pool", seed, arguments)


def decompose_at_the_start(seed: Seed, **arguments: Any) -> keras.Model:
    """Decompose a matrix while the model is built, by TensorFlow's own function, which `portable` has replaced."""
    from samebits.portable import exact

    model = build_model(seed, **arguments)
    kernel = model.get_layer("lstm").cell.recurrent_kernel
    draws = keras.random.normal(kernel.shape[::-1], seed=7)
    kernel.assign(keras.ops.transpose(exact._originals["Qr"](draws)[0]))
    return model


def use_a_rare_operation(seed: Seed, **arguments: Any) -> keras.Model:
    """Have an operation that no case of the zoo has."""
    return insert(keras.layers.Activation(keras.ops.arcsinh, name="rare"), "pool", seed, arguments)
