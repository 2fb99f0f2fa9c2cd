"""The decoder of pictures, against arithmetic on the arrays and Pillow's own way to turn by EXIF."""

from __future__ import annotations

import warnings
import zlib
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image, ImageOps

from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.images import decode_image, inspect_image, read_header

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
GREY = RNG.integers(0, 65536, (12, 20), dtype=np.uint16)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def decode(data: bytes) -> np.ndarray:
    """What the check of `prepare` says fits what the decoder does."""
    image = decode_image(data)
    assert image.mode == "RGB"
    assert inspect_image(data)[1] == ""
    return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_exif_says(form: str, orientation: int) -> None:
    exif = with_orientation(orientation)
    data = encode(Image.fromarray(COLOURS), form, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert expected.size == ((20, 12) if orientation < 5 else (12, 20))
    np.testing.assert_array_equal(decode(data), np.asarray(expected))
    other = datasets.Image().decode_example({"bytes": data, "path": None}).convert("RGB")
    np.testing.assert_array_equal(decode(data), np.asarray(other))
    assert read_header(BytesIO(data))[3] == orientation


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF = with_orientation(6).tobytes()
TURNING = {
    "exif": chunk(b"eXIf", EXIF[6:]),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
    "text": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n%8d\n%b" % (len(EXIF), EXIF.hex().encode())),
    "none": chunk(b"tEXt", b"Software\0exif"),
}


@pytest.mark.parametrize("is_last", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("kind", TURNING)
def test_the_header_of_a_png_is_turned_as_the_picture_is(kind: str, is_last: bool) -> None:
    """Wherever among the chunks it says so."""
    data = encode(Image.fromarray(COLOURS))
    place = data.index(b"IEND" if is_last else b"IDAT") - 4
    data = data[:place] + TURNING[kind] + data[place:]
    width, height = decode_image(data).size
    orientation = read_header(BytesIO(data))[3]
    assert (width, height) == ((20, 12) if orientation == 1 else (12, 20))
    # Pillow itself does not find XMP that stands behind the pixels of a file that it has only opened.
    assert orientation == (1 if kind == "none" else 6)


@pytest.mark.parametrize("orientation", [0, 9, 4096])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    data = encode(Image.fromarray(COLOURS), exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode(data), COLOURS)


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_costs_no_picture_and_no_warning(exif: bytes) -> None:
    data = encode(Image.fromarray(COLOURS), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(data)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_shown_in_their_range(form: str) -> None:
    expected = np.rint(GREY / 65535 * 255).astype(np.uint8)
    shown = decode(encode(Image.fromarray(GREY), form))
    np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, axis=2))


def test_twelve_bits_of_grey_are_shown_in_their_range() -> None:
    """A TIFF of one row: three bytes hold two values."""
    packed = bytes([0xFF, 0xF0, 0x00, 0x80, 0x07, 0xFF])
    data = encode(Image.fromarray(np.zeros((1, 3), np.uint16)), "TIFF")
    assert b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00" in data
    data = data.replace(b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00", b"\x02\x01\x03\x00\x01\x00\x00\x00\x0c\x00")
    start = Image.open(BytesIO(data)).tag_v2[273][0]
    data = data[:start] + packed
    assert decode(data)[0, :, 0].tolist() == [255, 0, round(0x800 / 0xFFF * 255)]


def test_a_tiff_whose_zero_is_white_is_turned_over() -> None:
    data = encode(Image.fromarray(GREY), "TIFF", tiffinfo={262: 0})
    if Image.open(BytesIO(data)).tag_v2[262] != 0:
        mark = b"\x06\x01\x03\x00\x01\x00\x00\x00"
        data = data.replace(mark + b"\x01", mark + b"\x00")
    assert Image.open(BytesIO(data)).tag_v2[262] == 0
    np.testing.assert_array_equal(decode(data)[..., 0], 255 - np.rint(GREY / 65535 * 255).astype(np.uint8))


def test_a_value_of_sixteen_bits_may_stand_for_transparency() -> None:
    data = encode(Image.fromarray(GREY), transparency=int(GREY[3, 4]))
    assert decode(data)[3, 4].tolist() == [255, 255, 255]
    assert decode(data)[0, 0, 0] == round(GREY[0, 0] / 65535 * 255)


def test_floats_from_zero_to_one_are_shown_and_others_are_not() -> None:
    values = GREY.astype(np.float32) / 65535
    np.testing.assert_array_equal(decode(encode(Image.fromarray(values), "TIFF"))[..., 0], np.rint(values * 255))
    for odd in (values * 3, values - 1, np.where(values > 0.5, np.float32("nan"), values)):
        data = encode(Image.fromarray(odd.astype(np.float32)), "TIFF")
        reason = "image has floating-point values outside of 0 ... 1"
        assert inspect_image(data) == (None, reason)
        with pytest.raises(UnusableRecordError, match=r"outside of 0 \.\.\. 1"):
            decode_image(data)


def test_whole_numbers_of_unknown_range_are_not_used() -> None:
    data = encode(Image.fromarray(GREY.astype(np.int32)), "TIFF")
    assert inspect_image(data) == (None, "image has signed or 32-bit values, whose range is not known")


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(float) / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparency_stands_on_white(form: str) -> None:
    data = encode(
        Image.fromarray(np.dstack([COLOURS, ALPHA]), "RGBA"), form, **({"lossless": True} if form == "WEBP" else {})
    )
    stored = np.asarray(Image.open(BytesIO(data)))
    np.testing.assert_allclose(decode(data), on_white(stored[..., :3], stored[..., 3]), atol=1)


def test_grey_with_transparency_stands_on_white() -> None:
    data = encode(Image.fromarray(np.dstack([COLOURS[..., 0], ALPHA]), "LA"))
    expected = on_white(np.repeat(COLOURS[..., :1], 3, axis=2), ALPHA)
    np.testing.assert_allclose(decode(data), expected, atol=1)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_colour_that_stands_for_transparency_is_white(mode: str) -> None:
    image = Image.new("RGB", (4, 1), "black")
    image.putpixel((1, 0), (204, 204, 204))
    image = image.convert(mode)
    black = image.getpixel((0, 0))
    shown = decode(encode(image, transparency=black))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[0, 1, 0] in (204, 255)


def test_a_palette_with_an_alpha_for_each_colour() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 0, 10, 20, 30])
    shown = decode(encode(image, transparency=bytes([0, 51, 255])))
    assert shown[0].tolist() == [[255] * 3, [204] * 3, [10, 20, 30]]


