"""Pictures made of boxes, lines and text, drawn as SVG or PNG. Coordinates are in pixels, y downwards.

A colour is a name of the palette, so that one picture fits a light and a dark page, or a fixed `#rrggbb`, such as those
of the colour scale (`heat`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LIGHT = {
    "ink": "#1c1c1a",
    "soft": "#6f6f68",
    "line": "#d8d8d0",
    "page": "#fdfdfa",
    "drop": "#c8553d",
    "tune": "#3d8b5f",
    "anchor": "#3d6fc8",
    "keep": "#b9b9b0",
}
DARK = {
    "ink": "#e8e8e2",
    "soft": "#a0a098",
    "line": "#3a3a36",
    "page": "#191917",
    "drop": "#e0775f",
    "tune": "#5fb083",
    "anchor": "#7aa2ec",
    "keep": "#5c5c56",
}
SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Viridis (Smith and van der Walt 2015): dark violet to yellow in perceptually even steps, colour-blind safe."""
FONT = 12


@dataclass(frozen=True)
class Rect:
    """A filled box with its upper left corner at (x, y). `title` is the tooltip, `radius` rounds the corners."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    title: str = ""
    radius: float = 0


@dataclass(frozen=True)
class Text:
    """One line of text. `anchor` says which part of it is at `x`: start, middle or end. `y` is the baseline."""

    x: float
    y: float
    text: str
    fill: str = "ink"
    anchor: str = "start"
    size: int = FONT


@dataclass(frozen=True)
class Line:
    """A line through the points (x, y)."""

    points: tuple[tuple[float, float], ...]
    stroke: str
    width: float = 1


Element = Rect | Text | Line


@dataclass(frozen=True)
class Picture:
    """Elements on a canvas; later ones cover earlier ones. `label` describes the picture for screen readers."""

    width: float
    height: float
    shapes: Sequence[Element]
    label: str


def heat(value: float) -> str:
    """The colour of a value on the scale, as `#rrggbb`. Values outside 0 ... 1 are clipped."""
    position = min(max(value, 0.0), 1.0) * (len(SCALE) - 1)
    low = min(int(position), len(SCALE) - 2)
    mixed = [round(a + (b - a) * (position - low)) for a, b in zip(SCALE[low], SCALE[low + 1], strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def contrast(color: str) -> str:
    """Black or white, as `#rrggbb`: whichever is easier to read on `color`."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def build_svg(picture: Picture, is_alone: bool = True) -> str:
    """The picture as SVG: a file of its own if `is_alone`, else part of a page whose CSS has `build_palette()`."""
    size = f"viewBox='0 0 {picture.width:g} {picture.height:g}'"
    style = f"<style>{build_palette()} svg{{background:var(--page)}}</style>" if is_alone else ""
    space = " xmlns='http://www.w3.org/2000/svg'" if is_alone else ""
    shapes = "\n".join(map(_to_svg, picture.shapes))
    label = escape(picture.label, quote=True)
    return (
        f"<svg{space} {size} width='{picture.width:g}' role='img' aria-label='{label}'"
        f" font-family='system-ui,sans-serif'>{style}\n{shapes}\n</svg>\n"
    )


def build_palette() -> str:
    """CSS that defines the palette as variables, light or dark by the reader's preference."""
    light = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK.items())
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def build_png(picture: Picture, scale: int = 2) -> bytes:
    """The picture as a PNG file in the light palette, `scale` times as large."""
    from io import BytesIO

    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (round(picture.width * scale), round(picture.height * scale)), LIGHT["page"])
    draw = ImageDraw.Draw(image)
    for shape in picture.shapes:
        if isinstance(shape, Rect):
            box = [shape.x, shape.y, shape.x + shape.width, shape.y + shape.height]
            corners = [value * scale for value in box]
            draw.rounded_rectangle(corners, shape.radius * scale, fill=_find_color(shape.fill))
        elif isinstance(shape, Line):
            points = [(x * scale, y * scale) for x, y in shape.points]
            draw.line(points, fill=_find_color(shape.stroke), width=max(round(shape.width * scale), 1))
        else:
            font = ImageFont.load_default(shape.size * scale)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            point = (shape.x * scale, shape.y * scale)
            draw.text(point, shape.text, fill=_find_color(shape.fill), font=font, anchor=anchor)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _to_svg(shape: Element) -> str:
    if isinstance(shape, Rect):
        title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
        return (
            f"<rect x='{shape.x:g}' y='{shape.y:g}' width='{shape.width:g}' height='{shape.height:g}'"
            f" rx='{shape.radius:g}' style='fill:{_name_color(shape.fill)}'>{title}</rect>"
        )
    if isinstance(shape, Line):
        points = " ".join(f"{x:g},{y:g}" for x, y in shape.points)
        return (
            f"<polyline points='{points}' style='fill:none;stroke:{_name_color(shape.stroke)}'"
            f" stroke-width='{shape.width:g}' stroke-linejoin='round'/>"
        )
    return (
        f"<text x='{shape.x:g}' y='{shape.y:g}' font-size='{shape.size}' text-anchor='{shape.anchor}'"
        f" style='fill:{_name_color(shape.fill)}'>{escape(shape.text)}</text>"
    )


def _name_color(color: str) -> str:
    """The colour in CSS."""
    return color if color.startswith("#") else f"var(--{color})"


def _find_color(color: str) -> str:
    """The colour as `#rrggbb`, in the light palette."""
    return color if color.startswith("#") else LIGHT[color]
