"""The picture of a plan: the dense layers in a row, coloured by role, and below them the layers that stay."""

from __future__ import annotations

from interlace_cli.domain.layers import Role
from interlace_cli.domain.plan import Plan
from interlace_cli.report.drawing import Element, Line, Picture, Rect, Text
from interlace_cli.report.heatmap import CELL, LEFT

MARKS = {Role.DROP: "", Role.TUNE: "T", Role.ANCHOR: "A", Role.KEEP: ""}
WORDS = {Role.DROP: "dropped", Role.TUNE: "tuned", Role.ANCHOR: "anchor", Role.KEEP: "kept"}
HEIGHT, TOP, BELOW = 30, 50, 122


def build_strip(plan: Plan) -> Picture:
    """The dense layers above, the kept ones below, and a line from each kept layer to its new position."""
    notes = {note.index: note.why for note in plan.layers}
    title = f"{plan.strategy}: {len(plan.drop)} of {plan.num_layers} layers dropped"
    shapes: list[Element] = [
        Text(4, 16, title, size=13),
        Text(LEFT - 8, TOP + HEIGHT * 0.66, "dense", "soft", "end"),
        Text(LEFT - 8, BELOW + HEIGHT * 0.66, "pruned", "soft", "end"),
    ]
    position = {layer: index for index, layer in enumerate(plan.kept)}
    for layer, role in enumerate(plan.roles):
        x = LEFT + layer * CELL
        why = f"layer {layer}: {WORDS[role]}. {notes.get(layer, '')}".strip()
        shapes.append(Text(x + CELL / 2, TOP - 6, str(layer), "soft", "middle", size=10))
        shapes.append(Rect(x, TOP, CELL - 2, HEIGHT, str(role.value), why, radius=4))
        shapes.append(Text(x + CELL / 2 - 1, TOP + HEIGHT * 0.68, MARKS[role], "page", "middle", size=14))
        if role is Role.DROP:
            shapes += _draw_cross(x + CELL / 2 - 1, TOP + HEIGHT / 2)
        if layer in position:
            below = LEFT + position[layer] * CELL
            shapes.append(Line(((x + CELL / 2, TOP + HEIGHT + 2), (below + CELL / 2, BELOW - 2)), "line"))
            label, title = str(layer), f"position {position[layer]}"
            shapes.append(Rect(below, BELOW, CELL - 2, HEIGHT, str(role.value), title, radius=4))
            ink = "ink" if role is Role.KEEP else "page"
            shapes.append(Text(below + CELL / 2 - 1, BELOW + HEIGHT * 0.66, label, ink, "middle", size=11))
    shapes += _build_legend(BELOW + HEIGHT + 24)
    return Picture(LEFT + plan.num_layers * CELL + 8, BELOW + HEIGHT + 34, shapes, title)


def _draw_cross(x: float, y: float) -> list[Element]:
    """A cross at (x, y) made of lines, because not every font has the sign."""
    arm = 4.5
    ends = (((x - arm, y - arm), (x + arm, y + arm)), ((x - arm, y + arm), (x + arm, y - arm)))
    return [Line(points, "page", 2) for points in ends]


def _build_legend(y: float) -> list[Element]:
    shapes: list[Element] = []
    x: float = LEFT
    for role in (Role.DROP, Role.TUNE, Role.ANCHOR, Role.KEEP):
        shapes.append(Rect(x, y - 9, 10, 10, str(role.value), radius=2))
        shapes.append(Text(x + 15, y, WORDS[role], "soft", size=11))
        x += 80
    return shapes
