"""The live view of a run: one line a step, the running one with its bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, build_console, output
from interlace_cli.core.run import STEPS
from interlace_cli.domain.progress import Advance, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class RunView:
    """On a terminal a block of lines that stays in place; elsewhere a line a step when it ends."""

    def __init__(self, fallback: BarProgress, is_plain: bool = False) -> None:
        self.bars: Bars | None = None
        self.progress: Progress = fallback
        # Other processes draw bars of their own.
        self.is_plain = is_plain
        self._jobs: dict[str, int] = {}
        self._running = ""

    def __enter__(self) -> RunView:
        if self.is_plain or output.quiet or not sys.stderr.isatty():
            return self
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.fields[mark]} {task.description:<9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rate]:<20}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=build_console(stderr=True),
        )
        for step in STEPS:
            self._jobs[step] = self.bars.add_task(step, total=1, start=False, mark="·", note="", rate="")
        self.bars.start()
        self.progress = _StepProgress(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def on_step(self, name: str, state: str, seconds: float) -> None:
        """Marks a step as running, done or skipped."""
        output.check_interrupted()
        words = {"running": "", "done": f"{seconds:.1f} s", "skipped": "up to date"}[state]
        if self.bars is None:
            if state != "running":
                output.say(f"{name}: {words}")
            return
        job = self._jobs[name]
        if state == "running":
            self._running = name
            self.bars.start_task(job)  # type: ignore[arg-type]
            self.bars.update(job, mark="▸")  # type: ignore[arg-type]
        else:
            self.bars.update(job, mark="✓", total=1, completed=1, note=words, rate="")  # type: ignore[arg-type]

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        """The running step's bar."""
        bars, job = self.bars, self._jobs[self._running]
        assert bars is not None
        # A reset forgets all fields that it is not given.
        bars.reset(job, total=total, mark="▸", note=description, rate="")  # type: ignore[arg-type]

        def advance(done: float = 1, note: str = "") -> None:
            output.check_interrupted()
            speed = bars.tasks[job].speed or 0.0
            rate = f"{speed / 1e6:,.0f} MB/s" if unit == "bytes" else f"{speed:,.1f} {unit}/s"
            bars.update(job, advance=done, note=note or description, rate=rate)  # type: ignore[arg-type]

        yield advance


class _StepProgress:
    """The core's listener while the view is on."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.task = view.task

    def say(self, line: str) -> None:
        assert self.view.bars is not None
        self.view.bars.console.print(line, highlight=False, markup=False)
