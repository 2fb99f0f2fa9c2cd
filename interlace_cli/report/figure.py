"""The figure of `interlace compare`: retention against sparsity, one line per method, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from interlace_cli.domain.comparison import Comparison, ComparisonRow

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 30, 50
COLORS = ("#3d8b5f", "#c8553d", "#3d6fc8", "#b08900", "#7d4fb0", "#2f9a9a", "#b0477a", "#6b6b66", "#8a5a2b", "#4a7a1f")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#555}.grid{stroke:#ddd}.healed{fill:none;stroke-width:2}"
    ".pruned{fill:none;stroke-width:1;stroke-dasharray:4 3;opacity:.6}.bar{stroke-width:1;opacity:.5}"
)


def build_figure(comparison: Comparison) -> str:
    """The SVG file. Healed methods are solid lines with 95% intervals, unhealed ones thin dashed lines."""
    rows = [row for row in comparison.rows if row.ratio is not None and row.retention is not None]
    methods = list(dict.fromkeys(row.method for row in rows))
    most = max((row.sparsity for row in rows), default=0.5)
    lowest = min((_low(row) for row in rows), default=0.0)
    scale = _Scale(most * 1.08 or 1.0, max(10 * int(lowest // 10), 0))
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-size='12'>",
        f"<style>{STYLE}</style><rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        f"<text x='{LEFT}' y='18'>{escape(comparison.model)}: retention (% of dense) by share of layers dropped</text>",
        *_build_axes(scale, sorted({row.sparsity for row in rows})),
    ]
    for number, method in enumerate(methods):
        color = COLORS[number % len(COLORS)]
        for is_healed, style in ((False, "pruned"), (True, "healed")):
            own = sorted(
                (row for row in rows if row.method == method and row.is_healed is is_healed), key=lambda r: r.sparsity
            )
            parts += _build_line(own, scale, color, style)
        y = TOP + 14 + 18 * number
        parts.append(f"<rect x='{WIDTH - RIGHT + 20}' y='{y - 9}' width='14' height='4' fill='{color}'/>")
        parts.append(f"<text x='{WIDTH - RIGHT + 40}' y='{y - 3}'>{escape(method)}</text>")
    y = TOP + 14 + 18 * len(methods)
    parts.append(f"<text x='{WIDTH - RIGHT + 20}' y='{y + 8}'>solid: healed; dashed: not</text>")
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    """Maps sparsity (0 ... `most`) and retention in percent (`lowest` ... 105) to pixels."""

    def __init__(self, most: float, lowest: float) -> None:
        self.most, self.lowest = most, lowest
        self.highest = 105.0

    def x(self, sparsity: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * sparsity / self.most, 1)

    def y(self, retention: float) -> float:
        share = (max(retention, self.lowest) - self.lowest) / (self.highest - self.lowest)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def _build_axes(scale: _Scale, sparsities: Sequence[float]) -> list[str]:
    parts = []
    for value in range(int(scale.lowest), 101, 10):
        y, end = scale.y(value), WIDTH - RIGHT
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{end}' y1='{y}' y2='{y}'/>")
        parts.append(f"<text x='{LEFT - 8}' y='{y + 4}' text-anchor='end'>{value}</text>")
    for sparsity in sparsities:
        x, foot = scale.x(sparsity), HEIGHT - BOTTOM
        parts.append(f"<line class='grid' x1='{x}' x2='{x}' y1='{TOP}' y2='{foot}'/>")
        parts.append(f"<text x='{x}' y='{foot + 18}' text-anchor='middle'>{100 * sparsity:.1f}%</text>")
    return parts


def _build_line(rows: Sequence[ComparisonRow], scale: _Scale, color: str, style: str) -> list[str]:
    points = [(scale.x(row.sparsity), scale.y(row.retention or 0.0)) for row in rows]
    parts = [f"<circle cx='{x}' cy='{y}' r='{3 if style == 'healed' else 2}' fill='{color}'/>" for x, y in points]
    if len(points) > 1:
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f"<polyline class='{style}' stroke='{color}' points='{path}'/>")
    for row, (x, _) in zip(rows, points, strict=True):
        if style == "healed" and row.retention_interval is not None:
            low, high = (scale.y(value) for value in row.retention_interval)
            parts.append(f"<line class='bar' stroke='{color}' x1='{x}' x2='{x}' y1='{low}' y2='{high}'/>")
    return parts


def _low(row: ComparisonRow) -> float:
    """The lowest retention that the figure has to show for the row, in percent."""
    return row.retention_interval[0] if row.retention_interval else row.retention or 0.0
