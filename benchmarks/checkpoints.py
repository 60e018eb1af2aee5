"""What checkpoints cost: their share of the training time of real runs, python benchmarks/checkpoints.py [repeats]."""

import pathlib
import shutil
import statistics
import sys

from samebits.entry import compose
from samebits.launch import run
from samebits.record import RESULT, read_json

if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parent.parent
    config = compose(project, ["tracker=none", "resume=never", "paths.runs=runs/.bench"])
    shares = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        attempt = run(config, project).attempt
        if attempt is None:
            sys.exit(1)
        result = read_json(attempt / RESULT)
        saving, training_s = result["checkpoints"], result["timing"]["training_s"]
        shares.append(saving["duration_s"] / training_s)
        print(
            f"{saving['written']} checkpoints in {saving['duration_s']:.2f} s of {training_s:.1f} s: {shares[-1]:.2%}"
        )
    shutil.rmtree(project / "runs" / ".bench")
    low, median, high = min(shares), statistics.median(shares), max(shares)
    print(f"checkpoints take {median:.2%} of the training (from {low:.2%} to {high:.2%})")
