"""A prepared dataset on disk: `manifest.json`, `data/part-00000-of-00001.parquet` (io/sample_tables.py), and an index
that says which of their rows are of which split (io/sample_index.py)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.dataset import Manifest, Sample
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.images import ImageHeader, decode_image, read_header
from interlace_cli.io.open_index import DATA as DATA
from interlace_cli.io.open_index import PART as PART
from interlace_cli.io.open_index import find_files as find_files
from interlace_cli.io.open_index import open_index
from interlace_cli.io.sample_lines import to_line as to_line
from interlace_cli.io.sample_reader import SampleReader
from interlace_cli.io.samples import Samples
from interlace_cli.io.workspace import require

if TYPE_CHECKING:
    from PIL.Image import Image

MANIFEST = "manifest.json"
_LARGER = {"calibration": "with a larger --calibration", "heldout": "with a larger --holdout"}


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the prepared dataset `folder`. Raises an InterlaceError if it is missing, broken or outdated."""
    return load_artifact(require(folder) / MANIFEST, Manifest)


def load_split(folder: Path, split: str) -> Samples:
    """The samples of one split, which stay on disk. Raises DatasetError if there are none, or if they are not those of
    the manifest."""
    facts = load_manifest(folder).splits.get(split)
    if facts is None or not facts.samples:
        fix = _LARGER.get(split, "with more records")
        raise DatasetError(f"{folder} has no {split} samples.", f"Run `interlace prepare` again {fix}.")
    reader = open_reader(folder)
    return Samples(reader, reader.index.splits[split])


def open_reader(folder: Path) -> SampleReader:
    """What reads samples and images of a dataset. Raises DatasetError if its files are not those of the manifest."""
    return _open_reader(folder, (folder / MANIFEST).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _open_reader(folder: Path, version: int) -> SampleReader:
    del version
    return SampleReader(open_index(folder, load_manifest(folder).splits))


def load_images(folder: Path, sample: Sample, first: int | None = None) -> list[Image]:
    """The sample's images, or the `first` of them, in RGB, upright (`io/images.py`). Raises DatasetError if one is
    missing or does not open."""
    names = sample.image[:first]
    if not names:
        return []
    reader, images = open_reader(folder), []
    for name in names:
        try:
            images.append(decode_image(reader.load_image(name)))
        except (OSError, UnusableRecordError) as error:
            reason = str(error).removeprefix("image ") if isinstance(error, UnusableRecordError) else "does not open"
            raise DatasetError(
                f"image {name} of sample {sample.id} in {folder} {reason}.", "Run `interlace prepare` again."
            ) from error
    return images


def list_image_headers(folder: Path, sample: Sample, first: int | None = None) -> list[ImageHeader]:
    """The headers of the sample's images, or of the `first` of them; no more of them is read. Raises DatasetError if
    one is missing or does not open."""
    names = sample.image[:first]
    if not names:
        return []
    reader, headers = open_reader(folder), []
    for name in names:
        try:
            with reader.open_image(name) as file:
                headers.append(read_header(file))
        except OSError as error:
            raise DatasetError(
                f"image {name} of sample {sample.id} in {folder} does not open.", "Run `interlace prepare` again."
            ) from error
    return headers
