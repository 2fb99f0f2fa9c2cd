"""Samples -> splits, so that no image is in two of them, and no conversation without images. Pure, and in arrays: there
may be tens of millions of samples.

Each of N samples has keys (`io/sample_keys.py`): one for each of its images, or one for what it says if it has none.
`keys` [K] are those of all samples, one sample after the other, `key_ends` [N] how many there are up to the end of each
sample. A group is named by the index of its first sample; `groups` [N] holds that of each sample. Of 64 bits each, two
different keys among 24 million are the same once in 60,000 datasets; two samples would share a split that need not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from interlace_cli.data.source import Selection
from interlace_cli.domain.cautions import FEW_CALIBRATION, FEW_HELDOUT
from interlace_cli.domain.dataset import SPLITS
from interlace_cli.errors import DatasetError
from interlace_cli.io.sample_index import take_ranges

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

LEAST_SPLIT = 3
"""One or two samples are a look at the format, and cannot be three splits."""
_NAMES = {"heldout": "held-out"}
_OPTIONS = {"heldout": "--holdout", "calibration": "--calibration"}


def hash_id(seed: int, name: str) -> int:
    """64 bits of the seed and a sample's id. They put groups in an order: the same records have the same splits in
    whatever format their images are stored."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def find_groups(keys: np.ndarray, key_ends: np.ndarray) -> np.ndarray:
    """The group of each sample, int64 [N]: samples that have a key in common, directly or through others."""
    import numpy as np

    if not len(key_ends):
        return np.zeros(0, np.int64)
    _, numbers = np.unique(keys, return_inverse=True)
    counts = np.diff(key_ends, prepend=0)
    firsts = numbers[key_ends - counts]
    parents = np.arange(numbers.max() + 1)
    _join(parents, np.repeat(firsts, counts), numbers)
    return _find_first(parents[firsts], np.arange(len(counts)))


def find_leaders(groups: np.ndarray, ids: pa.Array) -> np.ndarray:
    """For each sample the index of the one in its group whose id, as UTF-8, is the smallest: int64 [N]."""
    import numpy as np
    import pyarrow.compute as pc

    sizes = np.bincount(groups, minlength=len(groups))
    several = np.flatnonzero(sizes[groups] > 1)
    leaders = groups.copy()
    if len(several):
        by_id = several[pc.sort_indices(ids.take(several)).to_numpy()]
        leaders[by_id] = _find_first(groups[by_id], by_id)
    return leaders


def assign_splits(leaders: np.ndarray, hashes: np.ndarray, selection: Selection) -> np.ndarray:
    """For each sample the index of its split in SPLITS: uint8 [N]. `hashes` [N]: `hash_id` of each sample's id.

    Groups are put in the order of their leaders' hashes. The first `holdout` of them are held out, then `calibration`
    of what is left. No split that is wanted stays empty where there are more groups than such splits. Raises
    DatasetError if one would, of `LEAST_SPLIT` samples or more.
    """
    import numpy as np

    groups = np.flatnonzero(leaders == np.arange(len(leaders)))
    order = groups[np.argsort(hashes[groups], kind="stable")]
    wanted = _find_wanted(selection)
    least = 1 if len(order) > sum(share > 0 for share in wanted.values()) else 0
    heldout = max(round(selection.holdout * len(order)), least if wanted["heldout"] else 0)
    if wanted["calibration"]:
        heldout = min(heldout, len(order) - least)
    rest = len(order) - heldout
    calibration = max(round(selection.calibration * rest), least if wanted["calibration"] else 0)
    splits = np.full(len(leaders), SPLITS.index("train"), np.uint8)
    splits[order[:heldout]] = SPLITS.index("heldout")
    splits[order[heldout : heldout + calibration]] = SPLITS.index("calibration")
    splits = splits[leaders]
    counts = np.bincount(splits, minlength=len(SPLITS))
    empty = [split for split, share in wanted.items() if share > 0 and not counts[SPLITS.index(split)]]
    if len(leaders) >= LEAST_SPLIT and empty:
        raise DatasetError(_describe_empty(empty[0], len(leaders), len(order)), _advise_empty(empty))
    return splits


def order_by_image(members: np.ndarray, shown: np.ndarray, keys: np.ndarray, key_ends: np.ndarray) -> np.ndarray:
    """`members`, indices of samples, in their order, except that those that share an image directly follow the first of
    them. `shown` [N]: images of each sample; one without stays where it is."""
    import numpy as np

    own = take_ranges(keys, key_ends, members)
    groups = find_groups(own, np.cumsum(np.diff(key_ends, prepend=0)[members]))
    silent = np.flatnonzero(shown[members] == 0)
    groups[silent] = silent
    ordered: np.ndarray = members[np.argsort(groups, kind="stable")]
    return ordered


def _join(parents: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Joins first[i] with second[i] for every i. Before and afterwards the parent of each is the smallest of all that
    it is joined with, directly or through others."""
    import numpy as np

    while True:
        apart = parents[first] != parents[second]
        first, second = first[apart], second[apart]
        if not len(first):
            return
        one, other = parents[first], parents[second]
        np.minimum.at(parents, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(above := parents[parents], parents):
            parents[:] = above


def _find_first(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """For each key the position of the first that has it."""
    import numpy as np

    first = np.empty(keys.max() + 1, np.int64)
    # Of several values for one place the last one stays.
    first[keys[::-1]] = positions[::-1]
    return first[keys]


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
