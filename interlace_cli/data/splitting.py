"""Samples -> splits, so that no image is in two of them, and no conversation without images. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from interlace_cli.data.source import Selection
from interlace_cli.domain.cautions import FEW_CALIBRATION, FEW_HELDOUT
from interlace_cli.errors import DatasetError

LEAST_SPLIT = 3
"""One or two samples are a look at the format, and cannot be three splits."""
_NAMES = {"heldout": "held-out"}
_OPTIONS = {"heldout": "--holdout", "calibration": "--calibration"}


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
    of what is left. No split that is wanted stays empty where there are more groups than such splits. Raises
    DatasetError if one would, of `LEAST_SPLIT` samples or more.
    """
    groups = _group_by_image(samples, texts or {})
    order = sorted(groups, key=lambda key: _hash_group(selection.seed, groups[key]))
    wanted = _find_wanted(selection)
    least = 1 if len(order) > sum(share > 0 for share in wanted.values()) else 0
    heldout = max(round(selection.holdout * len(order)), least if wanted["heldout"] else 0)
    if wanted["calibration"]:
        heldout = min(heldout, len(order) - least)
    rest = len(order) - heldout
    calibration = max(round(selection.calibration * rest), least if wanted["calibration"] else 0)
    result = {}
    for index, key in enumerate(order):
        split = "heldout" if index < heldout else "calibration" if index < heldout + calibration else "train"
        result.update(dict.fromkeys(groups[key], split))
    empty = [split for split, share in wanted.items() if share > 0 and split not in result.values()]
    if len(samples) >= LEAST_SPLIT and empty:
        raise DatasetError(_describe_empty(empty[0], len(samples), len(order)), _advise_empty(empty))
    return result


def describe_small(counts: Mapping[str, int], selection: Selection) -> list[str]:
    """Sentences on wanted splits (split -> samples) of too few samples to say anything by, and what to do."""
    wanted = _find_wanted(selection)
    empty = [split for split, share in wanted.items() if share > 0 and not counts.get(split, 0)]
    notes = [f"No {_NAMES.get(split, split)} samples: there are too few records to split." for split in empty]
    heldout, calibration = counts.get("heldout", 0), counts.get("calibration", 0)
    if 0 < heldout < FEW_HELDOUT:
        points = round(196 * (0.25 / heldout) ** 0.5)
        notes.append(
            f"Only {_count(heldout, 'held-out sample')}: a score over them is uncertain by up to"
            f" {min(points, 100)} points. Take {FEW_HELDOUT} or more: a larger --holdout, or more records."
        )
    if 0 < calibration < FEW_CALIBRATION:
        notes.append(
            f"Only {_count(calibration, 'calibration sample')}: which layers are dropped then depends on these few."
            f" Take {FEW_CALIBRATION} or more: a larger --calibration, or more records."
        )
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _find_wanted(selection: Selection) -> dict[str, float]:
    """Split -> its share. Where all is held out, nothing is left to calibrate on, and that is what was asked for."""
    calibration = selection.calibration if selection.holdout < 1 else 0.0
    return {"heldout": selection.holdout, "calibration": calibration}


def _describe_empty(split: str, samples: int, groups: int) -> str:
    one = "one group" if groups == 1 else f"{groups} groups"
    name = _NAMES.get(split, split)
    return (
        f"the {name} split would be empty: no image may be in two splits, and by the images that they share (without"
        f" images: the texts) the {samples:,} samples are {one}."
    )


def _advise_empty(splits: Sequence[str]) -> str:
    options = " ".join(f"{_OPTIONS[split]} 0" for split in splits)
    return f"Add records with other images, or do without: {options}."


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
