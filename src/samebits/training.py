"""The training loop, readable from top to bottom: order, step, metrics, trace, checkpoint.

A run that stops at any step goes on from its newest checkpoint and ends with the same bits and the same rows. Knows
nothing of processes, seeds of the environment or trackers.
"""

import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from samebits import layers
from samebits.config import TrainingConfig
from samebits.data import Dataset, Split, epoch_order
from samebits.digest import array_digest, arrays_digest, float_bits
from samebits.errors import ConfigError, RecordError, StopRequestedError, TrainingError, UncoveredDrawError
from samebits.optimizers import Adam
from samebits.progress import TrainingProgress
from samebits.record import METRICS, TRACE, append_row, keep_rows, read_arrays, read_rows, write_arrays
from samebits.runtime import global_generator_states
from samebits.seeds import Seeds

logger = logging.getLogger(__name__)

EVALUATION_BATCH_SIZE = 500  # a constant of the recipe: the bits depend on it
CHECKPOINTS_KEPT = 2
LOSSES: dict[str, tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]] = {
    "binary_crossentropy": (layers.binary_crossentropy_from_logits, layers.count_correct_binary),
}
OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {"adam": Adam}
# Operations that draw from TensorFlow's stateful generators (the stateless ones of Keras take a seed with each call).
STATEFUL_RANDOM_OPS = frozenset(
    ("Multinomial", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal",
     "RandomUniform", "RandomUniformInt", "ParameterizedTruncatedNormal", "TruncatedNormal", "RandomCrop")
)  # fmt: skip


@dataclass
class Position:
    """Where a training is: `step` steps of `epoch` (from 1) are done; sums over this epoch's rows so far."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    rows: int = 0


def weight_digests(model: keras.Model) -> dict[str, str]:
    """Return the digest of each weight, by its path (seed generators are no weights)."""
    return {variable.path: array_digest(variable.path, variable.numpy()) for variable in model.weights}


def optimizer_digest(optimizer: keras.optimizers.Optimizer) -> str:
    """Return one digest of the optimiser's state."""
    return arrays_digest({v.path: array_digest(v.path, v.numpy()) for v in optimizer.variables})


def _unseeded_parts(layer: keras.Layer) -> Iterator[str]:
    """Yield what in one layer draws with a seed of Keras's own choice."""
    for name, value in vars(layer).items():
        if isinstance(value, keras.initializers.Initializer) and getattr(value, "_init_seed", 0) is None:
            yield name.lstrip("_")
        is_generator = isinstance(value, keras.random.SeedGenerator)
        # A recurrent layer always has a generator; it draws only with dropout.
        rates = [getattr(layer, rate) for rate in ("dropout", "recurrent_dropout") if isinstance(getattr(layer, rate, None), float | int)]
        if is_generator and value._initial_seed is None and (not rates or any(rates)):  # noqa: SLF001  no public name (Keras 3.15)
            yield "seed"


def check_layers_seeded(model: keras.Model) -> None:
    """Refuse a layer that draws without a seed point.

    Raises:
        UncoveredDrawError: Names the layer and its argument.
    """
    for layer in model._flatten_layers():  # noqa: SLF001  no public name (Keras 3.15)
        for part in _unseeded_parts(layer):
            raise UncoveredDrawError(
                f"layer {layer.name} draws random numbers that no seed point covers: {part} has no seed.",
                expected=f"a seed for {part}",
                received="None, so Keras chooses one",
                fix=f'pass seed=seed("{layer.name}/…") to it in the model function and list the point in conf/model/.',
            )


def check_graph_draws(function: Any) -> None:
    """Refuse operations in a traced step that draw from TensorFlow's stateful generators.

    Raises:
        UncoveredDrawError: Names the operation with its path, which begins with the layer's.
    """
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for part in graph.library.function for node in part.node_def)]
    for node in nodes:
        if node.op in STATEFUL_RANDOM_OPS:
            raise UncoveredDrawError(
                f"operation {node.name} draws random numbers that no seed point covers.",
                expected="keras.random with a SeedGenerator made from a seed point",
                received=f"TensorFlow's stateful {node.op}",
                fix="draw with keras.random.…(seed=self.seed_generator) in that layer.",
            )


def make_optimizer(training: TrainingConfig) -> keras.optimizers.Optimizer:
    """Return the optimiser that the configuration names."""
    return OPTIMIZERS[training.optimizer](learning_rate=training.learning_rate)


