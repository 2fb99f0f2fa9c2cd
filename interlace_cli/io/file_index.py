"""What the index of a dataset has of one Parquet file of samples: what each row is, and where each image lies.

A row group's images are one dictionary page, not compressed: each is four bytes of its length (little endian) and the
bytes themselves (https://parquet.apache.org/docs/file-format/data-pages/encodings/, PLAIN). The page ends where the
data page begins, so an image is read by its offset and length alone.

Shape legend: G row groups of the file; R rows; I images that the rows show, in the rows' order; K keys of the rows
(`io/sample_lines.py`: one for each image, one for a row without images); D images that are stored, in their order.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from interlace_cli.domain.dataset import Sample
from interlace_cli.io.sample_lines import DIGEST_BYTES, count_characters, digest_line, list_keys, to_line

if TYPE_CHECKING:
    import numpy as np

NAME_DIGITS = 32
"""Hexadecimal digits of an image's sha256 that are its name."""
NAME_BYTES = NAME_DIGITS // 2
IMAGE_BYTES = "images.list.element.bytes"
_FOOTER_TAIL = 8
"""Bytes at the end of a Parquet file: the length of its footer, and a mark."""
_DICTIONARY_PAGE = 2


@dataclass(frozen=True, eq=False)
class FileIndex:
    """Of one file: its bytes and the sha256 of its footer; rows of each group [G]; of each row the first 16 bytes of
    the sha256 of its line of JSON [R], the characters of its turns [R], the number of its images [R]; the names of
    these [I]; the rows' keys [K]; and of what is stored the name [D], the offset of its first byte [D] and its length
    [D]. Names and digests are of dtype S16."""

    size: int
    footer: str
    groups_G: np.ndarray
    digests_R: np.ndarray
    characters_R: np.ndarray
    shown_R: np.ndarray
    names_I: np.ndarray
    keys_K: np.ndarray
    stored_D: np.ndarray
    offsets_D: np.ndarray
    lengths_D: np.ndarray

    def save(self, path: Path) -> None:
        """Writes all of it as `.npz`: the same index, the same bytes."""
        import numpy as np

        arrays = {name: value for name, value in vars(self).items() if name.endswith(("_G", "_R", "_I", "_K", "_D"))}
        with path.open("wb") as file:
            np.savez(file, facts=np.frombuffer(f"{self.size} {self.footer}".encode(), np.uint8), **arrays)


def load_file_index(path: Path) -> FileIndex:
    """What `FileIndex.save` wrote. Raises OSError, ValueError or KeyError for anything else."""
    import numpy as np

    with np.load(path, allow_pickle=False) as found:
        size, footer = found["facts"].tobytes().decode().split()
        return FileIndex(int(size), footer, **{name: found[name] for name in found.files if name != "facts"})


class FileIndexBuilder:
    """Collects the rows of one file group by group, in bytes and not in objects."""

    def __init__(self) -> None:
        self.digests, self.names, self.stored = bytearray(), bytearray(), bytearray()
        self.groups, self.characters, self.shown = array("q"), array("I"), array("I")
        self.keys, self.lengths, self.stored_in_group = array("Q"), array("q"), array("q")
        self.rows = self.ended = 0

    def add(self, sample: Sample) -> bytes:
        """The next row. Returns its line of JSON."""
        self.rows += 1
        line = to_line(sample)
        self.digests += digest_line(line)
        self.characters.append(count_characters(sample))
        self.shown.append(len(sample.image))
        for name in sample.image:
            self.names += pack_name(name)
        self.keys.extend(list_keys(sample))
        return line

    def end_group(self, names: Sequence[str], lengths: Sequence[int]) -> None:
        """The rows since the last call are a row group, which stores these images in this order."""
        if len(names) != len(lengths):
            raise ValueError("its images are not stored as interlace stores them")
        self.groups.append(self.rows - self.ended)
        self.ended = self.rows
        self.stored += b"".join(map(pack_name, names))
        self.lengths.extend(lengths)
        self.stored_in_group.append(len(names))

    def build(self, path: Path) -> FileIndex:
        """The index of the finished file. Raises OSError if it cannot be read, ValueError if its pages are not where
        they should be."""
        import numpy as np

        lengths_D = np.array(self.lengths, np.int64)
        with path.open("rb") as file:
            pages = list_image_pages(path)
            if len(pages) != len(self.groups):
                raise ValueError("the file has other row groups")
            offsets, start = [], 0
            for (_, end), count in zip(pages, self.stored_in_group, strict=True):
                own = lengths_D[start : start + count]
                # The page ends with the last image: counted from there, its header need not be known.
                behind = (own + 4)[::-1].cumsum()[::-1]
                offsets.append(end - behind + 4)
                start += count
            size, footer = hash_footer(file)
        return FileIndex(
            size,
            footer,
            np.array(self.groups, np.int64),
            np.frombuffer(bytes(self.digests), f"S{DIGEST_BYTES}"),
            np.array(self.characters, np.uint32),
            np.array(self.shown, np.uint32),
            np.frombuffer(bytes(self.names), f"S{NAME_BYTES}"),
            np.array(self.keys, np.uint64),
            np.frombuffer(bytes(self.stored), f"S{NAME_BYTES}"),
            np.concatenate(offsets).astype(np.int64) if offsets else np.zeros(0, np.int64),
            lengths_D.astype(np.uint32),
        )


