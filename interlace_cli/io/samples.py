"""Samples that stay on disk: a sequence of which each is read when it is asked for; and what is asked of many at once.

What the index knows of a sample (its images' keys, its length) is taken from there, for millions of samples in a
moment; the functions here take any other sequence of samples just as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from interlace_cli.domain.dataset import Sample
from interlace_cli.io.sample_index import take_ranges
from interlace_cli.io.sample_lines import count_characters, list_keys
from interlace_cli.io.sample_reader import SampleReader

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 20


class Samples(Sequence[Sample]):
    """The samples in `rows` [N] of a dataset. A slice is such a sequence again."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, reader: SampleReader, rows: np.ndarray) -> None:
        self.reader, self.rows = reader, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Samples(self.reader, self.rows[index])
        return self.reader.read(int(self.rows[index]))

    def take(self, positions: np.ndarray) -> Samples:
        """Those at `positions`: numbers, or True and False for each sample."""
        return Samples(self.reader, self.rows[positions])

    def __iter__(self) -> Iterator[Sample]:
        return (self.reader.read(int(row)) for row in self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(own == one for own, one in zip(self, other, strict=True))

    def __reduce__(self) -> tuple[type[Samples], tuple[SampleReader, np.ndarray]]:
        return Samples, (self.reader, self.rows)

    def count_images(self) -> np.ndarray:
        """Images of each sample [N]."""
        return self._take("shown")

    def count_characters(self) -> np.ndarray:
        """Characters of the turns of each sample [N]."""
        return self._take("characters")

    def iter_keys(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Block by block, the keys of the samples end to end, and of each the number of its keys."""
        import numpy as np

        keys, ends, shown = (self.reader.index.arrays[name] for name in ("keys", "key_ends", "shown"))
        for start in range(0, len(self), _BLOCK):
            rows = np.asarray(self.rows[start : start + _BLOCK])
            yield take_ranges(keys, ends, rows), np.maximum(shown[rows], 1)

    def _take(self, name: str) -> np.ndarray:
        import numpy as np

        values: np.ndarray = np.asarray(self.reader.index.arrays[name][self.rows], np.int64)
        return values


def choose(samples: Sequence[Sample], positions: np.ndarray) -> Sequence[Sample]:
    """The samples at `positions` (numbers, or True and False for each of them)."""
    import numpy as np

    if isinstance(samples, Samples):
        # The rows of a whole split are mapped, and need no memory of their own.
        is_whole = positions.dtype == bool and bool(positions.all())
        return samples if is_whole else samples.take(positions)
    numbers = np.flatnonzero(positions) if positions.dtype == bool else positions
    return [samples[index] for index in numbers.tolist()]


def join(parts: Sequence[Sequence[Sample]]) -> Sequence[Sample]:
    """All samples of `parts`, one after the other. A single part is not read."""
    return parts[0] if len(parts) == 1 else [sample for part in parts for sample in part]


def find_pictured(samples: Sequence[Sample]) -> np.ndarray:
    """Whether each sample has images: bool [N]."""
    import numpy as np

    if isinstance(samples, Samples):
        return samples.count_images() > 0
    return np.fromiter((bool(sample.image) for sample in samples), bool, len(samples))


def measure_texts(samples: Sequence[Sample]) -> np.ndarray:
    """The characters of the turns of each sample [N]."""
    import numpy as np

    if isinstance(samples, Samples):
        return samples.count_characters()
    return np.fromiter(map(count_characters, samples), np.int64, len(samples))


def iter_keys(samples: Sequence[Sample]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Block by block, the keys of the samples end to end, and of each the number of its keys."""
    import numpy as np

    if isinstance(samples, Samples):
        yield from samples.iter_keys()
    else:
        found = [list_keys(sample) for sample in samples]
        keys = np.array([key for own in found for key in own], np.uint64)
        yield keys, np.array([len(own) for own in found], np.int64)
