"""Names an entry of the cache of encoded data by everything that a function has besides its arguments.

The values are read as they are: numbers, strings, arrays, and the attributes of objects, at any depth. The code is the
function's package and what that imports from src/.
"""

import enum
import functools
import inspect
import json
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from samebits.core.digest import array_digest, bytes_digest, json_digest
from samebits.runs.identity import project_modules

PLAIN = (str, int, float, type(None))
PRINTED = (complex, range, slice, pathlib.PurePath, enum.Enum, np.dtype)  # their repr is their value
NOT_READ = ("samebits", "keras", "tensorflow", "logging", "builtins", "threading", "_thread")
DEEPEST = 8


def maker_code(make: Callable[..., Any]) -> str:
    """Return the digest of the code that decides what a function returns; see `runs.identity.project_modules`."""
    function = _function_of(make)
    try:
        path = pathlib.Path(inspect.getfile(function if inspect.isroutine(function) else type(function)))
    except TypeError:  # it is part of Python
        return str(getattr(function, "__qualname__", ""))
    return json_digest({name: bytes_digest(code) for name, code in project_modules(path).items()})


def captured_values(make: Callable[..., Any]) -> str:
    """Return the values that a function has besides its arguments, as JSON.

    These are its default arguments, the values of the outer function and of the module that it uses, the object of a
    method, the arguments of a functools.partial, and the same of functions among them. Layers and tensors of Keras and
    TensorFlow are left out.
    """
    return json.dumps(_plain(make, ()), sort_keys=True)


def _function_of(make: Any) -> Any:
    """Return the function in a functools.partial or a decorator."""
    while isinstance(make, functools.partial):
        make = make.func
    return inspect.unwrap(make)


def _plain(value: Any, inside: tuple[int, ...]) -> Any:  # noqa: PLR0911  one per kind
    """Return a value as plain data. `inside` has the ids of the objects that hold it."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, PRINTED):
        return repr(value)
    if isinstance(value, bytes | bytearray):
        return bytes_digest(bytes(value))
    if isinstance(value, np.generic):
        return [str(value.dtype), value.item()] if not value.dtype.hasobject else str(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return array_digest("", value)
    if id(value) in inside or len(inside) > DEEPEST:
        return None
    parts = _parts(value)
    return None if parts is None else _mapping(parts, (*inside, id(value)))


def _mapping(parts: Mapping[Any, Any], inside: tuple[int, ...]) -> dict[str, Any]:
    return {str(name): _plain(part, inside) for name, part in parts.items()}


def _parts(value: Any) -> Mapping[Any, Any] | None:  # noqa: PLR0911  one per kind
    """Return what an object holds, by name; None: it is not read."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, set | frozenset):
        return dict(enumerate(sorted(value, key=repr)))
    if isinstance(value, list | tuple | np.ndarray):
        return dict(enumerate(value))
    if isinstance(value, functools.partial):
        return {"": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.MethodType):
        return {"": value.__func__, "self": value.__self__}
    if isinstance(value, types.FunctionType):
        return _parts_of_function(value)
    if hasattr(value, "__wrapped__"):  # functools.cache
        return {"": value.__wrapped__}
    if isinstance(value, type | types.ModuleType) or _package(type(value)) in NOT_READ:
        return None
    if hasattr(value, "to_dict") and hasattr(value, "to_numpy"):  # pandas
        return {"index": value.index.to_numpy(), "columns": list(getattr(value, "columns", ())), "": value.to_numpy()}
    names = [name for kind in type(value).__mro__ for name in np.atleast_1d(getattr(kind, "__slots__", ())).tolist()]
    slots = {name: getattr(value, name, None) for name in names}
    return {"class": type(value).__qualname__, **slots, **getattr(value, "__dict__", {})}


def _package(value: Any) -> str:
    """Return the top-level package of a function or an object."""
    return str(value.__module__).partition(".")[0]


def _parts_of_function(function: types.FunctionType) -> dict[str, Any]:
    """Return the values of a function, and its helpers of the same package."""
    used = inspect.getclosurevars(function)
    package = _package(function)
    given = {name: value for name, value in used.globals.items() if not isinstance(value, types.FunctionType)}
    helpers = {
        name: value
        for name, value in used.globals.items()
        if isinstance(value, types.FunctionType) and _package(value) == package
    }
    defaults = {"": [*(function.__defaults__ or ())], **(function.__kwdefaults__ or {})}
    return {
        "name": function.__qualname__,
        "defaults": defaults,
        "globals": given,
        "outer": {**used.nonlocals, **helpers},
    }
