"""Knowledge distillation from a teacher to a student.

Shows: a model with its own `compute_loss`, that has a frozen model as an attribute.
Result: val_accuracy
"""

from typing import Any

import keras
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from samebits import DataContext, Dataset, Seed, Split

OVERRIDES = ("training.epochs=6",)
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

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, **kwargs: Any) -> Any:
        wanted = keras.ops.softmax(self.teacher(x, training=False) / TEMPERATURE)
        said = keras.ops.log_softmax(y_pred / TEMPERATURE)
        distilled = -keras.ops.mean(keras.ops.sum(wanted * said, axis=-1)) * TEMPERATURE**2
        return (1 - SHARE) * super().compute_loss(x, y, y_pred, **kwargs) + SHARE * distilled

    def get_config(self) -> dict[str, Any]:
        return {"student": self.student, "teacher": self.teacher}


def build(seed: Seed, dataset: Dataset) -> keras.Model:
    """Return a distiller whose teacher is a linear model of scikit-learn."""
    ridge = RidgeClassifier().fit(dataset.train.inputs, dataset.train.labels)
    teacher = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)], name="teacher")
    teacher.set_weights([4 * ridge.coef_.T, 4 * ridge.intercept_])
    student = keras.Sequential([keras.Input((64,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(10)])
    model = Distiller(student, teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model
