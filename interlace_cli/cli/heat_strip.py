"""The similarity heatmap for a terminal: a block of colour for each layer, a line for each kind of span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.report.drawing import contrast, heat
from interlace_cli.report.heatmap import Rows, scale_rows

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 3


def build_heat_strip(rows: Rows, num_layers: int) -> Text:
    """Yellow where a span changes the hidden state least."""
    from rich.text import Text

    strip = Text()
    strip.append("layer     ", style="dim")
    for layer in range(num_layers):
        strip.append(f"{layer:>{WIDTH}}", style="dim")
    for (name, _), scaled in zip(rows, scale_rows(rows), strict=True):
        strip.append(f"\n{name:<10}")
        for level in scaled:
            if level is None:
                strip.append(" " * WIDTH)
            else:
                color = heat(level)
                strip.append(f"{round(99 * level):>{WIDTH}}", style=f"{contrast(color)} on {color}")
    strip.append("\n99: the span that changes the hidden state least; scale: -log10(1 - S)", style="dim")
    return strip