def make_train_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: str, train: Split
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Return the traced function of one step: int32[batch] row numbers to (mean loss float32[], correct int32[])."""
    inputs, labels = tf.constant(train.inputs), tf.constant(train.labels, tf.float32)
    row_losses, count_correct = LOSSES[loss]
    optimizer.build(model.trainable_variables)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], jit_compile=False)
    def train_step(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch, truth = tf.gather(inputs, rows), tf.gather(labels, rows)
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            mean_loss = tf.add_n([tf.reduce_mean(row_losses(truth, logits)), *model.losses])
        gradients = tape.gradient(mean_loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return mean_loss, count_correct(truth, logits)

    check_graph_draws(train_step.get_concrete_function())
    return train_step


def make_evaluation(model: keras.Model, loss: str, split: Split) -> Callable[[], tuple[float, float]]:
    """Return a function that gives (mean loss, accuracy) over a split; the sum of losses is rounded once."""
    inputs, labels = tf.constant(split.inputs), tf.constant(split.labels, tf.float32)
    row_losses, count_correct = LOSSES[loss]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], jit_compile=False)
    def evaluate_batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        truth = tf.gather(labels, rows)
        logits = model(tf.gather(inputs, rows), training=False)
        return row_losses(truth, logits), count_correct(truth, logits)

    def evaluate() -> tuple[float, float]:
        rows = np.arange(len(split.labels), dtype=np.int32)
        losses: list[float] = []
        correct = 0
        for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
            batch_losses, batch_correct = evaluate_batch(rows[start : start + EVALUATION_BATCH_SIZE])
            losses += batch_losses.numpy().tolist()
            correct += int(batch_correct)
        return math.fsum(losses) / len(rows), correct / len(rows)

    return evaluate


class Checkpoints:
    """Saves and restores everything that a run needs to go on with the same bits.

    All model variables (seed generators included), the optimiser's, the position, the order of the epoch and how
    many rows of the record belong to it.
    """

    def __init__(self, attempt: pathlib.Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._attempt = attempt
        variables = [*model.variables, *optimizer.variables]
        self._variables = {f"variable/{number}/{v.path}": v for number, v in enumerate(variables)}

    def _newest_first(self) -> list[pathlib.Path]:
        return sorted(self._attempt.glob("checkpoint-*.arrays"), reverse=True)

    def save(self, position: Position, order: np.ndarray, rows: dict[str, int]) -> None:
        """Write a checkpoint and remove those older than the newest two."""
        arrays = {name: variable.numpy() for name, variable in self._variables.items()}
        state = json.dumps({"position": asdict(position) | {"loss_sum": float_bits(position.loss_sum)}, "rows": rows})
        arrays |= {"order": order, "state": np.frombuffer(state.encode(), np.uint8)}
        write_arrays(self._attempt / f"checkpoint-{position.epoch:05d}-{position.step:08d}.arrays", arrays)
        for old in self._newest_first()[CHECKPOINTS_KEPT:]:
            old.unlink(missing_ok=True)

    def restore(self) -> tuple[Position, np.ndarray, dict[str, int]] | None:
        """Put the newest readable checkpoint back; None: there is none."""
        for path in self._newest_first():
            try:
                arrays = read_arrays(path)
            except RecordError as error:
                logger.warning("checkpoint %s is damaged and left out: %s", path.name, error.received)
                continue
            state = json.loads(arrays["state"].tobytes())
            for name, variable in self._variables.items():
                variable.assign(arrays[name])
            position = Position(**state["position"] | {"loss_sum": float.fromhex(state["position"]["loss_sum"])})
            return position, arrays["order"], state["rows"]
        return None


class GeneratorWatch:
    """Notices draws from Python's and NumPy's global generators while training."""

    def __init__(self, seeds: Seeds) -> None:
        self._points = [point for point in ("python/random", "numpy/global") if seeds.is_seeded(point)]
        self._states = global_generator_states()

    def check(self, epoch: int, step: int) -> None:
        """Refuse a generator that has moved.

        Raises:
            UncoveredDrawError: Names the generator and the step.
        """
        if not self._points:
            return
        states = global_generator_states()
        for point in self._points:
            if states[point] != self._states[point]:
                module = {"python/random": "random", "numpy/global": "numpy.random"}[point]
                raise UncoveredDrawError(
                    f"the global generator {point} moved in epoch {epoch}, step {step}: "
                    f"something draws from the module {module} while training.",
                    expected="every draw from a seed point of its own",
                    received=f"a draw from {module}'s global generator",
                    fix="draw with keras.random and a SeedGenerator in the model, or with context.rng(…) in the data.",
                )


def check_batch_size(training: TrainingConfig, rows: int) -> None:
    """Refuse a batch that is larger than the training data.

    Raises:
        ConfigError: With the number of rows.
    """
    if training.batch_size > rows:
        raise ConfigError(
            "training.batch_size",
            expected=f"1 to {rows}, the training rows",
            received=training.batch_size,
            fix="choose a smaller batch_size",
        )


def train(
    model: keras.Model,
    dataset: Dataset,
    training: TrainingConfig,
    seeds: Seeds,
    attempt: pathlib.Path,
    stop_requested: Callable[[], bool],
) -> dict[str, Any]:
    """Train a model and record every epoch; goes on from the attempt's checkpoint if there is one.

    Args:
        model: The built model; outputs logits.
        dataset: Training and validation rows.
        training: Epochs, batch size, loss, optimiser.
        seeds: Consumes data/order.
        attempt: The run's folder for metrics, trace and checkpoints.
        stop_requested: Asked after every step; True ends the training with a checkpoint.

    Returns:
        The last epoch's metrics, the digests of weights and optimiser, and where it was resumed.

    Raises:
        StopRequestedError: It was asked to stop, after the checkpoint.
        TrainingError: The loss is not finite.
        UncoveredDrawError: Something draws without a seed point.
    """
    rows = len(dataset.train.labels)
    steps = math.ceil(rows / training.batch_size)
    optimizer = make_optimizer(training)
    train_step = make_train_step(model, optimizer, training.loss, dataset.train)
    evaluate = make_evaluation(model, training.loss, dataset.validation)
    checkpoints = Checkpoints(attempt, model, optimizer)
    watch = GeneratorWatch(seeds)
    metrics, trace = attempt / METRICS, attempt / TRACE
    progress = TrainingProgress(training.epochs, steps)

    # --- where it begins ---
    restored = checkpoints.restore()
    if restored is None:
        position, order, counts = Position(), epoch_order(seeds, 1, rows), {METRICS: 0, TRACE: 0}
        keep_rows(metrics, 0)
        keep_rows(trace, 0)
        tensors = weight_digests(model)
        start = {"epoch": 0, "data": dataset.digests(), "weights": arrays_digest(tensors), "tensors": tensors}
        append_row(trace, start)
        counts[TRACE] = 1
    else:
        position, order, counts = restored
        keep_rows(metrics, counts[METRICS])
        keep_rows(trace, counts[TRACE])
        progress.say(f"goes on after epoch {position.epoch}, step {position.step} of {steps}")
    resumed_at = None if restored is None else {"epoch": position.epoch, "step": position.step}
    progress.start_at(position.epoch, position.step)
    parent = os.getppid()

    def save() -> None:
        checkpoints.save(position, order, counts)

    try:
        while position.epoch <= training.epochs:
            # --- one epoch: a pure function of its order ---
            while position.step < steps:
                batch = order[position.step * training.batch_size : (position.step + 1) * training.batch_size]
                loss, correct = train_step(batch.astype(np.int32))
                position.step += 1
                position.rows += len(batch)
                position.loss_sum += float(loss) * len(batch)
                position.correct += int(correct)
                if not math.isfinite(position.loss_sum):
                    raise TrainingError(
                        f"the loss is not finite in epoch {position.epoch}, step {position.step}.",
                        expected="a finite loss",
                        received=float(loss),
                        fix="lower training.learning_rate, or look for invalid values in the data.",
                    )
                watch.check(position.epoch, position.step)
                mean_loss, accuracy = position.loss_sum / position.rows, position.correct / position.rows
                progress.show(position.epoch, position.step, mean_loss, accuracy)
                if position.step % training.log_every == 0 and position.step < steps:
                    row = {"epoch": position.epoch, "step": position.step, "loss": mean_loss, "accuracy": accuracy}
                    append_row(metrics, row)
                    counts[METRICS] += 1
                if stop_requested() or os.getppid() != parent:
                    save()
                    raise StopRequestedError
                if position.step % training.checkpoint_every == 0 and position.step < steps:
                    save()

            # --- its end: evaluation, metrics, trace, checkpoint ---
            val_loss, val_accuracy = evaluate()
            watch.check(position.epoch, position.step)
            measured = {
                "loss": position.loss_sum / position.rows,
                "accuracy": position.correct / position.rows,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
            }
            append_row(metrics, {"epoch": position.epoch, "step": steps, **measured})
            tensors = weight_digests(model)
            record = {
                "epoch": position.epoch,
                "order": array_digest("order", order),
                "bits": {name: float_bits(value) for name, value in measured.items()},
                "weights": arrays_digest(tensors),
                "optimizer": optimizer_digest(optimizer),
                "tensors": tensors,
            }
            append_row(trace, record)
            counts[METRICS], counts[TRACE] = counts[METRICS] + 1, counts[TRACE] + 1
            text = "  ".join(f"{name} {value:.4f}" for name, value in measured.items())
            progress.say(f"epoch {position.epoch}/{training.epochs}  {text}")
            position = Position(epoch=position.epoch + 1)
            order = epoch_order(seeds, position.epoch, rows)
            save()
    finally:
        progress.close()
    last = read_rows(trace)[-1]
    return {
        "metrics": {name: float.fromhex(bits) for name, bits in last["bits"].items()},
        "weights_digest": last["weights"],
        "optimizer_digest": last["optimizer"],
        "steps": steps * training.epochs,
        "resumed_at": resumed_at,
    }
