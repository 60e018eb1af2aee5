"""Which inputs of a run can change its bits: the one place that says so. Pure.

The identity of a run leaves out what `WITHOUT_EFFECT` lists; explain and the report show what `effect_of` says. Items
are named by kind: "config training.epochs", "seed data/order", "code <path>", "lock requirements.lock",
"data train/inputs", "package numpy", "setting jit", "cpu model", "git commit", "machine python".
"""

from collections.abc import Iterable
from typing import Any

from samebits.core.config import flatten

CHANGES, MAY, OWN, DOES_NOT = "changes bits", "may change bits", "only if your data or model use it", "does not"

COMMAND_KEYS = ("paths", "resume", "confirm")  # of one command: a resumed run keeps all other settings
RECORD_KEYS = ("tracker", "trace", "training.checkpoint_every", "training.log_every")  # of what is recorded
WITHOUT_EFFECT = (*COMMAND_KEYS, *RECORD_KEYS, "package", "name")  # the functions of the package are in data and model
BITS_PACKAGES = (
    "keras", "ml-dtypes", "numpy", "opt-einsum", "scikit-learn", "scipy", "tensorflow", "tensorflow-cpu",
)  # fmt: skip
GLOBAL_GENERATORS = ("python/", "numpy/", "tensorflow/")  # seed points that only code outside the project may use
PLACES = ("setting environment.PYTHONPATH",)  # where a copy of the project lies
WITHOUT_SIGNIFICANCE = (
    *PLACES, "git commit", "git clean", "machine system", "machine memory_bytes", "machine image_digest",
    "setting environment.PYTHONHASHSEED",  # "seed python/hash" says it
)  # fmt: skip
# Without effect under `portable`, where operations are deterministic.
SIDE_BY_SIDE = ("config runtime.inter_op_threads", "setting inter_op_threads")
# Under `portable`, trainings had the same bits with each of these, by the beginning of the version (docs/runtime.md).
MEASURED_EQUAL = {"machine libc": ("glibc 2.36", "glibc 2.41"), "machine python": ("3.11", "3.12", "3.13")}
MACHINE_FACTS = ("python", "libc", "system", "memory_bytes", "image_digest")


def is_below(key: str, keys: tuple[str, ...]) -> bool:
    """Return whether a dotted key is one of some keys, or lies below one."""
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def effect_of(item: str, values: Iterable[Any] = (), *, portable: bool = False) -> str:
    """Return what an input does to the bits: `CHANGES`, `MAY`, `OWN` or `DOES_NOT`.

    Args:
        item: The input, named by kind.
        values: What the compared runs have there; only versions that were compared count as equal.
        portable: Whether all compared runs were made under `portable`, where the kind of CPU has no effect.
    """
    kind, _, name = item.partition(" ")
    measured = portable and (item in SIDE_BY_SIDE or measured_equal(item, values))
    if measured or item in WITHOUT_SIGNIFICANCE or (kind == "config" and is_below(name, WITHOUT_EFFECT)):
        return DOES_NOT
    if kind == "config":
        return MAY if is_below(name, ("runtime",)) and name != "runtime.intra_op_threads" else CHANGES
    if kind == "seed":
        return MAY if name.startswith(GLOBAL_GENERATORS) else CHANGES
    if kind == "data":
        return CHANGES
    if kind == "package":
        return MAY if name in BITS_PACKAGES else OWN
    return DOES_NOT if kind == "cpu" and portable else MAY


def measured_equal(item: str, values: Iterable[Any]) -> bool:
    """Return whether trainings under `portable` had the same bits with each of some versions; False without any."""
    versions, known = [f"{value}" for value in values], MEASURED_EQUAL.get(item, ())
    return bool(versions) and all(any(f"{text}.".startswith(f"{one}.") for one in known) for text in versions)


def machine_items(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that a run's machine.json holds, by item."""
    items = {f"package {name}": version for name, version in machine["packages"].items()}
    items |= {f"setting {name}": value for name, value in flatten(machine["arithmetic"]["settings"]).items()}
    items |= {f"cpu {name}": value for name, value in flatten(machine["cpu"]).items()}
    items |= {f"git {name}": value for name, value in flatten(machine["git"]).items()}
    return items | {f"machine {name}": machine.get(name) for name in MACHINE_FACTS}
