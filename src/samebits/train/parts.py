"""Says which rows of a batch are in which part, and which process computes it. Pure; knows no TensorFlow."""

from typing import Any


def own_parts(count: int, workers: int, rank: int) -> range:
    """Return the numbers of the parts that a process computes."""
    return range(rank * count // workers, (rank + 1) * count // workers)


def part_bounds(rows: Any, count: int, number: int) -> tuple[Any, Any]:
    """Return the first row of a part, and the row after its last one.

    The sizes of the parts differ by one at most. A batch with fewer rows than parts has parts without rows.

    Args:
        rows: Rows of the batch: a number or a scalar tensor.
        count: Number of parts.
        number: The number of the part, counted from 0.
    """
    return rows * number // count, rows * (number + 1) // count
