"""A convolution, batch normalization, dropout and a probability for each digit, compiled as for Keras's fit."""

import keras

from samebits import Seed


def build(seed: Seed, *, classes: int, filters: int, dropout_rate: float) -> keras.Model:
    """Return a compiled model from float32[rows, 8, 8, 1] to probabilities float32[rows, classes]."""
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(filters, 3, name="conv"),
        keras.layers.BatchNormalization(momentum=0.9, name="norm"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dropout(dropout_rate, name="drop"),
        keras.layers.Dense(classes, activation="softmax", name="output"),
    ]
    model = keras.Sequential(layers, name="digits")
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
