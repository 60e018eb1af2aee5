"""Training with argparse, a main function, a callback of one's own and a checkpoint file of Keras."""

import argparse
import os

import keras
from sklearn.datasets import load_iris


class PrintLoss(keras.callbacks.Callback):
    """Prints the smallest loss so far."""

    def __init__(self):
        super().__init__()
        self.smallest = float("inf")

    def on_epoch_end(self, epoch, logs=None):
        self.smallest = min(self.smallest, logs["loss"])
        print(f"epoch {epoch} smallest {self.smallest:.4f}")


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--out", default="out")
    return parser.parse_args()


def main():
    args = parse_args()
    os.makedirs(args.out, exist_ok=True)
    x, y = load_iris(return_X_y=True)
    inputs = keras.Input(shape=(4,))
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    schedule = keras.optimizers.schedules.ExponentialDecay(args.lr, 10, 0.9)
    model.compile(
        optimizer=keras.optimizers.SGD(schedule, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    saver = keras.callbacks.ModelCheckpoint(os.path.join(args.out, "best.weights.h5"), save_weights_only=True,
                                            monitor="loss", save_best_only=True)  # fmt: skip
    model.fit(x, y, epochs=args.epochs, batch_size=16, callbacks=[PrintLoss(), saver])


if __name__ == "__main__":
    main()
