"""The sources by name. To add one: a file with a class like `DemoSource`, and a line in `open_source`."""

from __future__ import annotations

from pathlib import Path

from interlace_cli.data.demo import DemoSource
from interlace_cli.data.local import LocalSource
from interlace_cli.data.source import Source
from interlace_cli.errors import MissingInputError


def open_source(name: str, image_root: Path | None = None) -> Source:
    """`demo`, or the path of a JSON or JSONL file. Raises MissingInputError for anything else."""
    if name == "demo":
        return DemoSource()
    path = Path(name).expanduser()
    if path.is_file():
        return LocalSource(path, image_root)
    raise MissingInputError(
        f"there is no source {name}.", "Give `demo`, or a JSON or JSONL file of conversations about images."
    )
