"""The index of a prepared dataset: where each sample and each image lies, in arrays that are mapped into memory.

It is the folder `index` of the dataset, made once: `index.json`, and one file for each array. Nothing of it is read
but what is asked for, and the processes of a machine share what is. A *row* is counted through all files of the
dataset, in the order of `index.json`; a split is an array of rows, so that it can be any of them in any order.

Shape legend: G row groups of all files; R rows; K keys of the rows (`io/sample_lines.py`); M images, each once, by
name; N samples of a split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from interlace_cli.domain.dataset import SplitFacts
from interlace_cli.domain.record import Record
from interlace_cli.errors import DatasetError
from interlace_cli.io.file_index import NAME_BYTES, FileIndex, hash_footer, pack_name
from interlace_cli.io.files import hash_file
from interlace_cli.io.sample_lines import DIGEST_BYTES

if TYPE_CHECKING:
    import numpy as np

INDEX = "index"
"""It is no secret: which samples are of which split stands nowhere else."""
FACTS = "index.json"
SCHEMA = 1
DTYPES = {
    "group_ends": "<i8",  # [G] rows up to the end of each row group
    "digests": f"S{DIGEST_BYTES}",  # [R] of each row's line of JSON
    "characters": "<u4",  # [R] of its turns
    "shown": "<u4",  # [R] images of it
    "key_ends": "<i8",  # [R] keys up to its end
    "keys": "<u8",  # [K]
    "names": f"S{NAME_BYTES}",  # [M] ascending
    "image_files": "<u4",  # [M]
    "image_offsets": "<i8",  # [M]
    "image_lengths": "<u4",  # [M]
    "repeated": "<i8",  # rows whose id an earlier row has, ascending
    "repeats": "<u4",  # the n of `id#n` that they get
}
_SPLIT = "split-"
_BLOCK = 1 << 20


class IndexedFile(Record):
    """One Parquet file: its name in the dataset's `data`, its bytes, the sha256 of its footer, its rows and groups."""

    name: str
    size: int
    footer: str
    rows: int
    groups: int


class IndexFacts(Record):
    """`index.json`. `lengths`: the number of items of each array; `splits` as in the manifest; `rows`: sha256 of the
    array of each split."""

    schema_version: int
    files: list[IndexedFile]
    splits: dict[str, SplitFacts]
    rows: dict[str, str]
    lengths: dict[str, int]


@dataclass(frozen=True, eq=False)
class Repeats:
    """Rows [n], ascending, whose id an earlier row of the dataset has, and the number [n] that makes it unique: the
    second `x` becomes `x#2`."""

    rows: np.ndarray
    numbers: np.ndarray


def write_index(
    folder: Path,
    files: Iterable[tuple[str, FileIndex]],
    splits: Mapping[str, np.ndarray],
    repeats: Repeats | None = None,
    known: Mapping[str, SplitFacts] | None = None,
) -> IndexFacts:
    """Writes the index of `files`, `(name, index)` in the order of their rows, into the new folder `folder`; one file
    at a time is looked at. `splits`: rows [N] of each; `known`: their facts, where they need not be found here."""
    import numpy as np

    folder.mkdir(parents=True)
    listed = _write_rows(folder, files)
    arrays = {name: _map(folder / f"{name}.bin", DTYPES[name]) for name in ("digests", "shown", "key_ends", "keys")}
    none = Repeats(np.zeros(0, np.int64), np.zeros(0, np.uint32))
    repeats = repeats or none
    _save(folder, "repeated", repeats.rows)
    _save(folder, "repeats", repeats.numbers)
    facts, sums = {}, {}
    for split, rows in splits.items():
        rows.astype("<i8", copy=False).tofile(folder / f"{_SPLIT}{split}.bin")
        sums[split] = hash_file(folder / f"{_SPLIT}{split}.bin")
        facts[split] = known[split] if known else _find_facts(arrays, rows, repeats)
    lengths = {name: _count(folder, name) for name in DTYPES}
    found = IndexFacts(schema_version=SCHEMA, files=listed, splits=facts, rows=sums, lengths=lengths)
    (folder / FACTS).write_text(json.dumps(found.model_dump(), indent=1, sort_keys=True) + "\n")
    return found


