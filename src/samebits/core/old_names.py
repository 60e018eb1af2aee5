"""Maps modules and names of version 0.1, which user code may still import, to their current names."""

import ast
import re
from collections.abc import Iterator

MOVED = {
    "samebits.config": "samebits.core.config",
    "samebits.data": "samebits",
    "samebits.digest": "samebits.core.digest",
    "samebits.errors": "samebits.core.errors",
    "samebits.exact": "keras.ops",
    "samebits.initializers": "samebits.portable.initializers",
    "samebits.layers": "samebits.portable.layers",
    "samebits.losses": "samebits.portable.losses",
    "samebits.optimizers": "samebits.portable.optimizers",
    "samebits.record": "samebits.core.files",
    "samebits.recurrent": "samebits.portable.lstm",
    "samebits.seeds": "samebits.core.seeds",
}
_KERAS = {
    "keras.layers.": (
        "BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization", "UnitNormalization",
    ),
    "keras.losses.": ("CategoricalCrossentropy", "SparseCategoricalCrossentropy"),
    "keras.optimizers.": ("Adagrad", "RMSprop"),
    "keras.activations.": ("gelu",),
    "keras.ops.": ("log", "log1p", "rsqrt"),
}  # fmt: skip
# Under `portable`, Keras's own are exact. All were in `layers`, some also in a module of their own.
MOVED |= {f"samebits.portable.layers.{name}": home + name for home, names in _KERAS.items() for name in names}
MOVED |= {
    "samebits.portable.layers.atan": "keras.ops.arctan",
    "samebits.portable.layers.l2_normalize": "keras.ops.normalize",
    "samebits.portable.losses.CategoricalCrossentropy": "keras.losses.CategoricalCrossentropy",
    "samebits.portable.losses.SparseCategoricalCrossentropy": "keras.losses.SparseCategoricalCrossentropy",
    "samebits.portable.optimizers.Adagrad": "keras.optimizers.Adagrad",
    "samebits.portable.optimizers.RMSprop": "keras.optimizers.RMSprop",
}


def import_advice(error: Exception) -> str | None:
    """Return the correct import for one that failed, or None if the module or name was never in samebits."""
    module = getattr(error, "name", None)
    if module in MOVED:
        return f"write `from {MOVED[module]} import …` instead of `from {module} import …`"
    missing = re.match(r"cannot import name '(\w+)'", str(error))
    if missing is None or f"{module}.{missing[1]}" not in MOVED:
        return None
    home, _, name = MOVED[f"{module}.{missing[1]}"].rpartition(".")
    return f"write `from {home} import {name}` instead of `from {module} import {missing[1]}`"


def old_imports(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, old name) for every import of a moved module or name; nothing if the text is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name in MOVED)
