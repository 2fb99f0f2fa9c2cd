"""Texts of files: what was written comes out, or is refused with its byte; nothing becomes U+FFFD."""

from __future__ import annotations

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.data.record_files import parse_records
from interlace_cli.errors import DatasetError, UnusableRecordError, UsageError
from interlace_cli.io.config_files import parse_config
from interlace_cli.io.text import BOMS, TextError, decode_text

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=40)
MARKED = {"utf-8-sig": "utf-8-sig", "utf-16": "utf-16", "utf-32": "utf-32"}
"""Python's own codecs that write a mark."""


@given(texts)
def test_what_was_written_comes_out(text: str) -> None:
    assert decode_text(text.encode()) == text
    for name in MARKED:
        assert decode_text(text.encode(name)) == text
    for mark, name in BOMS:
        assert decode_text(mark + text.encode(name)) == text


@given(st.binary(max_size=60))
def test_bytes_are_a_text_or_have_a_place(data: bytes) -> None:
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8, codecs.BOM_UTF32_BE))
    if marked:
        return
    wrong = find_wrong_byte(data)
    if wrong is None:
        assert decode_text(data) == data.decode()
        return
    with pytest.raises(TextError) as raised:
        decode_text(data)
    assert raised.value.offset == wrong
    assert f"byte 0x{data[wrong]:02X} at offset {wrong}" in str(raised.value)


def find_wrong_byte(data: bytes) -> int | None:
    """As Python's own decoder has it; a null byte is wrong too."""
    try:
        return None if "\0" not in data.decode() else data.index(b"\0")
    except UnicodeDecodeError as error:
        return error.start


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "shift-jis", "gb18030", "utf-16-le", "utf-16-be"])
def test_a_text_in_another_encoding_is_refused(encoding: str) -> None:
    text = "a café" if encoding in ("cp1252", "latin-1") else "a 日本語 text"
    with pytest.raises(TextError, match="text is not UTF-8"):
        decode_text(text.encode(encoding))


def parse(name: str, data: bytes | str) -> list[Any]:
    """The rows, of those that cannot be read the reason."""
    rows = parse_records(Path(name), data.encode() if isinstance(data, str) else data)
    return [str(row) if isinstance(row, UnusableRecordError) else row for _, row in rows]


ROWS = [{"id": "é", "n": 1}, {"id": "b", "n": 2}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


@pytest.mark.parametrize("encoding", ["utf-8", *MARKED])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_and_its_lines_in_each_encoding(encoding: str, end: str) -> None:
    assert parse("a.jsonl", LINES.replace("\n", end).encode(encoding)) == ROWS
    assert parse("a.json", json.dumps(ROWS, indent=1, ensure_ascii=False).replace("\n", end).encode(encoding)) == ROWS
    table = f"id,n{end}é,1{end}b,2{end}"
    assert parse("a.csv", table.encode(encoding)) == [{"id": "é", "n": "1"}, {"id": "b", "n": "2"}]


def test_files_that_were_joined_have_a_mark_in_each() -> None:
    assert parse("a.jsonl", "\n".join(f"\ufeff{line}" for line in LINES.splitlines())) == ROWS


def test_a_line_in_another_encoding_costs_that_line() -> None:
    data = LINES.encode() + b"\n" + json.dumps({"id": "café"}, ensure_ascii=False).encode("cp1252")
    assert parse("a.jsonl", data) == [*ROWS, "text is not UTF-8"]
    (where, error) = parse_records(Path("a.jsonl"), data)[2]
    assert (where, error.place) == ("line 3", "byte 11")


def test_bytes_that_are_no_text_cost_the_record_of_a_list_that_they_are_in() -> None:
    data = json.dumps([*ROWS, {"id": ["x", {"y": "caf\xe9"}]}, *ROWS], ensure_ascii=False).encode()
    assert parse("a.json", data.replace("café".encode(), b"caf\xe9")) == [*ROWS, "text is not UTF-8", *ROWS]


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_a_file_in_another_encoding_is_refused_with_its_byte(name: str) -> None:
    data = '[\n{"id": "café"}]'.encode("cp1252") if name == "a.json" else "id\ncafé\n".encode("cp1252")
    offset = data.index(b"\xe9")
    with pytest.raises(DatasetError, match=rf"{name} is not UTF-8: byte 0xE9 at offset {offset}, line 2"):
        parse(name, data)


@pytest.mark.parametrize(
    "whole",
    [
        {"data": ROWS},
        {"version": "1.0", "info": {}, "annotations": ROWS},
        {"id": [row["id"] for row in ROWS], "n": [row["n"] for row in ROWS]},
        {row["id"]: {"n": row["n"]} for row in ROWS},
    ],
    ids=["a list in an object", "beside other fields", "columns", "by ids"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_that_holds_records(whole: dict[str, Any], indent: int | None) -> None:
    assert parse("a.json", json.dumps(whole, indent=indent)) == ROWS


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]},
        {"images": ["a", "b"], "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]},
        {"question": "?", "answer": "!", "boxes": [{"x": 1}]},
    ],
    ids=["messages", "as many images as turns", "a list of objects beside"],
)
def test_an_object_that_is_a_record(record: dict[str, Any]) -> None:
    assert parse("a.json", json.dumps(record, indent=1)) == [record]
    assert parse("a.jsonl", json.dumps(record)) == [record]


