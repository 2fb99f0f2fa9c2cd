"""Which tensors belong to which decoder layer, found from the names themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

DEEPSTACK = "deepstack_merger_list"


def find_numbered_groups(names: Iterable[str], size: int) -> dict[str, set[str]]:
    """Prefixes under which the tensors are numbered 0 ... size-1, each with the names that occur below a number.

    `model.layers.3.mlp.up_proj.weight` is numbered under `model.layers`; a group inside another (experts) is left out.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    below: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if place is not None:
            prefix = ".".join(parts[:place])
            numbers[prefix].add(int(parts[place]))
            below[prefix].add(".".join(parts[place + 1 :]))
    return {prefix: below[prefix] for prefix, found in numbers.items() if found == set(range(size))}


def layer_of(name: str, prefix: str) -> int | None:
    """The layer that a tensor belongs to, or None if it is outside the group `prefix`."""
    if not name.startswith(prefix + "."):
        return None
    number = name[len(prefix) + 1 :].split(".", 1)[0]
    return int(number) if number.isdigit() else None


def build_renaming(names: Iterable[str], prefix: str, kept: Sequence[int]) -> dict[str, str]:
    """Old name -> new name of each tensor that stays: layers are numbered anew from 0, and a DeepStack merger goes
    with the layer after which it added its features, so that what is left computes the model with those layers and
    their additions bypassed."""
    position = {layer: place for place, layer in enumerate(kept)}
    renaming = {}
    for name in names:
        group = next((p for p in (prefix, _deepstack_prefix(name)) if p and layer_of(name, p) is not None), None)
        if group is None:
            renaming[name] = name
            continue
        layer = layer_of(name, group)
        if layer in position:
            rest = name[len(group) + 1 :].split(".", 1)[1]
            renaming[name] = f"{group}.{position[layer]}.{rest}"
    return renaming


def _deepstack_prefix(name: str) -> str | None:
    head, found, _ = name.partition(DEEPSTACK + ".")
    return head + DEEPSTACK if found else None
