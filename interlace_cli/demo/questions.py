"""The questions about pictures of the demo's world, each with its one right answer.

`KINDS` holds the kinds of question by name. A kind is a function `(picture, rng) -> (question, answer)` for one family
of pictures; it must find a question about every picture of the family. To add one, write a function with `@_kind`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interlace_cli.demo.world import COLORS, GRID, SHAPES, Chart, Number, Picture, Scene, Shape

QA = tuple[str, str]
ORDINALS = ("first", "second", "third", "fourth")
COLUMN_LETTERS = "abcd"


@dataclass(frozen=True)
class Kind:
    """A kind of question: its name, its family of pictures, and the function that makes a question and its answer."""

    name: str
    family: str
    ask: Callable[[Any, random.Random], QA]


KINDS: dict[str, Kind] = {}


def _kind(family: str) -> Callable[[Callable[[Any, random.Random], QA]], Callable[[Any, random.Random], QA]]:
    """Adds the decorated function to `KINDS` under its own name."""

    def register(ask: Callable[[Any, random.Random], QA]) -> Callable[[Any, random.Random], QA]:
        name = ask.__name__
        KINDS[name] = Kind(name, family, ask)
        return ask

    return register


def build_questions(picture: Picture, family: str, rng: random.Random, kinds: list[str]) -> list[tuple[str, str, str]]:
    """`(kind, question, answer)` for each name in `kinds`. Raises ValueError if a kind is not about `family`."""
    result = []
    for name in kinds:
        kind = KINDS[name]
        if kind.family != family:
            raise ValueError(f"{name!r} asks about {kind.family}, not {family}")
        result.append((name, *kind.ask(picture, rng)))
    return result


# --- shapes ---------------------------------------------------------------------------------------------------


def _called(shape: Shape) -> str:
    """`red circle`."""
    return f"{shape.color} {shape.name}"


def _cell(shape: Shape) -> str:
    """Column letter and 1-based row: the upper left cell is `a1`."""
    return f"{COLUMN_LETTERS[shape.column]}{shape.row + 1}"


@_kind("shapes")
def color_at(scene: Scene, rng: random.Random) -> QA:
    shape = rng.choice(scene.shapes)
    return f"What color is the shape at {_cell(shape)}?", shape.color


@_kind("shapes")
def shape_at(scene: Scene, rng: random.Random) -> QA:
    shape = rng.choice(scene.shapes)
    return f"What shape is at {_cell(shape)}?", shape.name


@_kind("shapes")
def what_at(scene: Scene, rng: random.Random) -> QA:
    """The only kind that may ask about an empty cell, which it does one time in four."""
    if rng.random() < 0.25:
        taken = {_cell(shape) for shape in scene.shapes}
        cells = [f"{letter}{row + 1}" for letter in COLUMN_LETTERS for row in range(GRID)]
        return f"What is at {rng.choice([cell for cell in cells if cell not in taken])}?", "nothing"
    shape = rng.choice(scene.shapes)
    return f"What is at {_cell(shape)}?", _called(shape)


@_kind("shapes")
def where(scene: Scene, rng: random.Random) -> QA:
    shape = rng.choice(scene.shapes)
    return f"Where is the {_called(shape)}?", _cell(shape)


@_kind("shapes")
def count(scene: Scene, rng: random.Random) -> QA:
    return "How many shapes are there?", str(len(scene.shapes))


@_kind("shapes")
def count_color(scene: Scene, rng: random.Random) -> QA:
    color = rng.choice(scene.shapes).color if rng.random() < 0.75 else rng.choice(list(COLORS))
    return f"How many shapes are {color}?", str(sum(shape.color == color for shape in scene.shapes))


@_kind("shapes")
def exists(scene: Scene, rng: random.Random) -> QA:
    """Half the answers are no. The absent shape has the colour or the name of one that is there."""
    shape = rng.choice(scene.shapes)
    if rng.random() < 0.5:
        return f"Is there a {_called(shape)}?", "yes"
    there = {(other.name, other.color) for other in scene.shapes}
    near = [(shape.name, color) for color in COLORS] + [(name, shape.color) for name in SHAPES]
    name, color = rng.choice([pair for pair in near if pair not in there])
    return f"Is there a {color} {name}?", "no"


@_kind("shapes")
def relation(scene: Scene, rng: random.Random) -> QA:
    first, second = rng.sample(scene.shapes, 2)
    if first.column != second.column and (first.row == second.row or rng.random() < 0.5):
        question, holds = f"Is the {_called(first)} left of the {_called(second)}?", first.column < second.column
    else:
        question, holds = f"Is the {_called(first)} above the {_called(second)}?", first.row < second.row
    return question, "yes" if holds else "no"


@_kind("shapes")
def count_left(scene: Scene, rng: random.Random) -> QA:
    shape = rng.choice(scene.shapes)
    answer = sum(other.column < shape.column for other in scene.shapes)
    return f"How many shapes are left of the {_called(shape)}?", str(answer)


# --- charts ---------------------------------------------------------------------------------------------------


@_kind("chart")
def bar_value(chart: Chart, rng: random.Random) -> QA:
    bar = rng.choice(chart.bars)
    return f"What is the value of the {bar.color} bar?", str(bar.value)


@_kind("chart")
def bar_color(chart: Chart, rng: random.Random) -> QA:
    index = rng.randrange(len(chart.bars))
    return f"What color is the {ORDINALS[index]} bar?", chart.bars[index].color


@_kind("chart")
def tallest(chart: Chart, rng: random.Random) -> QA:
    return "Which bar is the tallest?", max(chart.bars, key=lambda bar: bar.value).color


@_kind("chart")
def shortest(chart: Chart, rng: random.Random) -> QA:
    return "Which bar is the shortest?", min(chart.bars, key=lambda bar: bar.value).color


@_kind("chart")
def taller(chart: Chart, rng: random.Random) -> QA:
    first, second = rng.sample(chart.bars, 2)
    return (
        f"Is the {first.color} bar taller than the {second.color} bar?",
        "yes" if first.value > second.value else "no",
    )


@_kind("chart")
def difference(chart: Chart, rng: random.Random) -> QA:
    high, low = sorted(rng.sample(chart.bars, 2), key=lambda bar: -bar.value)
    return f"How much taller is the {high.color} bar than the {low.color} bar?", str(high.value - low.value)


@_kind("chart")
def total(chart: Chart, rng: random.Random) -> QA:
    first, second = rng.sample(chart.bars, 2)
    question = f"What is the total of the {first.color} bar and the {second.color} bar?"
    return question, str(first.value + second.value)


# --- text -----------------------------------------------------------------------------------------------------


@_kind("text")
def read(number: Number, rng: random.Random) -> QA:
    return "What number is written?", "".join(digit.value for digit in number.digits)


@_kind("text")
def digit_at(number: Number, rng: random.Random) -> QA:
    index = rng.randrange(len(number.digits))
    return f"What is the {ORDINALS[index]} digit?", number.digits[index].value


@_kind("text")
def digit_color(number: Number, rng: random.Random) -> QA:
    digit = rng.choice(number.digits)
    return f"What color is the digit {digit.value}?", digit.color


@_kind("text")
def contains(number: Number, rng: random.Random) -> QA:
    values = [digit.value for digit in number.digits]
    if rng.random() < 0.5:
        return f"Does the number contain {rng.choice(values)}?", "yes"
    return f"Does the number contain {rng.choice([d for d in '0123456789' if d not in values])}?", "no"


@_kind("text")
def largest_digit(number: Number, rng: random.Random) -> QA:
    return "What is the largest digit?", max(digit.value for digit in number.digits)


@_kind("text")
def sum_digits(number: Number, rng: random.Random) -> QA:
    return "What is the sum of the digits?", str(sum(int(digit.value) for digit in number.digits))
