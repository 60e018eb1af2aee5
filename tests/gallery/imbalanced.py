"""Imbalanced classification with class weights.

Shows: `training.class_weight`, and metrics that say more than accuracy where one class is rare: AUC, precision, recall.
"""

import keras
from sklearn.datasets import make_classification

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6", "training.class_weight={0:1,1:12}", "training.monitor=val_auc")


def load(context: DataContext) -> Dataset:
    """Return invented payments, of which one in twelve is a fraud."""
    payments, frauds = make_classification(
        320, 12, n_informative=6, weights=[11 / 12], class_sep=1.5, random_state=context.seed("data/load")
    )
    train, validation = context.split(frauds)
    payments = payments.astype("float32")
    return Dataset(Split(payments[train], frauds[train]), Split(payments[validation], frauds[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a small network with dropout."""
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.BinaryCrossentropy(),
        metrics=[
            keras.metrics.AUC(name="auc"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
        ],
    )
    return model
