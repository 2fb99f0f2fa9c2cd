"""Progress without a terminal, by a clock of the test's own."""

from __future__ import annotations

import io
import sys

import pytest

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.progress_lines import LineTask


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def follow(total: float, unit: str) -> tuple[LineTask, Clock, list[str]]:
    clock, lines = Clock(), []
    return LineTask("heal", total, unit, lines.append, clock), clock, lines


def test_a_line_every_thirty_seconds() -> None:
    task, clock, lines = follow(2000, "steps")
    for number in range(1, 601):
        clock.now += 0.5
        task.advance(1, f"loss {1 / number:.4f}")
    assert len(lines) == 300 // 30
    assert lines[0] == "heal: 60 of 2,000 steps (3%), 2.0 steps/s, 16 min left, loss 0.0167"
    assert lines[-1] == "heal: 600 of 2,000 steps (30%), 2.0 steps/s, 12 min left, loss 0.0017"


def test_steps_that_were_done_before_say_nothing_of_the_rate() -> None:
    task, clock, lines = follow(1100, "steps")
    task.advance(1000)
    for _ in range(4):
        clock.now += 20
        task.advance()
    assert lines == [
        "heal: 1,002 of 1,100 steps (91%), 20.0 s each, 33 min left",
        "heal: 1,004 of 1,100 steps (91%), 20.0 s each, 32 min left",
    ]


def test_one_long_unit_is_told_when_it_ends() -> None:
    task, clock, lines = follow(2, "gaps")
    clock.now += 300
    task.advance()
    assert lines == ["heal: 1 of 2 gaps (50%), 300.0 s each, 5 min left"]


def test_bytes_are_told_as_megabytes() -> None:
    task, clock, lines = follow(4e9, "bytes")
    for _ in range(3):
        clock.now += 15
        task.advance(1e9)
    assert lines == ["heal: 2,000 of 4,000 MB (50%), 67 MB/s, 30 s left"]


def test_every_step_has_them_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(output, "interrupted", False)
    for quiet, wanted in ((False, "eval dense: 1 of 3 samples (33%), 40.0 s each, 80 s left\n"), (True, "")):
        monkeypatch.setattr(output, "quiet", quiet)
        with BarProgress(clock).task("eval dense", 3, "samples") as advance:
            clock.now += 40
            advance()
        assert capsys.readouterr().err == wanted


def test_an_error_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes one may be ended meanwhile, and leave no half of a line before what another says."""
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stream())
    output.fail("there is no [x]: " + "y" * 300)
    assert [text for text in written if text] == [f"Error: there is no [x]: {'y' * 300}\n"]
