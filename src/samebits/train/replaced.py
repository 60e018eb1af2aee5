"""Replaces attributes of objects, classes and modules for a while."""

import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

MISSING = object()


@contextmanager
def replaced(owners: Iterable[Any], name: str, make: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Let an attribute of some owners be another one while the block runs.

    Args:
        owners: Objects, classes or modules. Keras does not track the replacement of an attribute of its objects.
        name: The attribute.
        make: Returns the replacement, given the owner and its attribute so far.
    """
    before = [(owner, vars(owner).get(name, MISSING)) for owner in owners]
    for owner, _ in before:
        _set(owner, name, make(owner, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, own in before:
            if own is MISSING:
                object.__delattr__(owner, name)
            else:
                _set(owner, name, own)


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, type | types.ModuleType):
        setattr(owner, name, value)
    else:
        object.__setattr__(owner, name, value)
