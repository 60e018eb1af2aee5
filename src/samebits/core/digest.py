"""SHA-256 digests of arrays and of plain data. Pure: no I/O, no TensorFlow.

A digest covers names, dtypes, shapes and bytes. It never covers paths, host names or whole files, which contain times.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def bytes_digest(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits (FIPS 180-4)."""
    return hashlib.sha256(data).hexdigest()


def changed_names(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the sorted names whose digests differ or exist on one side only."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def json_digest(value: Any) -> str:
    """Return the digest of plain data (dicts, lists, strings, numbers). The order of keys does not matter."""
    return bytes_digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def array_digest(name: str, array: np.ndarray) -> str:
    """Return the digest of one array, from its name, dtype, shape and little-endian bytes in C order.

    Equal digests mean equal bits. So -0.0 and 0.0 differ, and so do values one unit in the last place apart.

    Args:
        name: The array's path, e.g. "lstm/recurrent_kernel".
        array: Any array of numbers, or of strings.

    Raises:
        TypeError: The array holds other Python objects.
    """
    if array.dtype.hasobject:
        return _text_digest(name, array)
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder != "|" else array.dtype
    contiguous = np.ascontiguousarray(array, dtype=dtype)
    sha = hashlib.sha256(f"{name}\0{dtype.name}\0{array.shape}\0".encode())
    sha.update(contiguous.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _text_digest(name: str, array: np.ndarray) -> str:
    """Return the digest of an array of strings, from its name, shape and the length and UTF-8 bytes of each string."""
    sha = hashlib.sha256(f"{name}\0text\0{array.shape}\0".encode())
    for value in array.flat:
        if not isinstance(value, str | bytes):
            message = f"array {name!r} holds Python objects: no digest of bytes is possible"
            raise TypeError(message)
        text = value.encode() if isinstance(value, str) else value
        sha.update(f"{len(text)}\0".encode() + text)
    return sha.hexdigest()


def arrays_digest(digests: Mapping[str, str]) -> str:
    """Return one digest for many arrays, from their digests by name. The order does not matter."""
    return bytes_digest("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode())


def float_bits(value: float) -> str:
    """Return a float's exact value as hexadecimal text; equal text means equal bits."""
    return float(value).hex()
