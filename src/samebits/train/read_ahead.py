"""Reads batches ahead of the training, in threads and in bounded memory. The order of batches does not depend on it."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from samebits.train.data import Split, named_leaves

AHEAD_BYTES, AHEAD_BATCHES = 2**26, 64  # limits of what is read ahead; at least one batch per thread, and one


class InTurn:
    """Runs each task when its result is needed.

    Args:
        tasks: The tasks. Each returns a batch as a `Split`.
    """

    def __init__(self, tasks: Iterator[Callable[[], Split]]) -> None:
        self._tasks = tasks

    def ready(self) -> int:
        """Return 1, and read nothing."""
        return 1

    def take(self) -> Split:
        """Return the next batch."""
        return next(self._tasks)()

    def close(self) -> None:
        """Do nothing."""


class ReadAhead:
    """Runs tasks in threads and gives their results in order.

    Args:
        tasks: The tasks. Each returns a batch as a `Split`.
        workers: Number of threads.
    """

    def __init__(self, tasks: Iterator[Callable[[], Split]], workers: int) -> None:
        self._tasks, self._pool = tasks, ThreadPoolExecutor(workers, "samebits-read")
        self._waiting: deque[Future[Split]] = deque()
        self._least = self._limit = workers + 1

    def _fill(self) -> None:
        while len(self._waiting) < self._limit:
            task = next(self._tasks, None)
            if task is None:
                return
            self._waiting.append(self._pool.submit(task))

    def ready(self) -> int:
        """Return how many batches of the shape of the next one are read, at least 1. Waits for the next one."""
        self._fill()
        first = self._waiting[0].result()
        size = sum(leaf.nbytes for leaf in named_leaves(first).values())
        self._limit = max(self._least, min(AHEAD_BATCHES, AHEAD_BYTES // max(size, 1)))
        count = 0
        for future in self._waiting:
            if not future.done() or future.exception() or shapes_of(future.result()) != shapes_of(first):
                break
            count += 1
        return max(1, count)

    def take(self) -> Split:
        """Return the next batch."""
        self._fill()
        batch = self._waiting.popleft().result()
        self._fill()
        return batch

    def close(self) -> None:
        """Drop what was read, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def shapes_of(batch: Split) -> list[tuple[int, ...]]:
    """Return the shape of each array of a batch."""
    return [leaf.shape for leaf in named_leaves(batch).values()]
