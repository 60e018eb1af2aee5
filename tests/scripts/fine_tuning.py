"""Fine-tuning with two compiles: the head alone, then all weights with a small learning rate."""

import keras
import numpy as np
from sklearn.datasets import load_digits

x, y = load_digits(return_X_y=True)
x = (x[:200] / 16).reshape(-1, 8, 8, 1).astype("float32")
y = y[:200]

base = keras.Sequential(
    [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.BatchNormalization(),
     keras.layers.GlobalAveragePooling2D()], name="base",
)  # fmt: skip
base.trainable = False
inputs = keras.Input((8, 8, 1))
augmented = keras.layers.RandomTranslation(0.1, 0.1)(inputs)
outputs = keras.layers.Dense(10)(keras.layers.Dropout(0.2)(base(augmented, training=False)))
model = keras.Model(inputs, outputs)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
first = model.fit(x, y, epochs=2, validation_split=0.2)

base.trainable = True
model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
second = model.fit(x, y, epochs=4, initial_epoch=first.epoch[-1] + 1, validation_split=0.2)
print(np.round(first.history["loss"] + second.history["loss"], 4))
model.save("fine_tuned.keras")
