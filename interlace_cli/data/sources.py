"""The sources by name. To add one: a file with a class like `DemoSource`, or a reader of rows like `read_textvqa`, and
a line here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from interlace_cli.data import chartqa, scienceqa, textvqa
from interlace_cli.data.demo import DemoSource
from interlace_cli.data.finevision import open_finevision
from interlace_cli.data.image_folder import open_image_folder
from interlace_cli.data.local import open_local
from interlace_cli.data.local_files import EXPECTED, LocalFiles, find_file, find_in_folder
from interlace_cli.data.record_files import COMPRESSIONS, JSON_SUFFIXES, TABLE_SUFFIXES
from interlace_cli.data.source import Source
from interlace_cli.data.tables import RowReader, TableSource
from interlace_cli.data.webdataset import open_webdataset
from interlace_cli.errors import DatasetError, MissingInputError, UsageError
from interlace_cli.io.addresses import is_address
from interlace_cli.io.file_records import Root
from interlace_cli.io.paths import expand_home, list_files, looks_like_path, suggest_path
from interlace_cli.io.remote import RemoteFolder, open_address, open_remote_folder
from interlace_cli.io.repositories import TABLES, find_table_files, open_repository, open_tables

QUESTIONS: dict[str, tuple[str, RowReader]] = {
    "textvqa": (textvqa.REPOSITORY, textvqa.read_textvqa),
    "chartqa": (chartqa.REPOSITORY, chartqa.read_chartqa),
    "scienceqa": (scienceqa.REPOSITORY, scienceqa.read_scienceqa),
}
"""Sets of questions with answers of their own layout, on the Hub."""
SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES, *COMPRESSIONS, *TABLES, ".tar", ".tgz", ".zip", ".txt", ".xlsx")
"""What the name of a file of data ends in: whether it can be read is another matter."""
NAMES = ("demo", "finevision", *QUESTIONS)


@dataclass(frozen=True)
class SourceLocation:
    """Where a source's data is looked for: images under `image_root`, a folder or an address; a Hub dataset at
    `revision`, or in `mirror`, a local copy of its repository; of a folder with several splits in `split`, or in
    `train`."""

    image_root: str | Path | None = None
    revision: str | None = None
    mirror: Path | None = None
    split: str | None = None


def open_source(name: str, location: SourceLocation = SourceLocation()) -> Source:
    """A name of `NAMES`, a file or folder, here or at an address, or a Hub id. Raises MissingInputError for anything
    else."""
    if name == "demo":
        return DemoSource()
    if name == "finevision":
        return open_finevision(location.revision, location.mirror)
    if name in QUESTIONS:
        repository, reader = QUESTIONS[name]
        return TableSource(open_repository(repository, location.revision, location.mirror), name, reader=reader)
    if has_files(name):
        return _open_files(name, location)
    # A revision or a mirror belongs to a name of the Hub.
    is_named = location.revision is None and location.mirror is None
    if is_named and looks_like_path(name, SUFFIXES):
        raise MissingInputError(f"there is no file or folder {name}.", suggest_path(name, "--revision main"))
    if _is_hub_id(name):
        return TableSource(open_repository(name, location.revision, location.mirror), name)
    near = get_close_matches(name, NAMES, 1)
    known = f"Give one of {', '.join(NAMES)}, a file or folder of conversations about images, or a dataset of the Hub."
    raise MissingInputError(f"there is no source {name}.", f"Did you mean {near[0]}?" if near else known)


def find_local_files(name: str, location: SourceLocation) -> LocalFiles | None:
    """What `open_source` would read of files, here or at an address; None where that is nothing, or there is no such
    source. Raises DatasetError or UsageError for what cannot be read, MissingInputError for an address that cannot be
    asked."""
    if has_files(name):
        path = open_address(name) if is_address(name) else expand_home(name)
        images = _open_image_root(location)
        if isinstance(path, RemoteFolder) or (isinstance(path, Path) and path.is_dir()):
            return find_in_folder(path, images, location.split)
        return find_file(path, images, location.split)
    if location.mirror is None or name == "demo" or not (name in NAMES or _is_hub_id(name)):
        return None
    mirror = location.mirror
    return LocalFiles("tables", mirror, find_table_files(list_files(mirror)), mirror.name)


def has_files(name: str) -> bool:
    """Whether the source is a file or folder, here or at an address (where there may be none)."""
    path = expand_home(name)
    return name not in NAMES and (is_address(name) or path.is_file() or path.is_dir())


def locate(name: str | Path) -> str:
    """A path from the root, or an address as it is: the same in any folder."""
    return str(name) if is_address(str(name)) else str(expand_home(name).resolve())


def _open_image_root(location: SourceLocation) -> Root | None:
    if location.image_root is None:
        return None
    name = str(location.image_root)
    if not name:
        raise UsageError("--image-root is an empty path.", "Name a folder, or leave it out.")
    return open_remote_folder(name) if is_address(name) else expand_home(name)


def _open_files(path: str, location: SourceLocation) -> Source:
    found = find_local_files(path, location)
    if found is None:
        raise MissingInputError(f"{path} is gone.")
    if not found.sizes:
        raise MissingInputError(f"{path} has no file of records, and no image with a text file beside it.", EXPECTED)
    if location.image_root is not None and found.image_root is None:
        raise UsageError(f"--image-root is for records that name images, and {path} has its own.", "Leave it out.")
    unmapped = next((file for file in found.sizes if file.endswith(".arrow")), None)
    if isinstance(found.root, RemoteFolder) and unmapped is not None:
        raise DatasetError(
            f"{found.root / unmapped} is an Arrow file, which is mapped into memory and not read by ranges.",
            "Download the folder, or write it as Parquet.",
        )
    name = found.name
    if found.kind == "tables":
        repository = open_tables(found.root, found.sizes, name, splits=found.splits)
        return TableSource(repository, name, image_root=found.image_root, notes=found.notes)
    if found.kind == "shards":
        return open_webdataset(found.root, found.sizes, name, found.notes)
    if found.kind == "records":
        return open_local(found, name)
    return open_image_folder(found, location.split)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")
