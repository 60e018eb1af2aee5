"""The stages of a training, such as pretraining and fine-tuning: each has own settings, and possibly data and model.

Epochs are numbered on from stage to stage. Knows no Keras.
"""

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

from samebits.core.config import WORKERS, Config, TrainingConfig

WITHOUT_STAGE = ("stages", "init_from", *WORKERS)
SETTINGS = tuple(field.name for field in fields(TrainingConfig) if field.name not in WITHOUT_STAGE)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        number: Counted from 0.
        name: Its name; "" if the configuration has no stages.
        config: The configuration of the stage: `training.epochs` are those of this stage alone.
        epochs_before: Epochs of all earlier stages.
        initial_epoch: The number that callbacks get for its first epoch; see Keras's `fit`.
        validation_freq: After which epochs it evaluates: every so many, or these, counted from 1.
        validation_steps: Maximum batches of an evaluation; None: all.
        strict: Whether a loss or a weight that is not finite is an error.
    """

    number: int
    name: str
    config: Config
    epochs_before: int
    initial_epoch: int = 0
    validation_freq: int | list[int] = 1
    validation_steps: int | None = None
    strict: bool = True

    @property
    def last_epoch(self) -> int:
        """The number of its last epoch."""
        return self.epochs_before + self.config.training.epochs

    def evaluates(self, epoch: int) -> bool:
        """Return whether an epoch, as callbacks count it from 0, ends with an evaluation."""
        every = self.validation_freq
        return epoch + 1 in every if isinstance(every, list) else (epoch + 1) % every == 0


def list_stages(config: Config) -> list[Stage]:
    """Return the stages of a configuration: one without a name, or those of `training.stages`."""
    found: list[Stage] = []
    for number, options in enumerate(config.training.stages or [{"name": ""}]):
        settings = {key: value for key, value in options.items() if key in SETTINGS}
        own = replace(
            config,
            training=replace(config.training, stages=[], **settings),
            data=_merged(config.data, options.get("data", {})),
            model=_merged(config.model, options.get("model", {})),
        )
        before = found[-1].last_epoch if found else 0
        found.append(Stage(number, options["name"], own, before))
    return found


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(base), **changes}
