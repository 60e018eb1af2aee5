"""Where a training is, and everything it needs to go on from there with the same bits."""

import json
import logging
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from samebits.core.digest import float_bits
from samebits.core.errors import RecordError
from samebits.core.files import read_arrays, write_arrays

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2


@dataclass
class Position:
    """Where a training is: `step` steps of `epoch` (from 1) are done; sums over this epoch's rows so far."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    rows: int = 0

    def add(self, rows: int, loss: float, correct: int) -> None:
        """Count one step: its rows, their mean loss, and how many were right."""
        self.step += 1
        self.rows += rows
        self.loss_sum += loss * rows
        self.correct += correct

    @property
    def loss(self) -> float:
        """The epoch's mean loss so far."""
        return self.loss_sum / self.rows

    @property
    def accuracy(self) -> float:
        """The epoch's share of right answers so far."""
        return self.correct / self.rows


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
        arrays: dict[str, Any] = {name: variable.numpy for name, variable in self._variables.items()}
        state = json.dumps({"position": asdict(position) | {"loss_sum": float_bits(position.loss_sum)}, "rows": rows})
        arrays |= {"order": order, "state": np.frombuffer(state.encode(), np.uint8)}
        write_arrays(self._attempt / f"checkpoint-{position.epoch:05d}-{position.step:08d}.arrays", arrays)
        for old in self._newest_first()[CHECKPOINTS_KEPT:]:
            old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all checkpoints: the run begins anew."""
        for path in self._newest_first():
            path.unlink(missing_ok=True)

    def restore(self, rows: Mapping[str, int]) -> tuple[Position, np.ndarray, dict[str, int]] | None:
        """Put the newest readable checkpoint back; None: there is none.

        Args:
            rows: How many rows each file of the record has; a checkpoint that counts more is left out.
        """
        for path in self._newest_first():
            try:
                arrays = read_arrays(path)
                values = [arrays[name] for name in self._variables]
                state = json.loads(arrays["state"].tobytes())
                position = Position(**state["position"] | {"loss_sum": float.fromhex(state["position"]["loss_sum"])})
                restored = position, arrays["order"], {kind: int(count) for kind, count in state["rows"].items()}
                lost = [kind for kind, count in restored[2].items() if count > rows[kind]]
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
                return restored
        return None
