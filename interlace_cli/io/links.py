"""Which files of a model's folder are read, where they are links or an index names them.

A name has to be that of a file in the folder. A link among the files that are carried along has to stay in the folder,
or lead into the Hub's cache: what lies elsewhere may be a secret, and would be published with the checkpoint. Weights
may be links to any regular file, as clusters have them: of a file that is no safetensors file nothing is read but its
first bytes, and nothing is copied.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from interlace_cli.errors import CheckpointError

MOST_NAME = 255
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def find_inside(folder: Path, name: str) -> Path:
    """The file `name` of the folder. Raises CheckpointError if it lies elsewhere, by its name or by a link; files of
    the Hub's cache are links into the cache."""
    path, real = _follow(folder, name)
    if not is_own(folder, real):
        raise CheckpointError(
            f"{folder}: {name} leads out of the folder, to {real}.",
            "Put the file itself there (cp -L), if you trust it.",
        )
    return path


def find_weights(folder: Path, name: str) -> Path:
    """The file of weights `name` of the folder, which need not exist. Raises CheckpointError for a name that leads out
    of the folder, and for a link to something else than a regular file. Links of a folder of the Hub's cache have to
    stay in the cache."""
    path, real = _follow(folder, name)
    parts = PurePosixPath(name).parts
    if ".." in parts or os.path.isabs(name) or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder}: {name} leads out of the folder, to {real}.", "Fetch the checkpoint again.")
    if is_own(folder, real):
        return path
    if folder.resolve().parent.name == _SNAPSHOTS or not real.is_file():
        raise CheckpointError(
            f"{folder}: {name} leads out of the folder, to {real}, which is no file of weights that may be read.",
            "Put the file itself there, if you trust it.",
        )
    return path


def is_own(folder: Path, real: Path) -> bool:
    """Whether a file (links followed) lies in the folder, or is one of the files of models in the Hub's cache:
    `models--owner--name/blobs/HASH`."""
    root = folder.resolve()
    if real.is_relative_to(root):
        return True
    if root.parent.name == _SNAPSHOTS and real.is_relative_to((root.parent.parent / _BLOBS).resolve()):
        return True
    return real.parent.name == _BLOBS and real.parent.parent.name.startswith("models--")


def _follow(folder: Path, name: str) -> tuple[Path, Path]:
    if not name or "\0" in name or len(os.fsencode(name)) > MOST_NAME:
        raise CheckpointError(f"{folder} has no file {name[:MOST_NAME]!r}.", "Fetch the checkpoint again.")
    path = folder / name
    try:
        real = path.resolve()
        kind = path.stat().st_mode if path.is_symlink() or path.exists() else stat.S_IFREG
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is a link to {real}, which is not there.", "Fetch the file, or mend the link."
        ) from None
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be followed to a file.", "Mend the link.") from error
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise CheckpointError(f"{path} is no regular file.", "Put the file itself there.")
    return path, real
