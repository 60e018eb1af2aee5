"""One of `benchmarks.kinds` in plain Keras: python -m benchmarks.plain_kind KIND EPOCHS.

Uses nothing of samebits. Prints the line of JSON that `plain_keras` prints.
"""

import importlib
import json
import sys

from benchmarks.kinds import split_arrays
from benchmarks.plain_keras import Clock


def main() -> None:
    """Train and evaluate with `fit`."""
    kind, epochs = importlib.import_module(f"benchmarks.kinds.{sys.argv[1]}"), int(sys.argv[2])
    train, validation = split_arrays(kind)
    clock = Clock()
    kind.make_model().fit(
        *train, batch_size=kind.BATCH, epochs=epochs, validation_data=validation, callbacks=[clock], verbose=2
    )
    rows = epochs * kind.ROWS - kind.BATCH
    times = {"first_step_at": clock.first_step_at, "steps_s": clock.steps_s, "evaluate_s": clock.evaluate_s}
    print(json.dumps({**times, "rows": rows, "validation_rows": epochs * kind.VALIDATION}))


if __name__ == "__main__":
    main()
