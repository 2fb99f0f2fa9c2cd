"""Inputs from the first process's host to those of others that lack them. Folders come whole or not at all, each file
is checked by its sha256, and what is there already is compared by it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from interlace_cli.errors import DisagreementError, InterlaceError, first_line
from interlace_cli.io.files import CHUNK, folder_being_made, hash_file, write_atomically
from interlace_cli.runtime.agreement import name_process
from interlace_cli.runtime.exchange import find_hosts, gather_values, take_from_main
from interlace_cli.runtime.processes import find_processes
from interlace_cli.runtime.watch import listen

Listing = Mapping[str, Sequence[Any]] | None
"""Path in a folder ("" for a file by itself) -> its size in bytes and sha256; None where nothing is."""
TIMEOUT = 600.0
"""Seconds without a byte after which a connection counts as lost."""


def share_inputs(inputs: Mapping[str, Path | None], say: Callable[[str], None]) -> None:
    """`inputs` is name (as in a sentence) -> where this process has it, or would; all processes name the same. What the
    first one has and the first of another host has not is sent there. Raises DisagreementError where a host has another
    one, and InterlaceError if a transfer fails; with the same sentence on all."""
    here = find_processes()
    own = {name: list_files(path) if path is not None and here.local == 0 else None for name, path in inputs.items()}
    listings = gather_values("the inputs of each host", {"local": here.local, "inputs": own})
    hosts = find_hosts()
    wanted = find_wanted([one["inputs"] if one["local"] == 0 else {} for one in listings], hosts)
    if not any(wanted):
        return
    for rank, names in enumerate(wanted):
        for name in names if here.is_main else ():
            size = sum(entry[0] for entry in listings[0]["inputs"][name].values())
            say(f"{name} ({size:,} bytes) is sent to {name_process(rank, here.size, hosts[rank])}")
    with _serving(inputs) as port:
        address = take_from_main("where files are sent from", lambda: {"port": port, "token": _TOKEN})
        address["host"] = os.environ.get("MASTER_ADDR", "127.0.0.1")
        failure = None
        if wanted[here.rank]:
            failure = _fetch(address, inputs, wanted[here.rank], listings[0]["inputs"])
        failures = gather_values("what was sent", failure)
    for rank, failure in enumerate(failures):
        if failure:
            raise InterlaceError(
                f"{name_process(rank, here.size, hosts[rank])} has not got the inputs: {failure}.",
                "Nothing half-written has a final name there; the same command tries again.",
            )


def list_files(path: Path) -> Listing:
    """Of a folder all files, but hidden ones."""
    if not path.exists():
        return None
    if path.is_file():
        return {"": [path.stat().st_size, hash_file(path)]}
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")):
            found[name] = [file.stat().st_size, hash_file(file)]
    return found


def find_wanted(listings: Sequence[Mapping[str, Listing]], hosts: Sequence[str]) -> list[list[str]]:
    """For each rank the names of what it lacks; `listings[rank]` is empty for one whose host another one looks after.
    Raises DisagreementError for what a host has otherwise than the first."""
    wanted: list[list[str]] = []
    for rank, own in enumerate(listings):
        lacks = []
        for name, mine in own.items():
            first = listings[0].get(name)
            if first is None or mine == first:
                continue
            if mine is None:
                lacks.append(name)
                continue
            file = next(file for file in sorted({*first, *mine}) if first.get(file) != mine.get(file))
            where = f": the first file that differs is {file}" if file else ""
            raise DisagreementError(
                f"{name} is another one on {name_process(rank, len(hosts), hosts[rank])} than on"
                f" {name_process(0, len(hosts), hosts[0])}{where}.",
                "Delete it there: what lacks is sent.",
            )
        wanted.append(lacks)
    return wanted


_TOKEN = secrets.token_hex(16)
"""Only who has got it from this process is answered."""


@contextmanager
def _serving(inputs: Mapping[str, Path | None]) -> Iterator[int]:
    """In the first process: the port on which files are had while the block runs; 0 in the others."""
    if not find_processes().is_main:
        yield 0
        return
    with listen() as server:
        threading.Thread(target=partial(_serve, server, inputs), daemon=True, name="files").start()
        yield server.getsockname()[1]


def _serve(server: socket.socket, inputs: Mapping[str, Path | None]) -> None:
    # Until it is closed.
    with suppress(OSError):
        while True:
            made, _ = server.accept()
            threading.Thread(target=partial(_send, made, inputs), daemon=True, name="send files").start()


def _send(made: socket.socket, inputs: Mapping[str, Path | None]) -> None:
    with suppress(OSError, ValueError), made, made.makefile("rb") as reader:
        made.settimeout(TIMEOUT)
        asked = json.loads(reader.readline(1 << 16))
        path = inputs[asked["name"]] if asked["token"] == _TOKEN else None
        if path is None:
            return
        with (path / asked["file"] if asked["file"] else path).open("rb") as file:
            made.sendfile(file)


def _fetch(
    address: Mapping[str, Any], inputs: Mapping[str, Path | None], names: Sequence[str], listings: Mapping[str, Any]
) -> str | None:
    """Fetches what is lacking; why that failed, if it did."""
    try:
        for name in names:
            path, listing = inputs[name], listings[name]
            assert path is not None
            if set(listing) == {""}:
                write_atomically(path, b"".join(_receive(address, name, "", listing[""][0])))
                _check(path, name, listing[""])
                continue
            with folder_being_made(path) as draft:
                for file, facts in listing.items():
                    target = draft / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as out:
                        _copy(out, _receive(address, name, file, facts[0]))
                    _check(target, f"{name}, {file}", facts)
    except (OSError, InterlaceError) as error:
        return first_line(error).rstrip(".")
    return None


def _copy(out: BinaryIO, chunks: Iterator[bytes]) -> None:
    for chunk in chunks:
        out.write(chunk)


def _receive(address: Mapping[str, Any], name: str, file: str, size: int) -> Iterator[bytes]:
    made = socket.create_connection((address["host"], address["port"]), timeout=TIMEOUT)
    with made, made.makefile("rb") as reader:
        made.sendall(json.dumps({"token": address["token"], "name": name, "file": file}).encode() + b"\n")
        while size and (chunk := reader.read(min(size, CHUNK))):
            size -= len(chunk)
            yield chunk


def _check(path: Path, name: str, facts: Sequence[Any]) -> None:
    if [path.stat().st_size, hash_file(path)] != list(facts):
        raise InterlaceError(f"{name} was not sent whole, or changed meanwhile.")
