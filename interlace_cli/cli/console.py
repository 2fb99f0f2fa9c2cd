"""The only writer to stdout and stderr: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from interlace_cli.domain.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bars

    from interlace_cli.domain.record import Record


class Output:
    """How this call wants to be answered; set once by the common options."""

    def __init__(self) -> None:
        self.as_json = False
        self.quiet = False
        self.debug = False
        self.interrupted = False
        self.ended = False
        self.stream: TextIO | None = None

    def interrupt(self, *_: object) -> None:
        """The handler of Ctrl-C and of a request to end; while it clears up, and once the command has ended, another
        one changes nothing."""
        if self.interrupted or self.ended:
            return
        self.interrupted = True
        raise KeyboardInterrupt

    def check_interrupted(self) -> None:
        """Raises the KeyboardInterrupt again that Python drops where it meets a library's callback (a weak reference's,
        an executor's)."""
        if self.interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def own_stdout(self) -> Iterator[None]:
        """Sends to stderr whatever libraries print meanwhile, compilers that they start included: stdout is for
        results."""
        original = sys.stdout
        is_real = original is sys.__stdout__
        kept = os.dup(1) if is_real else -1
        self.stream = os.fdopen(os.dup(1), "w", encoding="utf-8") if is_real else original
        if is_real:
            os.dup2(2, 1)
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            self.stream.flush()
            if is_real:
                os.dup2(kept, 1)
                os.close(kept)
                self.stream.close()
            self.stream = None

    def find_stdout(self) -> int | None:
        """The open file of stdout as it was, for another process to answer on; None where there is none."""
        return self.stream.fileno() if self.stream is not None and self.stream is not sys.__stdout__ else None

    def configure(self, as_json: bool, quiet: bool, debug: bool) -> None:
        """Sets the answer's form; the boundary resets it before each call."""
        self.as_json, self.quiet, self.debug = as_json, quiet, debug
        self.ended = False

    def result(self, record: Record, *parts: RenderableType | Callable[[], list[RenderableType]]) -> None:
        """The record as JSON for programs, `parts` for people; those that are functions are made for people alone."""
        if self.as_json:
            from interlace_cli.io.artifacts import to_json

            self.write(to_json(record).decode())
        elif not self.quiet:
            console = build_console(stderr=False)
            for part in parts:
                for shown in part() if callable(part) else [part]:
                    console.print(shown, highlight=False)

    def write(self, text: str) -> None:
        """Text on stdout, as it is."""
        stream = self.stream or sys.stdout
        stream.write(text)
        stream.flush()

    def say(self, line: str) -> None:
        """One line for people, on stderr."""
        if not self.quiet:
            build_console(stderr=True).print(line, highlight=False, markup=False)

    def fail(self, line: str) -> None:
        """An error, on stderr, quiet or not."""
        console = build_console(stderr=True)
        if console.is_terminal:
            from rich.control import Control
            from rich.segment import ControlType

            # Another process, ended while it drew a bar, left the cursor hidden and in the line.
            console.show_cursor(True)
            console.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))
        # Written at once: a process that is ended meanwhile leaves no half of it.
        from rich.text import Text

        console.print(Text.assemble(("Error: ", "bold red"), line), highlight=False, soft_wrap=True)


output = Output()


def build_console(stderr: bool) -> Console:
    """On a terminal as wide as it is; elsewhere wide enough that no table is cut."""
    from rich.console import Console

    stream = sys.stderr if stderr else output.stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 160)


class BarProgress:
    """Progress bars with rate and time left on a terminal; elsewhere a line every now and then, by `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.bars: Bars | None = None
        self.clock = clock

    def say(self, line: str) -> None:
        """One line, above the bar if there is one."""
        if self.bars is not None:
            self.bars.console.print(line, highlight=False, markup=False)
        else:
            output.say(line)

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        """A bar that is gone when the work is done, or the lines of `LineTask`."""
        if output.quiet:
            yield _ignore
            return
        if not sys.stderr.isatty():
            yield self._follow(description, total, unit)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=build_console(stderr=True), transient=True) as bars:
            self.bars = bars
            job = bars.add_task(description, total=total, note="", rate="")

            def advance(done: float = 1, note: str = "") -> None:
                output.check_interrupted()
                speed = bars.tasks[job].speed or 0.0
                rate = f"{speed / 1e6:,.0f} MB/s" if unit == "bytes" else f"{speed:,.1f} {unit}/s"
                bars.update(job, advance=done, note=note, rate=rate)

            try:
                yield advance
            finally:
                self.bars = None

    def _follow(self, description: str, total: float, unit: str) -> Advance:
        from interlace_cli.cli.progress_lines import LineTask

        followed = LineTask(description, total, unit, self.say, self.clock)

        def advance(done: float = 1, note: str = "") -> None:
            output.check_interrupted()
            followed.advance(done, note)

        return advance


def _ignore(done: float = 1, note: str = "") -> None:
    del done, note
    output.check_interrupted()
