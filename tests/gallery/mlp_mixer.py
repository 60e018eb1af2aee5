"""Image classification by an MLP-mixer.

Shows: own layers with inner layers; layer normalization and gelu; label smoothing of one-hot labels.
"""

from typing import Any

import keras
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.monitor=val_categorical_accuracy")


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits as 16 patches of 2 x 2 pixels, and one-hot labels."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32"), digits[rows]
    patches = images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
    labels = keras.utils.to_categorical(digits, 10)
    train, validation = context.split(digits)
    return Dataset(Split(patches[train], labels[train]), Split(patches[validation], labels[validation]))


@keras.saving.register_keras_serializable()
class Mixer(keras.layers.Layer):
    """Mixes the patches of an image, then the channels of each patch."""

    def build(self, shape: Any) -> None:
        _, patches, channels = shape
        self.norms = [keras.layers.LayerNormalization() for _ in range(2)]
        self.mix_patches = keras.Sequential([keras.layers.Dense(16, "gelu"), keras.layers.Dense(patches)])
        self.mix_channels = keras.Sequential([keras.layers.Dense(16, "gelu"), keras.layers.Dense(channels)])

    def call(self, x: Any) -> Any:
        columns = keras.ops.transpose(self.norms[0](x), (0, 2, 1))
        x += keras.ops.transpose(self.mix_patches(columns), (0, 2, 1))
        return x + self.mix_channels(self.norms[1](x))


def build(seed: Seed) -> keras.Model:
    """Return two mixers and an average."""
    hidden = inputs = keras.Input((16, 4))
    hidden = keras.layers.Dense(16)(hidden)
    for _ in range(2):
        hidden = Mixer()(hidden)
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(pooled))
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["categorical_accuracy"])
    return model
