"""The one decoder of text files: bytes -> text, strictly. What is not Unicode is an error that says where, and never
becomes U+FFFD in an answer to learn."""

from __future__ import annotations

import codecs

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16: the mark of its little-endian form begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Marks at the start of a text -> its encoding. A text without a mark is UTF-8."""
NOT_UTF8 = "text is not UTF-8"


class TextError(ValueError):
    """A text is in no encoding that is read. `offset`: the byte, from 0; `detail`: what is there, and in which line."""

    def __init__(self, data: bytes, offset: int) -> None:
        line = data.count(b"\n", 0, offset) + 1
        byte = f"byte 0x{data[offset]:02X}" if offset < len(data) else "the end"
        self.offset, self.detail = offset, f"{byte} at offset {offset:,}, line {line:,}"
        super().__init__(f"{NOT_UTF8} ({self.detail})")


def decode_text(data: bytes) -> str:
    """UTF-8, or what a byte order mark says, without the mark. Raises TextError for any other encoding, and for null
    bytes, which UTF-16 without a mark has."""
    start, encoding = _find_mark(data)
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        raise TextError(data, start + error.start) from error
    if "\0" in text:
        raise TextError(data, data.index(b"\0"))
    return text


def to_utf8(data: bytes) -> bytes:
    """The same text in UTF-8 without a byte order mark. A text that has none is returned as it is, unchecked. Raises
    TextError."""
    start, encoding = _find_mark(data)
    return data[start:] if encoding == "utf-8" else decode_text(data).encode()


def has_other_mark(head: bytes) -> bool:
    """Whether a text that begins so says that its encoding is another one than UTF-8."""
    return _find_mark(head)[1] != "utf-8"


def _find_mark(data: bytes) -> tuple[int, str]:
    """How many bytes a byte order mark takes, and the encoding."""
    return next(((len(mark), name) for mark, name in BOMS if data.startswith(mark)), (0, "utf-8"))
