"""`--figure`: a picture as a file, SVG or PNG by its name."""

from __future__ import annotations

from pathlib import Path

from interlace_cli.errors import UsageError
from interlace_cli.io.files import write_atomically
from interlace_cli.report.drawing import Picture, build_png, build_svg

SUFFIXES = (".svg", ".png")


def check_figure(path: Path | None) -> None:
    """Raises UsageError for a file of another kind."""
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--figure {path} is neither an .svg nor a .png file.", "Name one of them.")


def save_figure(picture: Picture, path: Path) -> None:
    """Writes it, whole or not at all."""
    is_svg = path.suffix.lower() == ".svg"
    write_atomically(path, build_svg(picture).encode() if is_svg else build_png(picture))
