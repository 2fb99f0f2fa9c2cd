"""In a folder of images: which files are pictures, captions and metadata. By their names alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""As `datasets.load_dataset("imagefolder")` has them. Of several in one folder the first is taken."""
CAPTIONS = (".txt", ".caption")


def is_picture(name: str) -> bool:
    """Whether `name` has a picture's suffix."""
    return PurePosixPath(name).suffix.lower().removeprefix(".") in PICTURES


def is_metadata(name: str) -> bool:
    """Whether `name` is that of a metadata file, in any folder."""
    return PurePosixPath(name).name in METADATA


def find_captions(names: Collection[str]) -> dict[str, str]:
    """Picture -> the text file of the same name beside it, in the order of `names`."""
    texts: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in CAPTIONS:
            texts.setdefault(str(path.with_suffix("")), name)
    pictures = {name: str(PurePosixPath(name).with_suffix("")) for name in names if is_picture(name)}
    return {name: texts[stem] for name, stem in pictures.items() if stem in texts}


def find_caption_files(names: Collection[str]) -> list[str]:
    """The pictures with a text file beside them, and these, in the order of `names`."""
    found = find_captions(names)
    wanted = {*found, *found.values()}
    return [name for name in names if name in wanted]


def choose_metadata(files: Iterable[str]) -> list[str]:
    """One metadata file for each folder that has any."""
    folders: dict[PurePosixPath, list[str]] = {}
    for name in files:
        folders.setdefault(PurePosixPath(name).parent, []).append(PurePosixPath(name).name)
    return [str(folder / next(name for name in METADATA if name in names)) for folder, names in sorted(folders.items())]
