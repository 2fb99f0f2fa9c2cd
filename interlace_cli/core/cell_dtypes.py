"""Cells of a dtype that this machine would not choose: `--dtype auto` is another one on another device."""

from __future__ import annotations

from dataclasses import replace

from interlace_cli.core.cell_work import CellWork
from interlace_cli.options.shared import DTYPES


def choose_dtype(work: CellWork) -> CellWork:
    """The cells of the dtype in which most of them are there, where `auto` leaves that open: who collects them may have
    no GPU."""
    if work.grid.options.evaluate.dtype != "auto":
        return work
    others = _list_others(work)
    return max([work, *others], key=lambda one: -len(one.find_lacking())) if others else work


def tell_other_dtype(work: CellWork) -> None:
    """Says that there are cells which another device has made and this one does not take."""
    if work.grid.options.evaluate.dtype != "auto":
        return
    for other in _list_others(work):
        present = sum(unit.find() is not None for unit in other.list_cells(anew=False))
        if present:
            work.grid.progress.say(
                f"Careful: {present} cells are there in {other.grid.dtype}, of another device. This one computes in"
                f" {work.grid.dtype}, and makes its own: --dtype {other.grid.dtype} would take them."
            )


def _list_others(work: CellWork) -> list[CellWork]:
    grids = [replace(work.grid, dtype=dtype) for dtype in DTYPES if dtype not in ("auto", work.grid.dtype)]
    return [CellWork(grid, grid.list_lines()) for grid in grids]
