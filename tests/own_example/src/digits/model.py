"""A convolution, batch normalization, dropout, a logit for each digit."""

import keras

from samebits import Seed


def build(seed: Seed, *, classes: int, filters: int, dropout_rate: float) -> keras.Model:
    """Return a model from float32[rows, 8, 8, 1] to float32[rows, classes]."""
    glorot = keras.initializers.GlorotUniform
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(filters, 3, kernel_initializer=glorot(seed=seed("conv/kernel")), name="conv"),
        keras.layers.BatchNormalization(momentum=0.9, name="norm"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dropout(dropout_rate, seed=seed("drop/dropout"), name="drop"),
        keras.layers.Dense(classes, kernel_initializer=glorot(seed=seed("output/kernel")), name="output"),
    ]
    return keras.Sequential(layers, name="digits")
