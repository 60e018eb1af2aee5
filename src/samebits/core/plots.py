"""Draws line plots as PNG files. Imports matplotlib inside its functions, because that takes a second."""

import pathlib
from collections.abc import Mapping, Sequence

Line = tuple[str, Sequence[float], Sequence[float], str]  # label, x, y, matplotlib's style


def draw_lines(picture: pathlib.Path, panels: Mapping[str, Sequence[Line]], x_label: str) -> None:
    """Draw one panel per quantity, next to each other.

    Args:
        picture: The PNG file to write.
        panels: Name of the quantity -> its lines.
        x_label: Label of every panel's x axis.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import; no global state of pyplot

    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for label, x, y, style in lines:
            axis.plot(x, y, style, label=label)
        axis.set_xlabel(x_label)
        axis.set_ylabel(name)
        axis.legend()
    figure.savefig(picture, dpi=120, metadata={"Software": None})
