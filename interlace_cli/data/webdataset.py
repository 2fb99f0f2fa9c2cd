"""WebDataset: tar files in which neighbours of one name belong together: `001.jpg`, `001.json`, or `001.txt`.

The JSON holds a conversation in any of the layouts of `data/columns.py`, or a caption; the text is a caption where the
JSON has neither. Images are the members with a picture's suffix, in the order of their suffixes (`001.0.jpg`,
`001.1.jpg`). A record with a film, a sound or a picture of another format is left out; of other members (`001.cls`)
a note says that they are not read.
"""

from __future__ import annotations

import mimetypes
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from interlace_cli.data.conversations import read_beside
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.image_names import PICTURES
from interlace_cli.data.pictures import PictureReader
from interlace_cli.data.record_files import parse_object, read_words
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.file_records import SOURCE, FileRead, FileRecorder, Root, Roots
from interlace_cli.io.images import MOST_BYTES, TOO_LARGE
from interlace_cli.io.remote import RemoteFile, RemoteFolder

WORDS = ("json", "txt")
THREADS = 16


@dataclass
class Member:
    """The files of one name: suffix -> where its bytes lie in the tar, `(offset, bytes)`."""

    name: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_double: bool = False
    """Whether two members have one name."""


@dataclass(frozen=True)
class WebDatasetSource:
    """`members`: `(shard, member)` of each record, a shard being called by its path below the root. Of the shards the
    headers were read; of the chosen records the bytes are."""

    name: str
    roots: Roots
    members: Sequence[tuple[str, Member]]
    files_read: Sequence[FileRead]
    notes: Sequence[str] = ()
    location: str | None = None
    revision: str | None = None

    def draw(self, selection: Selection) -> Draw:
        """A unit for each shard that has a chosen record."""
        chosen: dict[str, list[Member]] = {}
        for index in selection.choose(len(self.members)):
            shard, member = self.members[index]
            chosen.setdefault(shard, []).append(member)
        units = [Unit(shard, len(members), (shard, members)) for shard, members in chosen.items()]
        return Draw(units, notes=self.notes, files_read=self.files_read)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The chosen records of one shard."""
        shard, members = unit.content
        files.note_opened([shard])
        path = files.roots[SOURCE] / shard
        with path.open("rb") as file:
            named = ((f"{path.name}:{member.name}", member) for member in members)
            yield from iter_kept(named, partial(_build_record, file, files, selection), selection)


def open_webdataset(root: Root, shards: Mapping[str, int], name: str, notes: Sequence[str] = ()) -> WebDatasetSource:
    """Reads the headers of all shards below `root`, given as path -> bytes. Raises DatasetError for one that is not a
    tar file."""
    files = FileRecorder({SOURCE: root})
    files.note_opened(shards)
    # Each header of a remote file is waited for.
    with ThreadPoolExecutor(THREADS if isinstance(root, RemoteFolder) else 1) as pool:
        found = pool.map(lambda shard: _list_members(root / shard), shards)
        members = [(shard, member) for shard, own in zip(shards, found, strict=True) for member in own]
    return WebDatasetSource(name, files.roots, members, files.files, [*notes, *_describe_unread(members)])


def _describe_unread(members: Sequence[tuple[str, Member]]) -> Iterator[str]:
    """A note for each suffix that no sample uses."""
    counts = Counter(suffix for _, member in members for suffix in member.files if _classify(suffix) == "other")
    for suffix, count in sorted(counts.items()):
        yield f"Not read: members of tar files that end in .{suffix} ({count:,})."


@lru_cache
def _classify(suffix: str) -> str:
    """`picture`, `words`, `media` that nothing here can learn from, or `other`."""
    last = suffix.rpartition(".")[2]
    if last in PICTURES:
        return "picture"
    if suffix in WORDS:
        return "words"
    # Python's own table, without what this machine's files add to it.
    kind = (mimetypes.MimeTypes().guess_type(f"x.{last}")[0] or "").partition("/")[0]
    return "media" if kind in ("image", "video", "audio") else "other"


def _build_record(file: Any, files: FileRecorder, selection: Selection, where: str, member: Member) -> RawRecord:
    def read(suffix: str) -> bytes:
        offset, size = member.files[suffix]
        if size > MOST_BYTES:
            raise UnusableRecordError(TOO_LARGE)
        file.seek(offset)
        data: bytes = file.read(size)
        return data

    if member.is_double:
        raise UnusableRecordError("two members have one name")
    media = sorted(suffix for suffix in member.files if _classify(suffix) == "media")
    if media:
        raise UnusableRecordError(f"a member ends in .{media[0]}, which is not read")
    data = parse_object(read("json")) if "json" in member.files else {}
    if "txt" in member.files and data.get("txt") is None:
        data = {**data, "txt": read_words(read("txt"))}
    check_ratings(data, selection)
    pictures = sorted(suffix for suffix in member.files if _classify(suffix) == "picture")
    made = read_beside(data, where, tuple(map(read, pictures)))
    return made.read_images(PictureReader(files, None, selection.allow_download))


def _list_members(path: Path | RemoteFile) -> list[Member]:
    """Names are cut at the first dot of their last part, as the WebDataset library does."""
    members: dict[str, Member] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file) as tar:
            for info in tar:
                folder, _, last = info.name.rpartition("/")
                stem, dot, suffix = last.partition(".")
                if not info.isfile() or not dot or not stem:
                    continue
                name = f"{folder}/{stem}" if folder else stem
                member = members.setdefault(name, Member(name))
                member.is_double = member.is_double or suffix.lower() in member.files
                member.files[suffix.lower()] = (info.offset_data, info.size)
    except (OSError, tarfile.TarError) as error:
        raise DatasetError(f"{path} is not a tar file that can be read: {error}.", "Leave it out.") from error
    return list(members.values())
