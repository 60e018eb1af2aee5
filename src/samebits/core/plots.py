"""Draws line plots as PNG files. Imports matplotlib inside its functions, because that takes a second."""

import math
import pathlib
from collections.abc import Mapping, Sequence

MAX_ACROSS = 3  # panels
Line = tuple[str, Sequence[float], Sequence[float], str]  # label, x, y, matplotlib's style


def draw_lines(picture: pathlib.Path, panels: Mapping[str, Sequence[Line]], x_label: str) -> None:
    """Draw one panel per quantity, at most `MAX_ACROSS` next to each other.

    Args:
        picture: The PNG file to write.
        panels: Name of the quantity -> its lines.
        x_label: Label of every panel's x axis.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import; no global state of pyplot

    across = max(1, min(MAX_ACROSS, len(panels)))
    down = max(1, math.ceil(len(panels) / across))
    figure = Figure(figsize=(4.5 * across, 3.5 * down), layout="constrained")
    for place, (name, lines) in enumerate(panels.items(), 1):
        axis = figure.add_subplot(down, across, place)
        for label, x, y, style in lines:
            axis.plot(x, y, style, label=label)
        axis.set_xlabel(x_label)
        axis.set_ylabel(name)
        axis.legend()
    figure.savefig(picture, dpi=120, metadata={"Software": None})
