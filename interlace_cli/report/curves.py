"""Pictures: the training loss of healing over its steps, and the retention of each checkpoint with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.checkpoint import Healing
from interlace_cli.domain.evaluation import Result
from interlace_cli.report.drawing import Element, Line, Picture, Rect, Text

WIDTH, HEIGHT, LEFT, TOP = 620.0, 220.0, 60.0, 30.0


def build_loss_curve(healing: Healing) -> Picture:
    """Loss against step. The loss axis starts at 0, so that a small gain looks small."""
    steps, losses = [step for step, _ in healing.curve], [loss for _, loss in healing.curve]
    most, last = max(losses) * 1.05 or 1.0, max(steps)
    right, foot = WIDTH - 12, HEIGHT - 28

    def to_point(step: float, loss: float) -> tuple[float, float]:
        return (
            round(LEFT + (right - LEFT) * step / last, 2),
            round(foot - (foot - TOP) * loss / most, 2),
        )

    shapes: list[Element] = [Text(4, 16, "loss of healing", size=13)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        _, y = to_point(0, share * most)
        shapes.append(Line(((LEFT, y), (right, y)), "line"))
        shapes.append(Text(LEFT - 6, y + 4, f"{share * most:.3g}", "soft", "end", size=10))
    shapes += [
        Text(to_point(share * last, 0)[0], HEIGHT - 10, f"{share * last:.0f}", "soft", "middle", size=10)
        for share in (0, 0.5, 1)
    ]
    shapes.append(Line(tuple(to_point(step, loss) for step, loss in healing.curve), "tune", 2))
    return Picture(WIDTH, HEIGHT, shapes, f"loss of healing, from {losses[0]:.3f} to {losses[-1]:.3f}")


def build_intervals(results: Sequence[Result]) -> Picture:
    """One row per checkpoint with a retention: a mark, its 95% interval, and a line at 100%."""
    rows = [result for result in results if result.retention is not None]
    bounds = [value for r in rows for value in (r.retention or 0.0, *(r.retention_interval or ()))]
    low = min(95.0, 5 * (min(bounds, default=95.0) // 5))
    high = max(102.0, max(bounds, default=100.0) + 1)
    height = 48 + 30 * len(rows) + 12
    left, right = 110.0, WIDTH - 80

    def to_x(value: float) -> float:
        return round(left + (right - left) * (value - low) / (high - low), 2)

    foot = height - 22.0
    shapes: list[Element] = [Text(4, 16, "retention, % of the dense model, with 95% intervals", size=13)]
    ticks = range(int(low), int(high) + 1, 5 if high - low <= 50 else 20)
    for tick in ticks:
        shapes.append(Line(((to_x(tick), 28), (to_x(tick), foot)), "soft" if tick == 100 else "line"))
        shapes.append(Text(to_x(tick), height - 8, str(tick), "soft", "middle", size=10))
    for number, result in enumerate(rows):
        y, value = 46.0 + 30 * number, result.retention or 0.0
        color = "tune" if number else "drop"
        shapes.append(Text(left - 10, y + 4, result.name, "ink", "end"))
        if result.retention_interval:
            begin, end = (to_x(bound) for bound in result.retention_interval)
            shapes.append(Line(((begin, y), (end, y)), color, 3))
        shapes.append(Rect(to_x(value) - 5, y - 5, 10, 10, color, f"{result.name}: {value:.1f}%", radius=5))
        shapes.append(Text(right + 12, y + 4, f"{value:.1f}%", "ink"))
    return Picture(WIDTH, height, shapes, "retention of each checkpoint with its interval")
