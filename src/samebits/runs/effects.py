"""Defines which inputs of a run can change its bits. Pure.

The identity of a run leaves out the keys in `WITHOUT_EFFECT`. explain and the report show `effect_of`. Items start with
their kind: "config training.epochs", "seed data/order", "code <path>", "lock requirements.lock",
"data train/inputs", "package numpy", "setting jit", "cpu model", "git commit", "machine python".
"""

from collections.abc import Iterable
from typing import Any

from samebits.core.config import WORKERS, flatten

CHANGES, MAY, OWN, DOES_NOT = "changes bits", "may change bits", "only if your data or model use it", "does not"

# Belong to one command; a resumed run keeps all other settings.
WORKER_KEYS = tuple(f"training.{name}" for name in WORKERS)
COMMAND_KEYS = ("paths", "resume", "confirm", "script.path", "script.folder", "script.code", *WORKER_KEYS)
RECORD_KEYS = ("tracker", "trace", "training.checkpoint_every", "training.log_every")  # say what is recorded
# Only where the run keeps its best weights, or stops early.
MONITOR_KEYS = ("training.monitor", "training.monitor_mode")
WITHOUT_EFFECT = (*COMMAND_KEYS, *RECORD_KEYS, "package", "name")  # the functions of the package are in data and model
BITS_PACKAGES = (
    "keras", "ml-dtypes", "numpy", "opt-einsum", "scikit-learn", "scipy", "tensorflow", "tensorflow-cpu",
)  # fmt: skip
GLOBAL_GENERATORS = ("python/", "numpy/", "tensorflow/")  # seed points for code outside the project only
PLACES = ("setting environment.PYTHONPATH",)  # depend on the folder of the project
WITHOUT_SIGNIFICANCE = (
    *PLACES, "git commit", "git clean", "machine system", "machine memory_bytes", "machine image_digest",
    "setting environment.PYTHONHASHSEED",  # shown as "seed python/hash"
)  # fmt: skip
# Without effect under `portable`, where operations are deterministic.
INTER_OP_THREADS = ("config runtime.inter_op_threads", "setting inter_op_threads")
# Prefixes of versions. Under `portable`, trainings with each of them had the same bits (docs/runtime.md).
MEASURED_EQUAL = {"machine libc": ("glibc 2.36", "glibc 2.41"), "machine python": ("3.11", "3.12", "3.13")}
MACHINE_FACTS = ("python", "libc", "system", "memory_bytes", "image_digest")


def is_below(key: str, keys: tuple[str, ...]) -> bool:
    """Return whether a dotted key equals one of these keys or lies below one."""
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def effect_of(item: str, values: Iterable[Any] = (), *, portable: bool = False) -> str:
    """Return the effect of an input on the bits: `CHANGES`, `MAY`, `OWN` or `DOES_NOT`.

    Args:
        item: The input, starting with its kind.
        values: The values in the compared runs. Only versions in `MEASURED_EQUAL` have no effect.
        portable: Whether all compared runs used `portable`, under which the CPU model has no effect.
    """
    kind, _, name = item.partition(" ")
    measured = portable and (item in INTER_OP_THREADS or measured_equal(item, values))
    if measured or item in WITHOUT_SIGNIFICANCE or (kind == "config" and is_below(name, WITHOUT_EFFECT)):
        return DOES_NOT
    if kind == "config":
        return MAY if is_below(name, ("runtime", *MONITOR_KEYS)) and name != "runtime.intra_op_threads" else CHANGES
    if kind == "seed":
        return MAY if name.startswith(GLOBAL_GENERATORS) else CHANGES
    if kind == "data":
        return CHANGES
    if kind == "package":
        return MAY if name in BITS_PACKAGES else OWN
    return DOES_NOT if kind == "cpu" and portable else MAY


def measured_equal(item: str, values: Iterable[Any]) -> bool:
    """Return whether `MEASURED_EQUAL` lists all these versions of an item; False without any version."""
    versions, known = [f"{value}" for value in values], MEASURED_EQUAL.get(item, ())
    return bool(versions) and all(any(f"{text}.".startswith(f"{one}.") for one in known) for text in versions)


def machine_items(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs in a run's machine.json, by item."""
    items = {f"package {name}": version for name, version in machine["packages"].items()}
    items |= {f"setting {name}": value for name, value in flatten(machine["arithmetic"]["settings"]).items()}
    items |= {f"cpu {name}": value for name, value in flatten(machine["cpu"]).items()}
    items |= {f"git {name}": value for name, value in flatten(machine["git"]).items()}
    return items | {f"machine {name}": machine.get(name) for name in MACHINE_FACTS}