def test_inks_are_shown_as_colours() -> None:
    """Pillow writes CMYK as Adobe does, turned over, and says so in the file."""
    for ink, colour in (((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        data = encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
        np.testing.assert_allclose(decode(data)[8, 8], colour, atol=6)


def test_one_bit_is_black_and_white() -> None:
    bits = ALPHA > 127
    assert (decode(encode(Image.fromarray(bits)))[..., 0] == bits * 255).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "MPO"])
def test_of_several_frames_the_first_is_shown(form: str) -> None:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    assert Image.open(BytesIO(data)).n_frames == 3
    np.testing.assert_allclose(decode(data)[8, 8], (255, 0, 0), atol=6)


def test_a_document_of_several_pages_is_not_used() -> None:
    pages = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime")]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert inspect_image(data) == (None, "image is a document of several pages")


def test_a_smaller_version_beside_a_page_is_no_page() -> None:
    small = Image.new("RGB", (6, 4), "red")
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = encode(Image.new("RGB", (24, 16), "red"), "TIFF", save_all=True, append_images=[small])
    assert [Image.open(BytesIO(data)).n_frames, decode(data).shape] == [2, (16, 24, 3)]


def test_a_photograph_of_an_iphone_is_called_what_it_is() -> None:
    assert inspect_image(b"\0\0\0\x18ftypheic" + bytes(90)) == (None, "image is HEIC, which is not read")


@pytest.mark.parametrize("data", [b"", encode(Image.fromarray(COLOURS))[:200], b"<svg/>"])
def test_what_does_not_open_has_a_reason(data: bytes) -> None:
    with pytest.raises(UnusableRecordError, match="image does not open"):
        decode_image(data)
