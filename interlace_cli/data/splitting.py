"""Samples -> splits, so that no image is in two of them, and no conversation without images. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from interlace_cli.data.source import Selection


class Shown(Protocol):
    """The fields of a sample that decide its split."""

    @property
    def id(self) -> str:
        """The sample's id."""

    @property
    def image(self) -> Sequence[str]:
        """The names of its images."""


S = TypeVar("S", bound=Shown)


def assign_splits(
    samples: Sequence[Shown], selection: Selection, texts: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Sample id -> split. Samples that share an image, directly or through others, stay together, and so do those
    without images that say the same: `texts` are the keys of what they say, by id.

    The groups are put in an order by a hash of the seed and their first id: the same records have the same splits in
    whatever format their images are stored. The first `holdout` of them are held out, then `calibration`
    of what is left. With three groups or more no split that is wanted stays empty.
    """
    groups = _group_by_image(samples, texts or {})
    order = sorted(groups, key=lambda key: _hash_group(selection.seed, groups[key]))
    least = 1 if len(order) >= 3 else 0
    heldout = max(round(selection.holdout * len(order)), least if selection.holdout else 0)
    rest = len(order) - heldout
    calibration = max(round(selection.calibration * rest), least if selection.calibration else 0)
    result = {}
    for index, key in enumerate(order):
        split = "heldout" if index < heldout else "calibration" if index < heldout + calibration else "train"
        result.update(dict.fromkeys(groups[key], split))
    return result


def _hash_group(seed: int, ids: Sequence[str]) -> bytes:
    return hashlib.sha256(f"{seed}/{min(ids)}".encode()).digest()


def order_by_image(samples: Sequence[S]) -> list[S]:
    """The samples in their order, except that samples that share an image directly follow the first of them."""
    by_id = {sample.id: sample for sample in samples}
    return [by_id[name] for names in _group_by_image(samples, {}).values() for name in names]


def _group_by_image(samples: Sequence[Shown], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Union-find over images: group key (the first of its images by name; of samples without images that say the same,
    the first of their ids) -> sample ids."""
    parent: dict[str, str] = {}

    def find(image: str) -> str:
        while parent.setdefault(image, image) != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for sample in samples:
        for image in sample.image[1:]:
            first, second = sorted((find(sample.image[0]), find(image)))
            parent[second] = first
    first_to_say: dict[str, str] = {}
    for name, text in texts.items():
        first_to_say[text] = min(name, first_to_say.get(text, name))
    groups: dict[str, list[str]] = {}
    for sample in samples:
        key = find(sample.image[0]) if sample.image else first_to_say.get(texts.get(sample.id, ""), sample.id)
        groups.setdefault(key, []).append(sample.id)
    return groups
