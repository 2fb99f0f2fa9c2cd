"""Folders of each form that a remote source may have, made on disk, and a web server of our own for them."""

from __future__ import annotations

import csv
import json
import re
import tarfile
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from finevision import make_image

COUNT = 9


def say(number: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"Which {number}?"}, {"from": "gpt", "value": f"Number {number}."}]


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(make_image(number))


def write_json(folder: Path) -> None:
    write_pictures(folder / "my #1 images")
    rows = [{"id": f"r{i}", "image": f"my #1 images/{i}.png", "conversations": say(i)} for i in range(COUNT)]
    rows += [{"id": "gone", "image": "my #1 images/gone.png", "conversations": say(50)}]
    rows += [{"id": "out", "image": "../secret.png", "conversations": say(51)}]
    (folder / "labels.json").write_text(json.dumps(rows))


def write_csv(folder: Path) -> None:
    write_pictures(folder / "images")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", "answer"])
        writer.writerows([f"images/{i}.png", f"Which {i}?", f"Number {i}."] for i in range(COUNT))


def write_tables(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    rows = [{"image": {"bytes": make_image(i), "path": None}, "conversations": say(i)} for i in range(COUNT)]
    for number in range(3):
        part = pa.Table.from_pylist(rows[3 * number : 3 * number + 3])
        pq.write_table(part, folder / f"data/train-{number}.parquet", row_group_size=2)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")


def write_metadata(folder: Path) -> None:
    write_pictures(folder / "train")
    lines = [json.dumps({"file_name": f"{i}.png", "caption": f"Picture {i}."}) for i in range(COUNT)]
    (folder / "train/metadata.jsonl").write_text("\n".join(lines))


def write_captions(folder: Path) -> None:
    write_pictures(folder)
    for number in range(COUNT):
        (folder / f"{number}.txt").write_text(f"Picture {number}.")


def write_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                found = {"png": make_image(number), "json": json.dumps({"conversations": say(number)}).encode()}
                for suffix, data in found.items():
                    info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))


FORMS: dict[str, Callable[[Path], None]] = {
    "json": write_json,
    "csv": write_csv,
    "tables": write_tables,
    "metadata": write_metadata,
    "captions": write_captions,
    "shards": write_shards,
}


class Server:
    """Serves `folder` by HTTP, with ranges, ETags and pages of links. `sent`: bytes of files so far; `failing`: called
    with the path before each answer: a status to answer with, 0 to break the connection, or None."""

    def __init__(self, folder: Path, has_ranges: bool = True) -> None:
        self.folder, self.has_ranges = folder, has_ranges
        self.sent = 0
        self.failing: Callable[[str], int | None] = lambda path: None
        owner = self

        class Handler(_Handler):
            server_of = owner

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    server_of: Server
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(self.server_of.folder))

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        owner = self.server_of
        status = owner.failing(self.path)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        if status is not None:
            self.answer(status, b"")
            return
        path = Path(self.translate_path(self.path))
        if path.is_dir() or not path.is_file():
            super().do_HEAD() if self.command == "HEAD" else super().do_GET()
            return
        data, headers = path.read_bytes(), {"ETag": f'"{hash(path.read_bytes()):x}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if owner.has_ranges else None
        if wanted is None:
            self.answer(200, data, **headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.answer(206, data[first : last + 1], **headers)

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.server_of.sent += len(data)
            self.wfile.write(data)
