"""The demo's world: small pictures of shapes, bar charts and numbers, drawn from a seed.

A picture is a frozen value (`Scene`, `Chart` or `Number`) and `draw` makes its pixels: 64 x 64, on a grid of
4 x 4 cells of 16 pixels, one cell per image token of the demo model. Nothing is read from disk. The questions
about a picture are in `questions.py`.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

GRID = 4
CELL = 16
SIZE = GRID * CELL
BACKGROUND = (245, 245, 240)

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (42, 157, 63),
    "blue": (38, 84, 214),
    "yellow": (240, 196, 25),
    "purple": (142, 45, 173),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
MAX_VALUE = 8
"""Height of the tallest bar, in units of 8 pixels."""

# 3 x 5 glyphs, one string of rows per digit; drawn three pixels to the dot, so no font is needed.
_GLYPHS = {
    "0": "111 101 101 101 111",
    "1": "010 110 010 010 111",
    "2": "111 001 111 100 111",
    "3": "111 001 111 001 111",
    "4": "101 101 111 001 001",
    "5": "111 100 111 001 111",
    "6": "111 100 111 101 111",
    "7": "111 001 010 010 010",
    "8": "111 101 111 101 111",
    "9": "111 101 111 001 111",
}


@dataclass(frozen=True)
class Shape:
    """One shape in the cell at `column`, `row` (0-based from the top left)."""

    name: str
    color: str
    column: int
    row: int


@dataclass(frozen=True)
class Scene:
    """Three to six shapes; no two share both name and colour, no two share a cell."""

    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Bar:
    """A bar of a chart; `value` in units of 8 pixels."""

    color: str
    value: int


@dataclass(frozen=True)
class Chart:
    """Four bars from left to right, of different colours and different values in 1 ... MAX_VALUE."""

    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Digit:
    """One digit of a number, as a character."""

    value: str
    color: str


@dataclass(frozen=True)
class Number:
    """Two to four different digits of different colours, side by side in grid row `row`."""

    digits: tuple[Digit, ...]
    row: int


Picture = Scene | Chart | Number
FAMILIES = ("shapes", "chart", "text")


def build_picture(family: str, rng: random.Random) -> Picture:
    """A random picture of `family`. Raises ValueError if that is none of `FAMILIES`."""
    if family == "shapes":
        pairs = [(name, color) for name in SHAPES for color in COLORS]
        cells = [(column, row) for column in range(GRID) for row in range(GRID)]
        count = rng.randint(3, 6)
        chosen = zip(rng.sample(pairs, count), rng.sample(cells, count), strict=True)
        return Scene(tuple(Shape(name, color, *cell) for (name, color), cell in chosen))
    if family == "chart":
        colors = rng.sample(list(COLORS), GRID)
        values = rng.sample(range(1, MAX_VALUE + 1), GRID)
        return Chart(tuple(Bar(color, value) for color, value in zip(colors, values, strict=True)))
    if family == "text":
        count = rng.randint(2, 4)
        digits = zip(rng.sample("0123456789", count), rng.sample(list(COLORS), count), strict=True)
        return Number(tuple(Digit(value, color) for value, color in digits), row=rng.randrange(GRID))
    raise ValueError(f"no family of pictures is called {family!r}")


def draw(picture: Picture) -> Image:
    """The picture as an RGB image of SIZE x SIZE pixels."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE, SIZE), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    if isinstance(picture, Scene):
        for shape in picture.shapes:
            _draw_shape(canvas, shape)
    elif isinstance(picture, Chart):
        for column, bar in enumerate(picture.bars):
            left = column * CELL
            canvas.rectangle((left + 3, SIZE - 8 * bar.value, left + 12, SIZE - 1), fill=COLORS[bar.color])
    else:
        for column, digit in enumerate(picture.digits):
            _draw_digit(canvas, digit, left=column * CELL + 4, top=picture.row * CELL)
    return image


def is_heldout(picture: Picture) -> bool:
    """Whether the picture belongs to the held-out eighth of the world.

    It depends on the picture alone (a hash of its value), so no picture is in two splits. The demo model was trained
    only on the other seven eighths.
    """
    return hashlib.sha256(repr(picture).encode()).digest()[0] < 32


def _draw_shape(canvas: ImageDraw, shape: Shape) -> None:
    left, top, color = shape.column * CELL, shape.row * CELL, COLORS[shape.color]
    box = (left + 2, top + 2, left + 13, top + 13)
    if shape.name == "circle":
        canvas.ellipse(box, fill=color)
    elif shape.name == "square":
        canvas.rectangle(box, fill=color)
    elif shape.name == "triangle":
        canvas.polygon([(left + 7, top + 2), (left + 13, top + 13), (left + 1, top + 13)], fill=color)
    else:
        canvas.rectangle((left + 6, top + 1, left + 9, top + 14), fill=color)
        canvas.rectangle((left + 1, top + 6, left + 14, top + 9), fill=color)


def _draw_digit(canvas: ImageDraw, digit: Digit, left: int, top: int) -> None:
    for y, dots in enumerate(_GLYPHS[digit.value].split()):
        for x, dot in enumerate(dots):
            if dot == "1":
                corner = (left + 3 * x, top + 3 * y)
                canvas.rectangle((*corner, corner[0] + 2, corner[1] + 2), fill=COLORS[digit.color])
