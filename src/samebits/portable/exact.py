"""Exact versions of TensorFlow operations that round differently on other CPUs, so that stock Keras is portable.

TensorFlow's reciprocal, reciprocal root and arc tangent use approximate instructions that differ between CPU vendors.
The inverse of a matrix sums in blocks whose size depends on the caches. `install` gives the Python functions that
create these operations other bodies, made of divisions, square roots, products and sums, which are exactly rounded
everywhere (IEEE 754). Layers, losses and gradients call these functions while a step is traced.
"""

import functools
import gc
import inspect
import types
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.util import tf_decorator  # no public name (TensorFlow 2.21)

from samebits.core.errors import NotPortableError

CACHE_SIZED = "sums in blocks whose size depends on the CPU's caches"
DECOMPOSITIONS = (  # no exact version; of the last two, none for large matrices
    "Qr", "Svd", "Cholesky", "CholeskyGrad", "MatrixSolveLs", "MatrixTriangularSolve", "MatrixDeterminant",
    "LogMatrixDeterminant", "SelfAdjointEigV2", "Eig", "Lu", "MatrixInverse", "MatrixSolve",
)  # fmt: skip
ORTHOGONAL = ", or start with keras.initializers.Orthogonal, which is exact as a layer's initializer"
MAX_MATRIX_SIZE = 8  # of an exact inverse; a row of the elimination is several nodes of the graph

_originals: dict[str, Callable[..., Any]] = {}


