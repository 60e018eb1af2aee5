"""The exact operations: whatever creates one of them gets the exact version, with the values that Keras expects."""

import gc
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from samebits.core.digest import array_digest
from samebits.core.errors import NotPortableError

POINTS = np.linspace(0.1, 0.9, 97, dtype=np.float32)
# Calls that create an operation: of TensorFlow, of Keras, and of gradients.
CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "tf.math.reciprocal": lambda tf, _, x: tf.math.reciprocal(x),
    "keras.ops.reciprocal": lambda _, keras, x: keras.ops.reciprocal(x),
    "gradient of log": lambda tf, _, x: tf.gradients(tf.math.log(x), x)[0],
    "gradient of log1p": lambda tf, _, x: tf.gradients(tf.math.log1p(x), x)[0],
    "gradient of reciprocal": lambda tf, _, x: tf.gradients(tf.math.reciprocal(x), x)[0],
    "gradient of logsumexp": lambda tf, keras, x: tf.gradients(keras.ops.logsumexp(x), x)[0],
    "tf.math.rsqrt": lambda tf, _, x: tf.math.rsqrt(x),
    "keras.ops.rsqrt": lambda _, keras, x: keras.ops.rsqrt(x),
    "tf.math.l2_normalize": lambda tf, _, x: tf.math.l2_normalize(x),
    "gradient of rsqrt": lambda tf, _, x: tf.gradients(tf.math.rsqrt(x), x)[0],
    "keras.ops.normalize": lambda _, keras, x: keras.ops.normalize(x),
    "gelu": lambda _, keras, x: keras.activations.gelu(x, approximate=False),
    "keras.ops.erfinv": lambda _, keras, x: keras.ops.erfinv(x),
    "gradient of erfinv": lambda tf, _, x: tf.gradients(tf.math.erfinv(x), x)[0],
    "tf.math.ndtri": lambda tf, _, x: tf.math.ndtri(x),
    "keras.ops.arctan": lambda _, keras, x: keras.ops.arctan(x),
    "gradient of arctan": lambda tf, _, x: tf.gradients(tf.math.atan(x), x)[0],
    "keras.ops.arctan2": lambda _, keras, x: keras.ops.arctan2(x, x + 1),
    "gradient of arctan2": lambda tf, _, x: tf.gradients(tf.math.atan2(x, x + 1), x)[0],
    "keras.ops.inv": lambda tf, keras, x: keras.ops.inv(tf.reshape(x[:96], (6, 4, 4)) + 3 * tf.eye(4)),
    "keras.ops.solve": lambda tf, keras, x: keras.ops.solve(tf.reshape(x[:64], (8, 8)) + 9 * tf.eye(8), x[:8]),
    "keras.ops.solve, adjoint": lambda tf, _, x: tf.linalg.solve(
        tf.reshape(x[:64], (4, 4, 4)) + 3 * tf.eye(4), tf.reshape(x[:32], (4, 4, 2)), adjoint=True
    ),
}


def traced(call: Callable[[Any, Any, Any], Any]) -> tuple[np.ndarray, set[str]]:
    """Return the value of a traced call, and the operations that round differently on other CPUs in its graph."""
    import keras
    import tensorflow as tf

    from samebits.portable import graph_check
    from samebits.train.draws import graph_nodes

    function: Any = tf.function(lambda x: call(tf, keras, x), input_signature=[tf.TensorSpec([97])])
    nodes = graph_nodes(function.get_concrete_function())
    refused = {node.op for node in nodes if node.op in graph_check.REFUSED and node.attr["T"].type != tf.float64}
    return function(POINTS).numpy(), refused


def bound_before() -> list[Callable[..., Any]]:
    """Return names of the functions as other modules bind them, and the raw operations."""
    import tensorflow as tf
    from tensorflow.python.ops import gen_math_ops

    bound: list[Callable[..., Any]] = [tf.math.rsqrt, gen_math_ops.rsqrt, lambda x: tf.raw_ops.Rsqrt(x=x)]
    return bound


def creators(operations: set[str]) -> dict[str, str]:
    """Return module and name of every function in memory that creates one of the operations -> the operation."""
    from samebits.portable import exact

    kept = {id(function) for function in exact._originals.values()}
    helpers = {"_apply_op_helper", "TFE_Py_FastPathExecute"}
    return {
        f"{function.__module__}.{function.__qualname__}": constant
        for function in gc.get_objects()
        if isinstance(function, types.FunctionType) and id(function) not in kept
        if helpers & set(function.__code__.co_names)
        for constant in function.__code__.co_consts
        if isinstance(constant, str) and constant in operations
    }


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_exact_after_the_installation(name: str, request: pytest.FixtureRequest) -> None:
    """Before the installation the traced call contains an operation, after it none; the values differ by a few ulps."""
    expected, refused_before = traced(CALLS[name])
    request.getfixturevalue("exact_operations")
    actual, refused = traced(CALLS[name])

    assert refused_before
    assert not refused
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=1e-6)


