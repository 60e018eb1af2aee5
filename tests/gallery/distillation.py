"""Knowledge distillation from a teacher to a student.

Shows: two stages; a model with its own `compute_loss`, that has the frozen model of the first stage as an attribute.
"""

from typing import Any

import keras
from sklearn.datasets import load_digits

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = (
    "training.stages=[{name: teach, epochs: 4}, {name: distill, epochs: 5}]",
    "training.monitor=val_accuracy",
)
TEMPERATURE, SHARE = 2.0, 0.5


def load(context: DataContext) -> Dataset:
    """Return images of handwritten digits."""
    images, digits = load_digits(return_X_y=True)
    rows = context.rng("data/load").permutation(len(digits))[:320]
    images, digits = (images[rows] / 16).astype("float32"), digits[rows]
    train, validation = context.split(digits)
    return Dataset(Split(images[train], digits[train]), Split(images[validation], digits[validation]))


@keras.saving.register_keras_serializable()
class Distiller(keras.Model):
    """A student that learns the labels, and what the teacher says about them."""

    def __init__(self, student: keras.Model, teacher: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False

    def call(self, x: Any, training: bool = False) -> Any:
        return self.student(x, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        wanted = keras.ops.softmax(self.teacher(x, training=False) / TEMPERATURE)
        said = keras.ops.log_softmax(y_pred / TEMPERATURE)
        distilled = -keras.ops.mean(keras.ops.sum(wanted * said, axis=-1)) * TEMPERATURE**2
        own = super().compute_loss(x, y, y_pred, sample_weight, training)
        return (1 - SHARE) * own + SHARE * distilled

    def get_config(self) -> dict[str, Any]:
        return {"student": self.student, "teacher": self.teacher}


def build(seed: Seed, stage: str, previous: Any) -> keras.Model:
    """Return the teacher, and then a smaller student that learns from it."""
    layers, is_teacher = keras.layers, stage == "teach"
    hidden = layers.Dense(64 if is_teacher else 8, "relu")
    model: Any = keras.Sequential([keras.Input((64,)), hidden, layers.Dropout(0.1), layers.Dense(10)], name=stage)
    if not is_teacher:
        model = Distiller(model, previous)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model
