"""Saves the trained model of a run, and gives a model the weights of another run or file."""

import logging
import pathlib
from typing import Any

import keras

from samebits.core import files
from samebits.core.digest import bytes_digest
from samebits.core.errors import RecordError, first_line
from samebits.core.files import storage_error
from samebits.runs.folder import MODEL, RESULT, WEIGHTS, find_attempt, read_json
from samebits.train.compiling import optimizers_of
from samebits.train.steps import by_path

logger = logging.getLogger(__name__)

CANNOT_SAVE = "Keras cannot save this model, so the run saves its weights only, as weights.arrays: %s"


def is_savable(model: keras.Model) -> bool:
    """Return whether Keras can save the model. If not, log the cause."""
    try:
        keras.saving.serialize_keras_object(model)
    except Exception as error:  # noqa: BLE001  it calls the user's get_config
        logger.warning(CANNOT_SAVE, first_line(error))
        return False
    return True


def save_model(model: keras.Model, attempt: pathlib.Path, *, whole: bool) -> None:
    """Write the model into the folder of its run, first to a temporary name.

    Args:
        model: The trained model.
        attempt: The run's folder.
        whole: Whether to write it in Keras's format; False: its weights only.

    Raises:
        RecordError: The disk is full or the folder is missing.
    """
    path, partial = attempt / MODEL, attempt / ".partial.keras"
    try:
        if whole:
            model.save(partial)
            partial.replace(path)
            return
    except OSError as error:
        raise storage_error(path, error) from error
    except Exception as error:  # noqa: BLE001  the user's code of saving, which is_savable did not run
        logger.warning(CANNOT_SAVE, first_line(error))
    finally:
        partial.unlink(missing_ok=True)
    files.write_arrays(attempt / WEIGHTS, {name: each.numpy for name, each in by_path(model.weights).items()})


def weights_file(attempt: pathlib.Path) -> pathlib.Path:
    """Return the file with the weights of a finished run."""
    return attempt / MODEL if (attempt / MODEL).exists() else attempt / WEIGHTS


def load_weights(model: Any, path: pathlib.Path) -> None:
    """Give a built model the weights of a file: .keras, .weights.h5, .h5, or the arrays that a run wrote.

    Optimizers and metrics keep their state: a .keras file also holds another run's learning rate and momentum.

    Raises:
        RecordError: The file is missing or damaged, or has the weights of another model.
    """
    from keras.src.saving.saving_lib import load_weights_only  # noqa: PLC0415  no public name (Keras 3.15)

    try:
        if path.name.endswith((".keras", ".weights.h5")):
            load_weights_only(model, path, objects_to_skip=[*optimizers_of(model), *model.metrics])
            return
        if path.suffix != ".arrays":
            model.load_weights(path)
            return
        weights = files.read_arrays(path)
        for name, variable in by_path(model.weights).items():
            variable.assign(weights[name])
    except (KeyError, ValueError, OSError) as error:
        raise RecordError(
            f"the weights of {path} do not fit the model.",
            expected="a file with the weights of the same layers",
            received=first_line(error),
            fix="use the model function that the weights were trained with.",
        ) from error


def source_of_weights(runs: pathlib.Path, place: str, digest: str) -> pathlib.Path:
    """Return the file that `training.init_from` names, after a check of its digest.

    Args:
        runs: The folder of runs.
        place: A run, or a file.
        digest: The run's weights digest, or the SHA-256 of the file.

    Raises:
        RecordError: It is another digest now.
    """
    if pathlib.Path(place).is_file():
        path = pathlib.Path(place)
        found = bytes_digest(path.read_bytes())
    else:
        attempt = find_attempt(runs, place)
        path, found = weights_file(attempt), read_json(attempt / RESULT)["weights_digest"]
    if found != digest:
        raise RecordError(
            f"training.init_from: {place} has changed.", expected=digest, received=found,
            fix="start a new run, which names the weights of today.",
        )  # fmt: skip
    return path
