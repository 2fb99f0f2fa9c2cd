"""A log that is cut anywhere keeps its whole records, and is gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.domain.record import Record
from interlace_cli.errors import InterlaceError
from interlace_cli.io.append_log import AppendLog, read_log


class Line(Record):
    number: int
    text: str


LINES = st.lists(st.builds(Line, number=st.integers(-9, 99), text=st.text(max_size=6)), max_size=6)


def write(path: Path, key: str, lines: list[Line]) -> None:
    log = AppendLog(path, key)
    for line in lines:
        log.append(line)
    log.close()


@given(
    before=LINES, after=LINES, share=st.floats(0, 1), tail=st.sampled_from([b"", b"\0\0\0", b'{"number": 1', b"[1]\n"])
)
def test_a_log_that_is_cut_anywhere_goes_on(
    before: list[Line], after: list[Line], share: float, tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.jsonl"
    write(path, "key", before)
    whole = path.read_bytes() if before else b""
    cut = whole[: round(share * len(whole))]
    path.write_bytes(cut + tail)
    kept = before[: max(cut.count(b"\n") - 1, 0)]
    assert read_log(path, "key", Line) == kept
    write(path, "key", after)
    assert read_log(path, "key", Line) == [*kept, *after]


def test_a_line_without_its_end_does_not_count(tmp_path: Path) -> None:
    """Wherever it is cut, also where what is left can be read."""
    path, lines = tmp_path / "a.jsonl", [Line(number=1, text="a"), Line(number=2, text="b")]
    write(path, "key", lines)
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        kept = lines[: max(whole[:end].count(b"\n") - 1, 0)]
        assert read_log(path, "key", Line) == kept
        write(path, "key", lines[:1])
        assert read_log(path, "key", Line) == [*kept, lines[0]]


def test_a_log_of_something_else_is_not_read_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [Line(number=1, text="a"), Line(number=2, text="b")]
    write(path, "one", lines)
    assert read_log(path, "other", Line) == []
    write(path, "other", lines[:1])
    assert read_log(path, "other", Line) == lines[:1]
    assert read_log(path, "one", Line) == []


def test_a_log_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")
    with pytest.raises(InterlaceError, match="cannot"):
        write(tmp_path / "a" / "b.jsonl", "key", [Line(number=1, text="a")])
