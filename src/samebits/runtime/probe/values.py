"""Digests of the values of a script's variables. Never calls code of the script, and never changes a value."""

import datetime as dt
import decimal
import fractions
import hashlib
import pathlib
import random
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 5
MAX_ITEMS = 20_000  # of a list; of longer ones the digest covers this many
MAX_BYTES = 1 << 26  # of an array; of larger ones the digest covers evenly spaced rows
MAX_PARTS = 60
WIDTH = 60  # characters of a shown value
PLAIN = (bool, int, float, complex, bytes, type(None), range, slice)
TEXTS = (dt.date, dt.time, dt.timedelta, decimal.Decimal, fractions.Fraction)
WITHOUT_VALUE = (
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.GeneratorType,
    types.CoroutineType, types.FrameType, types.CodeType, type,
)  # fmt: skip
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


@dataclass(frozen=True)
class Seen:
    """One value.

    Attributes:
        digest: SHA-256 of its bits.
        shown: Its start, for a message.
        kind: The name of its type.
        parts: The digests of its tensors, columns, keys or attributes, if it has named ones.
    """

    digest: str
    shown: str
    kind: str
    parts: dict[str, str] = field(default_factory=dict)


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Values:
    """Makes digests.

    Args:
        folders: Text that differs between the runs, e.g. the path of the script's folder, is replaced by a dot.
        ignored: Attributes and keys that only hold times.

    Attributes:
        size: The bytes of the arrays so far.
    """

    def __init__(self, folders: Iterable[str], ignored: set[str]) -> None:
        self.folders, self.ignored = [folder for folder in folders if folder], ignored
        self.size = 0

    def see(self, value: Any) -> Seen | None:
        """Return the digest of a value. None: it has none, such as a module or a function."""
        try:
            parts = self.parts(value)
            if parts:
                digests = {name: self.digest(part, 1, ()) for name, part in list(parts.items())[:MAX_PARTS]}
                known = {name: digest for name, digest in digests.items() if digest}
                if len(parts) <= MAX_PARTS:
                    whole = text_digest(repr(list(known.items())))
                    return Seen(whole, self.show(value), type(value).__name__, known)
            digest = self.digest(value, 0, ())
            return Seen(digest, self.show(value), type(value).__name__) if digest else None
        except Exception:  # noqa: BLE001  a value of any class may fail; it is not recorded
            return None

    def clean(self, text: str) -> str:
        """Return a text without addresses and without the folder of this run."""
        for folder in self.folders:
            text = text.replace(folder, ".")
        return ADDRESS.sub("0x…", text)

    def digest(self, value: Any, depth: int, above: tuple[int, ...]) -> str:  # noqa: PLR0911  one per kind
        """Return the digest of a value; "" if it has none."""
        if isinstance(value, PLAIN):
            return text_digest(f"{type(value).__name__} {value!r}")
        if isinstance(value, str):
            return text_digest(f"str {self.clean(value)}")
        if isinstance(value, (*TEXTS, pathlib.PurePath)):
            return text_digest(f"{type(value).__name__} {self.clean(str(value))}")
        if isinstance(value, WITHOUT_VALUE) or depth > MAX_DEPTH or id(value) in above:
            return ""
        above = (*above, id(value))
        array = to_array(value)
        if array is not None:
            return self.array_digest(array, depth, above)
        if isinstance(value, list | tuple):
            items = [self.digest(item, depth + 1, above) for item in value[:MAX_ITEMS]]
            return text_digest(f"{type(value).__name__} {len(value)} {' '.join(items)}")
        if isinstance(value, set | frozenset):
            return text_digest(f"set {' '.join(sorted(self.digest(item, depth + 1, above) for item in value))}")
        parts = self.parts(value)
        if parts is None:
            return ""
        digests = [
            f"{self.digest(name, depth, ())} {self.digest(part, depth + 1, above)}" for name, part in parts.items()
        ]
        return text_digest(f"{type(value).__name__} {' '.join(digests)}")

    def array_digest(self, array: Any, depth: int, above: tuple[int, ...]) -> str:
        """Return the digest of a NumPy array."""
        from samebits.core.digest import array_digest  # noqa: PLC0415  imports NumPy

        self.size += min(array.nbytes, MAX_BYTES)
        if array.nbytes > MAX_BYTES and array.ndim:
            array = array[:: -(-array.nbytes // MAX_BYTES)]
        if array.dtype.hasobject:
            return self.digest(array.tolist(), depth, above)
        if array.dtype.kind in "SU":
            return self.digest(array.tolist(), depth, above)
        return array_digest("", array)

    def parts(self, value: Any) -> Mapping[str, Any] | None:
        """Return the named parts of a value: keys, columns, tensors, attributes. None: it has none."""
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if not (isinstance(key, str) and key in self.ignored)}
        of_library = library_parts(value)
        if of_library is not None:
            return of_library
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict) or isinstance(value, WITHOUT_VALUE):
            return None
        if type(value).__module__.partition(".")[0] in ("tensorflow", "keras", "threading", "argparse", "logging"):
            return attributes if type(value).__name__ == "Namespace" else None
        return {name: item for name, item in attributes.items() if name not in self.ignored}

    def show(self, value: Any) -> str:
        """Return the start of a value as text, without calling code of the script."""
        array = to_array(value)
        if array is not None:
            first = ", ".join(str(item) for item in array.reshape(-1)[:3].tolist())
            return first[:WIDTH] if array.ndim == 0 else f"[{first}{', …' if array.size > 3 else ''}]"  # noqa: PLR2004
        if isinstance(value, (*PLAIN, *TEXTS, str, pathlib.PurePath)):
            text = self.clean(repr(value) if isinstance(value, (*PLAIN, str)) else str(value))
        elif type(value) in (list, tuple):
            text = f"[{', '.join(self.show(item) for item in value[:3])}{', …' if len(value) > 3 else ''}]"  # noqa: PLR2004
        elif type(value) is dict:
            text = f"{{{', '.join(f'{self.show(key)}: {self.show(value[key])}' for key in list(value)[:3])}}}"
        else:
            text = f"<{type(value).__name__}>"
        return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def to_array(value: Any) -> Any:
    """Return the NumPy array of an array, NumPy number or eager tensor; None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.ndarray | numpy.generic):
        return numpy.asarray(value)
    package = type(value).__module__.partition(".")[0]
    if package in ("tensorflow", "keras") and type(value).__name__ in TENSORS:
        numpy_of: Callable[[], Any] | None = getattr(value, "numpy", None)
        return numpy.asarray(numpy_of()) if numpy_of is not None else None
    if package == "pandas" and type(value).__name__ in ("Series", "Index", "RangeIndex", "DatetimeIndex"):
        return numpy.asarray(value)
    return None


TENSORS = ("EagerTensor", "ResourceVariable", "Variable")


def library_parts(value: Any) -> dict[str, Any] | None:  # noqa: PLR0911  one per kind
    """Return the state of a generator, a table, a model or a `History` by name; None for anything else."""
    if isinstance(value, random.Random):
        return {} if isinstance(value, random.SystemRandom) else {"state": value.getstate()}
    package, name = type(value).__module__.partition(".")[0], type(value).__name__
    if package == "numpy":
        if hasattr(value, "bit_generator"):
            return {"state": value.bit_generator.state}
        if hasattr(value, "get_state"):
            return {"state": value.get_state(legacy=False)}
        return {"state": value.state} if isinstance(getattr(value, "state", None), dict) else None
    if package == "pandas" and name == "DataFrame":
        columns = {str(column): value.iloc[:, number] for number, column in enumerate(value.columns)}
        return {"index": value.index, "columns": [str(column) for column in value.columns], **columns}
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "Model"):
        return None
    if isinstance(value, keras.callbacks.History):
        return dict(value.history)
    if isinstance(value, keras.Layer | keras.optimizers.Optimizer):
        return {variable.path: variable for variable in value.variables}
    return None
