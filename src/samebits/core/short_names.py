"""Maps the short names of losses and optimizers to their dotted names. Imports nothing."""

LOSSES = {
    "binary_crossentropy": "samebits.portable.losses.binary_crossentropy",
    "sparse_categorical_crossentropy": "samebits.portable.losses.sparse_categorical_crossentropy",
}
OPTIMIZERS = {
    "adagrad": "samebits.portable.optimizers.Adagrad",
    "adam": "samebits.portable.optimizers.Adam",
    "rmsprop": "samebits.portable.optimizers.RMSprop",
    "sgd": "keras.optimizers.SGD",
}
