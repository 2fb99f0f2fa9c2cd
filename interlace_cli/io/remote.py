"""Folders and files at addresses (`s3://bucket/folder`), read through fsspec: with the few methods of pathlib by which
sources read files. A file is read whole, or by ranges (`RemoteReader`).

Credentials are found by fsspec's implementations in the environment. Nothing of them is kept here: a folder is its
address.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote

from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.addresses import WEB, check_address, find_protocol, join_inside
from interlace_cli.io.offline import check_online
from interlace_cli.io.remote_errors import ask, ask_or_explain, explain
from interlace_cli.io.remote_facts import RemoteFacts, to_facts
from interlace_cli.io.remote_reader import RemoteReader
from interlace_cli.io.remote_systems import open_system, walks_folders

BUFFER = 1 << 20
"""Bytes that are read ahead where a file is read in small pieces: as long as a request takes, about so many come."""
PART = 8 << 20
"""Bytes up to which a file is asked for in one piece."""
THREADS = 16
LOCAL_COPY = "name a local copy"


@dataclass
class RemoteFolder:
    """A folder at `address`, which ends in no slash. `known`: path -> facts of those files that were listed or asked
    for since this object was made."""

    address: str
    known: dict[str, RemoteFacts] = field(default_factory=dict, compare=False, repr=False)
    _system: Any = field(default=None, init=False, compare=False, repr=False)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, path: str) -> RemoteFile:
        return RemoteFile(self, path)

    def __getstate__(self) -> dict[str, Any]:
        # Connections stay in their process.
        return {**self.__dict__, "_system": None}

    @property
    def name(self) -> str:
        """The last part of the address; of a repository on the Hub without its revision."""
        if find_protocol(self.address) == "hf" and self.address.count("/") == 4:
            return self._last.partition("@")[0]
        return unquote(self._last) if self.is_web else self._last

    @property
    def _last(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def is_web(self) -> bool:
        """Whether names in its addresses are quoted."""
        return find_protocol(self.address) in WEB

    @property
    def system(self) -> Any:
        """fsspec's file system. Raises UsageError for a protocol that nothing knows, MissingInputError for a package
        that is missing."""
        if self._system is None:
            self._system = open_system(self.address)
        return self._system

    def locate(self, path: str) -> str:
        """The address of the file `path`."""
        return f"{self.address}/{quote(path) if self.is_web else path}"

    def find_inside(self, name: str) -> RemoteFile:
        """The file that a record means by `name`. Raises UnusableRecordError if it lies outside of the folder."""
        path = join_inside(name)
        if path is None:
            raise UnusableRecordError("image path leads out of the folder")
        return RemoteFile(self, path)

    def relate(self, address: str) -> str | None:
        """The path of a file that is named by its whole address; None for one that is not in here."""
        if not address.startswith(f"{self.address}/"):
            return None
        path = address[len(self.address) + 1 :]
        return unquote(path) if self.is_web else path

    def list_files(self) -> dict[str, int]:
        """As `io.paths.list_files`: path -> bytes, 0 where the server does not say. Raises InterlaceError."""
        found = ask_or_explain(self.address, self._find)
        for path, facts in found.items():
            self.known[path] = facts
        sizes = {path: facts.size or 0 for path, facts in found.items()}
        return dict(sorted(sizes.items(), key=lambda item: item[0].split("/")))

    def find_facts(self, path: str) -> RemoteFacts:
        """Raises FileNotFoundError, PermissionError, InterlaceError."""
        if path not in self.known:
            address = self.locate(path)
            info = ask(address, lambda: self.system.info(self._strip(address)))
            if info.get("type", "file") != "file":
                raise FileNotFoundError(2, "is a folder", address)
            self.known[path] = to_facts(info)
        return self.known[path]

    def _strip(self, address: str) -> str:
        return str(self.system._strip_protocol(address))

    def _find(self) -> dict[str, RemoteFacts]:
        # A server's index pages are links: to a folder they end in a slash.
        address = f"{self.address}/" if self.is_web else self.address
        root = self._strip(address).rstrip("/")
        # The ways of fsspec's own that go from folder to folder leave out, without a word, one that cannot be listed.
        strictly = {"on_error": "raise"} if walks_folders(self.system) else {}
        found = self.system.find(self._strip(address), detail=True, **strictly)
        self.system.invalidate_cache()
        listed: dict[str, RemoteFacts] = {}
        for name, info in found.items():
            path = str(name)[len(root) + 1 :]
            if self.is_web and ("?" in path or "#" in path):
                continue
            path = unquote(path) if self.is_web else path
            is_file = info.get("type", "file") == "file" and path and not path.endswith("/")
            if is_file and str(name).startswith(f"{root}/") and not _is_hidden(path):
                listed[path] = to_facts(info)
        return self._complete(listed) if self.is_web else listed

    def _complete(self, listed: dict[str, RemoteFacts]) -> dict[str, RemoteFacts]:
        """With the facts that an index page does not say, and without links to nothing."""
        from concurrent.futures import ThreadPoolExecutor

        def find(path: str) -> RemoteFacts | None:
            try:
                return self.find_facts(path)
            except FileNotFoundError:
                return None

        wanting = [path for path, facts in listed.items() if facts.size is None]
        with ThreadPoolExecutor(THREADS) as pool:
            found = dict(zip(wanting, pool.map(find, wanting), strict=True))
        return {path: facts for path, facts in {**listed, **found}.items() if facts is not None}


@dataclass(frozen=True)
class RemoteFile:
    """The file `path` of a folder."""

    folder: RemoteFolder
    path: str

    def __str__(self) -> str:
        return self.folder.locate(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """As of a Path."""
        stem, dot, last = self.name.rpartition(".")
        return f"{dot}{last}" if stem and last else ""

    def stat(self) -> RemoteFacts:
        """Raises FileNotFoundError, PermissionError, InterlaceError."""
        return self.folder.find_facts(self.path)

    def read_bytes(self) -> bytes:
        """The whole content. Raises as `stat`, also for a content of another length than the store has said."""
        size = self.stat().size
        if size == 0:
            return b""
        # Of a range nobody asks for the size once more, as s3fs does to divide a file into parts, which a large one is.
        bounds = {"start": 0, "end": size} if size is not None and size <= PART else {}

        def read() -> bytes:
            data = bytes(self.folder.system.cat_file(self.folder._strip(str(self)), **bounds))
            if size is not None and len(data) != size:
                raise OSError(f"{len(data)} bytes came where {size} were listed: it broke off, or was replaced")
            return data

        return ask(str(self), read)

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """To be read by ranges: of the size that is asked for where `buffering` is 0, else ahead. Raises as `stat`."""
        del mode
        folder, address = self.folder, str(self)
        open_file = partial(folder.system.open, folder._strip(address), "rb", cache_type="none")
        reader = RemoteReader(address, self.stat().size, open_file)
        return cast(BinaryIO, reader if buffering == 0 else io.BufferedReader(reader, BUFFER))


def open_address(address: str) -> RemoteFolder | RemoteFile:
    """What lies there. Raises UsageError for an address that says a secret or has a protocol that nothing knows,
    MissingInputError for one with nothing behind it."""
    check_address(address)
    bare = address.rstrip("/")
    if find_protocol(address) == "hf":
        check_online(bare, LOCAL_COPY)
    folder = RemoteFolder(bare)
    info = ask_or_explain(address, lambda: folder.system.info(folder._strip(address if folder.is_web else bare)))
    if info.get("type") == "directory" or address.endswith("/") or _is_index(info, bare):
        return folder
    parent, _, name = bare.rpartition("/")
    above = RemoteFolder(parent)
    above._system = folder.system
    path = unquote(name) if folder.is_web else name
    above.known[path] = to_facts(info)
    return RemoteFile(above, path)


def open_remote_folder(address: str) -> RemoteFolder:
    """A folder whose files are known by name, and which need not be listed. Raises as `open_address`."""
    check_address(address)
    folder = RemoteFolder(address.rstrip("/"))
    if find_protocol(address) == "hf":
        check_online(folder.address, LOCAL_COPY)
    # Who may read files may not be allowed to list them; and a web server need not say anything of a folder.
    if not folder.is_web:
        try:
            ask(address, lambda: folder.system.info(folder._strip(folder.address)))
        except PermissionError:
            pass
        except FileNotFoundError as error:
            raise explain(address, error.__cause__ or error) from error
    return folder


def _is_index(info: dict[str, Any], address: str) -> bool:
    """Whether a web server has answered with a page, which the address does not name."""
    return str(info.get("mimetype", "")).startswith("text/html") and not address.lower().endswith((".html", ".htm"))


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
