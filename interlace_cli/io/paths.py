"""Paths as people write them; the files of a folder, and which one a record's name means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from interlace_cli.errors import UnusableRecordError


def expand_home(path: str | Path) -> Path:
    """`~` and `~name` stand for home folders; a name that nobody here has is left as it is, and so is not found."""
    return Path(os.path.expanduser(path))


def looks_like_path(name: str, suffixes: Sequence[str]) -> bool:
    """Whether `name` cannot be meant as `owner/name` of the Hub: it is written as a path, ends in one of `suffixes`, or
    its first part is a folder here."""
    parts = name.split("/")
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or len(parts) > 2
        or name.endswith("/")
        or name.lower().endswith(tuple(suffixes))
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )


def suggest_path(name: str, on_hub: str) -> str:
    """What to do about a path that is not there: the nearest name that is; `on_hub` is what makes a name one of the
    Hub."""
    path = expand_home(name)
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    if there is None:
        return "Check the path."
    missing = path.relative_to(there).parts[0] if path != there else ""
    near = get_close_matches(missing, sorted(os.listdir(there)), 1)
    if near:
        return f"Did you mean {there / near[0]}?"
    is_like_id = len(name.split("/")) == 2 and not name.startswith((".", "/", "~"))
    return f"Check the path; for a name of the Hub, add {on_hub}." if is_like_id else "Check the path."


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
