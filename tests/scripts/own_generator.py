"""A generator of augmented batches that never ends, as image tutorials write it."""

import keras
import numpy as np
from sklearn.datasets import load_digits

images, classes = load_digits(return_X_y=True)
images, classes = (images[:160] / 16).reshape(-1, 8, 8, 1).astype("float32"), classes[:160]


def batches(x, y, size):
    while True:
        order = np.random.permutation(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            batch = x[rows].copy()
            flip = np.random.random(len(batch)) < 0.5
            batch[flip] = batch[flip, :, ::-1]
            yield batch, keras.utils.to_categorical(y[rows], 10)


model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(),
                          keras.layers.Dense(10, activation="softmax")])  # fmt: skip
model.compile("rmsprop", "categorical_crossentropy", metrics=["accuracy"])
model.fit(batches(images[:128], classes[:128], 32), steps_per_epoch=4, epochs=2,
          validation_data=batches(images[128:], classes[128:], 32), validation_steps=1)  # fmt: skip
