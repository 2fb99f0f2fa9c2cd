"""The files that a source reads while a dataset is prepared: recorded one by one, and looked at again.

A file is called `<root>:<path>`, the path being relative to one of the source's two roots (`SOURCE`, `IMAGES`), so that
the same files in another folder have the same names. What is known of it is one of these:

| known | `digest` | `size` | times, inode |
|---|---|---|---|
| it was read whole, or is no larger than `MOST_DIGESTED` | yes | yes | yes |
| it was read in part (Parquet, tar), or is too large to be used as an image | None | yes | yes |
| it was listed in a folder, and not opened | None | yes | None |
| it was looked for, and was not there or could not be read | None | None | None |

A remote file has no times or inode. Its digest is what the store knows it by (`RemoteFacts.tag`), whether it was read
or only opened: nobody has to read it to see that it is another one. Where a server has no such thing, that of a file
which was read whole is as of a local one, and any other is known by its size.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.files import parse_json
from interlace_cli.io.images import MOST_BYTES, TOO_LARGE
from interlace_cli.io.integrity import BLOCK, CHUNK
from interlace_cli.io.paths import find_inside
from interlace_cli.io.remote import RemoteFile, RemoteFolder
from interlace_cli.io.remote_errors import explain
from interlace_cli.io.remote_facts import RemoteFacts

SOURCE, IMAGES = "source", "image"
MISSING = "image file is missing"
Root = Path | RemoteFolder
Roots = Mapping[str, Root]
"""SOURCE and IMAGES -> the folder that their names are relative to. Empty: nothing is read from local files."""
Facts = os.stat_result | RemoteFacts
MOST_DIGESTED = 64 << 20
"""Bytes up to which a file that is read in part has a content digest all the same."""
THREADS, REMOTE_THREADS = 8, 32


class FileRead(NamedTuple):
    """One file, as it was before it was read. `digest`: XXH3 (128 bits, hexadecimal) of its content, by blocks as in
    `io/integrity.py`, or a store's tag; `size` in bytes. See the table above for what None means."""

    name: str
    digest: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    inode: int | None = None

    @property
    def path(self) -> str:
        """The name without its root."""
        return self.name.partition(":")[2]

    @property
    def content(self) -> tuple[str, str | None, int | None]:
        """Name and digest; or name and size, where there is no digest."""
        return self.name, self.digest, self.size if self.digest is None else None

    @property
    def has_tag(self) -> bool:
        """Whether the digest is a store's tag."""
        return self.digest is not None and " " in self.digest

    @property
    def is_digestible(self) -> bool:
        """Whether it was opened, has no digest yet, and is small enough for one."""
        return self.digest is None and self.mtime_ns is not None and (self.size or 0) <= MOST_DIGESTED


class FileRecorder:
    """Reads files below `roots` and records each, also those that cannot be read. For one thread."""

    def __init__(self, roots: Roots, files: Iterable[FileRead] = ()) -> None:
        self.roots = roots
        self._files: dict[str, FileRead] = {}
        self.add(files)

    @property
    def files(self) -> list[FileRead]:
        """What was recorded, sorted by name."""
        return [self._files[name] for name in sorted(self._files)]

    def add(self, files: Iterable[FileRead]) -> None:
        """Of two records of one file the one that knows more is kept, of equal ones the first: a file that changed
        while the dataset was made then counts as changed afterwards."""
        for file in files:
            known = self._files.get(file.name)
            if known is None or _rank(file) > _rank(known):
                self._files[file.name] = file

    def read_all(self, path: str) -> bytes:
        """The content of one of the source's own files, of any size. Raises DatasetError."""
        file = self.roots[SOURCE] / path
        with _explained(file):
            known = _to_record(f"{SOURCE}:{path}", file.stat())
            data = file.read_bytes()
        self.add([_add_digest(known, data)])
        return data

    def scan(self, path: str, see: Callable[[bytes], object]) -> FileRead:
        """As `read_all` of a file on disk, of which `see` is given one part after the other. Returns what was
        recorded."""
        file = self.roots[SOURCE] / path
        with _explained(file):
            known = _to_record(f"{SOURCE}:{path}", file.stat())
            with file.open("rb") as opened:
                known = known._replace(digest=digest_content(opened, see))
        self.add([known])
        return known

    def read(self, root: str, path: str) -> bytes:
        """The content of a file that a record names. Raises UnusableRecordError, also where a link leads out of the
        root, and for more than `io.images.MOST_BYTES`."""
        known = FileRead(f"{root}:{path}")
        try:
            file = _find_inside(self.roots[root], path)
            found = _to_record(known.name, file.stat())
            if (found.size or 0) > MOST_BYTES:
                known = found
                raise UnusableRecordError(TOO_LARGE)
            data = file.read_bytes()
            known = _add_digest(found, data)
        except FileNotFoundError as error:
            raise UnusableRecordError(MISSING) from error
        # A name with a null byte in it is a ValueError.
        except (OSError, ValueError) as error:
            raise UnusableRecordError("image file cannot be read") from error
        finally:
            self.add([known])
        return data

    def note_opened(self, paths: Iterable[str]) -> None:
        """The source's own files that are about to be read in part: recorded without a digest. Does nothing where the
        source has no files of its own, nor for a file that is not there."""
        if SOURCE in self.roots:
            found = ((f"{SOURCE}:{path}", _find_facts(self.roots[SOURCE], path)) for path in paths)
            self.add(_to_record(name, facts) for name, facts in found if facts is not None)

    def note_listed(self, sizes: Mapping[str, int]) -> None:
        """The source's own files that were only listed: path -> bytes."""
        self.add(FileRead(f"{SOURCE}:{path}", size=size) for path, size in sizes.items())

    def digest_small(self, threads: int = THREADS) -> None:
        """Gives a digest to each file that was opened and is small enough for one. One that has changed since it was
        opened stays without."""
        wanting = [file for file in self._files.values() if file.is_digestible]
        found = _look_closely(wanting, self.roots, threads)
        self.add(now for before, now in zip(wanting, found, strict=True) if _is_same(before, now))


