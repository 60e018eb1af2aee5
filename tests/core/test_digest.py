"""Digests cover every bit, name, dtype and shape, and nothing else."""

import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samebits.core.digest import array_digest, arrays_digest, bytes_digest, float_bits, json_digest

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def digest(array: np.ndarray) -> str:
    """Return the digest under a fixed name, so that only the array decides it."""
    return array_digest("weight", array)


def test_bytes_digest_is_sha256() -> None:
    """The digest of no bytes is the one in FIPS 180-4's examples."""
    assert bytes_digest(b"") == EMPTY_SHA256


def test_an_array_digest_is_the_sha256_of_what_it_says() -> None:
    """The digest is the SHA-256 of name, dtype, shape and little-endian bytes, separated by zero bytes."""
    contents = b"lstm/kernel\0float32\0(1, 2)\0" + struct.pack("<2f", 1.5, -0.0)

    assert hashlib.sha256(contents).hexdigest() == array_digest("lstm/kernel", np.array([[1.5, -0.0]], np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_ulp_changes_the_digest(dtype: type) -> None:
    """One unit in the last place of one element changes the digest, although allclose holds."""
    weights: np.ndarray = np.linspace(-1, 1, 1001).astype(dtype)
    moved = weights.copy()
    moved[777] = np.nextafter(weights[777], dtype(2))

    assert np.allclose(weights, moved, rtol=1e-3)
    assert digest(weights) != digest(moved)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_negative_zero_is_not_zero(dtype: type) -> None:
    """-0.0 and 0.0 compare equal and have two digests."""
    positive: np.ndarray = np.zeros(1, dtype)
    negative = -positive

    assert np.array_equal(negative, positive)
    assert digest(negative) != digest(positive)


def test_the_payload_of_a_nan_counts() -> None:
    """Two NaNs with different bits have two digests."""
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)

    assert digest(np.array([quiet])) != digest(np.array([other]))


@pytest.mark.parametrize("position", range(12))
def test_every_byte_changes_the_digest(position: int) -> None:
    """A flipped bit anywhere in the array changes the digest."""
    weights = np.arange(3, dtype=np.float32)
    flipped = weights.copy()
    flipped.view(np.uint8)[position] ^= 1

    assert digest(weights) != digest(flipped)


def test_the_dtype_changes_the_digest() -> None:
    """Equal bytes, and equal numbers, of another dtype have another digest."""
    zeros = np.zeros(4, np.int32)
    digests = [
        digest(array) for array in (zeros, zeros.view(np.float32), zeros.view(np.uint32), zeros.astype(np.int64))
    ]

    assert len(set(digests)) == 4


def test_the_shape_changes_the_digest() -> None:
    """Equal bytes of another shape have another digest."""
    row = np.arange(6, dtype=np.float32)
    digests = [digest(row.reshape(shape)) for shape in ((6,), (1, 6), (6, 1), (2, 3), (3, 2))]

    assert len(set(digests)) == 5


def test_the_shapes_of_empty_and_single_arrays_count() -> None:
    """Arrays of different shapes without elements or axes have different digests."""
    arrays = [np.zeros(shape, np.float32) for shape in ((0,), (0, 3), (3, 0), (), (1,))]

    assert len({digest(array) for array in arrays}) == 5


def test_the_name_changes_the_digest() -> None:
    """The same array under two names has two digests."""
    zeros = np.zeros(4, np.float32)

    assert array_digest("conv/kernel", zeros) != array_digest("lstm/kernel", zeros)


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i4", "i8", "u2", "c8", "U5"])
def test_big_endian_equals_little_endian(code: str) -> None:
    """The byte order in memory does not change the digest."""
    numbers = np.array([1, 2, 300])

    assert digest(numbers.astype(f"<{code}")) == digest(numbers.astype(f">{code}"))


@pytest.mark.parametrize("code", ["u1", "i1", "?", "S3"])
def test_types_without_byte_order_have_digests(code: str) -> None:
    """Bytes, booleans and byte strings with different values have different digests."""
    assert digest(np.array([0, 1], code)) != digest(np.array([1, 1], code))


def test_non_contiguous_equals_contiguous() -> None:
    """Slices, transposed and reversed views have the digest of their contiguous copy."""
    base = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    views = [base[::2], base[:, 1:4], base.transpose(2, 0, 1), base[::-1], np.asfortranarray(base), base[:, :, ::-2]]

    assert [digest(np.array(view, order="C")) for view in views] == [digest(view) for view in views]
    assert digest(base) != digest(base.transpose(0, 2, 1).reshape(4, 5, 6))


def test_a_digest_leaves_the_array_as_it_was() -> None:
    """Computing a digest does not change the array, and works for a read-only one."""
    weights = np.arange(6, dtype=">f4")
    before = weights.tobytes()
    weights.flags.writeable = False
    digest(weights)

    assert before == weights.tobytes()


@pytest.mark.parametrize("array", [np.array([1, "a", None], object), np.zeros(2, [("name", object), ("size", "i4")])])
def test_object_arrays_are_refused_by_name(array: np.ndarray) -> None:
    """Python objects, also inside records, raise an error with the name of the array."""
    with pytest.raises(TypeError) as caught:
        array_digest("reviews", array)

    assert str(caught.value) == "array 'reviews' holds Python objects: no digest of bytes is possible"


def test_many_digests_have_one_whatever_their_order() -> None:
    """The digest of several arrays does not depend on their order."""
    digests = {"a": "1" * 64, "b": "2" * 64}

    assert arrays_digest(digests) == arrays_digest(dict(reversed(digests.items())))


def test_every_array_counts_in_the_one_digest() -> None:
    """Adding, renaming, changing or swapping arrays changes the digest of all."""
    one, two = "1" * 64, "2" * 64
    sets = [
        {"a": one, "b": two},
        {"a": two, "b": one},
        {"a": one},
        {"a": one, "c": two},
        {"a": one, "b": two, "c": one},
        {},
    ]

    assert len(sets) == len({arrays_digest(digests) for digests in sets})


@settings(deadline=None, database=None)
@given(st.floats(allow_nan=False))
def test_float_bits_go_there_and_back(value: float) -> None:
    """The text of any float gives back its bits, including -0.0, subnormal numbers and infinities."""
    assert struct.pack("<d", value) == struct.pack("<d", float.fromhex(float_bits(value)))


def test_float_bits_tell_neighbours_apart() -> None:
    """Floats one unit in the last place apart, and zeros of different sign, have different texts."""
    values = [1.0, math.nextafter(1.0, 2), math.nextafter(1.0, 0), 0.0, -0.0, 5e-324]

    assert len(values) == len({float_bits(value) for value in values})


def test_float_bits_of_a_float32_are_its_own() -> None:
    """A NumPy float32 gives its exact value, not a rounded decimal."""
    single = np.float32(0.1)

    assert float_bits(0.1) != float_bits(float(single))
    assert single == np.float32(float.fromhex(float_bits(float(single))))


def test_json_digest_ignores_the_order_of_keys() -> None:
    """The order of keys does not change the digest, at any depth."""
    assert json_digest({"a": 1, "b": {"c": [1, 2], "d": None}}) == json_digest({"b": {"d": None, "c": [1, 2]}, "a": 1})


def test_json_digest_sees_every_value() -> None:
    """The order of a list, the type of a number, null and a missing key each change the digest."""
    values = [{"a": [1, 2]}, {"a": [2, 1]}, {"a": [1, 2.0]}, {"a": ["1", 2]}, {"a": None}, {}, {"a": True}, {"a": 1}]

    assert len(values) == len({json_digest(value) for value in values})


def test_json_digest_is_frozen() -> None:
    """The digest is of compact, sorted ASCII JSON, and never changes, because run folders are named by it."""
    expected = hashlib.sha256(b'{"a":"\\u00e4","b":[1,2.5,null]}').hexdigest()

    assert expected == json_digest({"b": [1, 2.5, None], "a": "ä"})
