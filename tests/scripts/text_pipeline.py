"""A text classifier whose batches come from a tf.data pipeline, with a vectorizer adapted to it."""

import keras
import tensorflow as tf

GOOD = ["a fine film", "great story and great actors", "loved it", "a moving and funny film"]
BAD = ["a dull film", "bad story and bad actors", "hated it", "a slow and boring film"]
texts, labels = (GOOD + BAD) * 12, ([1] * len(GOOD) + [0] * len(BAD)) * 12
AUTOTUNE = tf.data.AUTOTUNE
raw = tf.data.Dataset.from_tensor_slices((texts, labels)).shuffle(96, seed=1)
train, test = raw.take(80), raw.skip(80)

vectorizer = keras.layers.TextVectorization(max_tokens=50, output_sequence_length=6)
vectorizer.adapt(train.map(lambda text, _: text).batch(16))
train = (
    train.batch(16).map(lambda text, label: (vectorizer(text), label), num_parallel_calls=AUTOTUNE).prefetch(AUTOTUNE)
)
test = test.batch(16).map(lambda text, label: (vectorizer(text), label)).cache()

model = keras.Sequential([keras.layers.Embedding(50, 8), keras.layers.GlobalAveragePooling1D(),
                          keras.layers.Dropout(0.2), keras.layers.Dense(1, activation="sigmoid")])  # fmt: skip
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
model.fit(train, validation_data=test, epochs=3)
print("accuracy", model.evaluate(test, verbose=0)[1])
