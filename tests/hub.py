"""A Hub of our own on localhost: the endpoints that the Hub's library asks for datasets and uploads, over a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

CONVERTED = "f" * 40
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`datasets`, `models`, and `converted` datasets' Parquet branch: repository -> folder. `sent` bytes of files so
    far; uploads land in `uploads`."""

    def __init__(self, datasets: dict[str, Path], cards: dict[str, dict[str, Any]] | None = None) -> None:
        self.datasets, self.cards = datasets, cards or {}
        self.models: dict[str, Path] = {}
        self.converted: dict[str, Path] = {}
        self.sent, self.requests = 0, 0
        self.served: set[str] = set()
        self.fails_after: int | None = None
        self.uploads: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.validated: list[str] = []
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(_Handler):
            owner = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self, home: Path) -> dict[str, str]:
        """For a process that is to use this Hub."""
        own = {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
        return {**os.environ, **own, "NO_PROXY": "*", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONHASHSEED": "0"}


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.owner.tokens.add(self.headers.get("Authorization"))
        path = unquote(urlsplit(self.path).path)
        for repo, folder in self.owner.datasets.items():
            if path in (f"/api/datasets/{repo}", *(f"/api/datasets/{repo}/revision/{r}" for r in ("main", SHA))):
                card = self.owner.cards.get(repo)
                return self.answer({"id": repo, "sha": SHA, "cardData": card, "siblings": [], "tags": []})
            if path.startswith(f"/api/datasets/{repo}/tree/{SHA}"):
                return self.answer(self.list_tree(folder, path.removeprefix(f"/api/datasets/{repo}/tree/{SHA}")))
            if path.startswith(f"/datasets/{repo}/resolve/{SHA}/"):
                return self.send_file(folder / path.removeprefix(f"/datasets/{repo}/resolve/{SHA}/"))
        for repo, folder in self.owner.converted.items():
            if path in (f"/api/datasets/{repo}/revision/{r}" for r in ("refs/convert/parquet", CONVERTED)):
                return self.answer({"id": repo, "sha": CONVERTED, "siblings": [], "tags": []})
            if path.startswith(f"/api/datasets/{repo}/tree/{CONVERTED}"):
                return self.answer(self.list_tree(folder, path.removeprefix(f"/api/datasets/{repo}/tree/{CONVERTED}")))
            if path.startswith(f"/datasets/{repo}/resolve/{CONVERTED}/"):
                return self.send_file(folder / path.removeprefix(f"/datasets/{repo}/resolve/{CONVERTED}/"))
        for repo, folder in self.owner.models.items():
            if path in (f"/api/models/{repo}/revision/{revision}" for revision in ("main", SHA)):
                names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
                files = [{"rfilename": name} for name in names]
                return self.answer({"id": repo, "sha": SHA, "siblings": files, "tags": []})
            if path.startswith(f"/api/models/{repo}/tree/{SHA}"):
                return self.answer(self.list_tree(folder, ""))
            if path.startswith(f"/api/models/{repo}/revision/"):
                return self.answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            if path.startswith(f"/{repo}/resolve/{SHA}/"):
                return self.send_file(folder / path.removeprefix(f"/{repo}/resolve/{SHA}/"))
        return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def list_tree(self, folder: Path, inside: str) -> list[dict[str, Any]]:
        found = []
        recursive = "recursive=true" in self.path.lower()
        root = folder / inside.strip("/")
        for path in sorted(root.rglob("*") if recursive else root.iterdir()):
            name, kind = str(path.relative_to(folder)), "file" if path.is_file() else "directory"
            found.append({"type": kind, "path": name, "oid": SHA, "size": path.stat().st_size if path.is_file() else 0})
        return found

    def send_file(self, path: Path) -> None:
        hub = self.owner
        hub.requests += 1
        if hub.fails_after is not None and hub.requests > hub.fails_after:
            return self.answer({"error": "gone"}, 403)
        data, code = path.read_bytes(), 200
        if self.command == "GET":
            hub.served.add(path.name)
        if self.headers.get("Range"):
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            data, code = data[int(first) : int(last) + 1], 206
        hub.sent += len(data)
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{hashlib.sha256(str(path).encode()).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
        return None

    def do_POST(self) -> None:
        hub = self.owner
        hub.tokens.add(self.headers.get("Authorization"))
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            hub.validated.append(json.loads(body)["content"])
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            hub.created = json.loads(body)
            name = f"{hub.created.get('organization', 'somebody')}/{hub.created['name']}"
            return self.answer({"url": f"{hub.url}/{name}", "id": name})
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in files
            ]
            return self.answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            action = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}", "header": {}}}} for o in objects
            ]
            return self.answer({"transfer": "basic", "objects": action})
        if "/commit/" in path:
            return self.commit(body)
        return self.answer({"error": path}, 404)

    def commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.owner.uploads[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.owner.uploads[value["path"]] = self.owner.uploads.pop(f"lfs/{value['oid']}")
        repo = self.path.removeprefix("/api/models/").split("/commit/")[0]
        url = f"{self.owner.url}/{repo}/commit/{SHA}"
        self.answer({"commitUrl": url, "commitOid": SHA, "success": True})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = hashlib.sha256(body).hexdigest()
        assert self.path == f"/lfs/{name}"
        self.owner.uploads[f"lfs/{name}"] = body
        self.answer({})

    def answer(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
