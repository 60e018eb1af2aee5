"""Saves and restores everything that a training needs to resume with the same bits."""

import json
import logging
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from samebits.core import files
from samebits.core.errors import RecordError

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2


@dataclass
class Position:
    """The progress of a training: `step` steps of `epoch` (counted from 1) are done."""

    epoch: int = 1
    step: int = 0


@dataclass(frozen=True)
class State:
    """The contents of a checkpoint besides the variables.

    Attributes:
        position: Epoch and step.
        metrics: The sums of the metrics of the epoch so far, as plain data.
        order: int64[rows], the order of the training rows in the epoch.
        rows: How many rows each file of the record had at the checkpoint.
    """

    position: Position
    metrics: dict[str, Any]
    order: np.ndarray
    rows: dict[str, int]


class Checkpoints:
    """Saves and restores all variables of model and optimizer, including seed generators, and a `State`.

    Args:
        attempt: The run's folder.
        model: The built model.
        optimizer: Its built optimizer.
    """

    def __init__(self, attempt: pathlib.Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._attempt = attempt
        variables = [*model.variables, *optimizer.variables]
        self._variables = {f"variable/{number}/{v.path}": v for number, v in enumerate(variables)}

    def _newest_first(self) -> list[pathlib.Path]:
        return sorted(self._attempt.glob("checkpoint-*.arrays"), reverse=True)

    def save(self, state: State) -> None:
        """Write a checkpoint, and remove all but the newest two."""
        position = state.position
        arrays: dict[str, Any] = {name: variable.numpy for name, variable in self._variables.items()}
        text = json.dumps({"position": asdict(position), "metrics": state.metrics, "rows": state.rows})
        arrays |= {"order": state.order, "state": np.frombuffer(text.encode(), np.uint8)}
        files.write_arrays(self._attempt / f"checkpoint-{position.epoch:05d}-{position.step:08d}.arrays", arrays)
        for old in self._newest_first()[CHECKPOINTS_KEPT:]:
            old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all checkpoints, so that the run restarts."""
        for path in self._newest_first():
            path.unlink(missing_ok=True)

    def restore(self, rows: Mapping[str, int]) -> State | None:
        """Restore the newest usable checkpoint, and return its state, or None if there is none.

        Args:
            rows: How many rows each file of the record has. A checkpoint that counts more is ignored.
        """
        for path in self._newest_first():
            try:
                arrays = files.read_arrays(path)
                values = [arrays[name] for name in self._variables]
                text = json.loads(arrays["state"].tobytes())
                counts = {kind: int(count) for kind, count in text["rows"].items()}
                state = State(Position(**text["position"]), dict(text["metrics"]), arrays["order"], counts)
                lost = [kind for kind, count in counts.items() if count > rows[kind]]
                if lost:
                    logger.warning("checkpoint %s is ignored: rows were lost from %s", path.name, lost)
                    continue
                for variable, value in zip(self._variables.values(), values, strict=True):
                    variable.assign(value)
            except RecordError as error:
                logger.warning("checkpoint %s is damaged and ignored: %s", path.name, error.received)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                logger.warning("checkpoint %s does not fit this model and is ignored: %s", path.name, error)
            else:
                return state
        return None
