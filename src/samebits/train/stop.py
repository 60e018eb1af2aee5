"""Handles requests to stop a training process: it ends at once, or after a checkpoint."""

import os
import signal
import time

ONE_REQUEST_S = 1.0  # signals within this time are one request: a cluster and the parent may both send one


class StopRequests:
    """Handles SIGINT and SIGTERM, and detects that the parent has ended.

    Args:
        parent: The process that started this one.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._signals: list[int] = []
        self._first_s = 0.0
        self._waits = False

    def listen(self) -> None:
        """Start handling the signals."""
        signal.signal(signal.SIGINT, self._answer)
        signal.signal(signal.SIGTERM, self._answer)

    def wait_for_checkpoint(self) -> None:
        """Let the first request wait for a checkpoint. Before this call a request ends the process at once."""
        self._waits = True

    def waits(self) -> bool:
        """Return whether a request waits for a checkpoint."""
        return self._waits

    def is_orphan(self) -> bool:
        """Return whether the parent has ended."""
        return os.getppid() != self._parent

    def end_at_once(self) -> None:
        """Let a request end the process at once again, also one that came meanwhile: there is nothing to save."""
        self._waits = False
        if self.requested():
            os._exit(self.exit_code())

    def requested(self) -> bool:
        """Return whether the training must stop."""
        return bool(self._signals) or self.is_orphan()

    def exit_code(self) -> int:
        """Return the exit code after a request to stop."""
        return 128 + (self._signals[0] if self._signals else signal.SIGTERM)

    def _answer(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        again = bool(self._signals) and now > self._first_s + ONE_REQUEST_S
        if again or not self._waits:  # a second request, or nothing to save
            os._exit(128 + number)
        self._first_s = self._first_s or now
        self._signals.append(number)
