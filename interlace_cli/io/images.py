"""Whether bytes are an image that can be used, and the image they are.

Bounds keep one file from filling the memory: an image of a few kilobytes may claim a billion pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 64 << 20
MOST_PIXELS = 80_000_000
MOST_FRAMES = 64
MOST_RATIO = 200
"""The longer side divided by the shorter; the same bound as in Qwen's image processors."""


def inspect_image(data: bytes) -> tuple[str | None, str]:
    """`(format, "")` such as png, jpeg, of an image that decodes from end to end within the bounds; else
    `(None, reason)`. Of an animation the first frame is what is used."""
    import warnings
    from io import BytesIO

    from PIL import Image as PilImage

    if len(data) > MOST_BYTES:
        return None, f"image is larger than {MOST_BYTES >> 20} MiB"
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own bound on pixels, which is higher than ours, before the size can be asked.
            warnings.simplefilter("ignore", PilImage.DecompressionBombWarning)
            with PilImage.open(BytesIO(data)) as image:
                if image.width * image.height > MOST_PIXELS:
                    return None, f"image has more than {MOST_PIXELS // 1_000_000} million pixels"
                if max(image.size) > MOST_RATIO * min(image.size):
                    return None, f"image is more than {MOST_RATIO} times as long as wide"
                if getattr(image, "n_frames", 1) > MOST_FRAMES:
                    return None, f"image has more than {MOST_FRAMES} frames"
                image.seek(0)
                image.load()
                return (image.format or "image").lower(), ""
    except PilImage.DecompressionBombError:
        return None, f"image has more than {MOST_PIXELS // 1_000_000} million pixels"
    # Pillow's decoders raise whatever they please on broken files; all of it means that the image does not open.
    except Exception:
        return None, "image does not open"


def decode_image(data: bytes) -> Image:
    """The image in RGB. Raises OSError if it does not open."""
    from io import BytesIO

    from PIL import Image as PilImage

    with PilImage.open(BytesIO(data)) as image:
        return image.convert("RGB")
