"""A search for hyperparameters in the manner of a tuner: random trials, the best one is trained again."""

import random

import keras
import numpy as np
from sklearn.datasets import load_diabetes

x, y = load_diabetes(return_X_y=True)
x, y = x[:200].astype("float32"), (y[:200] / 100).astype("float32")


def build(units, rate, learning_rate):
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(units, activation="relu"),
                              keras.layers.Dropout(rate), keras.layers.Dense(1)])  # fmt: skip
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


trials = []
for number in range(3):
    chosen = {
        "units": random.choice([4, 8, 16]),
        "rate": random.uniform(0, 0.4),
        "learning_rate": 10 ** np.random.uniform(-3, -1),
    }
    keras.backend.clear_session()
    history = build(**chosen).fit(x, y, epochs=2, batch_size=32, validation_split=0.25, verbose=0)
    trials.append((min(history.history["val_loss"]), number, chosen))
_, number, best = min(trials)
print("best trial", number, best)
final = build(**best)
final.fit(x, y, epochs=3, batch_size=32, verbose=0)
