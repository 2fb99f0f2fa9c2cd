"""What is wrong with the fields of a file, in plain words: of artifacts, and of the tasks of `eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

MOST_FAULTS, MOST_CHARACTERS = 3, 60
KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a group of fields",
    "model": "a group of fields",
}
"""How pydantic's error types begin -> what a value has to be."""
OTHER_KIND = ("type", "sub_type", "parsing", "parsing_size", "from_float", "unicode", "number")
"""How they go on, where it is not of that kind."""
BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
"""Error type -> how its bound is said, and the bound's name in the error."""
OWN = ("value_error", "assertion_error")
Location = tuple[int | str, ...]


def describe_validation(error: ValidationError, record: type[BaseModel], most: int = MOST_FAULTS) -> str:
    """The first `most` faults of what was read as `record`, each with its field, and how many there are besides;
    without a full stop. Example: "samples is 0, and has to be at least 1; source is missing"."""
    faults = list(_iter_faults(error, record))
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more


def _iter_faults(error: ValidationError, record: type[BaseModel]) -> Iterator[str]:
    """One sentence a fault. A value that may be of several kinds has a fault for each of them, which become one."""
    by_field: dict[Location, list[Mapping[str, Any]]] = {}
    for fault in error.errors(include_url=False):
        location = fault["loc"]
        is_of_several = bool(location) and len(_list_kinds(_find_kind(record, location[:-1]))) > 1
        by_field.setdefault(location[:-1] if is_of_several else location, []).append(fault)
    for location, faults in by_field.items():
        kinds = [_find_wanted(fault["type"]) for fault in faults]
        if len(faults) > 1 and all(kinds):
            wanted = " or ".join(dict.fromkeys(map(str, kinds)))
            yield f"{_name(location)} has to be {wanted}, and is {_show(faults[0]['input'])}"
        else:
            yield from (_describe(fault, location, record) for fault in faults)


def _describe(fault: Mapping[str, Any], location: Location, record: type[BaseModel]) -> str:
    kind, name, value = fault["type"], _name(location), _show(fault["input"])
    context = fault.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return _describe_stranger(location, record)
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return f"{name} is {value}, and has to be {words} {context[bound]:g}"
    if kind in ("too_short", "too_long"):
        words, bound = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        count = context["actual_length"]
        return f"{name} has {count} {'entry' if count == 1 else 'entries'}, and has to have {words} {context[bound]}"
    if kind in ("literal_error", "enum"):
        return f"{name} is {value}, and has to be one of {context['expected']}"
    if kind == "string_pattern_mismatch":
        allowed = _find_description(record, location) or f"of the form {context['pattern']}"
        return f"{name} is {value}, and has to be {allowed}"
    wanted = _find_wanted(kind)
    if wanted is not None:
        is_scalar = not isinstance(fault["input"], (list, dict, NoneType))
        advice = " (put it in quotes)" if kind == "string_type" and is_scalar else ""
        return f"{name} has to be {wanted}, and is {value}{advice}"
    message = str(fault["msg"])
    if kind in OWN:
        # Ours, with a word of pydantic's before it.
        message = message.partition(", ")[2] or message
    return f"{_name(location)}: {message}" if location else message


def _find_wanted(kind: str) -> str | None:
    """`"int_parsing"` -> "a whole number"; None for an error of another sort."""
    begin, _, rest = kind.partition("_")
    return KINDS.get(begin) if rest in OTHER_KIND else None


def _describe_stranger(location: Location, record: type[BaseModel]) -> str:
    from difflib import get_close_matches

    owner, field = location[:-1], str(location[-1])
    kinds = [kind for kind in _list_kinds(_find_kind(record, owner)) if _is_record(kind)]
    known = [item.alias or name for kind in kinds for name, item in kind.model_fields.items()]
    near = next(iter(get_close_matches(field.lower(), known, n=1)), None)
    where = f"{_name(owner)}: " if owner else ""
    return f"{where}there is no field {_show(field)}" + (f" (did you mean {near!r}?)" if near else "")


def _name(location: Location) -> str:
    """`picks.0.rule`; what holds all fields is `it`."""
    return ".".join(map(str, location)) or "it"


def _show(value: Any) -> str:
    """A value as files have it, in about `MOST_CHARACTERS`; of what holds others its kind alone."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple, dict)):
        return "a group of fields" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > 4 * MOST_CHARACTERS:
        return "a number of very many digits"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def _find_kind(record: type[BaseModel], location: Sequence[int | str]) -> Any:
    """The type of what stands there; None where it cannot be told."""
    found: Any = record
    for part in location:
        found = next((inner for kind in _list_kinds(found) if (inner := _enter(kind, part)) is not None), None)
    return found


def _find_description(record: type[BaseModel], location: Location) -> str | None:
    for kind in _list_kinds(_find_kind(record, location[:-1])):
        if _is_record(kind) and location[-1] in kind.model_fields:
            found: str | None = kind.model_fields[location[-1]].description
            return found
    return None


def _list_kinds(kind: Any) -> list[Any]:
    """What a value may be, without null."""
    if get_origin(kind) in (Union, UnionType):
        return [one for one in get_args(kind) if one is not NoneType]
    return [kind]


def _enter(kind: Any, part: int | str) -> Any:
    """The type of a field, or of an entry."""
    if _is_record(kind):
        fields = kind.model_fields.items()
        return next((field.annotation for name, field in fields if part in (name, field.alias)), None)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) in (list, tuple) else None


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