@pytest.mark.parametrize("codec", ["gzip", "bz2", "zstd"])
def test_compressed_records(codec: str) -> None:
    suffix = {"gzip": "gz", "bz2": "bz2", "zstd": "zst"}[codec]
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(LINES.encode())
    data = sink.getvalue().to_pybytes()
    assert parse(f"a.jsonl.{suffix}", data) == ROWS
    with pytest.raises(DatasetError, match=f"a.jsonl.{suffix} cannot be unpacked"):
        parse(f"a.jsonl.{suffix}", LINES)


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace_cli.data.record_files.MOST_UNPACKED", 100)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "gzip") as stream:
        stream.write(b"\n" * 101)
    with pytest.raises(DatasetError, match="unpacks to more than"):
        parse("a.jsonl.gz", sink.getvalue().to_pybytes())


@pytest.mark.parametrize("data", [b"PK\x03\x04\0\0\0\n\0", b"\x89HDF\r\n\x1a\n\0\0"])
def test_what_is_no_text_file_is_told_what_is_expected(data: bytes) -> None:
    with pytest.raises(DatasetError, match=r"a\.zip is not a text file\. Give a JSON"):
        parse("a.zip", data)


@pytest.mark.parametrize("encoding", ["utf-8", *MARKED])
@pytest.mark.parametrize(("name", "text"), [("a.yaml", "title: é\n"), ("a.toml", 'title = "é"\n')])
def test_files_of_options_are_texts_too(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert parse_config(tmp_path / name) == {"title": "é"}
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    with pytest.raises(UsageError, match=r"text is not UTF-8 \(byte 0xE9 at offset"):
        parse_config(tmp_path / name)


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), max_size=8)


@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_cells_come_out_as_they_were_written(
    rows: list[tuple[str, ...]], separator: str, end: str, quoting: Any
) -> None:
    names = ("file_name", "the text", "id")
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([names, *rows])
    expected = [{name: cell or None for name, cell in zip(names, row, strict=True)} for row in rows if any(row)]
    assert parse("a.csv", file.getvalue()) == expected
    assert parse("a.csv", f"sep={separator}\r\n{file.getvalue()}") == expected


def test_a_cell_may_hold_lines_and_separators() -> None:
    assert parse("a.csv", 'a,b\r\n"one, two\nthree","say ""so"""\r\n') == [{"a": "one, two\nthree", "b": 'say "so"'}]


def test_the_index_of_pandas_is_no_column() -> None:
    assert parse("a.csv", ",image,text\n0,a.png,A\n1,b.png,B\n") == [
        {"image": "a.png", "text": "A"},
        {"image": "b.png", "text": "B"},
    ]


def test_a_row_that_does_not_fit_the_header_is_left_out() -> None:
    """A caption without quotes would lose what stands behind its comma."""
    reason = "row has another number of cells than the header"
    assert parse("a.csv", "f,caption\na.png,a dog, running\nb.png,a cat\nc.png\n") == [
        reason,
        {"f": "b.png", "caption": "a cat"},
        reason,
    ]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ('a,b\n"x,y\n1,2\n', "unexpected end of data"),
        ('a,b\n"x"y,2\n', r"expected after .* \(line 2\)"),
        ("a,a\n1,2\n", "two columns called a"),
        ("a,,b\n1,2,3\n", "a column without a name"),
    ],
    ids=["a quote that does not end", "words behind a quote", "two of one name", "no name"],
)
def test_what_is_no_csv_is_refused(data: str, names: str) -> None:
    with pytest.raises(DatasetError, match=names):
        parse("a.csv", data)


def test_a_cell_of_a_megabyte_and_the_process_own_bound() -> None:
    before = csv.field_size_limit()
    assert len(parse("a.csv", f"image,text\n{'x' * 1_000_000},b\n")[0]["image"]) == 1_000_000
    assert csv.field_size_limit() == before
