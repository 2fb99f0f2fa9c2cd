"""WebDataset: tar files in which neighbours of one name belong together: `001.jpg`, `001.json`, or `001.txt`.

The JSON holds a conversation in any of the layouts of `data/columns.py`, or a caption; the text is a caption. Images
are the members with a picture's suffix, in the order of their suffixes (`001.0.jpg`, `001.1.jpg`).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from interlace_cli.data.captions import read_captioned
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.file_records import SOURCE, FileRead, FileRecorder, Roots
from interlace_cli.io.files import parse_json
from interlace_cli.io.images import MOST_BYTES

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")


@dataclass
class Member:
    """The files of one name: suffix -> where its bytes lie in the tar, `(offset, bytes)`."""

    name: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class WebDatasetSource:
    """`members`: `(shard, member)` of each record, a shard being called by its path below the root. Of the shards the
    headers were read; of the chosen records the bytes are."""

    name: str
    roots: Roots
    members: Sequence[tuple[str, Member]]
    files_read: Sequence[FileRead]
    location: str | None = None
    revision: str | None = None

    def draw(self, selection: Selection) -> Draw:
        """A unit for each shard that has a chosen record."""
        chosen: dict[str, list[Member]] = {}
        for index in selection.choose(len(self.members)):
            shard, member = self.members[index]
            chosen.setdefault(shard, []).append(member)
        units = [Unit(shard, len(members), (shard, members)) for shard, members in chosen.items()]
        return Draw(units, files_read=self.files_read)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The chosen records of one shard."""
        shard, members = unit.content
        files.note_opened([shard])
        path = files.roots[SOURCE] / shard
        with path.open("rb") as file:
            named = ((f"{path.name}:{member.name}", member) for member in members)
            yield from iter_kept(named, partial(_build_record, file, selection), selection)


def open_webdataset(root: Path, shards: Mapping[str, int], name: str) -> WebDatasetSource:
    """Reads the headers of all shards below `root`, given as path -> bytes. Raises DatasetError for one that is not a
    tar file."""
    files = FileRecorder({SOURCE: root})
    files.note_opened(shards)
    members = [(shard, member) for shard in shards for member in _list_members(root / shard)]
    return WebDatasetSource(name, files.roots, members, files.files)


def _build_record(file: Any, selection: Selection, where: str, member: Member) -> RawRecord:
    def read(suffix: str) -> bytes:
        offset, size = member.files[suffix]
        if size > MOST_BYTES:
            raise UnusableRecordError(f"image is larger than {MOST_BYTES >> 20} MiB")
        file.seek(offset)
        data: bytes = file.read(size)
        return data

    data: Any = {}
    if "json" in member.files:
        data = parse_json(read("json"))
        if not isinstance(data, dict):
            raise UnusableRecordError("the JSON is not an object")
    elif "txt" in member.files:
        data = {"txt": read("txt").decode(errors="replace")}
    check_ratings(data, selection)
    pictures = sorted(suffix for suffix in member.files if suffix.rpartition(".")[2] in PICTURES)
    return read_captioned(data, where, tuple(map(read, pictures)))


def _list_members(path: Path) -> list[Member]:
    """Names are cut at the first dot of their last part, as the WebDataset library does."""
    members: dict[str, Member] = {}
    try:
        with tarfile.open(path) as tar:
            for info in tar:
                folder, _, last = info.name.rpartition("/")
                stem, dot, suffix = last.partition(".")
                if not info.isfile() or not dot or not stem:
                    continue
                name = f"{folder}/{stem}" if folder else stem
                members.setdefault(name, Member(name)).files[suffix.lower()] = (info.offset_data, info.size)
    except (OSError, tarfile.TarError) as error:
        raise DatasetError(f"{path} is not a tar file that can be read: {error}.", "Leave it out.") from error
    return list(members.values())
