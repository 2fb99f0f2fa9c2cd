"""From what is given (on the command line, in a file, in Python) to records; and back, for files and commands.

A record whose fields hold the options of steps (`run`, `compare`) is described, read and written by the same functions
as a plain one: as a flat list of names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

from interlace_cli.errors import UsageError
from interlace_cli.options import option as options
from interlace_cli.options.option import STEP, Options, Slot, find_nearest, to_plain
from interlace_cli.options.presets import RECIPES, RUN, SAMPLES

O = TypeVar("O", bound=Options)  # noqa: E741 - the usual name


@dataclass(frozen=True)
class Entry:
    """An option under the name that a command has for it, and the fields it goes to: `("seed",)`, or in `run`
    `("prepare", "seed")`, `("plan", "seed")` ..."""

    name: str
    slot: Slot
    targets: tuple[tuple[str, ...], ...]

    @property
    def flag(self) -> str:
        """As it is typed."""
        return self.slot.flag if self.name == self.slot.name else f"--{self.name.replace('_', '-')}"

    @property
    def older(self) -> tuple[str, ...]:
        """Other names that go on working."""
        own, o = {self.name, self.flag.lstrip("-").replace("-", "_")}, self.slot.option
        known = (*o.older, *((o.run_name,) if o.run_name else ()), self.slot.name)
        return tuple(dict.fromkeys(name for name in known if name not in own))


def _list_entries(record: Any) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    own = {slot.name: slot for slot in options.describe(record)}
    steps = {item.name: item for item in fields(record) if STEP in item.metadata}
    for item in fields(record):
        if item.name in own:
            _add(entries, item.name, own[item.name], (item.name,))
        elif item.name in steps:
            for slot in options.describe(_find_type(record, item.name)):
                taken_over = slot.name in own and own[slot.name].option is slot.option
                if slot.option.is_alone or slot.name in item.metadata[STEP] or taken_over:
                    continue
                _add(entries, slot.option.run_name or slot.name, slot, (item.name, slot.name))
    return tuple(entries.values())


list_entries: Callable[[Any], tuple[Entry, ...]] = cache(_list_entries)
"""All options of a command, each once, in the order of its record."""


def _add(entries: dict[str, Entry], name: str, slot: Slot, target: tuple[str, ...]) -> None:
    known = entries.get(name)
    if known is None:
        entries[name] = Entry(name, slot, (target,))
        return
    assert known.slot.option is slot.option, f"two options are called {name}: one needs a run_name"
    entries[name] = Entry(name, known.slot, (*known.targets, target))


def _find_type(record: Any, name: str) -> type[Options]:
    found: type[Options] = _get_hints(record)[name]
    return found


_get_hints: Callable[[Any], Mapping[str, Any]] = cache(get_type_hints)
"""Reading them takes longer than making a record."""


def _index_names(record: Any) -> Mapping[str, str]:
    entries = list_entries(record)
    names: dict[str, str] = {}
    lost = set()
    for entry in entries:
        for name in entry.older:
            if name in names and names[name] != entry.name:
                lost.add(name)
            names.setdefault(name, entry.name)
    for name in lost:
        del names[name]
    if any(STEP in item.metadata for item in fields(record)):
        # As `run` called it before other steps' batch sizes were options of it.
        names["batch_size"] = "heal_batch_size"
    for entry in entries:
        if not entry.slot.option.is_argument:
            names[entry.flag.lstrip("-").replace("-", "_")] = entry.name
        names[entry.name] = entry.name
    return names


index_names: Callable[[Any], Mapping[str, str]] = cache(_index_names)
"""Every name that an option may be given by, older ones too -> its name. An older name of several options is none."""


def read_names(record: type[Options], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`given` by today's names. Raises UsageError for a name that is no option, `where` it stands."""
    known = index_names(record)
    found = {}
    for name, value in given.items():
        plain = str(name).lstrip("-").replace("-", "_")
        if plain not in known:
            prefix = f"{where}: " if where else ""
            near = find_nearest(plain, list(known))
            advice = f"Did you mean {known[near]}?" if near else "--help lists the options."
            raise UsageError(f"{prefix}there is no option {name!r}.", advice)
        found[known[plain]] = value
    return found


