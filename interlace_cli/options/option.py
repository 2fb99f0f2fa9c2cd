"""What an option is: its default, bounds, choices, help and group; and how a value given for it is read.

A value may come from the command line or a file as text, or from Python as it is; `Option.read` makes the same of all
three, or raises a UsageError in plain words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from reprlib import Repr
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from interlace_cli.errors import UsageError

MOST_QUOTED = 60
MOST_WHOLE = (1 << 32) - 1
"""The largest whole number: that of a seed. No count needs more, and JSON has no more than 64 bits."""
OPTION, STEP = "option", "step"
"""Keys of a field's metadata: an option, or the options of a step, with the names of those that are left out."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a step.

    `low`, `high`: bounds of a number, themselves allowed unless `is_open`. `choices`: what a text may be. `spellings`:
    older values -> today's. `flag`: its name on the command line, if that is not the field's; `older`: names that go on
    working, unseen. `run_name`: its name in `run` and `compare`, where another step has another option of this name.
    `is_alone`: belongs to the step's own command, not to `run`. `shown_default`: what help says where the default is
    decided later. `decides`: whether the step's result depends on it, so that it is recorded. `separator` divides the
    values of a list that are given as one text. `parse` reads a text that has a notation of its own, such as `0-2,15`;
    its second argument is the option's name for errors.
    """

    help: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    is_open: bool = False
    choices: tuple[str, ...] = ()
    spellings: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    flag: str = ""
    short: str = ""
    older: tuple[str, ...] = ()
    run_name: str = ""
    negative: str = ""
    environment: str = ""
    metavar: str = ""
    shown_default: str = ""
    is_alone: bool = False
    is_argument: bool = False
    decides: bool = True
    separator: str = ","
    parse: Callable[[str, str], Any] | None = None

    def field(self) -> Any:
        """A dataclass field of this option."""
        return field(default=self.default, metadata={OPTION: self})


def option(default: Any, help: str, **rest: Any) -> Any:
    """A field that is an option of its own; `rest` as in `Option`."""
    return Option(help=help, default=default, **rest).field()


def step(record: type, *left_out: str) -> Any:
    """The options of a step, without those that are `left_out`."""
    return field(default_factory=record, metadata={STEP: left_out})


@dataclass(frozen=True)
class Slot:
    """An option in a record: `name` is the field's, `kind` the type of one value (bool, int, float, str, Path or a
    type of its own), `count` how many values there are: 1, a fixed number, or -1 for any number."""

    name: str
    option: Option
    kind: type
    count: int
    is_optional: bool

    @property
    def flag(self) -> str:
        """The option as it is typed, such as `--batch-size`; an argument in capitals."""
        if self.option.is_argument:
            return self.name.upper()
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    def read(self, value: Any, flag: str = "") -> Any:
        """`value` as the record holds it. Raises UsageError that names `flag`."""
        flag, o = flag or self.flag, self.option
        if value is None:
            if self.is_optional:
                return None
            raise UsageError(f"{flag} needs a value.", suggest("", o.choices) if o.choices else "")
        if o.parse is not None:
            return self._parse(o.parse, value, flag)
        if self.count == 1:
            return self._read_one(value, flag)
        if isinstance(value, str):
            parts: Sequence[Any] = value.split(o.separator) if o.separator else [value]
        elif isinstance(value, Sequence):
            # A path that stands by itself may have the separator in its name.
            splits = o.separator and self.kind is not Path
            texts = [part.split(o.separator) if isinstance(part, str) and splits else [part] for part in value]
            parts = [part for text in texts for part in text]
        else:
            parts = [value]
        stripped = [part.strip() if isinstance(part, str) else part for part in parts]
        read = tuple(self._read_one(part, flag) for part in stripped if part != "")
        if self.count > 0 and len(read) != self.count:
            raise UsageError(f"{flag} takes {self.count} values, and has {len(read)}.")
        return read

    def _parse(self, parse: Callable[[str, str], Any], value: Any, flag: str) -> tuple[Any, ...]:
        """Of a text in its notation, of several, or of what it stands for: "0-2", ["0-1", 2], (0, 1, 2); "text=2",
        (("text", 2.0),)."""
        parts = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(part, (str, int, float, Path, tuple)) for part in parts):
            raise UsageError(f"{flag} does not take {_quote(value)}.", "It takes a text, or several in a list.")
        texts = ["=".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in parts]
        unique = dict.fromkeys(one for text in texts for one in parse(text, flag))
        return tuple(sorted(unique) if self.kind is int else unique)

    def _read_one(self, value: Any, flag: str) -> Any:
        if self.kind is bool:
            return _read_bool(value, flag)
        if self.kind in (int, float):
            return self._check_bounds(_read_number(self.kind, value, flag), flag)
        if self.kind is Path and isinstance(value, (str, Path)):
            if not str(value):
                raise UsageError(f"{flag} is an empty path.", "Name a file or a folder, or leave it out.")
            try:
                return Path(value).expanduser()
            except RuntimeError:
                raise UsageError(f"{flag} {value} is in the home folder of nobody here.") from None
        if self.kind is str and isinstance(value, (str, int, float, Path)) and not isinstance(value, bool):
            text = self.option.spellings.get(str(value), str(value))
            if self.option.choices and text not in self.option.choices:
                advice = suggest(str(value), self.option.choices, self.option.spellings)
                raise UsageError(f"{flag} does not take {_quote(str(value))}.", advice)
            return text
        if self.kind not in (bool, int, float, str, Path) and isinstance(value, self.kind):
            return value
        raise UsageError(f"{flag} does not take {_quote(value)}.", f"It takes {_name_kind(self.kind)}.")

    def _check_bounds(self, number: float, flag: str) -> float:
        low, high, is_open = self.option.low, self.option.high, self.option.is_open
        # An int may be too large for a float, and is finite.
        is_finite = isinstance(number, int) or math.isfinite(number)
        shown = _quote(number) if isinstance(number, int) else f"{number:g}"
        too_low = not is_finite or (low is not None and (number <= low if is_open else number < low))
        too_high = high is not None and (number >= high if is_open else number > high)
        if not too_low and not too_high:
            if self.kind is int and number > MOST_WHOLE:
                raise UsageError(f"{flag} {_quote(number)} is more than {MOST_WHOLE}.")
            return number
        if low is not None and high is not None:
            raise UsageError(f"{flag} {shown} is not between {low:g} and {high:g}.", self._give_example())
        if not is_finite or (low is None and high is None):
            raise UsageError(f"{flag} {shown} is not a finite number.")
        if too_low:
            raise UsageError(f"{flag} {shown} is {'not more' if is_open else 'less'} than {low:g}.")
        raise UsageError(f"{flag} {shown} is {'not less' if is_open else 'more'} than {high:g}.")

    def _give_example(self) -> str:
        return f"Such as {self.flag} {self.option.metavar}." if self.option.metavar[:1].isdigit() else ""


class Options:
    """The base of all records: every value is read and checked when the record is made. Raises UsageError."""

    def __post_init__(self) -> None:
        for slot in describe(type(self)):
            object.__setattr__(self, slot.name, slot.read(getattr(self, slot.name)))
        self.check()

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""

    @property
    def locks_workspace(self) -> bool:
        """Whether the command keeps others out of its workspace for as long as it runs. One that many processes work on
        at once locks what it writes by itself."""
        return True

    def build_settings(self, *names: str) -> dict[str, Any]:
        """Name -> JSON value of all options that decide the result, or of those in `names`."""
        chosen = names or [slot.name for slot in describe(type(self)) if slot.option.decides]
        return {name: to_plain(getattr(self, name)) for name in chosen}


def _describe(record: Any) -> tuple[Slot, ...]:
    hints = get_type_hints(record)
    return tuple(
        _describe_field(item.name, item.metadata[OPTION], hints[item.name])
        for item in fields(record)
        if OPTION in item.metadata
    )


describe: Callable[[Any], tuple[Slot, ...]] = cache(_describe)
"""The options of a record, in their order."""


def _describe_field(name: str, made: Option, hint: Any) -> Slot:
    is_optional = get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint)
    if is_optional:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    count = 1
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        count = -1 if parts[-1] is Ellipsis else len(parts)
        hint = parts[0]
    return Slot(name, made, get_origin(hint) or hint, count, is_optional)


def to_plain(value: Any) -> Any:
    """A value of a record as JSON knows it."""
    if isinstance(value, tuple):
        return [to_plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    return value


def suggest(given: str, known: Sequence[str], spellings: Mapping[str, str] = MappingProxyType({})) -> str:
    """`"Did you mean prompt? It takes prompt or conversation."` `spellings`: older words for some of them."""
    near = find_nearest(given, [*known, *spellings])
    near = spellings.get(near, near) if near else None
    listed = " or ".join([", ".join(known[:-1]), known[-1]]) if len(known) > 1 else "".join(known)
    return f"{f'Did you mean {near}? ' if near else ''}It takes {listed}."


def find_nearest(given: str, known: Sequence[str]) -> str | None:
    """The word that was meant, if one is near enough."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(given.lower(), known, n=1)), None)


def _read_bool(value: Any, flag: str) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise UsageError(f"{flag} does not take {_quote(value)}.", "It takes true or false.")


def _read_number(kind: type, value: Any, flag: str) -> Any:
    """Of a whole number also 8.0 and "8"; a text such as 1e-5, which YAML does not take for a number."""
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        number = kind(value)
        if isinstance(value, float) and number != value and kind is int:
            raise ValueError
    except (ValueError, OverflowError):
        raise UsageError(f"{flag} does not take {_quote(value)}.", f"It takes {_name_kind(kind)}.") from None
    return number


def _quote(value: Any) -> str:
    """As it was given, in at most sixty characters. Lists in lists are not written out: by YAML's aliases a file of ten
    lines stands for thousands of millions of values; nor is an integer of thousands of digits, by Python itself."""
    brief = Repr()
    brief.maxlevel, brief.maxlist, brief.maxdict = 3, 8, 8
    brief.maxstring = brief.maxlong = brief.maxother = 2 * MOST_QUOTED
    try:
        text = brief.repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 4]} ..."


def _name_kind(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}.get(
        kind, "another kind of value"
    )
