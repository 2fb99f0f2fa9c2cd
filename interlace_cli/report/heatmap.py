"""The heatmap of span similarities: one row per span length, one column per first layer, yellow where a span changes
the hidden state least.

Most similarities S are close to 1, so the colour shows -log10(1 - S). Example: 0.9 -> 1, 0.99 -> 2, 0.999 -> 3; each
step means ten times less change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.plan import Plan
from interlace_cli.report.drawing import Element, Picture, Rect, Text, contrast, heat

CELL, ROW, LEFT, TOP = 34, 26, 96, 34
FINEST = 1e-4
"""The smallest 1 - S that the colours tell apart."""
Rows = list[tuple[str, list[float | None]]]
"""`(name, similarities)`: entry i is that of the span that begins at layer i; None if it is not known."""


def find_rows(analysis: Analysis) -> Rows:
    """The rows of an analysis: S1, S2, S3 over all tokens, and, where there are images, S1 over image and over text
    tokens."""
    spans = analysis.similarity
    rows: Rows = [("S1", [*spans.s1]), ("S2", [*spans.s2]), ("S3", [*spans.s3])]
    for name, own in (("S1 image", analysis.image), ("S1 text", analysis.text)):
        if own is not None and analysis.image is not None:
            rows.append((name, [*own.s1]))
    return rows


def find_plan_rows(plan: Plan) -> Rows:
    """The rows S1, S2, S3 from the notes of a plan; empty for a plan without scores."""
    names = ("s1", "s2", "s3")
    rows: Rows = [(name.upper(), [getattr(note, name) for note in plan.layers]) for name in names]
    return [(name, values) for name, values in rows if any(value is not None for value in values)]


def scale_rows(rows: Rows) -> list[list[float | None]]:
    """Each cell on the colour scale, from 0 (lowest of all rows) to 1 (highest); None where there is no value."""
    depth = [[None if value is None else _to_depth(value) for value in values] for _, values in rows]
    known = [value for row in depth for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    width = high - low or 1.0
    return [[None if value is None else (value - low) / width for value in row] for row in depth]


def build_heatmap(rows: Rows, num_layers: int, title: str) -> Picture:
    """The picture: one row per entry of `rows`, one column per layer, with the similarity in each cell."""
    shapes: list[Element] = [Text(4, 16, title, size=13)]
    for (name, values), scaled, y in zip(rows, scale_rows(rows), _find_tops(len(rows)), strict=True):
        shapes.append(Text(LEFT - 8, y + ROW * 0.68, name, "soft", "end"))
        for layer, (value, share) in enumerate(zip(values, scaled, strict=True)):
            if value is None or share is None:
                continue
            color, x = heat(share), LEFT + layer * CELL
            last = layer + (int(name[1]) if name[1:2].isdigit() else 1) - 1
            span = f"layer {layer}" if last == layer else f"layers {layer} to {last}"
            shapes.append(Rect(x, y, CELL - 1, ROW - 1, color, f"{name}, {span}: {value:.4f}"))
            shapes.append(Text(x + CELL / 2 - 0.5, y + ROW * 0.66, _shorten(value), contrast(color), "middle", size=10))
    foot = TOP + len(rows) * ROW + 16
    shapes += [
        Text(LEFT + layer * CELL + CELL / 2, foot, str(layer), "soft", "middle", size=10) for layer in range(num_layers)
    ]
    shapes.append(Text(LEFT - 8, foot, "first layer", "soft", "end", size=10))
    return Picture(LEFT + num_layers * CELL + 8, foot + 8, shapes, title)


def _find_tops(count: int) -> Sequence[float]:
    """The y of each row's upper edge, in pixels."""
    return [TOP + number * ROW for number in range(count)]


def _to_depth(similarity: float) -> float:
    """-log10(1 - S), at most 4."""
    return -math.log10(max(1 - similarity, FINEST))


def _shorten(value: float) -> str:
    """Three digits, which fit a cell: 0.987 -> `.987`."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text.replace("-0.", "-.")[:4]
