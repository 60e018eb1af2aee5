"""Maps the short names of losses and optimizers to their dotted names. Imports nothing.

Those of samebits are faster than Keras's. A loss by a short name takes logits.
"""

LOSSES = {
    "binary_crossentropy": "samebits.portable.losses.binary_crossentropy",
    "sparse_categorical_crossentropy": "keras.losses.sparse_categorical_crossentropy",
}
OPTIMIZERS = {
    "adagrad": "keras.optimizers.Adagrad",
    "adam": "samebits.portable.optimizers.Adam",
    "rmsprop": "keras.optimizers.RMSprop",
    "sgd": "keras.optimizers.SGD",
}
