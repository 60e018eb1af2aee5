"""Starts the prediction process of a finished run."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from samebits.core.config import from_dict
from samebits.core.errors import ConfigError, FolderError
from samebits.launch.process import pinned_environment
from samebits.runs.folder import CONFIG, SOURCE, is_finished, read_yaml


def parse_data(words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments in words such as "data.path=new.csv".

    Raises:
        ConfigError: A word has another form.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        name = key.removeprefix("data.")
        if not equals or not name.isidentifier() or name == key:
            raise ConfigError(word, expected="data.key=value", received=word, fix="set a key of the data function")
        found[name] = yaml.safe_load(value)
    return found


def predict(
    attempt: pathlib.Path, root: pathlib.Path, split: str, data: dict[str, Any], out: pathlib.Path | None
) -> int:
    """Write the outputs of a run's model for the rows of a split, and print where.

    Args:
        attempt: The run's folder.
        root: The project's folder.
        split: "train", "validation" or "test".
        data: Other arguments for the data function, for new data.
        out: A .csv or .npz file; None: predictions_<split>.csv in the run's folder.

    Returns:
        The exit code of the process.

    Raises:
        FolderError: The run is not finished.
    """
    if not is_finished(attempt):
        raise FolderError(
            f"run {attempt}", expected="a finished run", received="a stopped or running one",
            fix="finish it first: the same command that started it resumes it",
        )  # fmt: skip
    config = from_dict(read_yaml(attempt / CONFIG))
    path = (out or attempt / f"predictions_{split}.csv").absolute()
    request = json.dumps({"split": split, "data": data, "out": str(path)})
    command = [sys.executable, "-m", "samebits.train.predict", str(attempt.absolute()), str(root), request]
    environment = pinned_environment(config, root, attempt.parent / SOURCE)
    code = subprocess.run(command, env=environment, cwd=root, check=False).returncode
    if code == 0:
        print(path)
    return code
