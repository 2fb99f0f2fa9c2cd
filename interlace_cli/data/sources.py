"""The sources by name. To add one: a file with a class like `DemoSource`, or a reader of rows like `read_textvqa`, and
a line here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.data import chartqa, scienceqa, textvqa
from interlace_cli.data.demo import DemoSource
from interlace_cli.data.finevision import open_finevision
from interlace_cli.data.image_folder import ImageFolderSource
from interlace_cli.data.local import LocalSource
from interlace_cli.data.source import Source
from interlace_cli.data.tables import RowReader, TableSource
from interlace_cli.data.webdataset import WebDatasetSource
from interlace_cli.errors import MissingInputError
from interlace_cli.io.repositories import Repository, open_folder, open_repository

QUESTIONS: dict[str, tuple[str, RowReader]] = {
    "textvqa": (textvqa.REPOSITORY, textvqa.read_textvqa),
    "chartqa": (chartqa.REPOSITORY, chartqa.read_chartqa),
    "scienceqa": (scienceqa.REPOSITORY, scienceqa.read_scienceqa),
}
"""Sets of questions with answers of their own layout, on the Hub."""
NAMES = ("demo", "finevision", *QUESTIONS)


@dataclass(frozen=True)
class SourceLocation:
    """Where a source's data is looked for: images under `image_root`, a Hub dataset at `revision`, or in `mirror`, a
    local copy of its repository."""

    image_root: Path | None = None
    revision: str | None = None
    mirror: Path | None = None


def open_source(name: str, place: SourceLocation = SourceLocation()) -> Source:
    """A name of `NAMES`, a local file or folder, or a Hub id. Raises MissingInputError for anything else."""
    if name == "demo":
        return DemoSource()
    if name == "finevision":
        return open_finevision(place.revision, place.mirror)
    if name in QUESTIONS:
        repository, reader = QUESTIONS[name]
        return TableSource(open_repository(repository, place.revision, place.mirror), name, reader=reader)
    path = Path(name).expanduser()
    if path.is_file():
        return _open_file(path, place.image_root)
    if path.is_dir():
        return _open_folder(path, place.image_root)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return TableSource(open_repository(name, place.revision, place.mirror), name)
    raise MissingInputError(
        f"there is no source {name}.",
        f"Give one of {', '.join(NAMES)}, a file or folder of conversations about images, or a dataset of the Hub.",
    )


def _open_file(path: Path, image_root: Path | None) -> Source:
    if path.suffix == ".parquet":
        files = {path.name: path.stat().st_size}
        repository = Repository(path.name, None, None, files, {}, lambda _: path.open("rb"))
        return TableSource(repository, path.name, image_root=image_root or path.parent)
    if path.suffix == ".tar":
        return WebDatasetSource([path], path.name)
    return LocalSource(path, image_root)


def _open_folder(path: Path, image_root: Path | None) -> Source:
    if next(path.rglob("*.parquet"), None):
        return TableSource(open_folder(path), path.resolve().name, image_root=image_root or path)
    shards = sorted(path.rglob("*.tar"))
    return WebDatasetSource(shards, path.resolve().name) if shards else ImageFolderSource(path)