def look_again(files: Sequence[FileRead], roots: Roots, threads: int = THREADS) -> list[FileRead]:
    """The same files as they are now below `roots`, in the same order.

    A file whose size, times and inode are as recorded is taken to have the recorded content. Others are read, if they
    have a digest. So what is not seen is a change that leaves all four as they were: one within the same tick of the
    file system's clock (some milliseconds) as the recorded change before it; one with a clock that was set back; and,
    where there is no digest, one after which the time of modification was restored.

    Of remote files the store is asked. Raises InterlaceError if it cannot be.
    """
    now: list[FileRead] = []
    closely: list[int] = []
    for index, (file, facts) in enumerate(zip(files, _find_all_facts(files, roots), strict=True)):
        now.append(FileRead(file.name))
        if file.size is None:
            # What was not there may be a link that leads out of the root, or a file that nobody may read.
            closely += [index] if facts is not None else []
        elif isinstance(facts, RemoteFacts):
            found = _to_record(file.name, facts)
            # One that was listed, and nobody has asked what it holds.
            now[-1] = found if file.digest is not None else found._replace(digest=None)
            closely += [index] if file.digest is not None and not file.has_tag and not found.has_tag else []
        elif facts is not None and file.mtime_ns is None:
            now[-1] = FileRead(file.name, size=facts.st_size)
        elif facts is not None:
            found = _to_record(file.name, facts)
            if _is_same(file, found):
                now[-1] = file
            elif file.digest is None:
                now[-1] = found
            else:
                closely.append(index)
    wanting = [files[index] for index in closely]
    for index, found in zip(closely, _look_closely(wanting, roots, threads), strict=True):
        now[index] = found
    return now


def has_changed(before: FileRead, now: FileRead) -> bool:
    """Whether another content has to be assumed: also of a file without a digest that has other times."""
    return before.content != now.content or (before.digest is None and not _is_same(before, now))


def encode_records(files: Iterable[FileRead]) -> bytes:
    """JSON lines, sorted by name."""
    return b"".join(
        orjson.dumps(_to_json(file), option=orjson.OPT_APPEND_NEWLINE)
        for file in sorted(files, key=lambda file: file.name)
    )


def decode_records(data: bytes) -> list[FileRead]:
    """Raises ValueError unless every line is one of `encode_records`."""
    return [_from_json(parse_json(line)) for line in data.split(b"\n") if line]


def digest_content(file: BinaryIO, see: Callable[[bytes], object] = lambda part: None) -> str:
    """XXH3 (128 bits, hexadecimal) over those of the blocks, as `io.integrity.digest_files` makes it. `see` is given
    each part that is read."""
    import xxhash

    whole, is_first = xxhash.xxh3_128(), True
    while True:
        block, left = xxhash.xxh3_128(), BLOCK
        while left and (data := file.read(min(left, CHUNK))):
            block.update(data)
            see(data)
            left -= len(data)
        if left < BLOCK or is_first:
            whole.update(block.digest())
        if left:
            return whole.hexdigest()
        is_first = False


