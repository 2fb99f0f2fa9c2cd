"""Builds the next batches in threads while the device computes.

Most of a batch's time goes into its images; image decoders, numpy and tokenizers release the GIL.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from interlace_cli.data.batches import Batcher, Inputs, cast_on_host, order_by_length, to_model
from interlace_cli.domain.dataset import Sample
from interlace_cli.runtime.dispatch import find_input_device
from interlace_cli.runtime.processes import find_processes

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
MOST_THREADS = 8


def read_ahead(
    items: Sequence[Item],
    make: Callable[[Batcher, Item], tuple[Inputs, ...]],
    batcher: Batcher,
    model: Any,
    threads: int | None = None,
) -> Generator[tuple[Inputs, ...]]:
    """`make(batcher, item)` of each item in order, passed through `cast_on_host`.

    At most one batch a thread is held beside the one in use. Threads beyond the first have copies of the batcher: a
    fast tokenizer holds its padding as state, which two threads would change under each other (seen with tokenizers
    0.23). What `make` raises is raised here, in its turn; once the iterator is closed no further batch is begun. With
    no `threads` each is made when it is asked for.
    """
    count = count_threads(find_input_device(model)) if threads is None else threads
    if not count:
        yield from (cast_on_host(make(batcher, item), model) for item in items)
        return
    free: SimpleQueue[Batcher] = SimpleQueue()
    for number in range(min(count, len(items))):
        free.put(batcher.copy() if number else batcher)

    def work(item: Item) -> tuple[Inputs, ...]:
        own = free.get()
        try:
            return cast_on_host(make(own, item), model)
        finally:
            free.put(own)

    waiting = iter(items)
    with ThreadPoolExecutor(count, thread_name_prefix="read-ahead") as pool:
        made: deque[Future[tuple[Inputs, ...]]] = deque(pool.submit(work, item) for item in islice(waiting, count))
        try:
            while made:
                batch = made.popleft().result()
                made.extend(pool.submit(work, item) for item in islice(waiting, 1))
                yield batch
        finally:
            for future in made:
                future.cancel()


def iter_calibration(
    batcher: Batcher,
    samples: Sequence[Sample],
    batch_size: int,
    model: Any,
    labelled: Callable[[Inputs], Inputs] | None = None,
    is_moved: bool = True,
) -> Iterator[Inputs]:
    """Batches of whole conversations, in the order of `order_by_length`; without labels, or as `labelled` returns them.
    They lie on the model's device, or, not `is_moved`, on the host, ready to be moved."""

    # It loads torch, which not all that imports this file has loaded.
    from interlace_cli.data.padding import Padding, find_padding

    padding = find_padding(model, batcher, samples, lambda line: None) if batch_size > 1 else Padding()

    def make(own: Batcher, chosen: list[int]) -> tuple[Inputs]:
        batch = padding.complete(own.build_conversations([samples[i] for i in chosen]))
        if labelled is not None:
            return (labelled(batch),)
        del batch["labels"]
        return (batch,)

    for (batch,) in read_ahead(cut(order_by_length(samples), padding.limit(batch_size)), make, batcher, model):
        yield to_model(batch, model) if is_moved else batch


def cut(order: Sequence[Item], size: int) -> list[list[Item]]:
    """Consecutive pieces of `size` items; the last one may be shorter."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def count_threads(device: torch.device) -> int:
    """How many threads build batches for `device`: half of this process's share of the cores if a GPU computes, at most
    MOST_THREADS; 0 if the CPU does. On two cores one thread made an analysis 0.97 to 1.03 times as fast (`interlace
    bench analyze`) and held one more batch in memory."""
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2 // find_processes().on_machine, 1), MOST_THREADS)
