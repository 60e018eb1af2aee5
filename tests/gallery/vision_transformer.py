"""Image classification by a vision transformer.

Shows: attention over patches, whose query, key and value kernels start different; gradients clipped by their norm.
"""

from typing import Any

import keras
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=5", "training.monitor=val_accuracy")
PATCHES, WIDTH = 16, 16


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32").reshape(-1, 8, 8, 1), digits[rows]
    train, validation = context.split(digits)
    return Dataset(Split(images[train], digits[train]), Split(images[validation], digits[validation]))


@keras.saving.register_keras_serializable()
class PatchEncoder(keras.layers.Layer):
    """Cuts images into patches, and adds the embedding of their place."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.project = keras.layers.Dense(WIDTH)
        self.place = keras.layers.Embedding(PATCHES, WIDTH)

    def call(self, images: Any) -> Any:
        patches = keras.ops.image.extract_patches(images, (2, 2))
        patches = keras.ops.reshape(patches, (-1, PATCHES, 4))
        return self.project(patches) + self.place(keras.ops.arange(PATCHES))


def build(seed: Seed) -> keras.Model:
    """Return one transformer block over the patches."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = PatchEncoder()(inputs)
    normal = layers.LayerNormalization()(x)
    x = layers.add([x, layers.MultiHeadAttention(2, WIDTH // 2, dropout=0.1)(normal, normal)])
    hidden = layers.Dense(2 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.add([x, layers.Dense(WIDTH)(layers.Dropout(0.1)(hidden))])
    pooled = layers.Flatten()(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(10)(pooled))
    model.compile(
        keras.optimizers.AdamW(0.01, weight_decay=1e-4, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