def _write_rows(folder: Path, files: Iterable[tuple[str, FileIndex]]) -> list[IndexedFile]:
    """All arrays but those of splits: those of rows grow file by file; images are put in order at the end."""
    import numpy as np

    listed: list[IndexedFile] = []
    names, places = [], []
    rows = keys = 0
    with _Appending(folder) as append:
        for name, own in files:
            append("group_ends", rows + own.groups_G.cumsum())
            append("digests", own.digests_R)
            append("characters", own.characters_R)
            append("shown", own.shown_R)
            ends_R = np.maximum(own.shown_R, 1).astype(np.int64).cumsum()
            append("key_ends", keys + ends_R)
            append("keys", own.keys_K)
            names.append(own.stored_D)
            places.append((np.full(len(own.stored_D), len(listed), np.uint32), own.offsets_D, own.lengths_D))
            rows, keys = rows + len(own.shown_R), keys + len(own.keys_K)
            listed.append(
                IndexedFile(
                    name=name, size=own.size, footer=own.footer, rows=len(own.shown_R), groups=len(own.groups_G)
                )
            )
    all_names = np.concatenate([*names, np.zeros(0, f"S{NAME_BYTES}")])
    # Of an image that is stored several times the first counts.
    order = sort_names(all_names)
    ordered = all_names[order]
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    chosen = order[is_first]
    _save(folder, "names", ordered[is_first])
    for column, name in enumerate(("image_files", "image_offsets", "image_lengths")):
        parts = [place[column] for place in places]
        _save(folder, name, np.concatenate(parts)[chosen] if parts else np.zeros(0))
    return listed


def sort_names(names: np.ndarray) -> np.ndarray:
    """The order in which the names [n] (S16) ascend; equal ones as they stand. Two sorts of numbers take a fraction of
    the time of one of texts."""
    import numpy as np

    halves = np.ascontiguousarray(names).view(">u8").reshape(-1, 2).astype(np.uint64)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def _find_facts(arrays: Mapping[str, np.ndarray], rows: np.ndarray, repeats: Repeats) -> SplitFacts:
    """`sha256` is over the digests of the split's rows in their order, and over the ids that were made unique."""
    import numpy as np

    digest, seen = hashlib.sha256(), []
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(rows[start : start + _BLOCK], np.int64)
        digest.update(arrays["digests"][block].tobytes())
        seen.append(np.unique(take_ranges(arrays["keys"], arrays["key_ends"], block[arrays["shown"][block] > 0])))
    positions = np.flatnonzero(np.isin(rows, repeats.rows))
    numbers = repeats.numbers[np.searchsorted(repeats.rows, np.asarray(rows)[positions])]
    digest.update(positions.astype("<i8").tobytes() + numbers.astype("<u4").tobytes())
    images = len(np.unique(np.concatenate(seen))) if seen else 0
    return SplitFacts(samples=len(rows), images=images, sha256=digest.hexdigest())


def take_ranges(values: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What belongs to `rows`, end to end, of values that lie row by row; `ends`: values up to the end of each row."""
    import numpy as np

    if not len(rows):
        return values[:0]
    stops = np.asarray(ends[rows], np.int64)
    starts = np.where(rows > 0, ends[np.maximum(rows - 1, 0)], 0)
    lengths = stops - starts
    before = lengths.cumsum() - lengths
    taken: np.ndarray = values[np.repeat(starts - before, lengths) + np.arange(lengths.sum())]
    return taken


class _Appending:
    """Arrays that grow on disk, under their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, BinaryIO] = {}

    def __enter__(self) -> _Appending:
        for name in ("group_ends", "digests", "characters", "shown", "key_ends", "keys"):
            self.files[name] = (self.folder / f"{name}.bin").open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()

    def __call__(self, name: str, values: np.ndarray) -> None:
        self.files[name].write(values.astype(DTYPES[name], copy=False).tobytes())


def _save(folder: Path, name: str, values: np.ndarray) -> None:
    values.astype(DTYPES[name], copy=False).tofile(folder / f"{name}.bin")


def _count(folder: Path, name: str) -> int:
    import numpy as np

    return (folder / f"{name}.bin").stat().st_size // np.dtype(DTYPES[name]).itemsize


