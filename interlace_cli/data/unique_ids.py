"""Ids are the source's own, and nothing keeps a source from using one twice: the second `x` becomes `x#2`. Pure, and in
arrays: only ids that look as if they were made so are gone through one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NUMBERED = r"(#[0-9]+)+$"


def number_repeats(ids: pa.Array, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples that need another id, `ids[i]#n`: their indices i, ascending, and their numbers n, both int64.

    `ids` are texts, `hashes` [N] 64 bits of each. (Two different ids with the same 64 bits, which one in a hundred
    thousand sources of ten million may have, would cost the second one a number that it does not need.)
    """
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    is_new = np.ones(len(order), bool)
    is_new[1:] = hashes[order[1:]] != hashes[order[:-1]]
    starts = np.flatnonzero(is_new)
    if len(starts) == len(order):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) - starts[np.cumsum(is_new) - 1] + 1
    numbered = _find_numbered(ids)
    if len(numbered):
        _number_in_turn(ids, numbered, numbers)
    renamed = np.flatnonzero(numbers > 1)
    return renamed, numbers[renamed]


def rename(ids: pa.Array, renamed: np.ndarray, numbers: np.ndarray) -> pa.Array:
    """The ids, with those that `number_repeats` found."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(renamed):
        return ids
    made = pc.binary_join_element_wise(ids.take(renamed), pa.array(numbers).cast(ids.type), pa.scalar("#", ids.type))
    is_renamed = np.zeros(len(ids), bool)
    is_renamed[renamed] = True
    return pc.replace_with_mask(ids, is_renamed, made)


def _find_numbered(ids: pa.Array) -> np.ndarray:
    """Samples whose id is one that ends like `#2`, or is what stands before that in another sample's."""
    import numpy as np
    import pyarrow.compute as pc

    ends_so = pc.match_substring_regex(ids, NUMBERED)
    if not pc.any(ends_so).as_py():
        return np.empty(0, np.int64)
    roots = pc.replace_substring_regex(ids, NUMBERED, "")
    asked = pc.unique(roots.filter(ends_so))
    return np.flatnonzero(pc.is_in(roots, asked).to_numpy(zero_copy_only=False))


def _number_in_turn(ids: pa.Array, positions: np.ndarray, numbers: np.ndarray) -> None:
    """Sets the numbers of these samples so that none has an id that another before it has: an `x#2` may have been the
    source's own."""
    used: dict[str, int] = {}
    for position in positions.tolist():
        name = unique = ids[position].as_py()
        number = 1
        while used.get(unique):
            number = used[name] = used[name] + 1
            unique = f"{name}#{number}"
        used[unique] = used.get(unique, 0) + 1
        numbers[position] = number
