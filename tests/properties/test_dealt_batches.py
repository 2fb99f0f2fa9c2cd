"""Batches that are dealt out over processes: each is run once, and the results do not depend on who ran them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.evaluation import batch_answers
from interlace_cli.evaluation.batch_answers import BatchAnswers
from interlace_cli.evaluation.generation import Reply
from interlace_cli.evaluation.quality import BatchResult, join_results
from interlace_cli.runtime.processes import Processes

TASKS = st.lists(st.lists(st.integers(1, 4), max_size=7), min_size=1, max_size=5)
"""Of each task the sizes of its batches."""


def plan(sizes: list[int]) -> list[list[int]]:
    """Batches of the samples 0, 1, ... from the last one on."""
    order = list(range(sum(sizes)))[::-1]
    return [[order.pop(0) for _ in range(size)] for size in sizes]


def answer(task: int, batch: Any) -> BatchResult:
    """What a model says, by the batch alone; with losses whose sum depends on its order."""
    replies = tuple(Reply(f"{task}:{index}", index % 3 == 0) for index in batch)
    return BatchResult(tuple(batch), replies, ((0.1 * (task + 1) + 1e9 / (1 + sum(batch)), len(batch)),))


@given(tasks=TASKS, size=st.integers(1, 5), done=st.integers(0, 6))
def test_the_figures_are_those_of_one_process(tasks: list[list[int]], size: int, done: int) -> None:
    plans = [plan(sizes) for sizes in tasks]
    wanted = [[answer(task, batch) for batch in batches] for task, batches in enumerate(plans)]
    # Of these an earlier call has finished.
    known = {(task, tuple(b)): answer(task, b) for task, batches in enumerate(plans) for b in batches[: done - task]}
    ranks = [BatchAnswers(found=known) for _ in range(size)]
    ran: list[tuple[int, tuple[int, ...]]] = []
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        for rank, own in enumerate(ranks):
            patch.setattr(batch_answers, "find_processes", lambda rank=rank: Processes(rank, size))
            told: list[float] = []
            for task, batches in enumerate(plans):
                mine, finish = own.deal(task, batches, lambda done=1, note="": told.append(done))  # noqa: B023
                for batch in mine:
                    ran.append((task, tuple(batch)))
                    finish(answer(task, batch))
            shares.append(len(own._own))
            assert sum(told) == pytest.approx(sum(map(sum, tasks))), "the bar comes to its end on every rank"
        everything = [own._own for own in ranks]
        patch.setattr(batch_answers, "gather", lambda _: everything)
        for own in ranks:
            assert own.collect(plans) == wanted
    assert len(ran) == len(set(ran)), "none is run twice"
    assert not known.keys() & set(ran), "none is run again"
    assert max(shares) - min(shares) <= 1


def test_answers_stand_in_the_order_of_the_samples() -> None:
    found = join_results([answer(0, [2, 0]), answer(0, [1])])
    assert found.answers == ["0:0", "0:1", "0:2"]
    assert found.tokens == 3
    assert found.cut == 1
