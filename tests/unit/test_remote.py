"""Sources at addresses: the same dataset as from a local copy, credentials nowhere, and one sentence for what fails."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finevision import make_image
from hypothesis import given
from hypothesis import strategies as st
from making import make_dataset
from remote_forms import COUNT, FORMS, Server, say, write_json, write_tables
from test_files_read import ask

from interlace_cli.core.step import Condition
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import DatasetError, InterlaceError, MissingInputError, UsageError
from interlace_cli.io import remote, remote_errors
from interlace_cli.io.addresses import check_address, is_address, join_inside, redact
from interlace_cli.io.remote import RemoteFile, RemoteFolder, open_address
from interlace_cli.io.remote_errors import classify
from interlace_cli.options import PrepareOptions

OWN = ("files.jsonl", "source.json", "manifest.json")
"""Files of a dataset in which an address differs from a folder."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_errors.time, "sleep", lambda _: None)


@pytest.fixture
def store() -> Iterator[Any]:
    """fsspec's own store in this process's memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def put(system: Any, folder: Path, root: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_same(local: Path, other: Path) -> None:
    """Two datasets hold the same bytes, but for what says where they are from."""
    first, second = read_all(local), read_all(other)
    assert first.keys() == second.keys()
    assert [name for name in first if name not in OWN and first[name] != second[name]] == []
    manifests = [json.loads(found["manifest.json"]) for found in (first, second)]
    same = ("splits", "kinds", "skipped", "skipped_records", "notes", "draws", "selection", "source")
    assert [manifests[0][name] for name in same] == [manifests[1][name] for name in same]


def find_state(source: str, out: Path, **options: Any) -> Condition:
    from interlace_cli.core.prepare import build_step

    return build_step(PrepareOptions(source=source, out=out, **options)).find_state().condition


class Sentences(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_at_an_address_gives_the_same_dataset_as_its_copy(form: str, tmp_path: Path, store: Any) -> None:
    FORMS[form](tmp_path / "in")
    put(store, tmp_path / "in", "/bucket/in")
    store.pipe("/bucket/in/.hidden/labels.json", b"[]")
    local = make_dataset(tmp_path / "in", tmp_path / "local", seed=3)
    found = make_dataset("memory://bucket/in", tmp_path / "remote", seed=3)
    assert sum(split.samples for split in found.splits.values()) == COUNT
    assert found.location is None
    check_same(tmp_path / "local", tmp_path / "remote")
    assert local.inputs != found.inputs
    assert find_state("memory://bucket/in", tmp_path / "remote", seed=3) is Condition.CURRENT


def test_single_files_and_image_roots_at_addresses(tmp_path: Path, store: Any) -> None:
    write_json(tmp_path / "in")
    put(store, tmp_path / "in", "/bucket/in")
    local = tmp_path / "in/labels.json"
    make_dataset(local, tmp_path / "local")
    for number, (source, options) in enumerate(
        [
            ("memory://bucket/in/labels.json", {}),
            (str(local), {"image_root": "memory://bucket/in"}),
            ("memory://bucket/in/labels.json", {"image_root": str(tmp_path / "in")}),
        ]
    ):
        made = make_dataset(source, tmp_path / f"{number}", **options)
        assert made.skipped == {"image file is missing": 1, "image path leads out of the folder": 1}
        check_same(tmp_path / "local", tmp_path / f"{number}")
        assert find_state(source, tmp_path / f"{number}", **options) is Condition.CURRENT
    with pytest.raises(UsageError, match="--image-root is an empty path"):
        make_dataset(local, tmp_path / "empty", image_root="")
    origin = json.loads((tmp_path / "1/source.json").read_text())
    assert origin == {"source": str(local.resolve()), "image_root": "memory://bucket/in"}


def test_a_file_that_was_listed_is_asked_for_once(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "in")
    put(store, tmp_path / "in", "/bucket/in")
    asked: Counter[tuple[str, str]] = Counter()
    for name in ("info", "cat_file"):
        original = getattr(type(store), name)

        def count(self: Any, path: str, *args: Any, name: str = name, original: Any = original, **more: Any) -> Any:
            asked[name, path] += 1
            return original(self, path, *args, **more)

        monkeypatch.setattr(type(store), name, count)
    make_dataset("memory://bucket/in", tmp_path / "out")
    assert {path: number for (name, path), number in asked.items() if name == "cat_file"} == {
        "/bucket/in/labels.json": 1,
        **{f"/bucket/in/my #1 images/{i}.png": 1 for i in range(COUNT)},
    }
    # The folder itself, and a picture that is not there.
    assert {path for name, path in asked if name == "info"} == {"/bucket/in", "/bucket/in/my #1 images/gone.png"}


def test_a_record_may_name_its_image_by_the_whole_address(tmp_path: Path, store: Any) -> None:
    write_json(tmp_path / "in")
    put(store, tmp_path / "in", "/bucket/in")
    names = ["memory://bucket/in/my #1 images/1.png", "memory://bucket/inner/1.png", "memory://bucket/in/../x.png"]
    rows = [{"image": name, "conversations": say(i)} for i, name in enumerate(names)]
    store.pipe("/bucket/in/labels.json", json.dumps(rows).encode())
    made = make_dataset("memory://bucket/in", tmp_path / "out", holdout=0, calibration=0)
    assert made.skipped == {
        "image is at a memory:// address: download it and name the file": 1,
        "image path leads out of the folder": 1,
    }


def test_what_changed_at_the_source_is_seen_without_reading_it(tmp_path: Path, store: Any) -> None:
    write_json(tmp_path / "in")
    put(store, tmp_path / "in", "/bucket/in")
    make_dataset("memory://bucket/in", tmp_path / "out")
    before = ask("memory://bucket/in", tmp_path / "out")
    assert before[1] == []
    store.pipe("/bucket/in/my #1 images/0.png", (tmp_path / "in/my #1 images/0.png").read_bytes())
    store.pipe("/bucket/in/my #1 images/1.png", b"longer" * 999)
    store.rm("/bucket/in/my #1 images/2.png")
    store.pipe("/bucket/in/my #1 images/gone.png", b"x")
    store.pipe("/bucket/in/more.json", b"[]")
    now, said = ask("memory://bucket/in", tmp_path / "out")
    assert now != before[0]
    assert said == [
        "my #1 images/1.png has other content",
        "my #1 images/0.png was written again, or replaced",
        "my #1 images/2.png is gone, or cannot be read",
        "my #1 images/gone.png was not there before",
        "more.json was added",
    ]
    assert find_state("memory://bucket/in", tmp_path / "out") is Condition.STALE


def test_arrow_files_at_an_address_are_refused(tmp_path: Path, store: Any) -> None:
    store.pipe("/bucket/in/data.arrow", b"ARROW1")
    with pytest.raises(DatasetError, match=r"memory://bucket/in/data\.arrow is an Arrow file, which is mapped"):
        make_dataset("memory://bucket/in", tmp_path / "out")


def test_nothing_there_is_said(tmp_path: Path, store: Any) -> None:
    store.pipe("/bucket/in/x.json", b"[]")
    for address in ("memory://bucket/other", "memory://other/in/x.json"):
        with pytest.raises(MissingInputError, match=f"there is nothing at {address}"):
            make_dataset(address, tmp_path / "out")
    with pytest.raises(MissingInputError, match="there is nothing at memory://bucket/images"):
        make_dataset("memory://bucket/in", tmp_path / "out", image_root="memory://bucket/images")
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol, package in (("gs", "gcsfs"), ("s3", "s3fs"), ("https", "aiohttp")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
        with pytest.raises(MissingInputError) as refusal:
            open_address(f"{protocol}://bucket/in")
        assert (refusal.value.what, refusal.value.fix) == (
            f"{protocol}:// needs the package {package}.",
            f"pip install {package}.",
        )
    with pytest.raises(UsageError, match="xyz:// is no protocol that fsspec knows"):
        open_address("xyz://bucket/in")


def test_the_hub_is_not_asked_where_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingInputError, match="is on the Hub, which is not asked because of HF_HUB_OFFLINE=1"):
        open_address("hf://datasets/owner/name")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("s3://bucket/a", True),
        ("https://host/a", True),
        ("abfs://container@account.dfs.core.windows.net/a", True),
        ("file:///data/a.json", False),
        ("owner/name", False),
        ("a/b://c", False),
        ("s3:///a", False),
        ("C://data", False),
    ],
)
def test_what_is_an_address(name: str, is_one: bool) -> None:
    assert is_address(name) is is_one


SECRET = st.text("ABCdef012/+=%._-", min_size=12, max_size=40)


@given(user=st.sampled_from(["me", "AKID0123"]), secret=SECRET, host=st.sampled_from(["bucket", "a.b:99"]))
def test_a_secret_in_an_address_is_refused_and_not_shown(user: str, secret: str, host: str) -> None:
    for address in (
        f"s3://{user}:{secret}@{host}/folder",
        f"https://{user}:{secret}@{host}/x.json",
        f"https://{host}/x.json?X-Amz-Signature={secret}",
        f"https://{host}/x.json?a=b&sig={secret}",
    ):
        with pytest.raises(UsageError) as refusal:
            check_address(address)
        assert secret not in str(refusal.value)
        assert secret not in redact(f"403, url='{address}', message='Forbidden'")


def test_addresses_without_secrets_are_taken() -> None:
    for address in (
        "s3://bucket/a b/c@d.json",
        "hf://datasets/owner/name@main/data",
        "abfs://container@account.dfs.core.windows.net/a",
        "http://127.0.0.1:8000/a",
        "sftp://user@host/a",
    ):
        check_address(address)
    for address in ("https://user@host/a", "s3://a::b", "simplecache::s3://a/b"):
        with pytest.raises(UsageError):
            check_address(address)


@given(st.lists(st.sampled_from(["a", "b c", "..", ".", "...", "ü"]), min_size=1, max_size=8))
def test_a_path_stays_inside_its_folder(parts: list[str]) -> None:
    """Against the operating system's own rule."""
    name = "/".join(parts)
    depth, is_inside = 0, True
    for part in parts:
        depth += {"..": -1, ".": 0}.get(part, 1)
        is_inside &= depth >= 0
    found = join_inside(name)
    assert (found is not None) == is_inside
    assert found is None or (found or ".") == os.path.normpath(name)
    assert join_inside(f"/{name}") is None


