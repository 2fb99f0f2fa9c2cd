"""The one decoder of pictures: bytes -> an upright image in RGB, for the check of `prepare` and for every batch.

| what the file has | how it is shown |
|---|---|
| an orientation in EXIF or XMP | turned, as `transformers.image_utils.load_image` and `datasets.Image` do |
| grey in 9 ... 16 bits | its whole range, 0 ... 2^bits - 1, becomes 0 ... 255 |
| floating point from 0 to 1 | times 255 |
| transparency | on a white ground |
| several frames (GIF, PNG, WebP, MPO) | the first frame |

Of other grey values nobody knows which of them is white, and of a document with several pages which one is meant: such
files are not used. Bounds keep one file from filling the memory: an image of a few kilobytes may claim a billion
pixels.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from interlace_cli.errors import UnusableRecordError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 64 << 20
MOST_PIXELS = 80_000_000
MOST_FRAMES = 64
MOST_RATIO = 200
"""The longer side divided by the shorter; the same bound as in Qwen's image processors."""
TOO_LARGE = f"image is larger than {MOST_BYTES >> 20} MiB"
_TOO_MANY_PIXELS = f"image has more than {MOST_PIXELS // 1_000_000} million pixels"
ImageHeader = tuple[str | None, int, int, int]
_HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
"""Brands of the photographs of iPhones, for which Pillow needs a plugin."""
_ORIENTATION = 0x0112
_PNG, _KEYWORD = b"\x89PNG\r\n\x1a\n", 80
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_TURNING = (b"exif", b"xmp", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of text in a PNG that Pillow reads an orientation from."""
_BITS, _PHOTOMETRIC, _SUBFILE = 258, 262, 254
"""Tags of TIFF."""


def inspect_image(data: bytes) -> tuple[str | None, str]:
    """`(format, "")` such as png, jpeg, of an image that `decode_image` decodes; else `(None, reason)`."""
    try:
        return _decode(data)[1], ""
    except UnusableRecordError as error:
        return None, str(error)


def decode_image(data: bytes) -> Image:
    """The image in RGB, as the table above has it. Raises UnusableRecordError if it does not open, is beyond the
    bounds, or cannot be shown rightly."""
    return _decode(data)[0]


def read_header(file: BinaryIO) -> ImageHeader:
    """`(format, width, height, orientation)` as the file says them, without its pixels: images with the same ones have
    the same size when they are decoded. Raises OSError if it does not open."""
    from PIL import Image as PilImage

    with PilImage.open(file) as image:
        is_upright = image.format == "PNG" and not _may_be_turned(file)
        return image.format, image.width, image.height, 1 if is_upright else _read_orientation(image)


def _may_be_turned(file: BinaryIO) -> bool:
    """Whether any chunk of a PNG can hold an orientation. Pillow asks for it by decoding the whole picture, as the
    chunk may stand behind the pixels."""
    place = file.tell()
    try:
        file.seek(len(_PNG))
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length, begin = int.from_bytes(head[:4], "big"), file.read(min(_KEYWORD, int.from_bytes(head[:4], "big")))
            if head[4:] == b"eXIf" or (head[4:] in _TEXT_CHUNKS and begin.partition(b"\0")[0] in _TURNING):
                return True
            file.seek(length - len(begin) + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _decode(data: bytes) -> tuple[Image, str]:
    import warnings
    from io import BytesIO

    from PIL import Image as PilImage

    if len(data) > MOST_BYTES:
        raise UnusableRecordError(TOO_LARGE)
    try:
        # Pillow warns of broken EXIF, and at its own bound on pixels, which is higher than ours. Other threads may see
        # this filter: it is for Pillow's warnings alone.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return _open(PilImage.open(BytesIO(data)))
    except UnusableRecordError:
        raise
    except PilImage.DecompressionBombError as error:
        raise UnusableRecordError(_TOO_MANY_PIXELS) from error
    # Pillow's decoders raise whatever they please on broken files; all of it means that the image does not open.
    except Exception as error:
        is_heic = data[4:8] == b"ftyp" and data[8:12] in _HEIC
        reason = "image is HEIC, which is not read" if is_heic else "image does not open"
        raise UnusableRecordError(reason) from error


def _open(opened: Image) -> tuple[Image, str]:
    with opened as image:
        _check_size(image)
        suffix = (image.format or "image").lower()
        image.seek(0)
        image.load()
        return _turn_upright(_to_rgb(image), _read_orientation(image)), suffix


def _check_size(image: Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise UnusableRecordError(_TOO_MANY_PIXELS)
    if max(image.size) > MOST_RATIO * min(image.size):
        raise UnusableRecordError(f"image is more than {MOST_RATIO} times as long as wide")
    frames = getattr(image, "n_frames", 1)
    if frames > MOST_FRAMES:
        raise UnusableRecordError(f"image has more than {MOST_FRAMES} frames")
    if frames > 1 and image.format == "TIFF" and _count_pages(image, frames) > 1:
        raise UnusableRecordError("image is a document of several pages")


def _count_pages(image: Image, frames: int) -> int:
    """Without the smaller versions of a page, which a TIFF may keep beside it."""
    pages = 0
    for number in range(frames):
        image.seek(number)
        pages += not int(image.tag_v2.get(_SUBFILE, 0)) & 1  # type: ignore[attr-defined]
    image.seek(0)
    return pages


def _to_rgb(image: Image) -> Image:
    """Without orientation. The pixels of a mode of 8 bits are Pillow's own conversion."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _scale_grey(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    from PIL import Image as PilImage

    shown = image.convert("RGBA")
    ground = PilImage.new("RGBA", shown.size, "white")
    return PilImage.alpha_composite(ground, shown).convert("RGB")


def _scale_grey(image: Image) -> Image:
    import numpy as np
    from PIL import Image as PilImage

    values_HW = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        # Comparisons with NaN are false.
        if not ((values_HW >= 0) & (values_HW <= 1)).all():
            raise UnusableRecordError("image has floating-point values outside of 0 ... 1")
        white = 1.0
    elif image.mode != "I" or image.format in ("PNG", "PPM"):
        bits = tags.get(_BITS, 16)
        white = float(2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1)
    else:
        raise UnusableRecordError("image has signed or 32-bit values, whose range is not known")
    shown_HW = np.rint(values_HW.astype(np.float32).clip(0, white) * np.float32(255 / white))
    if tags.get(_PHOTOMETRIC) == 0:
        shown_HW = 255 - shown_HW
    # One value of a PNG may stand for transparency.
    seen_through = image.info.get("transparency")
    if isinstance(seen_through, int):
        shown_HW = np.where(values_HW == seen_through, np.float32(255), shown_HW)
    return PilImage.fromarray(shown_HW.astype(np.uint8)).convert("RGB")


def _read_orientation(image: Image) -> int:
    """1 ... 8, as EXIF has it; 1 for none. Asked after loading: some formats are turned by their own decoder, which
    then takes it away. A photograph with broken EXIF is a photograph all the same, so `ImageOps.exif_transpose`, which
    also writes the EXIF anew and fails there, is not used."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turn_upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    return image if orientation == 1 else image.transpose(turns[orientation - 2])
