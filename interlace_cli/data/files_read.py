"""The files that a prepared dataset was read from: listed in its `files.jsonl`, and compared with what is there now.
A dataset of the Hub (`owner/name`) or of the demo has no such list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from interlace_cli.data.sources import SourceLocation, find_local_files
from interlace_cli.errors import DatasetError
from interlace_cli.io.file_records import SOURCE, FileRead, decode_records, encode_records, has_changed, look_again
from interlace_cli.io.files import write_atomically

FILES_READ = "files.jsonl"
MOST_NAMES, MOST_CHARACTERS = 3, 120


def save_files_read(folder: Path, files: Sequence[FileRead]) -> None:
    """Writes `files.jsonl` in the dataset `folder`, one file a line, sorted by name; nothing if there are no files."""
    if files:
        write_atomically(folder / FILES_READ, encode_records(files))


def load_files_read(folder: Path) -> list[FileRead]:
    """The files of `files.jsonl`; none if there is no such file. Raises DatasetError if it is broken."""
    path = folder / FILES_READ
    try:
        return decode_records(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is broken.", "Run `interlace prepare --force` again.") from error


def hash_files_read(files: Iterable[FileRead]) -> str:
    """sha256 over names and digests, or sizes where there is no digest: `Manifest.inputs["source"]`. It is the same for
    the same content in any folder on any machine."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        digest.update(ascii(file.content).encode())
    return digest.hexdigest()


def find_source_inputs(source: str, location: SourceLocation, dataset: Path) -> dict[str, str]:
    """What `Manifest.inputs` would be if the dataset in the folder `dataset` were made again now from `source`.

    Files are read only where their size, times or inode differ from what is recorded; `look_again` says what
    that cannot see. A file without a digest that has other times counts as changed. Empty where `source` is
    neither local nor at an address. Raises DatasetError if the dataset's `files.jsonl` is broken, InterlaceError if a
    remote source cannot be asked.
    """
    compared = _compare(source, location, dataset)
    if compared is None:
        return {}
    recorded, now, added = compared
    # Nobody has read what is in a changed file without a digest: its times stand for it.
    assumed = [
        file._replace(digest=f"unread {file.mtime_ns} {file.inode}")
        if file.digest is None and file.size is not None and has_changed(before, file)
        else file
        for before, file in zip(recorded, now, strict=True)
    ]
    return {"source": hash_files_read([*assumed, *added])}


def describe_source_changes(source: str, location: SourceLocation, dataset: Path) -> list[str]:
    """What differs between the files that the dataset was read from and those that are there now, in sentences without
    a full stop, each with up to `MOST_NAMES` names. Empty where nothing does. Raises DatasetError as above."""
    compared = _compare(source, location, dataset)
    if compared is None:
        return [f"{source} is not a local file or folder now"] if load_files_read(dataset) else []
    recorded, now, added = compared
    changed = [(before, file) for before, file in zip(recorded, now, strict=True) if has_changed(before, file)]
    gone = [file for _, file in changed if file.size is None]
    found = [file for before, file in changed if before.size is None]
    there = [(before, file) for before, file in changed if before.size is not None and file.size is not None]
    # A tag of a store may be another one for the same bytes, written again.
    is_known = [(before.digest is not None and not before.has_tag) or before.size != now.size for before, now in there]
    other = [file for (_, file), known in zip(there, is_known, strict=True) if known]
    written = [file for (_, file), known in zip(there, is_known, strict=True) if not known]
    sentences = [
        _describe(other, "has other content", "have other content"),
        _describe(written, "was written again, or replaced", "were written again, or replaced"),
        _describe(gone, "is gone, or cannot be read", "are gone, or cannot be read"),
        _describe(found, "was not there before", "were not there before"),
        _describe(added, "was added", "were added"),
    ]
    return [sentence for sentence in sentences if sentence]


def _compare(
    source: str, location: SourceLocation, dataset: Path
) -> tuple[list[FileRead], list[FileRead], list[FileRead]] | None:
    """The recorded files, the same as they are now, and those that the source would look at besides; None where the
    source is not local."""
    found = find_local_files(source, location)
    if found is None:
        return None
    recorded = load_files_read(dataset)
    known = {file.name for file in recorded}
    listed = [FileRead(f"{SOURCE}:{path}", size=size) for path, size in found.sizes.items()]
    return recorded, look_again(recorded, found.roots), [file for file in listed if file.name not in known]


def _show(path: str) -> str:
    """A name may be of any length, and of characters that no terminal is to be given."""
    shown = path if path.isprintable() else ascii(path)[1:-1]
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[:MOST_CHARACTERS]}..."


def _describe(files: Sequence[FileRead], verb: str, verb_of_many: str) -> str:
    """`a, b, c and 4 more <verb>`; empty if there are no files."""
    if not files:
        return ""
    names = [_show(file.path) for file in files[:MOST_NAMES]]
    if len(files) > MOST_NAMES:
        names.append(f"{len(files) - MOST_NAMES} more")
    shown = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{shown} {verb if len(files) == 1 else verb_of_many}"
