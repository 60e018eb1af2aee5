"""Saves and restores everything that a training needs to resume with the same bits."""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from samebits.core import files
from samebits.core.errors import RecordError

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2


def end_of_stage(number: int) -> str:
    """Return the name of the file with the state at the end of a stage."""
    return f"stage-{number:05d}.arrays"


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
        rows: How many rows each file of the record had at the checkpoint.
        loop: The state of the loop and of its callbacks, as plain data.
        arrays: Arrays that `loop` refers to by their number.
        feed: The state of the training batches, by name.
    """

    position: Position
    rows: dict[str, int]
    loop: dict[str, Any]
    arrays: Sequence[np.ndarray]
    feed: dict[str, np.ndarray]


class Checkpoints:
    """Saves and restores all variables of a training, including seed generators, and a `State`.

    Args:
        attempt: The run's folder.
        variables: The variables, in the same order at every start.
        stage: The number of the stage. Checkpoints of other stages are ignored.
    """

    def __init__(
        self, attempt: pathlib.Path, variables: Sequence[Any], stage: int = 0, *, is_written: bool = True
    ) -> None:
        self._attempt, self._stage, self._is_written = attempt, stage, is_written
        self._variables = {f"variable/{number}/{getattr(v, 'path', v.name)}": v for number, v in enumerate(variables)}
        self._values: list[np.ndarray] = []  # of the restored checkpoint

    def assign(self) -> None:
        """Give all variables the values of the restored checkpoint."""
        for variable, value in zip(self._variables.values(), self._values, strict=True):
            variable.assign(value)

    def _newest_first(self) -> list[pathlib.Path]:
        return sorted(self._attempt.glob("checkpoint-*.arrays"), reverse=True)

    def save(self, state: State) -> None:
        """Write a checkpoint, and remove all but the newest two."""
        position = state.position
        self._write(self._attempt / f"checkpoint-{position.epoch:05d}-{position.step:08d}.arrays", state)
        for old in self._newest_first()[CHECKPOINTS_KEPT:]:
            old.unlink(missing_ok=True)

    def save_end(self, state: State) -> None:
        """Write the state at the end of the stage, which stays until the end of the run."""
        self._write(self._attempt / end_of_stage(self._stage), state)

    def restore_end(self) -> State | None:
        """Restore the end of the stage, and return its state, or None if the stage has not ended."""
        path = self._attempt / end_of_stage(self._stage)
        return self._read(path) if path.exists() else None

    def _write(self, path: pathlib.Path, state: State) -> None:
        if not self._is_written:
            return
        arrays: dict[str, Any] = {name: variable.numpy for name, variable in self._variables.items()}
        arrays |= {f"feed/{name}": array for name, array in state.feed.items()}
        arrays |= {f"loop/{number}": array for number, array in enumerate(state.arrays)}
        plain = {"stage": self._stage, "position": asdict(state.position), "rows": state.rows, "loop": state.loop}
        arrays["state"] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
        files.write_arrays(path, arrays)

    def remove(self) -> None:
        """Remove all checkpoints, so that the stage restarts."""
        for path in self._newest_first():
            path.unlink(missing_ok=True)

    def remove_from_here(self) -> None:
        """Remove all checkpoints, and the ends of this stage and of later ones."""
        self.remove()
        for path in sorted(self._attempt.glob("stage-*.arrays")):
            if path.name >= end_of_stage(self._stage):
                path.unlink(missing_ok=True)

    def restore(self, rows: Mapping[str, int]) -> State | None:
        """Restore the newest usable checkpoint, and return its state, or None if there is none.

        Args:
            rows: How many rows each file of the record has. A checkpoint that counts more is ignored.
        """
        for path in self._newest_first():
            state = self._read(path, rows)
            if state is not None:
                return state
        return None

    def _read(self, path: pathlib.Path, rows: Mapping[str, int] | None = None) -> State | None:
        """Give the variables the values of a file, and return its state, or None if it cannot be used."""
        try:
            arrays = files.read_arrays(path)
            if json.loads(arrays["state"].tobytes())["stage"] != self._stage:
                return None
            self._values = [arrays[name] for name in self._variables]
            state = read_state(arrays)
            lost = [kind for kind, count in state.rows.items() if rows is not None and count > rows[kind]]
            if lost:
                logger.warning("checkpoint %s is ignored: rows were lost from %s", path.name, lost)
                return None
            self.assign()
        except RecordError as error:
            logger.warning("checkpoint %s is damaged and ignored: %s", path.name, error.received)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            logger.warning("checkpoint %s does not fit this model and is ignored: %s", path.name, error)
        else:
            return state
        return None


def read_state(arrays: Mapping[str, np.ndarray]) -> State:
    """Return the state in the arrays of a checkpoint."""
    text = json.loads(arrays["state"].tobytes())
    counts = {kind: int(count) for kind, count in text["rows"].items()}
    feed = {name.removeprefix("feed/"): array for name, array in arrays.items() if name.startswith("feed/")}
    numbered = [arrays[f"loop/{number}"] for number in range(sum(name.startswith("loop/") for name in arrays))]
    return State(Position(**text["position"]), counts, dict(text["loop"]), numbered, feed)
