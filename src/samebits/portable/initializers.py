"""An orthogonal initialiser whose bits do not depend on the CPU. Importing this module imports Keras."""

import math
from typing import Any

import keras
import numpy as np


def orthonormal_rows(matrix: np.ndarray) -> np.ndarray:
    """Return rows that span what the given rows span, orthonormal, with bits that depend on nothing but the input.

    Gram-Schmidt, each row reduced twice ("twice is enough", Kahan and Parlett); every inner product is summed by
    `math.fsum`, which rounds once, and the rest is elementwise IEEE arithmetic. A library's QR takes its order of
    summation from the CPU's caches and instruction sets.

    Args:
        matrix: float64[rows, columns], rows <= columns, of full rank.

    Returns:
        float64[rows, columns].
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
    """Orthogonal initialiser like Keras's `OrthogonalInitializer`, with the same bits on every CPU.

    The draws are Keras's own, so the distribution is the same; the decomposition is `orthonormal_rows`.

    Args:
        gain: Factor on the orthogonal matrix.
        seed: The seed, or None for one of Keras's own choice (unseeded).

    Source: Saxe et al., 2014.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain = gain
        self._init_seed = seed
        self.seed = keras.initializers.RandomNormal(seed=seed).seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return float[shape]; the last axis is one side of the matrix, all others together the other.

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
        """Return the arguments, for Keras's serialisation."""
        return {"gain": self.gain, "seed": self._init_seed}
