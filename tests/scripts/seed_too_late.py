"""A tutorial's set_random_seed in the wrong place: after the data and the model were made."""

import keras
import numpy as np

x = np.random.normal(size=(96, 5)).astype("float32")
y = (x @ np.arange(5) > 0).astype("int32")
model = keras.Sequential(
    [
        keras.Input((5,)),
        keras.layers.GaussianNoise(0.1),
        keras.layers.Dense(8, "relu"),
        keras.layers.Dense(1, "sigmoid"),
    ]
)
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])

keras.utils.set_random_seed(1234)
model.fit(x, y, epochs=3, batch_size=16, validation_split=0.25, verbose=0)
print(model.evaluate(x, y, verbose=0))
