"""A picture as a file: SVG or PNG by its name."""

from __future__ import annotations

from pathlib import Path

from interlace_cli.io.files import write_atomically
from interlace_cli.report.drawing import Picture, build_png, build_svg


def save_figure(picture: Picture, path: Path) -> None:
    """Writes it, whole or not at all."""
    is_svg = path.suffix.lower() == ".svg"
    write_atomically(path, build_svg(picture).encode() if is_svg else build_png(picture))
