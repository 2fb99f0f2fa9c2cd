"""Samples with their images as Parquet files that `datasets` opens as they are.

An image stands in every row that shows it, and is stored once for each row group: its column is a dictionary. Rows that
share images stand together, so that in all it is stored about once. Images are not compressed again, so that each is
read without its row group, by the index (`io/sample_index.py`); a row group is as large as keeps footers small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.io.file_index import (
    IMAGE_BYTES,
    FileIndex,
    FileIndexBuilder,
    list_image_pages,
    walk_lengths,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_BYTES, GROUP_ROWS = 16 << 20, 512
FILE_BYTES = 512 << 20
IMAGE_NAME = "images.list.element.path"
_TEXTS = ("id", "source", "kind", "metric")
_LISTS = ("answers", "choices")
TEXT_COLUMNS = [
    *_TEXTS,
    *(f"{name}.list.element" for name in _LISTS),
    "conversations.list.element.from",
    "conversations.list.element.value",
    IMAGE_NAME,
]
"""All columns but the bytes of images."""


class SampleWriter:
    """Writes `<name>-00000-of-00003.parquet` and so on into `folder`; `close` gives the files their names."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.files: list[Path] = []
        self.writer: pq.ParquetWriter | None = None
        self.rows: list[Sample] = []
        self.images: dict[str, bytes] = {}
        self.file_bytes = self.group_bytes = 0
        self.index = FileIndexBuilder()
        self.indexes: list[FileIndex] = []

    def add(self, sample: Sample, images: dict[str, bytes]) -> None:
        """Adds a sample; `images`: name -> bytes of each of its images."""
        is_full = len(self.rows) >= GROUP_ROWS or self.group_bytes >= GROUP_BYTES
        is_apart = not any(name in self.images for name in sample.image)
        if self.rows and ((is_full and is_apart) or len(self.rows) >= 8 * GROUP_ROWS):
            self._flush()
        self.rows.append(sample)
        self.index.add(sample)
        self.group_bytes += sum(len(data) for name, data in images.items() if name not in self.images)
        self.images.update(images)

    def close(self) -> list[Path]:
        """Writes what is left and returns the finished files, in order; none if there was no sample. The index of each
        is then in `indexes`."""
        if self.rows:
            self._flush()
        self._end_file()
        count = len(self.files)
        return [
            path.rename(self.folder / f"{self.name}-{number:05d}-of-{count:05d}.parquet")
            for number, path in enumerate(self.files)
        ]

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        table = _build_table(self.rows, self.images)
        if self.writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.files.append(self.folder / f".{self.name}-{len(self.files)}")
            self.writer = pq.ParquetWriter(
                self.files[-1],
                table.schema,
                # Arrow's own schema would tell readers of the dictionary, which is a matter of storage alone.
                store_schema=False,
                use_dictionary=[IMAGE_BYTES, "source", "kind", "metric"],
                dictionary_pagesize_limit=1 << 30,
                write_statistics=["id"],
                compression={IMAGE_BYTES: "none", **dict.fromkeys(TEXT_COLUMNS, "zstd")},
            )
        self.writer.write_table(table, row_group_size=len(self.rows))
        self.index.end_group(list(self.images), [len(data) for data in self.images.values()])
        self.file_bytes += self.group_bytes
        self.rows, self.images, self.group_bytes = [], {}, 0
        if self.file_bytes >= FILE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self.writer is not None:
            self.writer.add_key_value_metadata({"huggingface": orjson.dumps(_FEATURES).decode()})
            self.writer.close()
            self.indexes.append(self.index.build(self.files[-1]))
        self.writer, self.file_bytes, self.index = None, 0, FileIndexBuilder()


def read_file_index(path: Path, see: Callable[[bytes], object] = lambda line: None) -> FileIndex:
    """The index of a finished file: reads its texts, and of its images the lengths; `see` is given each sample's line
    of JSON. Raises DatasetError if it is broken, or not one of ours."""
    import pyarrow as pa

    builder = FileIndexBuilder()
    try:
        with path.open("rb") as file:
            for page, table in zip(list_image_pages(path), _iter_groups(path, TEXT_COLUMNS), strict=True):
                samples = to_samples(table)
                for sample in samples:
                    see(builder.add(sample))
                builder.end_group(
                    list(dict.fromkeys(name for sample in samples for name in sample.image)), walk_lengths(file, *page)
                )
        return builder.build(path)
    except (OSError, pa.ArrowException) as error:
        raise describe_broken(path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a file of samples.", "Run `interlace prepare` again.") from error


def to_samples(table: pa.Table) -> list[Sample]:
    """The samples of rows that were read without the bytes of images. Raises ValueError, KeyError or TypeError if they
    are none."""
    rows = table.to_pylist()
    return [Sample.model_validate({"image": [image["path"] for image in row.pop("images")], **row}) for row in rows]


def count_rows(path: Path) -> int:
    """How many samples the file has. Raises DatasetError if it is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise describe_broken(path) from error


def _iter_groups(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise describe_broken(path) from error


def describe_broken(path: Path) -> DatasetError:
    """What is said of a file that cannot be read."""
    return DatasetError(f"{path} is missing or broken.", "Run `interlace prepare` again.")


def _build_table(samples: Sequence[Sample], images: dict[str, bytes]) -> pa.Table:
    import pyarrow as pa

    indices = {name: index for index, name in enumerate(images)}
    names = [name for sample in samples for name in sample.image]
    data = pa.DictionaryArray.from_arrays(
        pa.array([indices[name] for name in names], pa.int32()), pa.array(images.values(), pa.binary())
    )
    shown = pa.StructArray.from_arrays([data, pa.array(names, pa.string())], ["bytes", "path"])
    text = pa.string()
    turn = pa.list_(pa.struct([("from", text), ("value", text)]))
    rows = [sample.model_dump(by_alias=True) for sample in samples]
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows], text) for name in _TEXTS}
    columns |= {name: pa.array([row[name] for row in rows], pa.list_(text)) for name in _LISTS}
    columns["conversations"] = pa.array([row["conversations"] for row in rows], turn)
    columns["images"] = pa.ListArray.from_arrays(_offsets(len(sample.image) for sample in samples), shown)
    return pa.table(columns)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    import pyarrow as pa

    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return pa.array(ends, pa.int32())


def _value() -> dict[str, str]:
    return {"dtype": "string", "_type": "Value"}


_FEATURES = {
    "info": {
        "features": {
            **{name: _value() for name in _TEXTS},
            **{name: {"feature": _value(), "_type": "List"} for name in _LISTS},
            "conversations": {"feature": {"from": _value(), "value": _value()}, "_type": "List"},
            "images": {"feature": {"_type": "Image"}, "_type": "List"},
        }
    }
}
"""The metadata by which `datasets` decodes the image column as images."""