def pack_name(name: str) -> bytes:
    """The 16 bytes that stand for an image's name. Raises ValueError for a name that is not one of ours."""
    return bytes.fromhex(name[:NAME_DIGITS].ljust(NAME_DIGITS, "?"))


def list_image_pages(path: Path) -> list[tuple[int, int]]:
    """Of each row group where the page that holds its images begins, header included, and ends. Raises ValueError if
    images are stored in another way, and what pyarrow raises."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    pages = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(index) for index in range(group.num_columns))
        column = next((one for one in columns if one.path_in_schema == IMAGE_BYTES), None)
        if column is None or column.compression != "UNCOMPRESSED" or not column.has_dictionary_page:
            raise ValueError("its images are not stored as interlace stores them")
        pages.append((column.dictionary_page_offset, column.data_page_offset))
    return pages


def walk_lengths(file: BinaryIO, begin: int, end: int) -> list[int]:
    """The lengths of the images in a page, of which nothing else is read. Raises ValueError if it is no such page."""
    handle = file.fileno()
    kind, whole, stored = _read_page_header(os.pread(handle, min(64, end - begin), begin))
    if kind != _DICTIONARY_PAGE or whole != stored:
        raise ValueError("its images are not stored as interlace stores them")
    lengths, position = [], end - stored
    while position < end:
        lengths.append(int.from_bytes(os.pread(handle, 4, position), "little"))
        position += 4 + lengths[-1]
    if position != end:
        raise ValueError("its images are not stored as interlace stores them")
    return lengths


def _read_page_header(data: bytes) -> tuple[int, int, int]:
    """The first three fields of a page's header (Thrift's compact protocol): kind, bytes uncompressed, bytes stored."""
    numbers, position = [], 0
    for _ in range(3):
        # One byte says: the next field, and an integer of 32 bits.
        if data[position : position + 1] != b"\x15":
            raise ValueError("a page of it has no header")
        position, number, shift = position + 1, 0, 0
        while True:
            byte = data[position]
            number |= (byte & 127) << shift
            position, shift = position + 1, shift + 7
            if byte < 128:
                break
        numbers.append((number >> 1) ^ -(number & 1))
    return numbers[0], numbers[1], numbers[2]


def hash_footer(file: BinaryIO) -> tuple[int, str]:
    """`(bytes of the file, sha256 of its footer)`. Raises OSError, and ValueError if it has none."""
    size = os.fstat(file.fileno()).st_size
    tail = os.pread(file.fileno(), _FOOTER_TAIL, max(size - _FOOTER_TAIL, 0))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length + _FOOTER_TAIL > size:
        raise ValueError("it is no Parquet file")
    footer: Any = os.pread(file.fileno(), length, size - _FOOTER_TAIL - length)
    return size, hashlib.sha256(footer).hexdigest()
