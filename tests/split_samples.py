"""Samples as objects -> their splits, by the rules for arrays (`data/splitting.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from interlace_cli.data.source import Selection
from interlace_cli.data.splitting import assign_splits, find_groups, find_leaders, hash_id
from interlace_cli.domain.dataset import SPLITS

Shown = tuple[str, Sequence[str]]
"""Of a sample, the id and the names of its images."""


def to_keys(samples: Sequence[Shown], texts: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The samples' keys, and how many there are up to the end of each. `texts`: id -> what a sample without images
    says; without, it says what no other does."""
    own = [[f"image {image}" for image in images] or [f"text {texts.get(name, [name])}"] for name, images in samples]
    keys = [hash_id(0, key) for one in own for key in one]
    return np.array(keys, np.uint64), np.cumsum([len(one) for one in own], dtype=np.int64)


def split_samples(
    samples: Sequence[Shown], selection: Selection, texts: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Sample id -> split."""
    groups = find_groups(*to_keys(samples, texts or {}))
    leaders = find_leaders(groups, pa.array([name for name, _ in samples], pa.large_string()))
    hashes = np.array([hash_id(selection.seed, name) for name, _ in samples], np.uint64)
    splits = assign_splits(leaders, hashes, selection).tolist()
    return {name: SPLITS[split] for (name, _), split in zip(samples, splits, strict=True)}
