"""Paths as people write them; the files of a folder, and which one a record's name means."""

from __future__ import annotations

import os
from pathlib import Path

from interlace_cli.errors import UnusableRecordError


def expand_home(path: str | Path) -> Path:
    """`~` and `~name` stand for home folders; a name that nobody here has is left as it is, and so is not found."""
    return Path(os.path.expanduser(path))


def find_inside(root: Path, name: str) -> Path:
    """The file that `name` means in the folder `root`, links followed. The file need not exist.

    Raises UnusableRecordError if it lies outside of `root`, OSError or ValueError if `name` cannot name a file.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UnusableRecordError("image path leads out of the folder")
    return path


def list_files(folder: Path) -> dict[str, int]:
    """Path relative to `folder`, with slashes -> bytes, of all files at any depth, sorted folder by folder.

    Hidden files and folders are left out, and linked folders are not entered. A folder that does not exist is empty.
    """
    sizes: dict[str, int] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return dict(sorted(sizes.items(), key=lambda item: item[0].split("/")))
