"""Patterns over module names that pick layers by number, after a drop. Pure.

Regular expressions (GPTQ's `+:.*\\.(?:3|4|7)\\..*`, `re:` of compressed-tensors) and globs (ModelOpt's
`model.layers.3*`) are judged by what they match: a new pattern is right if it matches the new name of each module that
stays exactly where the old one matches its old name. The numbers in the pattern are changed first; where that is not
right, it is written out what it matched.

Example, layer 2 of 5 dropped: `re:.*layers\\.[2-3]\\..*` becomes `re:.*layers\\.(?:2)\\..*`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from interlace_cli.families.tensors import layer_of

_MARKS = ("re:", "+:", "-:")
"""In front of a regular expression; `+:` and `-:` are GPTQ's, for modules with settings of their own and without."""
_REGEX = re.compile(r"[\\()|^$+{]")
"""What no glob has; without it, `layers.[01].*` is one."""
_NUMBERS = re.compile(
    r"(?P<dot>\\?\.)(?P<numbers>\(\?:[\d|\[\]\-]+\)|\([\d|\[\]\-]+\)|(?:\[[\d\-]+\]|\\d(?![*+{])|\d)+)(?=\\?\.|\$|\*|\)|$)"
)
"""A part between dots that stands for numbers: `3`, `[0-3]`, `(?:1|2)`, `1[0-9]`."""
_HEADS = ("", "model.", "language_model.", "model.language_model.", "language_model.model.")
"""What wrapping classes, and servers, put in front of a language model's list of layers."""


@dataclass(frozen=True)
class Layers:
    """The layers before and after a drop. `numbering`: old index -> new one, of those that stay; `word`: the last part
    of their prefix; `renamed`: name of each module of the model -> its new one, or None if it goes. Layers stand there
    under each prefix that they may have."""

    word: str
    numbering: Mapping[int, int]
    renamed: Mapping[str, str | None]


def list_layers(tensors: Iterable[str], prefix: str, is_vision: bool, numbering: Mapping[int, int]) -> Layers:
    """Of the names of tensors on disk, whose layers are numbered under `prefix`."""
    modules = {name[:end] for name in tensors for end in _find_dots(name)}
    word = prefix.rpartition(".")[2]
    prefixes = {prefix, prefix.removeprefix("model.")}
    if not is_vision:
        prefixes |= {f"{head}{word}" for head in _HEADS}
    renamed: dict[str, str | None] = {}
    for module in modules:
        layer = layer_of(module, prefix)
        if layer is None:
            renamed.setdefault(module, module)
            continue
        rest = module[len(f"{prefix}.{layer}") :]
        if not rest:
            # No quantizer speaks of a layer but by what is in it; a pattern that ends in a dot would not match it.
            continue
        for other in prefixes:
            new = f"{other}.{numbering[layer]}{rest}" if layer in numbering else None
            renamed[f"{other}.{layer}{rest}"] = new
    return Layers(word, numbering, renamed)


def is_pattern(name: str) -> bool:
    """Whether a text is a pattern over names, and no name."""
    return name.startswith(_MARKS) or bool(re.search(r"[\\()|^$+{*?\[]", name))


def renumber_pattern(pattern: str, layers: Layers, is_regex: bool = False) -> list[str] | None:
    """The patterns that match after the drop what `pattern` matched before: itself where it picks no layers by number,
    none where it matched dropped layers alone. `is_regex`: of a setting that takes nothing but regular expressions.
    None for one that cannot be read."""
    mark = next((mark for mark in _MARKS if pattern.startswith(mark)), "")
    body = pattern[len(mark) :]
    if not re.search(r"\d|\\d", body):
        return [pattern]
    is_regex = is_regex or bool(mark) or bool(_REGEX.search(body))
    old = _compile(body, is_regex)
    if old is None:
        return None
    kept = {name: new for name, new in layers.renamed.items() if new is not None}
    wanted = {new for name, new in kept.items() if old.match(name)}
    changed = _change_numbers(body, layers)
    if not wanted:
        is_gone = any(new is None and old.match(name) for name, new in layers.renamed.items())
        # What speaks of names that this model does not have is changed by its numbers alone.
        return [] if is_gone else [mark + changed]
    for candidate in (body, changed):
        new = _compile(candidate, is_regex)
        if new is not None and all(bool(new.match(name)) is (name in wanted) for name in kept.values()):
            return [mark + candidate]
    found = _group(wanted, set(kept.values()), layers.word)
    return [mark + _write_regex(found)] if is_regex else _write_globs(found)


def _compile(body: str, is_regex: bool) -> re.Pattern[str] | None:
    try:
        return re.compile(body if is_regex else fnmatch.translate(body))
    except (re.error, OverflowError, RecursionError):
        return None


def _change_numbers(body: str, layers: Layers) -> str:
    """Every part between dots that stands for numbers of layers, by the new numbers. What follows another word than the
    layers' (experts) stays."""
    old_layers = range(max(layers.numbering, default=0) + 1)

    def change(match: re.Match[str]) -> str:
        word = re.search(r"(\w+)$", body[: match.start()])
        if word and word[1] != layers.word:
            return match[0]
        numbers = re.compile(match["numbers"])
        old = [layer for layer in old_layers if numbers.fullmatch(str(layer))]
        new = [str(layers.numbering[layer]) for layer in old if layer in layers.numbering]
        if not new:
            return match[0]
        return match["dot"] + (new[0] if match["numbers"].isdecimal() else f"(?:{'|'.join(new)})")

    return _NUMBERS.sub(change, body)


@dataclass(frozen=True)
class _Matched:
    """Names that are matched: `whole` layers (head -> numbers), and other modules one by one."""

    whole: Mapping[str, list[int]]
    others: list[str]


def _group(wanted: set[str], kept: set[str], word: str) -> _Matched:
    """Layers of which all modules are wanted, and the rest."""
    layer = re.compile(rf"((?:.*\.)?{re.escape(word)}\.)(\d+)(?:\..*)?")
    lacking = {match.group(1, 2) for name in kept - wanted if (match := layer.fullmatch(name))}
    whole: dict[str, set[int]] = {}
    others = []
    for name in sorted(wanted):
        match = layer.fullmatch(name)
        if match and match.group(1, 2) not in lacking:
            whole.setdefault(match[1], set()).add(int(match[2]))
        else:
            others.append(name)
    return _Matched({head: sorted(numbers) for head, numbers in sorted(whole.items())}, others)


def _write_regex(found: _Matched) -> str:
    parts = [rf"{re.escape(head)}(?:{'|'.join(map(str, numbers))})(?:\..*)?$" for head, numbers in found.whole.items()]
    parts += [f"{re.escape(name)}$" for name in found.others]
    return f"(?:{'|'.join(parts)})"


def _write_globs(found: _Matched) -> list[str]:
    whole = [f"{head}{number}" for head, numbers in found.whole.items() for number in numbers]
    return [*(f"{layer}{end}" for layer in whole for end in ("", ".*")), *found.others]


def _find_dots(name: str) -> Iterable[int]:
    return (index for index, letter in enumerate(name) if letter == ".")
