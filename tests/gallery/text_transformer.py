"""Text classification by a transformer.

Shows: a TextVectorization layer in the model that adapts to the training rows, token and position embeddings.
"""

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=5", "training.monitor=val_accuracy")
WORDS, LENGTH, WIDTH = 300, 12, 16


def load(context: DataContext) -> Dataset:
    """Return pieces of 12 words from the descriptions of five data sets, and from which one each comes."""
    rng = context.rng("data/load")
    pieces, labels = [], rng.integers(0, 5, 320)
    texts = [load().DESCR.split() for load in (load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine)]
    for label in labels:
        start = rng.integers(0, len(texts[label]) - LENGTH)
        pieces.append(" ".join(texts[label][start : start + LENGTH]))
    words = np.array(pieces)
    train, validation = context.split(labels)
    return Dataset(Split(words[train], labels[train]), Split(words[validation], labels[validation]))


@keras.saving.register_keras_serializable()
class TokensAndPlaces(keras.layers.Layer):
    """Adds the embedding of a word and that of its place."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens, self.places = keras.layers.Embedding(WORDS, WIDTH), keras.layers.Embedding(LENGTH, WIDTH)

    def call(self, tokens: Any) -> Any:
        return self.tokens(tokens) + self.places(keras.ops.arange(LENGTH))


def build(seed: Seed, dataset: Dataset) -> keras.Model:
    """Return a transformer block over the words of a text."""
    layers = keras.layers
    vectorize = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    vectorize.adapt(dataset.train.inputs)
    inputs = keras.Input((1,), dtype="string")
    x = TokensAndPlaces()(vectorize(inputs))
    x = layers.LayerNormalization()(layers.add([x, layers.MultiHeadAttention(2, 8)(x, x)]))
    hidden = layers.Dense(WIDTH)(layers.Dense(32, activation="relu")(x))
    x = layers.LayerNormalization()(layers.add([x, layers.Dropout(0.1)(hidden)]))
    pooled = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(pooled))
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
