"""All units together: which samples are of which split, in which order, and under which ids. In arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interlace_cli.data.outline import read_array, read_ids
from interlace_cli.data.source import Selection
from interlace_cli.data.splitting import assign_splits, find_groups, find_leaders, hash_id, order_by_image
from interlace_cli.data.staging import INDEXED, OUTLINE, Staged
from interlace_cli.data.unique_ids import number_repeats, rename
from interlace_cli.domain.dataset import SPLITS
from interlace_cli.io.sample_index import Repeats

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Joined:
    """`splits`: the rows of each, counted through all samples that were read, those that share images next to each
    other. `kinds`: kind -> samples in any split."""

    splits: dict[str, np.ndarray]
    repeats: Repeats
    kinds: dict[str, int]


def join_units(staged: Staged, selection: Selection) -> Joined:
    """Raises DatasetError where a split that is wanted would be empty."""
    import numpy as np

    outlines, indexes = staged.find_files(OUTLINE), staged.find_files(INDEXED)
    shown, keys = read_array(indexes, "shown_R", np.uint32), read_array(indexes, "keys_K", np.uint64)
    key_ends = np.cumsum(np.maximum(shown, 1), dtype=np.int64)
    own, asked = read_array(outlines, "splits", np.uint8), read_array(outlines, "asked", bool)
    repeats, leaders, hashes = _find_leaders(staged, selection, keys, key_ends, has_own=bool(own.any()))
    codes = own - 1 if leaders is None else assign_splits(leaders, hashes, selection)
    splits = {}
    for code, split in enumerate(SPLITS):
        is_member = codes == code
        members = np.flatnonzero(is_member & asked if split == "heldout" else is_member)
        splits[split] = order_by_image(members, shown, keys, key_ends)
    return Joined(splits, repeats, _count_kinds(staged, splits))


def _find_leaders(
    staged: Staged, selection: Selection, keys: np.ndarray, key_ends: np.ndarray, has_own: bool
) -> tuple[Repeats, np.ndarray | None, np.ndarray]:
    """The ids that occur twice; for each sample the first of its group by id, or None for a source that `has_own`
    splits; and the hash of each sample's id."""
    import numpy as np

    outlines = staged.find_files(OUTLINE)
    ids, hashes = read_ids(outlines), read_array(outlines, "hashes", np.uint64)
    rows, numbers = number_repeats(ids, hashes)
    repeats = Repeats(rows, numbers.astype(np.uint32))
    if has_own:
        return repeats, None, hashes
    ids = rename(ids, rows, numbers)
    for row in rows.tolist():
        hashes[row] = hash_id(selection.seed, ids[row].as_py())
    return repeats, find_leaders(find_groups(keys, key_ends), ids), hashes


def _count_kinds(staged: Staged, splits: dict[str, np.ndarray]) -> dict[str, int]:
    import numpy as np

    is_kept = np.zeros(staged.samples, bool)
    for rows in splits.values():
        is_kept[rows] = True
    counts: Counter[str] = Counter()
    start = 0
    for unit, path in zip(staged.units, staged.find_files(OUTLINE), strict=True):
        kept = read_array([path], "kinds", np.int64)[is_kept[start : start + unit.samples]]
        start += unit.samples
        counts.update(
            {kind: count for kind, count in zip(unit.kinds, np.bincount(kept).tolist(), strict=False) if count}
        )
    return dict(counts)
