"""The prediction process: writes what the trained model of a run outputs for the rows of a split.

`samebits predict` starts it as `python -m samebits.train.predict ATTEMPT ROOT REQUEST`, with the code and the settings
of the run. The model function builds the model, and the weights of the run replace its initial ones. Trains nothing.
"""

import json
import os
import pathlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from samebits.core.config import Config, from_dict
from samebits.core.errors import ConfigError, RecordError, report_errors
from samebits.core.seeds import Seeds
from samebits.runs.folder import CONFIG, LOG, read_yaml
from samebits.runs.predictions import write_table
from samebits.runtime.pins import end_process
from samebits.train.stages import list_stages
from samebits.train.worker import build_model, fix_settings, load_dataset

if TYPE_CHECKING:
    from samebits.train.data import Dataset


def choose_split(dataset: "Dataset", name: str) -> Any:
    """Return a split of a dataset.

    Raises:
        ConfigError: The data function returns no such split.
    """
    splits = dataset.splits()
    if name not in splits:
        raise ConfigError(
            "--split", expected=", ".join(splits), received=f"{name}, which the data function does not return",
            fix="choose another split, or return this one too",
        )  # fmt: skip
    return splits[name]


def build_last_stage(config: Config, seeds: Seeds, root: pathlib.Path, dataset: "Dataset") -> Any:
    """Return the model of the last stage, built as in the training, with initial weights."""
    model = None
    stages = list_stages(config)
    for stage in stages:
        own = dataset if stage is stages[-1] else load_dataset(stage.config, seeds, root)
        model = build_model(stage.config, seeds, own, stage.name, model)
    return model


def predict(config: Config, attempt: pathlib.Path, root: pathlib.Path, request: dict[str, Any]) -> None:
    """Write the outputs for the rows of a split; see `runs.predictions.write_table`."""
    seeds = Seeds.of(config.seed)
    fix_settings(config, seeds)
    from samebits.train.checks_of_data import build_stateful  # noqa: PLC0415
    from samebits.train.compiling import compile_model, output_kind  # noqa: PLC0415  after the pins
    from samebits.train.steps import Steps  # noqa: PLC0415
    from samebits.train.streams import make_feed  # noqa: PLC0415
    from samebits.train.weights import load_weights, weights_file  # noqa: PLC0415

    last = list_stages(config)[-1].config
    dataset = load_dataset(last, seeds, root)
    model = build_last_stage(config, seeds, root, dataset)
    if request["data"]:
        dataset = load_dataset(replace(last, data=last.data | request["data"]), Seeds.of(config.seed), root)
    split = choose_split(dataset, request["split"])
    compile_model(model, last.training)
    build_stateful(model, dataset.train, last.training.batch_size)
    feed = make_feed(split, request["split"], seeds, last.training, model)
    traced = Steps.trace_predictions(model, feed)
    if traced is None:
        raise RecordError(
            f"the model of {attempt} cannot predict.", expected="a model with outputs",
            received="a model without call()", fix="give the class a call() method",
        )  # fmt: skip
    load_weights(model, weights_file(attempt))
    write_table(pathlib.Path(request["out"]), output_kind(model), *Steps.predict(traced, feed))


def main() -> int:
    """Predict as the command line says. TensorFlow's own messages go to the log of the run."""
    attempt, root = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(attempt / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 2)
    config = from_dict(read_yaml(attempt / CONFIG))
    os.chdir(root)
    predict(config, attempt, root, json.loads(sys.argv[3]))
    return 0


if __name__ == "__main__":
    end_process(report_errors(main))