def read_part(file: Path, known: FileRead, start: int, end: int) -> bytes:
    """These bytes of a file that was scanned. Raises DatasetError if it is not the same any more."""
    with _explained(file), file.open("rb", buffering=0) as opened:
        facts = os.fstat(opened.fileno())
        if (facts.st_size, facts.st_mtime_ns, facts.st_ino) == (known.size, known.mtime_ns, known.inode):
            return os.pread(opened.fileno(), end - start, start)
    raise DatasetError(f"{file} has changed while it was read.", "Run `interlace prepare` again.")


@contextmanager
def _explained(file: Path | RemoteFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(file, RemoteFile):
            raise explain(str(file), error) from error
        raise DatasetError(f"cannot read {file}: {error.strerror or error}.") from error


def _look_closely(files: Sequence[FileRead], roots: Roots, threads: int) -> list[FileRead]:
    """Each as it is now, with a digest where it had one or is small enough; in the same order."""
    if not files:
        return []
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda file: _examine(file, roots), files))


def _examine(file: FileRead, roots: Roots) -> FileRead:
    root = roots[file.name.partition(":")[0]]
    try:
        # What was there was inside. A source's own file may be a link that leads out, as in the cache of the Hub.
        path = _find_inside(root, file.path) if file.size is None else root / file.path
        found = _to_record(file.name, path.stat())
        if found.has_tag or (file.digest is None and not found.is_digestible):
            return found
        with path.open("rb") as opened:
            return found._replace(digest=digest_content(opened))
    except (OSError, ValueError, UnusableRecordError):
        return FileRead(file.name)


def _find_inside(root: Root, name: str) -> Path | RemoteFile:
    return root.find_inside(name) if isinstance(root, RemoteFolder) else find_inside(root, name)


def _find_all_facts(files: Sequence[FileRead], roots: Roots) -> Iterator[Facts | None]:
    """Of each file as it is now; None where there is none. Stores are asked for several at a time."""

    def find(file: FileRead) -> Facts | None:
        root, _, path = file.name.partition(":")
        return _find_facts(roots[root], path) if root in roots else None

    if not any(isinstance(root, RemoteFolder) for root in roots.values()):
        yield from map(find, files)
        return
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        yield from pool.map(find, files)


def _find_facts(root: Root, path: str) -> Facts | None:
    """None where there is no regular file."""
    try:
        if isinstance(root, RemoteFolder):
            return root.find_facts(path)
        facts = os.stat(os.path.join(root, path))
    except (OSError, ValueError):
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None


def _add_digest(file: FileRead, data: bytes) -> FileRead:
    """With that of its content, where it has none of its store."""
    return file if file.has_tag else file._replace(digest=digest_content(io.BytesIO(data)))


def _to_record(name: str, facts: Facts) -> FileRead:
    """Of a local file without a digest. Raises OSError if it is not a regular file: to read a pipe is to wait for
    ever."""
    if isinstance(facts, RemoteFacts):
        return FileRead(name, facts.tag, facts.size or 0)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("not a regular file")
    return FileRead(name, None, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def _is_same(before: FileRead, now: FileRead) -> bool:
    """By size, times and inode. The time of the inode's change cannot be restored, but to set permissions changes it:
    it counts where the content can be compared then."""
    is_changed = before.digest is not None and before.ctime_ns != now.ctime_ns
    return not is_changed and (before.size, before.mtime_ns, before.inode) == (now.size, now.mtime_ns, now.inode)


def _rank(file: FileRead) -> int:
    """How much is known of it: 0 it was listed, 1 it was opened, 2 its content or that there is none."""
    if file.digest is not None or file.size is None:
        return 2
    return 0 if file.mtime_ns is None else 1


def _to_json(file: FileRead) -> dict[str, Any]:
    """Names of files need not be text: one that is none is written as `name_bytes`, in hexadecimal."""
    fields = file._asdict()
    try:
        file.name.encode()
    except UnicodeEncodeError:
        return {"name_bytes": os.fsencode(fields.pop("name")).hex(), **fields}
    return fields


def _from_json(fields: Any) -> FileRead:
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    if "name_bytes" in fields:
        fields = {**fields, "name": os.fsdecode(bytes.fromhex(str(fields["name_bytes"])))}
        del fields["name_bytes"]
    if fields.keys() != set(FileRead._fields) or not isinstance(fields["name"], str):
        raise ValueError("other fields")
    numbers = [fields[name] for name in ("size", "mtime_ns", "ctime_ns", "inode")]
    if not isinstance(fields["digest"], str | None) or not all(isinstance(value, int | None) for value in numbers):
        raise ValueError("a field of another type")
    return FileRead(**fields)
