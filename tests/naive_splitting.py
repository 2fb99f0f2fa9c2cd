"""Splitting a second time, one sample after the other with dictionaries, as it was done before it was done in arrays.

A sample is `(id, names of its images)`; ids are unique.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from interlace_cli.data.source import Selection

Shown = tuple[str, tuple[str, ...]]


def naive_splits(samples: Sequence[Shown], selection: Selection, texts: Mapping[str, str]) -> dict[str, str]:
    """Sample id -> split, also where a split stays empty. `texts`: id -> what a sample without images says."""
    groups = naive_groups(samples, texts)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{selection.seed}/{min(groups[key])}".encode()).digest())
    calibrated = selection.calibration if selection.holdout < 1 else 0.0
    least = 1 if len(order) > (selection.holdout > 0) + (calibrated > 0) else 0
    heldout = max(round(selection.holdout * len(order)), least if selection.holdout else 0)
    if calibrated:
        heldout = min(heldout, len(order) - least)
    rest = len(order) - heldout
    calibration = max(round(selection.calibration * rest), least if calibrated else 0)
    result = {}
    for index, key in enumerate(order):
        split = "heldout" if index < heldout else "calibration" if index < heldout + calibration else "train"
        result.update(dict.fromkeys(groups[key], split))
    return result


def naive_order(samples: Sequence[Shown]) -> list[str]:
    """Ids in their order, except that samples that share an image directly follow the first of them."""
    return [name for names in naive_groups(samples, {}).values() for name in names]


def naive_groups(samples: Sequence[Shown], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Group key (the first of its images by name; of samples without images that say the same, the first of their ids)
    -> sample ids."""
    parent: dict[str, str] = {}

    def find(image: str) -> str:
        while parent.setdefault(image, image) != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for _, images in samples:
        for image in images[1:]:
            first, second = sorted((find(images[0]), find(image)))
            parent[second] = first
    first_to_say: dict[str, str] = {}
    for name, text in texts.items():
        first_to_say[text] = min(name, first_to_say.get(text, name))
    groups: dict[str, list[str]] = {}
    for name, images in samples:
        key = find(images[0]) if images else first_to_say.get(texts.get(name, ""), name)
        groups.setdefault(key, []).append(name)
    return groups


def naive_unique(names: Sequence[str]) -> list[str]:
    """The second `x` becomes `x#2`, or the next number that nobody before it has."""
    used: Counter[str] = Counter()
    result = []
    for name in names:
        unique = name
        while used[unique]:
            used[name] += 1
            unique = f"{name}#{used[name]}"
        used[unique] += 1
        result.append(unique)
    return result
