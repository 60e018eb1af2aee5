"""Where a training is, and everything that it needs to resume from there with the same bits."""

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
    """Where a training is: `step` steps of `epoch` (from 1) are done."""

    epoch: int = 1
    step: int = 0


@dataclass(frozen=True)
class State:
    """What a checkpoint holds beside the variables.

    Attributes:
        position: Epoch and step.
        metrics: The sums of the epoch's metrics so far, as plain data.
        order: int64[rows], the order of the epoch's rows.
        rows: How many rows of each file of the record belong to it.
    """

    position: Position
    metrics: dict[str, Any]
    order: np.ndarray
    rows: dict[str, int]


class Checkpoints:
    """Saves and restores all variables of model and optimizer, seed generators included, and a `State`.

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
        """Write a checkpoint and remove those older than the newest two."""
        position = state.position
        arrays: dict[str, Any] = {name: variable.numpy for name, variable in self._variables.items()}
        text = json.dumps({"position": asdict(position), "metrics": state.metrics, "rows": state.rows})
        arrays |= {"order": state.order, "state": np.frombuffer(text.encode(), np.uint8)}
        files.write_arrays(self._attempt / f"checkpoint-{position.epoch:05d}-{position.step:08d}.arrays", arrays)
        for old in self._newest_first()[CHECKPOINTS_KEPT:]:
            old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all checkpoints: the run begins anew."""
        for path in self._newest_first():
            path.unlink(missing_ok=True)

    def restore(self, rows: Mapping[str, int]) -> State | None:
        """Restore the newest readable checkpoint; None: there is none.

        Args:
            rows: How many rows each file of the record has; a checkpoint that counts more is left out.
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
                    logger.warning("checkpoint %s is left out: rows before it are lost in %s", path.name, lost)
                    continue
                for variable, value in zip(self._variables.values(), values, strict=True):
                    variable.assign(value)
            except RecordError as error:
                logger.warning("checkpoint %s is damaged and left out: %s", path.name, error.received)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                logger.warning("checkpoint %s is none of this model and left out: %s", path.name, error)
            else:
                return state
        return None
