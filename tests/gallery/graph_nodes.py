"""Node classification in a graph.

Shows: rows that are numbers of nodes; the whole graph is a constant of a layer, which Keras can save.
"""

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_wine
from sklearn.neighbors import kneighbors_graph

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.batch_size=16", "training.monitor=val_accuracy")


def load(context: DataContext) -> Dataset:
    """Return the numbers of the wines, and the grape of each."""
    grapes = load_wine().target
    train, validation = context.split(grapes)
    context.mark_unused("data/load", because="the numbers have one order")
    return Dataset(*(Split(rows.astype(np.int32), grapes[rows]) for rows in (train, validation)))


def wine_graph() -> tuple[np.ndarray, np.ndarray]:
    """Return the standardized features of all wines, and the share of each of its five neighbors."""
    wines = load_wine().data
    wines = (wines - wines.mean(0)) / wines.std(0)
    return wines.astype(np.float32), kneighbors_graph(wines, 5, include_self=True).toarray().astype(np.float32) / 5


@keras.saving.register_keras_serializable()
class GraphConvolution(keras.layers.Layer):
    """Computes the features of all nodes from those of their neighbors."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.dense = units, keras.layers.Dense(units, "relu")
        self.shares = keras.ops.convert_to_tensor(wine_graph()[1])

    def call(self, features: Any) -> Any:
        return self.shares @ self.dense(features)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable()
class NodeClassifier(keras.Model):
    """Computes the features of all nodes, and classifies the nodes that it is asked for."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = keras.ops.convert_to_tensor(wine_graph()[0])
        self.convolutions = [GraphConvolution(16), GraphConvolution(8)]
        self.dropout, self.output_layer = keras.layers.Dropout(0.2), keras.layers.Dense(3, "softmax")

    def call(self, nodes: Any, training: bool = False) -> Any:
        hidden = self.features
        for convolution in self.convolutions:
            hidden = self.dropout(convolution(hidden), training=training)
        return self.output_layer(keras.ops.take(hidden, nodes, axis=0))


def build(seed: Seed) -> keras.Model:
    """Return the classifier. Keras builds it from the first batch."""
    model = NodeClassifier()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
