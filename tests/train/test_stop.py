"""A training process stops at once, or after a checkpoint."""

import os
import signal
import time

import pytest

from samebits.train.stop import ONE_REQUEST_S, StopRequests


class Ended(Exception):  # noqa: N818  no error: what ends the process here
    """Stands for the end of the process."""


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> StopRequests:
    """Return stop requests for this process. Its end is an exception."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    return StopRequests(os.getppid())


def test_a_request_before_there_is_anything_to_save_ends_the_process(stop: StopRequests) -> None:
    """Before the training, a request ends the process with the exit code of the signal."""
    with pytest.raises(Ended, match="143"):
        stop._answer(signal.SIGTERM, None)


def test_a_request_waits_for_the_checkpoint(stop: StopRequests) -> None:
    """During the training, a request waits for a checkpoint. The exit code is that of the first signal."""
    stop.wait_for_checkpoint()

    assert not stop.requested()

    stop._answer(signal.SIGINT, None)
    stop._answer(signal.SIGTERM, None)  # of the same request: a cluster signals every process

    assert stop.requested()
    assert 130 == stop.exit_code()


def test_a_second_request_ends_the_process(stop: StopRequests, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request after more than a second ends the process at once."""
    stop.wait_for_checkpoint()
    stop._answer(signal.SIGTERM, None)
    later = time.monotonic() + 2 * ONE_REQUEST_S
    monkeypatch.setattr(time, "monotonic", lambda: later)

    with pytest.raises(Ended, match="130"):
        stop._answer(signal.SIGINT, None)


def test_a_process_without_its_parent_stops() -> None:
    """A process without its parent stops as after SIGTERM."""
    stop = StopRequests(parent=0)

    assert stop.requested()
    assert 143 == stop.exit_code()
