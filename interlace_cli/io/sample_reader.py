"""Reads single samples and single images of an indexed dataset (`io/sample_index.py`), for any number of threads.

Of a sample the texts of its row group are read, of an image exactly its bytes. A few row groups, footers and open files
are kept, whatever the size of the dataset.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.io.file_index import NAME_DIGITS
from interlace_cli.io.files import hash_bytes
from interlace_cli.io.sample_index import SampleIndex
from interlace_cli.io.sample_lines import digest_line, to_line
from interlace_cli.io.sample_tables import TEXT_COLUMNS, describe_broken, to_samples

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUPS, FOOTERS, FILES = 16, 64, 32
"""What is kept: row groups (texts alone), footers, and open files."""
_AGAIN = "Run `interlace prepare` again."
K = TypeVar("K")
V = TypeVar("V")


class _Kept(Generic[K, V]):
    """The last `most` of what `make` made. What is asked for by several threads at once is made by one of them; others
    are made at the same time."""

    def __init__(self, most: int, make: Callable[[K], V]) -> None:
        self.most, self.make = most, make
        self.kept: OrderedDict[K, Future[V]] = OrderedDict()
        self.lock = Lock()

    def get(self, key: K) -> V:
        """Raises what `make` raises, and makes it anew when it is asked again."""
        with self.lock:
            found = self.kept.get(key)
            is_missing = found is None
            if found is None:
                found = self.kept[key] = Future()
                if len(self.kept) > self.most:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(key)
        if is_missing:
            try:
                found.set_result(self.make(key))
            except BaseException as error:
                found.set_exception(error)
                with self.lock:
                    self.kept.pop(key, None)
        return found.result()


class _OpenFile:
    """Closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class SampleReader:
    """Reads the samples of `index`, and its images. Pickled it is the index alone."""

    def __init__(self, index: SampleIndex) -> None:
        self.index = index
        self.groups: _Kept[tuple[Path, int], pa.Table] = _Kept(GROUPS, self._read_group)
        self.footers: _Kept[Path, pq.FileMetaData] = _Kept(FOOTERS, _read_footer)
        self.files: _Kept[Path, _OpenFile] = _Kept(FILES, _OpenFile)

    def __reduce__(self) -> tuple[type[SampleReader], tuple[SampleIndex]]:
        return SampleReader, (self.index,)

    def read(self, row: int) -> Sample:
        """The sample in a row. Raises DatasetError if it is not the one that the index was made of."""
        path, group, number = self.index.locate(row)
        table = self.groups.get((path, group)).slice(number, 1)
        try:
            (sample,) = to_samples(table)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is not a file of samples.", _AGAIN) from error
        if digest_line(to_line(sample)).rstrip(b"\0") != self.index.arrays["digests"][row]:
            raise DatasetError(f"sample {sample.id} in {path} is not what it was.", _AGAIN)
        repeat = self.index.find_repeat(row)
        return sample.model_copy(update={"id": f"{sample.id}#{repeat}"}) if repeat else sample

    def load_image(self, name: str) -> bytes:
        """The bytes of an image. Raises DatasetError if there is none of the name, or if it is not what it was."""
        path, offset, length = self._find_image(name)
        data = self._read_bytes(path, offset, length)
        if not name.startswith(hash_bytes(data)[:NAME_DIGITS]):
            raise DatasetError(f"image {name} in {path} is not what it was.", _AGAIN)
        return data

    def open_image(self, name: str) -> io.BufferedReader:
        """An image as a file, of which no more is read than what is asked for. Raises DatasetError if there is none of
        the name."""
        return io.BufferedReader(_ImageFile(self, *self._find_image(name)))

    def _find_image(self, name: str) -> tuple[Path, int, int]:
        found = self.index.find_image(name)
        if found is None:
            raise DatasetError(f"the dataset has no image {name}.", _AGAIN)
        return found

    def _read_bytes(self, path: Path, offset: int, length: int) -> bytes:
        try:
            file = self.files.get(path)
            return os.pread(file.handle, length, offset)
        except OSError as error:
            raise describe_broken(path) from error

    def _read_group(self, key: tuple[Path, int]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, number = key
        try:
            footer = self.footers.get(path)
            with pq.ParquetFile(path, metadata=footer) as file:
                return file.read_row_group(number, columns=TEXT_COLUMNS, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise describe_broken(path) from error


def _read_footer(path: Path) -> pq.FileMetaData:
    import pyarrow.parquet as pq

    return pq.read_metadata(path)


class _ImageFile(io.RawIOBase):
    """The bytes of one image within a file."""

    def __init__(self, reader: SampleReader, path: Path, offset: int, length: int) -> None:
        self.reader, self.path, self.offset, self.length, self.position = reader, path, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.length}[whence]
        self.position = max(start + offset, 0)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self.length - self.position), 0)
        data = self.reader._read_bytes(self.path, self.offset + self.position, wanted) if wanted else b""
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
