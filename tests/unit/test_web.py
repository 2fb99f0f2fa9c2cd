"""Images at web addresses: fetched where that is allowed, within bounds, or counted by reason. The web is localhost."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from finevision import make_image
from making import make_dataset

from interlace_cli.domain.dataset import Manifest
from interlace_cli.io import web
from interlace_cli.io.datasets import load_images, load_split

PNG = make_image(1)


class Handler(BaseHTTPRequestHandler):
    """`/code/404` answers with the code, `/to/x` redirects to x, `/flaky` fails once, `/bytes/9` has so many."""

    asked: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        _, kind, *rest = self.path.split("/", 2)
        if kind == "code" or (kind == "flaky" and self.asked[self.path] == 1):
            self.answer(int(rest[0]) if rest else 503, b"")
        elif kind == "to":
            self.answer(302, b"", Location=rest[0])
        elif kind == "round":
            self.answer(302, b"", Location=f"/round/{int(rest[0]) + 1}")
        else:
            self.answer(200, {"bytes": b"x" * int(rest[0] if rest else 0), "html": b"<html>"}.get(kind, PNG))

    def answer(self, code: int, data: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(web.time, "sleep", lambda _: None)
    Handler.asked.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def prepare(tmp_path: Path, *addresses: str, **options: Any) -> Manifest:
    """One record for each, and one without an image."""
    ask = {"type": "text", "text": "Which?"}
    contents: list[Any] = ["Which?", *([{"type": "image", "url": address}, ask] for address in addresses)]
    answer = {"role": "assistant", "content": "Red."}
    records = [{"messages": [{"role": "user", "content": content}, answer]} for content in contents]
    (tmp_path / "data.json").write_text(json.dumps(records))
    made: Manifest = make_dataset(tmp_path / "data.json", tmp_path / "out", calibration=0.0, holdout=0.0, **options)
    return made


def reasons(manifest: Manifest) -> list[str]:
    return [skipped.reason for skipped in manifest.skipped_records]


def test_what_lies_there_is_the_picture(server: str, tmp_path: Path) -> None:
    addresses = [f"{server}/a.png", f"{server}/to/{server}/a.png", f"{server}/to//a.png", f"{server}/flaky"]
    manifest = prepare(tmp_path, *addresses, allow_download=True)
    assert reasons(manifest) == []
    samples = [sample for sample in load_split(tmp_path / "out", "train") if sample.image]
    assert len(samples) == len(addresses)
    assert len({sample.image[0] for sample in samples}) == 1
    assert load_images(tmp_path / "out", samples[0])[0].size == (24, 24)


def test_what_is_no_picture_or_beyond_the_bounds_is_counted(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 1 << 20)
    wanted = {
        f"{server}/code/404": "image on the web: HTTP status 404",
        f"{server}/html": "image does not open",
        f"{server}/bytes/{(1 << 20) + 1}": web.TOO_LARGE,
        f"{server}/round/0": "image on the web: more than 5 redirects",
        f"{server}/to/file:///etc/passwd": "image on the web: a redirect that leads elsewhere",
        "http://127.0.0.1:1/x.png": "image on the web: no connection, or it broke off",
        "http://[x/y.png": "image on the web: the address cannot be asked for",
        "http://": "image on the web: the address cannot be asked for",
    }
    assert reasons(prepare(tmp_path, *wanted, allow_download=True)) == list(wanted.values())
    assert Handler.asked["/code/404"] == 1


def test_a_server_that_never_ends_is_left(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_SECONDS", -1.0)
    manifest = prepare(tmp_path, f"{server}/a.png", allow_download=True)
    assert reasons(manifest) == ["image on the web: not there within -1 s"]


def test_nothing_is_asked_where_it_is_not_allowed(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "image is on the web: download it and name the file, or add --allow-download"
    assert reasons(prepare(tmp_path, f"{server}/a.png")) == [advice]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    off = ["image is on the web, which is not asked because of HF_HUB_OFFLINE=1"]
    assert reasons(prepare(tmp_path, f"{server}/a.png", allow_download=True, force=True)) == off
    assert not Handler.asked
