"""A prepared dataset on disk: `manifest.json`, and `data/<split>-00000-of-00001.parquet` (io/sample_tables.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from interlace_cli.domain.dataset import Manifest, Sample
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.files import hash_file
from interlace_cli.io.images import ImageHeader, decode_image, read_header
from interlace_cli.io.sample_tables import ImageStore, open_image_store, read_samples
from interlace_cli.io.workspace import require

if TYPE_CHECKING:
    from PIL.Image import Image

MANIFEST = "manifest.json"
DATA = "data"
_LARGER = {"calibration": "with a larger --calibration", "heldout": "with a larger --holdout"}


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the prepared dataset `folder`. Raises an InterlaceError if it is missing, broken or outdated."""
    return load_artifact(require(folder) / MANIFEST, Manifest)


def hash_dataset(folder: Path) -> str:
    """sha256 of the manifest, which holds those of the splits, which name images by content."""
    load_manifest(folder)
    return hash_file(folder / MANIFEST)


def load_split(folder: Path, split: str) -> list[Sample]:
    """The samples of one split. Raises DatasetError if there are none, or if they are not those of the manifest."""
    facts = load_manifest(folder).splits.get(split)
    if facts is None or not facts.samples:
        fix = _LARGER.get(split, "with more records")
        raise DatasetError(f"{folder} has no {split} samples.", f"Run `interlace prepare` again {fix}.")
    samples = [sample for path in find_files(folder, split) for sample in read_samples(path)]
    if hash_samples(samples) != facts.sha256:
        raise DatasetError(
            f"the {split} samples in {folder / DATA} are not those that manifest.json speaks of.",
            "Run `interlace prepare` again.",
        )
    return samples


def find_files(folder: Path, split: str = "*") -> list[Path]:
    """The Parquet files of a split, or of all splits, sorted by name."""
    return sorted((folder / DATA).glob(f"{split}-*-of-*.parquet"))


def hash_samples(samples: Iterable[Sample]) -> str:
    """sha256 over the samples as JSON lines."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(to_line(sample))
    return digest.hexdigest()


def to_line(sample: Sample) -> bytes:
    """The sample as one line of JSON with sorted keys."""
    return orjson.dumps(sample.model_dump(by_alias=True), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def load_images(folder: Path, sample: Sample, first: int | None = None) -> list[Image]:
    """The sample's images, or the `first` of them, in RGB, upright (`io/images.py`). Raises DatasetError if one is
    missing or does not open."""
    names = sample.image[:first]
    if not names:
        return []
    store = _open_store(folder, (folder / MANIFEST).stat().st_mtime_ns)
    images = []
    for name in names:
        try:
            images.append(decode_image(store.load(name)))
        except (OSError, UnusableRecordError) as error:
            reason = str(error).removeprefix("image ") if isinstance(error, UnusableRecordError) else "does not open"
            raise DatasetError(
                f"image {name} of sample {sample.id} in {folder} {reason}.", "Run `interlace prepare` again."
            ) from error
    return images


def list_image_headers(folder: Path, sample: Sample, first: int | None = None) -> list[ImageHeader]:
    """The headers of the sample's images, or of the `first` of them. Raises DatasetError if one is missing."""
    names = sample.image[:first]
    store = _open_store(folder, (folder / MANIFEST).stat().st_mtime_ns) if names else None
    headers = []
    for name in names:
        assert store is not None
        try:
            headers.append(read_header(store.load(name)))
        except OSError as error:
            raise DatasetError(
                f"image {name} of sample {sample.id} in {folder} does not open.", "Run `interlace prepare` again."
            ) from error
    return headers


@lru_cache(maxsize=4)
def _open_store(folder: Path, version: int) -> ImageStore:
    del version
    return open_image_store(find_files(folder))