def _map(path: Path, dtype: str) -> np.ndarray:
    import numpy as np

    # An empty file cannot be mapped. A view is quicker than NumPy's class of its own.
    return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.zeros(0, dtype)


class SampleIndex:
    """The index of the files in `data`, read from `folder`. `kept` is what keeps a folder of this process alone there.
    Pickled it is two paths.

    Raises DatasetError if it is broken; OSError if there is none.
    """

    def __init__(self, folder: Path, data: Path, kept: object = None) -> None:
        import numpy as np

        self.folder, self.data, self.kept = folder, data, kept
        text = (folder / FACTS).read_bytes()
        try:
            self.facts = IndexFacts.model_validate(json.loads(text))
            if self.facts.schema_version != SCHEMA:
                raise ValueError
            self.arrays = {name: _map(folder / f"{name}.bin", dtype) for name, dtype in DTYPES.items()}
            self.splits = {name: _map(folder / f"{_SPLIT}{name}.bin", "<i8") for name in self.facts.splits}
        except (OSError, ValueError) as error:
            raise _broken(folder) from error
        self.file_ends = np.cumsum([file.rows for file in self.facts.files], dtype=np.int64)
        self.first_groups = np.cumsum([0, *(file.groups for file in self.facts.files)], dtype=np.int64)
        rows, groups = sum(file.rows for file in self.facts.files), sum(file.groups for file in self.facts.files)
        wanted = self.facts.lengths | {"group_ends": groups, "digests": rows}
        is_whole = all(len(self.arrays[name]) == wanted.get(name) for name in DTYPES)
        if not is_whole or any(len(self.splits[name]) != own.samples for name, own in self.facts.splits.items()):
            raise _broken(folder)

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[Path, Path]]:
        return SampleIndex, (self.folder, self.data)

    def check_splits(self) -> None:
        """Raises DatasetError if the rows of a split are not those that were written: a sample says what it is when it
        is read, and not of which split it is."""
        for split, digest in self.facts.rows.items():
            try:
                is_same = hash_file(self.folder / f"{_SPLIT}{split}.bin") == digest
            except OSError as error:
                raise _broken(self.folder) from error
            if not is_same:
                raise _broken(self.folder)

    def find_changed(self) -> str | None:
        """The first file that is not the one that the index was made of, by its size and its footer; else None."""
        for listed in self.facts.files:
            try:
                with (self.data / listed.name).open("rb") as file:
                    is_same = hash_footer(file) == (listed.size, listed.footer)
            except (OSError, ValueError):
                is_same = False
            if not is_same:
                return listed.name
        return None

    def locate(self, row: int) -> tuple[Path, int, int]:
        """`(file, row group of it, row of the group)`."""
        import numpy as np

        group = int(np.searchsorted(self.arrays["group_ends"], row, "right"))
        file = int(np.searchsorted(self.file_ends, row, "right"))
        start = int(self.arrays["group_ends"][group - 1]) if group else 0
        return self.data / self.facts.files[file].name, group - int(self.first_groups[file]), row - start

    def find_image(self, name: str) -> tuple[Path, int, int] | None:
        """`(file, offset of its first byte, length)`; None if no file has an image of the name. Raises DatasetError if
        it would lie outside of its file."""
        import numpy as np

        try:
            packed = np.frombuffer(pack_name(name), self.arrays["names"].dtype)[0]
        except ValueError:
            return None
        names = self.arrays["names"]
        at = int(np.searchsorted(names, packed))
        if at == len(names) or names[at] != packed:
            return None
        number, offset, length = (int(self.arrays[f"image_{one}"][at]) for one in ("files", "offsets", "lengths"))
        file = self.facts.files[number] if number < len(self.facts.files) else None
        if file is None or not 0 <= offset <= file.size - length:
            raise _broken(self.folder)
        return self.data / file.name, offset, length

    def find_repeat(self, row: int) -> int:
        """The n of `id#n`, for a row whose id an earlier one has; else 0."""
        import numpy as np

        rows = self.arrays["repeated"]
        at = int(np.searchsorted(rows, row))
        return int(self.arrays["repeats"][at]) if at < len(rows) and rows[at] == row else 0


def _broken(folder: Path) -> DatasetError:
    return DatasetError(f"{folder} is broken.", "Run `interlace prepare --force`.")
