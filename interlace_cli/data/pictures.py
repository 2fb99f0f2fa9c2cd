"""A picture as a record gives it -> its bytes.

| given | read as |
|---|---|
| bytes; an object with `bytes` | these |
| `data:image/png;base64,...`, or base64 alone | what it encodes |
| `file:///...` or a path | the file, which has to lie inside of the image folder |
| an address in an image folder that is an address itself | the file in that folder |
| `https://...` | what lies there, if that is allowed |
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from interlace_cli.data.content import find_picture
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.file_records import IMAGES, MISSING, SOURCE, FileRecorder
from interlace_cli.io.remote import RemoteFolder
from interlace_cli.io.web import fetch

WEB = "image is on the web: download it and name the file, or add --allow-download"
FEWEST_CHARACTERS = 64
"""Of base64 without an address: a shorter text is a path."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,20})://")
_LOCAL = re.compile(r"^file://(localhost(?=/))?", re.IGNORECASE)
_DATA = re.compile(r"data:[^,]*?(;base64)?,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class PictureReader:
    """Reads the pictures of a source. Paths are relative to `root` of the recorder's roots; None: the source has no
    files beside it. `may_fetch`: whether the web is asked. `folder`: of the file that the record is in, relative to the
    root: a path is looked for there first."""

    files: FileRecorder
    root: str | None = None
    may_fetch: bool = False
    folder: str = ""

    def __call__(self, picture: Any) -> bytes:
        """The picture's bytes. Raises UnusableRecordError."""
        if isinstance(picture, Mapping):
            picture = find_picture(picture)
        if isinstance(picture, bytes):
            return picture
        if not isinstance(picture, str):
            raise UnusableRecordError("an image is neither bytes nor a path")
        if picture[:5].lower() == "data:":
            return _decode_address(picture)
        inside = self._relate(picture)
        if inside is not None:
            return self._read_file(inside)
        scheme = _SCHEME.match(picture)
        name = scheme[1].lower() if scheme else ""
        if name in ("http", "https"):
            if not self.may_fetch:
                raise UnusableRecordError(WEB)
            return fetch(picture)
        if name == "file":
            return self._read_file(unquote(_LOCAL.sub("", picture)))
        if name:
            raise UnusableRecordError(f"image is at a {name}:// address: download it and name the file")
        return _decode_alone(picture) or self._read_file(picture)

    def _relate(self, address: str) -> str | None:
        """The path of a picture that is named by its whole address, where it lies in the image folder."""
        root = self.files.roots.get(self.root) if self.root is not None else None
        return root.relate(address) if isinstance(root, RemoteFolder) else None

    def _read_file(self, path: str) -> bytes:
        if self.root is None:
            raise UnusableRecordError("an image is a path and not bytes")
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise UnusableRecordError("image file cannot be read") from error
        if self.folder:
            try:
                return self.files.read(self.root, os.path.join(self.folder, path))
            except UnusableRecordError as error:
                if str(error) != MISSING:
                    raise
        return self.files.read(self.root, path)


def find_folder(files: FileRecorder, path: str) -> str:
    """The folder of the source's file `path`, relative to the root of the images; empty if it is that root itself, or
    if the images lie elsewhere."""
    is_one = files.roots.get(SOURCE) == files.roots.get(IMAGES)
    return os.path.dirname(path) if is_one else ""


def _decode_address(address: str) -> bytes:
    head = _DATA.match(address)
    if head is None or head[1] is None:
        raise UnusableRecordError("a data: address of an image is not base64")
    return _decode(address[head.end() :])


def _decode_alone(text: str) -> bytes | None:
    """The bytes, if they begin as a picture does."""
    if len(text) < FEWEST_CHARACTERS or not _BASE64.fullmatch(text):
        return None
    try:
        data = _decode(text)
    except UnusableRecordError:
        return None
    return data if data.startswith(_MAGIC) or data[4:8] == b"ftyp" else None


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    # Letters that are not ASCII are a ValueError.
    except ValueError as error:
        raise UnusableRecordError("the base64 of an image is broken") from error
