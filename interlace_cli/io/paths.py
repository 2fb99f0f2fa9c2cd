"""Files named in records: none may lie outside of its source's folder."""

from __future__ import annotations

from pathlib import Path

from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.images import MOST_BYTES


def read_inside(root: Path, name: str) -> bytes:
    """The bytes of `name` in the folder `root`. Raises UnusableRecordError, also where a link leads out of it."""
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root.resolve()):
            raise UnusableRecordError("image path leads out of the folder")
        if path.stat().st_size > MOST_BYTES:
            raise UnusableRecordError(f"image is larger than {MOST_BYTES >> 20} MiB")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnusableRecordError("image file is missing") from error
    # A name with a null byte in it is a ValueError.
    except (OSError, ValueError) as error:
        raise UnusableRecordError("image file cannot be read") from error
