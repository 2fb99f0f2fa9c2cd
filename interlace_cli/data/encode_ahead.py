"""Encodes the samples of the next steps in threads, while the device trains.

Threads and not worker processes: nothing is pickled, so no step needs file descriptors or /dev/shm, and nothing depends
on how processes are started (fork, spawn). All share one cache, so a sample is encoded once and not in each epoch.
Measured on 2 cores with images of 768 x 768: 2 threads encoded a sample in 32 ms, 2 processes in 29. What threads cost
is the GIL: while 4 of them encoded without a pause, an operation of the main thread took 20 to 39 us and beside 4
processes 5 to 9 (3.4 us alone). They do pause: at most AHEAD steps are held, and a step trains for seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch.utils.data import IterableDataset

from interlace_cli.data.batches import Batcher
from interlace_cli.data.prefetch import count_threads
from interlace_cli.data.rows import Encoded, EncodedSteps, encode_sequences

AHEAD = 2
"""Steps that are encoded, or being encoded, beside the one in use."""
WORKERS = 4
"""The most threads."""


def count_encoders(device: torch.device) -> int:
    """How many threads encode beside `device`; 0 beside a CPU, where the training thread does it."""
    return min(count_threads(device), WORKERS)


def iter_steps(source: EncodedSteps, threads: int) -> Generator[list[Encoded]]:
    """The items of `source` in their order, encoded by `threads` threads with batchers of their own; by the caller's
    thread if there are none. What encoding a sample raises is raised in its turn. Once the iterator is closed no
    further sample is begun."""
    if not threads:
        yield from (source[number] for number in range(len(source)))
        return
    own = threading.local()
    running: dict[int, Future[list[Encoded]]] = {}

    def encode(index: int) -> list[Encoded]:
        if not hasattr(own, "batcher"):
            own.batcher = source.batcher.copy()
        batcher: Batcher = own.batcher
        return encode_sequences(source.samples[index], batcher, source.positions)

    def find(index: int) -> list[Encoded] | None:
        future = running.pop(index, None)
        return None if future is None else future.result()

    with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
        try:
            begun = 0
            for number in range(len(source)):
                for later in range(begun, min(number + 1 + AHEAD, len(source))):
                    for index in source.list_samples(later):
                        if index not in running and not source.is_kept(index):
                            running[index] = pool.submit(encode, index)
                    begun = later + 1
                yield source.read(number, find)
        finally:
            for future in running.values():
                future.cancel()


class StepsAhead(IterableDataset[list[Encoded]]):
    """`source` as a DataLoader takes it, which may not have workers. `close` ends the threads."""

    def __init__(self, source: EncodedSteps, threads: int) -> None:
        self.source, self.threads = source, threads
        self._made: list[Generator[list[Encoded]]] = []

    def __iter__(self) -> Iterator[list[Encoded]]:
        self._made.append(iter_steps(self.source, self.threads))
        return self._made[-1]

    def __len__(self) -> int:
        return len(self.source)

    def close(self) -> None:
        """Begins no further sample, and waits for those under way."""
        for made in self._made:
            made.close()
