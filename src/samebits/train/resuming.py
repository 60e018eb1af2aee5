"""Starts a training, or continues it from a checkpoint: what a checkpoint holds besides the variables.

`loop` decides when to save. Each function changes the training that it gets.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from samebits.core.digest import float_bits
from samebits.runs.folder import TRACE
from samebits.train.checkpoints import State
from samebits.train.checks_of_data import check_same_data

if TYPE_CHECKING:
    from samebits.train.loop import Training

logger = logging.getLogger(__name__)

NEXT_STAGE = 2  # `part` of the first row of a stage in the trace, which follows the end of an epoch


def skip(training: "Training") -> bool:
    """Continue after the end of a stage that an earlier process trained. Returns whether there is one."""
    ended = training.checkpoints.restore_end()
    if ended is None:
        return False
    training.was_skipped, training.ended = True, ended
    training.recorder.progress.notice(f"{training.stage.name} ended before: restored")
    training.recorder.counts = dict(ended.rows)
    training.position, training.steps_done = ended.position, ended.loop["steps_done"]
    training.values, training.best_epoch = from_bits(ended.loop["values"]), ended.loop["best_epoch"]
    return True


def begin(training: "Training") -> dict[str, int] | None:
    """Start, or resume from the newest checkpoint. Returns its epoch and step, or None.

    Raises:
        DataError: The run would resume with different data.
        ConfigError: The state of a callback cannot be saved.
    """
    recorder, data = training.recorder, training.start["data"]
    written = recorder.read()
    before = dict(recorder.counts)  # rows of earlier stages
    rows = written[TRACE][before[TRACE] :]
    first = rows[0].get("data") if rows else None
    if first != data and not training.data_seeded:
        if rows:
            logger.warning("the run restarts: its data is unseeded and differs from its first start")
        training.checkpoints.remove()
    state = training.checkpoints.restore({kind: len(rows) for kind, rows in written.items()})
    training.model.stop_training = False
    if state is None:
        training.callbacks.begin(None, ())  # first, so that a refused callback leaves no record
        recorder.keep(before)
        place = {"epoch": training.epochs_before} | ({"part": NEXT_STAGE} if training.epochs_before else {})
        with recorder.timed("record_s"):
            recorder.append_trace(place, training.start, training.steps.weight_digests())
        training.feed.start_epoch(training.position.epoch)
        return None
    check_same_data(first or {}, data)
    recorder.keep(state.rows)
    restore(training, state)
    epoch, step = state.position.epoch, state.position.step
    recorder.progress.start_at(epoch, step)
    recorder.progress.notice(f"resumes after epoch {epoch}, step {step} of {training.feed.steps}")
    return {"epoch": epoch, "step": step}


def restore(training: "Training", state: State) -> None:
    """Continue from the state of a checkpoint. The variables are restored already, and callbacks may read them."""
    training.callbacks.begin(state.loop, state.arrays)
    training.checkpoints.assign()  # on_train_begin may have changed them
    training.position, training.steps_done = state.position, state.loop["steps_done"]
    training.model.stop_training = state.loop["stop_training"]
    training.values, training.logs = from_bits(state.loop["values"]), from_bits(state.loop["logs"])
    training.feed.restore(state.position.epoch, dict(state.feed))


def state_of(training: "Training", *, whole: bool = False) -> State:
    """Return the state of a training, after the rows that it counts are on the disk; see `Callbacks.state`."""
    training.recorder.sync()
    state, arrays = training.callbacks.state(whole=whole)
    state |= {
        "steps_done": training.steps_done,
        "stop_training": bool(training.model.stop_training),
        "values": as_bits(training.values),
        "logs": as_bits(training.logs),
        "best_epoch": training.best_epoch,
    }
    return State(training.position, dict(training.recorder.counts), state, arrays, training.feed.state())


def as_bits(values: Mapping[str, float]) -> dict[str, str]:
    """Return each number with its exact bits."""
    return {name: float_bits(value) for name, value in values.items()}


def from_bits(bits: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers from the result of `as_bits`."""
    return {name: float.fromhex(text) for name, text in bits.items()}
