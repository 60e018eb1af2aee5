"""An orthogonal initializer whose bits do not depend on the CPU. Importing this module imports Keras."""

import math
from typing import Any

import keras
import numpy as np

from samebits.core.errors import NotPortableError


def orthonormal_rows(matrix: np.ndarray) -> np.ndarray:
    """Return orthonormal rows that span the same space as the given rows, with bits that depend only on the input.

    Uses Gram-Schmidt and orthogonalizes each row twice. `math.fsum` sums every inner product and rounds once. All other
    arithmetic is elementwise IEEE. A library's QR sums in an order that depends on the CPU's caches and instruction
    sets.

    Args:
        matrix: float64[rows, columns], rows <= columns, of full rank.

    Returns:
        float64[rows, columns].

    Source: "Twice is enough", Kahan and Parlett.
    """
    basis = np.array(matrix, np.float64)
    for i in range(len(basis)):
        row = basis[i]
        for _ in range(2):
            for other in basis[:i]:
                row = row - math.fsum((row * other).tolist()) * other
        basis[i] = row / math.sqrt(math.fsum((row * row).tolist()))
    return basis


@keras.saving.register_keras_serializable(package="samebits")
class Orthogonal(keras.initializers.Initializer):
    """Orthogonal initializer like Keras's `OrthogonalInitializer`, with the same bits on every CPU.

    Keras draws the samples, so the distribution is the same. `orthonormal_rows` decomposes the matrix.

    Args:
        gain: Factor on the orthogonal matrix.
        seed: The seed, or None: Keras chooses one (unseeded).

    Source: Saxe et al., 2014.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain = gain
        self._init_seed = seed
        self.seed = keras.initializers.RandomNormal(seed=seed).seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return float[shape]. The last axis gives the matrix's columns, all others together its rows.

        Raises:
            ValueError: Fewer than two axes.
        """
        if len(shape) < 2:  # noqa: PLR2004
            message = f"Orthogonal expects a shape with at least two axes. Received: shape={shape}"
            raise ValueError(message)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        small, large = min(rows, columns), max(rows, columns)
        draws = keras.ops.convert_to_numpy(keras.random.normal((large, small), seed=self.seed, dtype="float32"))
        basis = orthonormal_rows(draws.T)
        matrix = basis.T if rows >= columns else basis
        return keras.ops.convert_to_tensor((self.gain * matrix).reshape(shape), dtype=dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for Keras's serialization."""
        return {"gain": self.gain, "seed": self._init_seed}


def exact_version(initializer: Any, weight: str) -> Any:
    """Return an initializer with the same seed and distribution, and the same bits on every CPU.

    Keras's orthogonal initializer is the only one with other bits on other CPUs; any other is returned unchanged.

    Args:
        initializer: What the weight is created with.
        weight: Keras's path of the weight.

    Raises:
        NotPortableError: It is a user's subclass of Keras's orthogonal initializer.
    """
    if type(initializer) is keras.initializers.Orthogonal:
        return Orthogonal(initializer.gain, initializer.seed)
    if isinstance(initializer, keras.initializers.Orthogonal):
        name = type(initializer).__qualname__
        raise NotPortableError(
            f"not portable: the initializer {name} of {weight} decomposes a matrix",
            expected="initial weights with the same bits on every CPU under runtime=portable",
            received=f"{name}, a subclass of keras.initializers.Orthogonal",
            fix="derive it from samebits.portable.layers.Orthogonal; or choose runtime=machine",
        )
    return initializer
