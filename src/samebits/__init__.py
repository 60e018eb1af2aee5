"""samebits: Keras training with bitwise identical results. Same seed, same bits.

The rooms, and what each may import, are in docs/architecture.md; import-linter checks them. User code imports
`DataContext`, `Dataset`, `Split` and `Seed` from here, and layers, losses and optimizers from `samebits.portable`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samebits.core.seeds import Seed as Seed
    from samebits.train.data import DataContext as DataContext
    from samebits.train.data import Dataset as Dataset
    from samebits.train.data import Split as Split

PUBLIC_NAMES = {
    "DataContext": "samebits.train.data",
    "Dataset": "samebits.train.data",
    "Split": "samebits.train.data",
    "Seed": "samebits.core.seeds",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing this package imports nothing else."""
    if name not in PUBLIC_NAMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(PUBLIC_NAMES[name]), name)
