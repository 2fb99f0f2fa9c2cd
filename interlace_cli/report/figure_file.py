"""A picture as a file: SVG or PNG by its name."""

from __future__ import annotations

from pathlib import Path

from interlace_cli.io.files import write_named
from interlace_cli.report.drawing import Picture, build_png, build_svg


def save_figure(picture: Picture, path: Path, force: bool = False) -> None:
    """Writes it, whole or not at all. Raises ExistsError where another picture is and not `force`."""
    is_svg = path.suffix.lower() == ".svg"
    write_named(path, build_svg(picture).encode() if is_svg else build_png(picture), force)
