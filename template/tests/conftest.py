"""What the tests share: the data and the model of the default run, made as a training makes them."""

import pathlib
from typing import Any

from samebits import DataContext, Dataset
from samebits.compose import compose
from samebits.core.config import Config
from samebits.core.seeds import Seeds
from samebits.train.worker import find_function

ROOT = pathlib.Path(__file__).resolve().parent.parent


def configure(root_seed: int) -> tuple[Config, Seeds]:
    """Return the default run's configuration and seeds for a root seed."""
    config = compose(ROOT, [f"seed.root={root_seed}"])
    return config, Seeds.of(config.seed)


def load(root_seed: int, cache: pathlib.Path) -> Dataset:
    """Return the data of a root seed."""
    config, seeds = configure(root_seed)
    return find_function("data", config.data)(DataContext(seeds, config.data, cache))


def build(root_seed: int) -> Any:
    """Return the model of a root seed, untrained."""
    config, seeds = configure(root_seed)
    from samebits.train.seeding import seed_by_path

    with seed_by_path(seeds):
        return find_function("model", config.model)(seeds.for_model())
