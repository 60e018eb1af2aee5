"""A GradientTape loop of one's own over a tf.data.Dataset, without any call of fit."""

import keras
import tensorflow as tf
from sklearn.datasets import load_iris

x, y = load_iris(return_X_y=True)
data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y)).shuffle(150).batch(32)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
optimizer = keras.optimizers.SGD(0.05)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for _ in range(2):
    for rows, labels in data:
        with tf.GradientTape() as tape:
            value = loss(labels, model(rows, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
print("loss", float(value))