def test_divisions_are_exactly_rounded(exact_operations: None) -> None:
    """Reciprocal and reciprocal root have the bits of NumPy's division and square root."""
    import tensorflow as tf

    one = np.float32(1)
    for ours, expected in ((tf.math.reciprocal, one / POINTS), (tf.math.rsqrt, one / np.sqrt(POINTS))):
        assert array_digest("x", expected) == array_digest("x", ours(POINTS).numpy())


def test_a_name_that_was_bound_before_is_exact(request: pytest.FixtureRequest) -> None:
    """The functions themselves are changed: a name that a module took before has the exact version too."""
    bound = bound_before()
    request.getfixturevalue("exact_operations")
    expected = np.float32(1) / np.sqrt(POINTS)

    assert [expected.tobytes()] * 3 == [function(POINTS).numpy().tobytes() for function in bound]


def test_no_function_creates_an_operation_any_more(exact_operations: None) -> None:
    """No function in memory, but the kept originals, creates one: a new one of another TensorFlow would be found."""
    import keras  # noqa: F401

    from samebits.portable import exact

    assert {} == creators(set(exact.REPLACED))


def test_a_function_that_creates_an_operation_is_found(exact_operations: None) -> None:
    """Negative control: a function of a new module is found, and so are the other operations of TensorFlow."""
    from tensorflow.python.framework import op_def_library

    def new(x: Any) -> Any:
        return op_def_library._apply_op_helper("Rsqrt", x=x)

    assert {"Rsqrt"} == set(creators({"Rsqrt"}).values())
    assert new.__qualname__ in next(iter(creators({"Rsqrt"})))
    assert {"Dequantize"} == set(creators({"Dequantize"}).values())


def test_a_second_installation_changes_nothing(exact_operations: None) -> None:
    """The originals stay the originals."""
    from samebits.portable import exact

    before = dict(exact._originals)
    exact.install()

    assert before == exact._originals
    assert set(exact.REPLACED) == set(before)


def test_every_approximate_operation_has_an_exact_version() -> None:
    """Only the fused batch normalization, which Keras does not use, has none."""
    from samebits.portable import exact, graph_check

    approximate = {name for name, reason in graph_check.REFUSED.items() if reason == graph_check.APPROXIMATE}

    assert {name for name in approximate if not name.startswith("FusedBatchNorm")} == approximate & set(exact.EXACT)


def test_what_has_no_exact_version_is_tensorflows_own(exact_operations: None) -> None:
    """Complex numbers and large matrices use TensorFlow's operation, which the check of the graph refuses."""
    assert {"Rsqrt"} == traced(lambda tf, _, x: tf.math.real(tf.math.rsqrt(tf.complex(x, x))))[1]
    assert {"MatrixInverse"} == traced(lambda tf, _, x: tf.linalg.inv(tf.reshape(x[:81], (9, 9)) + tf.eye(9)))[1]


@pytest.mark.parametrize(("operation", "compute"), [
    ("Qr", lambda tf, x: tf.linalg.qr(x)),
    ("Svd", lambda tf, x: tf.linalg.pinv(x)),
    ("MatrixSolve", lambda tf, x: tf.linalg.solve(x, x)),
    ("MatrixInverse", lambda tf, x: tf.linalg.inv(x)),
    ("SelfAdjointEigV2", lambda tf, x: tf.linalg.eigh(x)),
])  # fmt: skip
def test_a_decomposition_outside_of_a_graph_is_an_error(
    operation: str, compute: Callable[..., Any], exact_operations: None
) -> None:
    """No check of a graph would find it in a data function, a model function or an initializer of the user's."""
    import tensorflow as tf

    with pytest.raises(NotPortableError, match=f"TensorFlow's {operation}, outside of the training step"):
        compute(tf, tf.eye(9))

    assert operation in traced(lambda tf, _, x: tf.reduce_sum(compute(tf, tf.reshape(x[:81], (9, 9)))[0]))[1]


def test_other_kinds_of_tensors_are_taken(exact_operations: None) -> None:
    """Ragged tensors, half precision, NumPy arrays and plain numbers work as they do in TensorFlow."""
    import tensorflow as tf

    ragged = tf.math.rsqrt(tf.ragged.constant([[1.0, 4.0], [16.0]]))

    assert [[1.0, 0.5], [0.25]] == ragged.to_list()
    assert tf.float16 == tf.math.rsqrt(tf.constant(4.0, tf.float16)).dtype
    assert [0.5, 0.25] == [float(tf.math.rsqrt(4.0)), float(tf.math.reciprocal(np.float32(4)))]
    assert [1.0, 0.5] == tf.map_fn(tf.math.rsqrt, tf.constant([1.0, 4.0])).numpy().tolist()


def test_a_singular_matrix_has_no_finite_inverse(exact_operations: None) -> None:
    """Rows that depend on each other give no finite numbers; rows in another order are pivoted."""
    import tensorflow as tf

    swapped = tf.constant([[0.0, 2.0], [4.0, 0.0]])

    assert not np.isfinite(tf.linalg.inv(tf.ones((2, 2))).numpy()).all()
    assert [[0.0, 0.25], [0.5, 0.0]] == tf.linalg.inv(swapped).numpy().tolist()
