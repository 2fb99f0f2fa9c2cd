"""JSON lines are found where they lie, read one by one, and never all in memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.data.json_lines import JsonLines, LineFinder, find_lines
from interlace_cli.data.local import LocalSource, open_local
from interlace_cli.data.local_files import find_file
from interlace_cli.data.record_files import parse_records
from interlace_cli.data.source import RawRecord, Selection
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.file_records import FileRecorder
from interlace_cli.io.integrity import digest_files

PIECES = st.lists(
    st.sampled_from([b"\n", b"\r\n", b" ", b"\t\x0b", b"7", b'{"a": 1}', b"\xef\xbb\xbf", b"\xff", b"x\0"])
)
BYTES = 60
"""Of a record in memory: three numbers of where its line is, and what arrays are larger than they need be."""


def describe(rows: object) -> list[tuple[str, str]]:
    assert isinstance(rows, (list, JsonLines))
    return [(where, repr(row) if not isinstance(row, UnusableRecordError) else str(row)) for where, row in rows]


@given(PIECES, st.lists(st.integers(0, 60)))
def test_lines_of_parts_are_those_of_the_whole(pieces: list[bytes], cuts: list[int]) -> None:
    data, found = b"".join(pieces), LineFinder()
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(ends):
        found.add(data[start:end])
    found.close()
    rows = JsonLines(found, lambda start, end: data[start:end])
    lines = [(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    assert list(found.numbers) == [number for number, _ in lines]
    assert [data[s:e].removesuffix(b"\r") for s, e in zip(found.starts, found.ends, strict=True)] == [
        b for _, b in lines
    ]
    assert (found.lone_returns, found.has_null) == (0, b"\0" in data)
    assert describe(rows) == describe(find_lines(data))


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a"])), st.integers(0, 20))
def test_returns_that_end_lines_by_themselves_are_counted(pieces: list[bytes], cut: int) -> None:
    data, found = b"".join(pieces), LineFinder()
    found.add(data[:cut])
    found.add(data[cut:])
    assert found.lone_returns == data.replace(b"\r\n", b"").count(b"\r")


def open_file(path: Path) -> LocalSource:
    return open_local(find_file(path, None, None), "file")


def write_lines(path: Path, count: int) -> Path:
    turns = [{"from": "human", "value": "What is this, and what is it for?"}, {"from": "gpt", "value": "A thing."}]
    path.write_text("".join(json.dumps({"id": f"r{i}", "conversations": turns}) + "\n" for i in range(count)))
    return path


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n[\n{"b": 2}', '{\n"a": 1}', '{"a": 1}', '{"a": 1}\r{"a": 2}', "\ufeff{\n}", "x\n{}"]
)
def test_a_file_on_disk_has_the_rows_of_its_content(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(text.encode())
    opened = open_file(path)
    wanted = [(where, ("a.jsonl", row)) for where, row in parse_records(path, path.read_bytes())]
    assert [(where, repr(row)) for where, row in opened.records] == [(where, repr(row)) for where, row in wanted]
    assert [file.digest for file in opened.files_read] == [digest_files([path])[path]]


def test_no_record_of_a_file_of_lines_is_in_memory(tmp_path: Path) -> None:
    count = 4_000
    path = write_lines(tmp_path / "a.jsonl", count)
    open_file(path)
    tracemalloc.start()
    opened = open_file(path)
    draw = opened.draw(Selection())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < BYTES * count
    assert sum(unit.records for unit in draw.units) == count
    first = next(opened.iter_records(draw.units[-1], Selection(), FileRecorder(opened.roots)))
    assert isinstance(first, RawRecord)
    assert first.id == f"r{draw.units[-1].content[0]}"


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", 9)
    opened = open_file(path)
    assert opened.records[8][1][1]["id"] == "r8"
    data = path.read_bytes()
    draft = tmp_path / "draft"
    draft.write_bytes(data.replace(b"r8", b"q8"))
    os.utime(draft, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    draft.replace(path)
    with pytest.raises(DatasetError, match=r"a\.jsonl has changed while it was read"):
        opened.records[8]
    path.unlink()
    with pytest.raises(DatasetError, match=r"cannot read .*a\.jsonl: No such file"):
        opened.records[8]
