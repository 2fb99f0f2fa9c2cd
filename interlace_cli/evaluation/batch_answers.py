"""What a checkpoint made of each batch: dealt out over the processes, saved as it comes, and put together again.

The batches are the same whatever the number of processes, and are put together in their own order. So the figures are
those of one process, also of a call that was interrupted and goes on in another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from interlace_cli.domain.evaluation import KeptBatch
from interlace_cli.domain.progress import Advance
from interlace_cli.evaluation.generation import Reply
from interlace_cli.evaluation.quality import BatchResult
from interlace_cli.runtime.processes import find_processes, gather

if TYPE_CHECKING:
    from interlace_cli.io.append_log import AppendLog

Place = tuple[int, tuple[int, ...]]
"""The number of the task, and the indices of the batch's samples."""


class BatchAnswers:
    """The batches of one checkpoint, called `name` in the file `log`. `found` are those that an earlier call has saved,
    the same in every process."""

    def __init__(self, name: str = "", log: AppendLog | None = None, found: Mapping[Place, BatchResult] | None = None):
        self.name, self.log = name, log
        self.found: dict[Place, BatchResult] = dict(found or {})
        self._own: list[tuple[int, BatchResult]] = []
        self._dealt = 0

    def deal(
        self, task: int, batches: Sequence[Sequence[int]], advance: Advance
    ) -> tuple[list[Sequence[int]], Callable[[BatchResult], None]]:
        """This process's share of a task's batches that are not there, and what to call with the result of each.
        `advance` is told of the samples of all processes, as if they were equally fast."""
        here = find_processes()
        todo = [batch for batch in batches if (task, tuple(batch)) not in self.found]
        # Tasks of a batch each would otherwise all be the first process's.
        mine = todo[(here.rank - self._dealt) % here.size :: here.size]
        self._dealt += len(todo)
        missing, own = _count(todo), _count(mine)
        advance(_count(batches) - (missing if own else 0))

        def finish(result: BatchResult) -> None:
            if self.log is not None:
                self.log.append(_to_record(self.name, task, result))
            self._own.append((task, result))
            advance(len(result.samples) * missing / own)

        return mine, finish

    def collect(self, planned: Sequence[Sequence[Sequence[int]]]) -> list[list[BatchResult]]:
        """The results of the batches of each task, in the order of `planned`, in every process; all of them call it."""
        for results in gather([self._own]):
            self.found.update({(task, result.samples): result for task, result in results})
        return [[self.found[task, tuple(batch)] for batch in batches] for task, batches in enumerate(planned)]


def read_records(records: Sequence[KeptBatch]) -> dict[str, dict[Place, BatchResult]]:
    """Saved batches, by the checkpoint and their place."""
    found: dict[str, dict[Place, BatchResult]] = {}
    for record in records:
        replies = tuple(Reply(text, is_cut) for text, is_cut in record.replies)
        result = BatchResult(tuple(record.samples), replies, tuple(record.losses))
        found.setdefault(record.checkpoint, {})[record.task, result.samples] = result
    return found


def _to_record(name: str, task: int, result: BatchResult) -> KeptBatch:
    return KeptBatch(
        checkpoint=name,
        task=task,
        samples=list(result.samples),
        replies=[(reply.text, reply.is_cut) for reply in result.replies],
        losses=list(result.losses),
    )


def _count(batches: Sequence[Sequence[int]]) -> int:
    return sum(map(len, batches))