class StatusError(Exception):
    """As of aiohttp."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class ClientError(Exception):
    """As of botocore."""

    def __init__(self, status: int) -> None:
        super().__init__(f"code {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def behind(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (StatusError(404), "missing"),
        (StatusError(403), "refused"),
        (StatusError(429), "passing"),
        (StatusError(503), "passing"),
        (StatusError(416), "impossible"),
        (ClientError(404), "missing"),
        (behind(FileNotFoundError("x"), StatusError(404)), "missing"),
        (behind(FileNotFoundError("x"), StatusError(401)), "refused"),
        (behind(FileNotFoundError("x"), StatusError(502)), "passing"),
        (behind(FileNotFoundError("x"), OSError("no route")), "passing"),
        (behind(FileNotFoundError("x"), TimeoutError()), "passing"),
        (behind(FileNotFoundError("x"), KeyError("x")), "missing"),
        (FileNotFoundError("x"), "missing"),
        (behind(PermissionError("token has expired"), ClientError(400)), "refused"),
        (RuntimeError("Unable to locate credentials"), "refused"),
        (NotImplementedError("x"), "impossible"),
        (ConnectionResetError(), "passing"),
    ],
    ids=repr,
)
def test_what_an_error_says_of_the_file(error: Exception, answer: str) -> None:
    assert classify(error) == answer


class Flaky(io.BytesIO):
    """Fails at first, each time."""

    failures = 0

    def read(self, size: int | None = -1) -> bytes:
        Flaky.failures += 1
        if Flaky.failures % 3:
            raise ConnectionResetError("reset by peer")
        return super().read(size)


def test_a_range_is_asked_for_again(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 9
    store.pipe("/bucket/a.bin", data)
    file = RemoteFile(RemoteFolder("memory://bucket"), "a.bin")
    monkeypatch.setattr(type(store), "_open", lambda *_, **__: Flaky(data))
    with file.open("rb", 0) as reader:
        assert reader.seek(-20, io.SEEK_END) == len(data) - 20
        assert (reader.read(10), reader.read(99), reader.read(1)) == (data[-20:-10], data[-10:], b"")
    monkeypatch.setattr(Flaky, "read", lambda *_: b"short")
    with file.open("rb", 0) as reader, pytest.raises(MissingInputError, match="5 bytes came where 100 were asked for"):
        reader.read(100)


def test_a_lasting_failure_is_one_sentence_and_is_gone_on_from(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tmp_path / "in")
    put(store, tmp_path / "in", "/bucket/in")
    make_dataset(tmp_path / "in", tmp_path / "local")
    original, readers = remote.RemoteReader.readinto, list[Any]()

    def fail(reader: Any, buffer: Any) -> int:
        # The first to read it was asked for its footer.
        if reader._address.endswith("2.parquet"):
            readers.append(reader)
            if reader is not readers[0]:
                raise remote_errors.explain(reader._address, TimeoutError("no answer"))
        return original(reader, buffer)

    monkeypatch.setattr(remote.RemoteReader, "readinto", fail)
    with pytest.raises(MissingInputError, match=r"2\.parquet cannot be read: no answer. Try again") as refusal:
        make_dataset("memory://bucket/in", tmp_path / "out/dataset", threads=1)
    assert "traceback" not in str(refusal.value).lower()
    assert not (tmp_path / "out/dataset").exists()
    monkeypatch.setattr(remote.RemoteReader, "readinto", original)
    recorder = Sentences()
    make_dataset("memory://bucket/in", tmp_path / "out/dataset", recorder)
    assert "Going on from 2 of 3 pieces that an earlier call has read." in recorder.said
    check_same(tmp_path / "local", tmp_path / "out/dataset")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    pytest.importorskip("aiohttp")
    servers: list[Server] = []

    def serve(folder: Path, **options: Any) -> Server:
        servers.append(Server(folder, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize("form", ["json", "tables", "shards"])
def test_a_folder_of_a_web_server(form: str, tmp_path: Path, served: Callable[..., Server]) -> None:
    """A page of links is its listing; a server that fails now and then is asked again."""
    FORMS[form](tmp_path / "web/in")
    server = served(tmp_path / "web")
    counts: dict[str, int] = {}

    def fail(path: str) -> int | None:
        if path.endswith("/dead.json"):
            return 404
        counts[path] = counts.get(path, 0) + 1
        return {1: 503, 4: 0}.get(counts[path])

    server.failing = fail
    make_dataset(tmp_path / "web/in", tmp_path / "local")
    (tmp_path / "web/in/dead.json").write_text("[]")
    address = f"{server.url}/in/"
    make_dataset(address, tmp_path / "remote")
    check_same(tmp_path / "local", tmp_path / "remote")
    assert find_state(address, tmp_path / "remote") is Condition.CURRENT


def test_no_more_is_fetched_of_a_table_than_its_row_groups(tmp_path: Path, served: Callable[..., Server]) -> None:
    (tmp_path / "web").mkdir()
    rows = [{"image": {"bytes": make_image(i, 200), "path": None}, "conversations": say(i)} for i in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "web/a.parquet", row_group_size=1)
    server = served(tmp_path / "web")
    make_dataset(f"{server.url}/a.parquet", tmp_path / "out", max_samples=2, holdout=0, calibration=0)
    assert server.sent < 4 / 12 * (tmp_path / "web/a.parquet").stat().st_size


def test_what_a_web_server_refuses_is_said(tmp_path: Path, served: Callable[..., Server]) -> None:
    write_tables(tmp_path / "web/in")
    write_json(tmp_path / "web/talks")
    server = served(tmp_path / "web", has_ranges=False)
    make_dataset(f"{server.url}/talks/labels.json", tmp_path / "whole")
    refused: list[tuple[str, int | None, type[InterlaceError], str]] = [
        ("in/data/train-0.parquet", None, DatasetError, "cannot be read: .*range"),
        ("in/data/none.parquet", None, MissingInputError, "there is nothing at"),
        ("talks/labels.json", 403, MissingInputError, r"may not be read: 403.*netrc"),
        ("talks/labels.json", 503, MissingInputError, "cannot be read: 503"),
    ]
    for path, status, kind, words in refused:
        server.failing = lambda _, status=status: status
        with pytest.raises(kind, match=words):
            make_dataset(f"{server.url}/{path}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol of S3, spoken by a local server: pip install s3fs "moto[server]". The secret is in no file."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    secret = "Secret/Of+Mine0123456789"
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIDOFMINE",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("bucket")
        for form in ("json", "tables", "shards"):
            FORMS[form](tmp_path / form)
            put(system, tmp_path / form, f"bucket/{form}")
            made: Manifest = make_dataset(f"s3://bucket/{form}", tmp_path / f"{form}-remote")
            assert made.source == form
            make_dataset(tmp_path / form, tmp_path / f"{form}-local")
            check_same(tmp_path / f"{form}-local", tmp_path / f"{form}-remote")
            assert find_state(f"s3://bucket/{form}", tmp_path / f"{form}-remote") is Condition.CURRENT
        system.pipe("bucket/tables/data/train-0.parquet", b"Other.")
        assert ask("s3://bucket/tables", tmp_path / "tables-remote")[1] == ["data/train-0.parquet has other content"]
        written = b"".join(data for name, data in read_all(tmp_path).items() if "-remote" in name)
        assert secret.encode() not in written
        assert b"AKIDOFMINE" not in written
        with pytest.raises(MissingInputError, match="The specified bucket does not exist"):
            open_address("s3://nothing/in")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(MissingInputError, match=r"may not be read: Unable to locate credentials.*AWS_PROFILE"):
            open_address("s3://bucket/json")
    finally:
        server.stop()