def build_options(record: type[O], *layers: Mapping[str, Any]) -> O:
    """The record of what is given, by name; a later layer goes before an earlier one. Raises UsageError."""
    values: dict[str, Any] = {}
    for layer in layers:
        values |= read_names(record, layer)
    entries = {entry.name: entry for entry in list_entries(record)}
    by_owner: dict[tuple[str, ...], dict[str, Any]] = {(): {}}
    for name, value in values.items():
        entry = entries[name]
        # Read here, so that an error names the option as this command calls it.
        read = entry.slot.read(value, entry.flag)
        for *owner, field_name in entry.targets:
            by_owner.setdefault(tuple(owner), {})[field_name] = read
    steps = {
        item.name: _make_step(record, item.name, by_owner.get((item.name,), {}))
        for item in fields(record)  # type: ignore[arg-type]
        if STEP in item.metadata
    }
    return record(**by_owner[()], **steps)


def _make_step(record: type[Options], step: str, values: Mapping[str, Any]) -> Options:
    """The options of a step. An error names them as `record` calls them: --heal-min-pixels for --min-pixels."""
    try:
        return _find_type(record, step)(**values)
    except UsageError as error:
        targets = ((entry, path) for entry in list_entries(record) for path in entry.targets)
        flags = {entry.slot.flag: entry.flag for entry, path in targets if path[0] == step}

        def rename(text: str) -> str:
            return re.sub(r"--[a-z][a-z-]*", lambda match: flags.get(match[0], match[0]), text)

        raise UsageError(rename(error.what), rename(error.fix)) from None


def find_preset(
    record: type[Options], model: str | None, source: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The defaults of `run` and `compare` for this model and source, under whatever is `given`. With `--paper` the
    recipe is the paper's for every model."""
    given = read_names(record, given)
    preset: dict[str, Any] = {}
    if "ratio" in index_names(record) and given.get("ratio") is None and given.get("drop") is None:
        preset |= RUN
    if model is not None and not given.get("paper"):
        preset |= RECIPES.get(model, {})
    if source is not None:
        preset |= SAMPLES.get(source, {})
    return preset


def dump_options(made: Options, with_defaults: bool = True) -> dict[str, Any]:
    """Name -> plain value of every option that is set, as `build_options` reads it again."""
    found = {}
    for entry in list_entries(type(made)):
        *owner, field_name = entry.targets[0]
        holder = getattr(made, owner[0]) if owner else made
        value = getattr(holder, field_name)
        if value is None or (not with_defaults and value == entry.slot.option.default):
            continue
        found[entry.name] = _dump(entry.slot, value)
    return found


def dump_call(made: Options) -> dict[str, Any]:
    """What a file of `--config` holds so that it asks for the same again: without what belongs to one call; and of a
    call that took the workspace's dataset, without how samples are drawn."""
    left_out = {*ONE_CALL}
    if getattr(made, "data", "") is None:
        entries = list_entries(type(made))
        left_out |= {one.name for one in entries if all(target[0] == "prepare" for target in one.targets)}
    return {name: value for name, value in dump_options(made).items() if name not in left_out}


ONE_CALL = ("force", "dry_run", "shard", "collect", "submit", "workers", "sbatch", "hand_in")
"""Options that say what one call does of all that the others ask for."""


def check_agreement(made: Options, given: Mapping[str, Any]) -> None:
    """Raises UsageError for a record of several steps whose steps have options of their own that it has not: another
    seed in one of them, a dataset, a file to write. What is `given` beside the record goes before all of them."""
    command = type(made).__name__.removesuffix("Options").lower()
    names = read_names(type(made), given)
    for entry in list_entries(type(made)):
        found = {".".join(path[:-1]): getattr(getattr(made, path[0]), path[1]) for path in entry.targets if path[1:]}
        first = next(iter(found.values()), None)
        other = next((step for step, value in found.items() if value != first), None)
        if other is not None and entry.name not in names:
            raise UsageError(
                f"{command} has one {entry.name} for all of its steps, and its {other} has {found[other]!r}.",
                f"Give {entry.name} beside the record.",
            )
    for item in fields(made):  # type: ignore[arg-type]
        if STEP not in item.metadata:
            continue
        own = getattr(made, item.name)
        known = {path for entry in list_entries(type(made)) for path in entry.targets}
        for slot in options.describe(type(own)):
            value = getattr(own, slot.name)
            is_its_own = (item.name, slot.name) not in known and value not in (slot.option.default, None)
            if is_its_own and value != getattr(made, slot.name, None):
                raise UsageError(f"{command} has no option {slot.name} of its step {item.name}.", "Leave it out there.")


def _dump(slot: Slot, value: Any) -> Any:
    """In its notation, where it has one: (("text", 2.0),) -> ["text=2.0"], (0, 1) -> "0,1"."""
    if slot.option.parse is None:
        return to_plain(value)
    if slot.kind is int:
        return ",".join(map(str, value))
    return [f"{name}={one}" for name, one in value]
