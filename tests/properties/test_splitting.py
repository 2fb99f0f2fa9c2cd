"""Splits, order and ids in arrays, against the same done one by one (`naive_splitting`)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_splitting import naive_order, naive_splits, naive_unique
from split_samples import split_samples, to_keys

from interlace_cli.data.source import Selection
from interlace_cli.data.splitting import (
    LEAST_SPLIT,
    find_groups,
    hash_id,
    order_by_image,
)
from interlace_cli.data.unique_ids import number_repeats, rename
from interlace_cli.domain.dataset import SPLITS
from interlace_cli.errors import DatasetError

some_images = st.lists(
    st.lists(st.sampled_from([f"{letter}.png" for letter in "abcdefghijklmnop"]), max_size=4), min_size=1, max_size=30
)
shares = st.sampled_from([0.0, 0.1, 0.3, 1.0])


@settings(deadline=None, max_examples=500)
@given(
    images=some_images,
    names=st.permutations([*map(str, range(20)), "é", "Z", "\U0001f600", "\uffff", "", " ", "a", "aa", "10#2", "9a"]),
    said=st.lists(st.sampled_from("xyz"), min_size=30, max_size=30),
    seed=st.integers(0, 99),
    holdout=shares,
    calibration=st.sampled_from([0.0, 0.1, 0.3, 0.9]),
)
def test_splits_and_order_are_those_found_one_by_one(
    images: list[list[str]], names: list[str], said: list[str], seed: int, holdout: float, calibration: float
) -> None:
    samples = [(name, tuple(own)) for name, own in zip(names, images, strict=False)]
    texts = {name: text for (name, own), text in zip(samples, said, strict=False) if not own}
    selection = Selection(seed=seed, holdout=holdout, calibration=calibration)
    expected = naive_splits(samples, selection, texts)
    calibrated = calibration if holdout < 1 else 0
    wanted = {split for split, share in (("heldout", holdout), ("calibration", calibrated)) if share}
    if len(samples) >= LEAST_SPLIT and wanted - set(expected.values()):
        with pytest.raises(DatasetError, match="split would be empty"):
            split_samples(samples, selection, texts)
    else:
        assert split_samples(samples, selection, texts) == expected
    keys, key_ends = to_keys(samples, texts)
    shown = np.array([len(own) for _, own in samples])
    for split in SPLITS:
        members = np.array([i for i, (name, _) in enumerate(samples) if expected[name] == split], np.int64)
        ordered = order_by_image(members, shown, keys, key_ends)
        assert [samples[i][0] for i in ordered] == naive_order([samples[i] for i in members])


@pytest.mark.parametrize("step", [1, 7, 499])
def test_a_long_chain_of_shared_images_is_one_group(step: int) -> None:
    """Whatever the order in which its links come; and two chains are two."""
    links = [i * step % 500 for i in range(500)]
    chains = [(f"{name}{i}", (f"{name}{i}", f"{name}{i + 1}")) for i in links for name in "ab"]
    groups = find_groups(*to_keys(chains, {}))
    assert groups.tolist() == [0, 1] * 500


some_ids = st.lists(st.sampled_from(["x", "x#2", "x#3", "x#2#2", "x#02", "y", "y#2", "z#1", "é", "", "#2", "a#b"]))


@settings(deadline=None, max_examples=1000)
@given(some_ids)
def test_ids_that_occur_twice_get_the_numbers_that_they_get_one_by_one(names: list[str]) -> None:
    ids = pa.array(names, pa.large_string())
    renamed, numbers = number_repeats(ids, np.array([hash_id(3, name) for name in names], np.uint64))
    unique = rename(ids, renamed, numbers).to_pylist()
    assert unique == naive_unique(names)
    assert len(set(unique)) == len(names)
