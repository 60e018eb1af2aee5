"""Image segmentation with a PyDataset.

Shows: batches by number, read by two threads; a mask per image; a metric of overlap.
"""

from typing import Any

import keras
import numpy as np

from samebits import DataContext, Dataset, Seed

OVERRIDES = ("training.epochs=6", "training.monitor=val_iou")
SIZE = 16


class Discs(keras.utils.PyDataset):
    """Noisy images with a bright disc, and the mask of the disc."""

    def __init__(self, discs: np.ndarray, noise: np.ndarray) -> None:
        super().__init__(workers=2)
        self.discs, self.noise = discs, noise

    def __len__(self) -> int:
        return len(self.discs) // 32

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(32 * index, 32 * index + 32)
        y, x = np.mgrid[:SIZE, :SIZE]
        row, column, radius = (part[:, None, None] for part in self.discs[rows].T)
        masks = ((y - row) ** 2 + (x - column) ** 2 < radius**2).astype(np.float32)[..., None]
        return (0.5 * masks + self.noise[rows]).astype(np.float32), masks


def load(context: DataContext) -> Dataset:
    """Return discs of random places and sizes."""
    rng = context.rng("data/load")
    discs = rng.uniform((4, 4, 2), (12, 12, 6), (288, 3))
    noise = rng.normal(0, 0.3, (288, SIZE, SIZE, 1))
    train, validation = context.split(discs)
    return Dataset(Discs(discs[train], noise[train]), Discs(discs[validation], noise[validation]))


def build(seed: Seed) -> keras.Model:
    """Return a small U-Net."""
    layers: Any = keras.layers
    inputs = keras.Input((SIZE, SIZE, 1))
    high = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    low = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(high))
    low = layers.SpatialDropout2D(0.1)(low)
    joined = layers.concatenate([high, layers.UpSampling2D()(low)])
    outputs = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(joined)
    model = keras.Model(inputs, outputs)
    iou = keras.metrics.BinaryIoU([1], threshold=0.5, name="iou")
    model.compile(keras.optimizers.Adam(0.01), keras.losses.Dice(), metrics=[iou])
    return model