def _reciprocal(x: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.RealDiv(x=tf.constant(1, x.dtype), y=x)


def _reciprocal_grad(y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    return -(dy * y * y)


def _rsqrt(x: tf.Tensor) -> tf.Tensor:
    return _reciprocal(tf.sqrt(x))


def _rsqrt_grad(y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    return tf.constant(-0.5, y.dtype) * dy * y * (y * y)


def _in_float64(operation: str) -> Callable[..., tf.Tensor]:
    """Return the operation computed in float64, which has no approximate instructions."""

    def compute(*inputs: tf.Tensor) -> tf.Tensor:
        wide = _originals[operation](*(tf.cast(x, tf.float64) for x in inputs))
        return tf.cast(wide, inputs[0].dtype)

    return compute


def _matrix_solve(matrix: tf.Tensor, rhs: tf.Tensor, adjoint: bool = False) -> tf.Tensor:  # noqa: FBT001, FBT002  TensorFlow's argument
    """Return the solution X of matrix @ X = rhs by Gauss-Jordan elimination with partial pivoting.

    Args:
        matrix: float[..., size, size].
        rhs: float[..., size, columns].
        adjoint: Solve with the transposed matrix.

    Source: Golub and Van Loan, "Matrix computations", section 3.4.
    """
    size = matrix.shape[-1]
    if size is None or size > MAX_MATRIX_SIZE:
        return _as_it_is("MatrixSolve", matrix, rhs, adjoint)
    both = tf.concat([tf.linalg.matrix_transpose(matrix) if adjoint else matrix, rhs], -1)
    rows = tf.range(size)
    for i in range(size):
        pivot = i + tf.argmax(tf.abs(both[..., i:, i]), -1, tf.int32)[..., None]
        order = tf.where(rows == i, pivot, tf.where(rows == pivot, i, rows))
        both = tf.gather(both, order, axis=-2, batch_dims=len(both.shape) - 2)
        row = both[..., i : i + 1, :] / both[..., i : i + 1, i : i + 1]
        both = tf.where((rows == i)[:, None], row, both - both[..., i : i + 1] * row)
    return both[..., size:]


def _matrix_inverse(input: tf.Tensor, adjoint: bool = False) -> tf.Tensor:  # noqa: A002, FBT001, FBT002  TensorFlow's arguments
    size = input.shape[-1]
    if size is None or size > MAX_MATRIX_SIZE:
        return _as_it_is("MatrixInverse", input, adjoint)
    identity = tf.eye(size, batch_shape=tf.shape(input)[:-2], dtype=input.dtype)
    return _matrix_solve(input, tf.ensure_shape(identity, input.shape), adjoint)


def not_portable(culprits: str, operations: str, instead: str) -> NotPortableError:
    """Return the error that names operations, where they come from, and what to do instead."""
    return NotPortableError(
        f"not portable: {culprits}", expected="operations with the same bits on every CPU under runtime=portable",
        received=operations,
        fix=f"{instead}; or choose runtime=machine, which promises the same bits on this kind of machine only",
    )  # fmt: skip


def _as_it_is(operation: str, *arguments: Any, **named: Any) -> Any:
    """Create an operation without an exact version in a graph, where `samebits.portable.graph_check` finds it.

    Raises:
        NotPortableError: It would be computed at once: by the data function, the model function or an initializer.
    """
    if not tf.executing_eagerly():
        return _originals[operation](*arguments, **named)
    instead = f"store its result with the data{ORTHOGONAL if operation == 'Qr' else ''}"
    raise not_portable(f"TensorFlow's {operation}, outside of the training step, {CACHE_SIZED}", operation, instead)


EXACT: dict[str, Callable[..., tf.Tensor]] = {
    "Reciprocal": _reciprocal,
    "Inv": _reciprocal,
    "ReciprocalGrad": _reciprocal_grad,
    "InvGrad": _reciprocal_grad,
    "Rsqrt": _rsqrt,
    "RsqrtGrad": _rsqrt_grad,
    **{name: _in_float64(name) for name in ("Atan", "Atan2", "Erfc", "Erfinv", "Ndtri")},
    "MatrixInverse": _matrix_inverse,
    "MatrixSolve": _matrix_solve,
}
REPLACED = tuple(dict.fromkeys((*EXACT, *DECOMPOSITIONS)))


def _redirect(*arguments: Any, exact: Callable[..., Any], **named: Any) -> Any:
    """Call the exact version. Its code becomes the code of TensorFlow's functions, so it must use no global name."""
    return exact(*arguments, **named)


def _call(operation: str, signature: inspect.Signature, *arguments: Any, **named: Any) -> Any:
    """Compute an operation exactly if its inputs are dense floating-point tensors, else as TensorFlow does."""
    if operation not in EXACT:
        return _as_it_is(operation, *arguments, **named)
    bound = signature.bind(*arguments, **named)
    bound.apply_defaults()
    *values, name = bound.arguments.values()
    inputs = [value for value in values if not isinstance(value, bool)]
    if any(isinstance(value, tf.__internal__.CompositeTensor) for value in inputs):
        return _originals[operation](*arguments, **named)  # calls this function again with the dense values
    dtype = next((value.dtype for value in inputs if hasattr(value, "dtype")), None)
    inputs = [tf.convert_to_tensor(value, dtype) for value in inputs]
    if not inputs[0].dtype.is_floating:
        return _originals[operation](*arguments, **named)
    with tf.name_scope(name or operation):
        return EXACT[operation](*inputs, *values[len(inputs) :])


def install() -> None:
    """Let every Python function that creates one of the operations create the exact version instead.

    A decomposition has none: it raises an error when it is computed outside of a graph.

    The code of the functions is replaced, not their names: whatever refers to one, imported before or later, has the
    exact version. A second call changes nothing. `samebits.portable.graph_check` finds what comes another way, such as
    a graph that was saved.
    """
    if _originals:
        return
    operations = {tf_decorator.unwrap(getattr(tf.raw_ops, name))[1].__code__: name for name in REPLACED}
    for function in gc.get_referrers(*operations):
        if not isinstance(function, types.FunctionType):
            continue
        name = operations[function.__code__]
        signature = inspect.signature(function)
        if name not in _originals:
            _originals[name] = types.FunctionType(
                function.__code__, function.__globals__, function.__name__, function.__defaults__
            )
        function.__kwdefaults__ = {"exact": functools.partial(_call, name, signature)}
        function.__code__ = _redirect.__code__
