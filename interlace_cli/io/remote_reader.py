"""A remote file as one that can be read at any offset."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from interlace_cli.errors import DatasetError
from interlace_cli.io.remote_errors import ask, ask_or_explain


class RemoteReader(io.RawIOBase):
    """Reads a remote file by ranges; each is asked for again where the connection fails. For one thread at a time."""

    def __init__(self, address: str, size: int | None, open_file: Callable[[], Any]) -> None:
        super().__init__()
        self._address, self._offset = address, 0
        if size is None:
            raise DatasetError(f"{address} has no known size: its server does not say it.", "Download it, and name it.")
        self._size = size
        self._file = ask(self._address, open_file)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The offset."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = max(0, base + offset)
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, up to the end of the file. Raises InterlaceError."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._offset)
        if wanted <= 0:
            return 0
        start = self._offset

        def read() -> bytes:
            self._file.seek(start)
            data = bytes(self._file.read(wanted))
            if len(data) != wanted:
                raise OSError(f"{len(data)} bytes came where {wanted} were asked for")
            return data

        view[:wanted] = ask_or_explain(self._address, read)
        self._offset += wanted
        return wanted

    def close(self) -> None:
        """Gives the connection back."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()
