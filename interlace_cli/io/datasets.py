"""A prepared dataset on disk: `manifest.json`, one JSONL file a split in the released format, `images/` by content."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError

from interlace_cli.domain.dataset import Manifest, Sample
from interlace_cli.errors import DatasetError
from interlace_cli.io.artifacts import describe_validation, load_artifact
from interlace_cli.io.files import hash_bytes, hash_file
from interlace_cli.io.workspace import require

if TYPE_CHECKING:
    from PIL.Image import Image

MANIFEST = "manifest.json"
_LARGER = {"calibration": "with a larger --calibration", "heldout": "with a larger --holdout"}


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the prepared dataset `folder`."""
    require(folder)
    return load_artifact(folder / MANIFEST, Manifest)


def hash_dataset(folder: Path) -> str:
    """sha256 of the manifest, which holds those of the splits, which name images by content."""
    load_manifest(folder)
    return hash_file(folder / MANIFEST)


def load_split(folder: Path, split: str) -> list[Sample]:
    """The samples of one split. Raises DatasetError if there are none, or if they are not those of the manifest."""
    manifest = load_manifest(folder)
    path = folder / f"{split}.jsonl"
    facts = manifest.splits.get(split)
    if facts is None or not facts.samples:
        fix = _LARGER.get(split, "with more records")
        raise DatasetError(f"{folder} has no {split} samples.", f"Run `interlace prepare` again {fix}.")
    data = path.read_bytes() if path.exists() else b""
    if hash_bytes(data) != facts.sha256:
        raise DatasetError(f"{path} is not the file that manifest.json speaks of.", "Run `interlace prepare` again.")
    try:
        return [Sample.model_validate(orjson.loads(line)) for line in data.splitlines()]
    except orjson.JSONDecodeError as error:
        raise DatasetError(f"{path} has a line that is not JSON: {error}.", "Run `interlace prepare` again.") from error
    except ValidationError as error:
        raise DatasetError(f"{path}: {describe_validation(error)}.", "Run `interlace prepare` again.") from error


def encode_samples(samples: Iterable[Sample]) -> bytes:
    """JSONL, one sample a line, keys sorted."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return b"".join(orjson.dumps(sample.model_dump(by_alias=True), option=options) for sample in samples)


def load_images(folder: Path, sample: Sample) -> list[Image]:
    """The sample's images in RGB."""
    from PIL import Image as PilImage

    images = []
    for name in sample.image:
        try:
            with PilImage.open(folder / name) as image:
                images.append(image.convert("RGB"))
        except OSError as error:
            raise DatasetError(
                f"image {name} of sample {sample.id} in {folder} does not open.", "Run `interlace prepare` again."
            ) from error
    return images


def find_image_format(data: bytes) -> str | None:
    """`png`, `jpeg` ... of an image that decodes from end to end; None for anything else."""
    import warnings
    from io import BytesIO

    from PIL import Image as PilImage

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PilImage.DecompressionBombWarning)
            with PilImage.open(BytesIO(data)) as image:
                image.load()
                return (image.format or "image").lower()
    # Pillow's decoders raise whatever they please on broken files; all of it means that the image does not open.
    except Exception:
        return None
