"""What decides the splits of the samples that were read, beside what the index of their files has: arrays, written for
each unit and read one at a time, so that no sample of millions is an object."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.data.splitting import hash_id
from interlace_cli.domain.dataset import SPLITS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class OutlineBuilder:
    """Takes the samples of a unit one after another."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ids, self.lengths, self.hashes = bytearray(), array("I"), array("Q")
        self.splits, self.asked = bytearray(), bytearray()
        self.kinds: dict[str, int] = {}
        self.kind_of = array("I")

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, name: str, kind: str, split: str | None, is_asked: bool) -> None:
        """`name` is the sample's id, `split` that of sources with splits of their own; `is_asked`: by `eval`."""
        data = name.encode()
        self.ids += data
        self.lengths.append(len(data))
        self.hashes.append(hash_id(self.seed, name))
        self.splits.append(0 if split is None else 1 + SPLITS.index(split))
        self.asked.append(is_asked)
        self.kind_of.append(self.kinds.setdefault(kind, len(self.kinds)))

    def save(self, path: Path) -> None:
        """As `.npz`: the same samples, the same bytes."""
        import numpy as np

        arrays = {
            "ids": np.frombuffer(bytes(self.ids), np.uint8),
            "lengths": np.array(self.lengths, np.uint32),
            "hashes": np.array(self.hashes, np.uint64),
            "splits": np.frombuffer(bytes(self.splits), np.uint8),
            "asked": np.frombuffer(bytes(self.asked), bool),
            "kinds": np.array(self.kind_of, np.uint32),
        }
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def read_array(paths: Iterable[Path], name: str, dtype: Any) -> np.ndarray:
    """The array `name` of `.npz` files, end to end; nothing else of them is read."""
    import numpy as np

    parts = [np.zeros(0, dtype)]
    for path in paths:
        with np.load(path, allow_pickle=False) as found:
            parts.append(found[name].astype(dtype, copy=False))
    return np.concatenate(parts)


def read_ids(paths: Sequence[Path]) -> pa.Array:
    """The ids of all samples, as large strings."""
    import numpy as np
    import pyarrow as pa

    data, ends = read_array(paths, "ids", np.uint8), read_array(paths, "lengths", np.int64)
    offsets = np.zeros(len(ends) + 1, np.int64)
    np.cumsum(ends, out=offsets[1:])
    return pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))
