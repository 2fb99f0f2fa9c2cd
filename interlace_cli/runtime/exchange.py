"""What the processes of one command tell each other outside of torch's collectives: small values, and that one failed.

It goes through torch's own rendezvous (MASTER_ADDR and MASTER_PORT), so no group of processes has to be open, and none
is opened: which backend that has is decided later, by who trains.
"""

from __future__ import annotations

import json
import pickle
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeVar

from interlace_cli.errors import AgreedError, DisagreementError, InterlaceError, LostPeerError, RefusedError, first_line
from interlace_cli.runtime.agreement import describe_difference, find_versions, name_process
from interlace_cli.runtime.processes import (
    Processes,
    find_processes,
    has_open_group,
    is_connection_lost,
    prepare_to_meet,
)
from interlace_cli.runtime.watch import AGAIN, PAUSE, find_lost, is_watching, open_hub, refuse_lost, tell_others, watch

ARRIVAL = 900.0
"""Seconds within which all processes have to have come."""
SOON = 30.0
"""Seconds within which they have to have come if there is but a failure to be told."""
SIGNAL_PAUSE = 0.5
"""Seconds in which it becomes known whether a launcher ends this process because another one is gone."""
PATIENCE = 60.0
"""Seconds that the first process stays so that the others can read what it has written."""
PART = 1 << 20
"""Characters that are written at once, of at most four bytes each."""
T = TypeVar("T")


class Exchange:
    """Values of all processes, by rank. All of them have to make the same calls, in the same order."""

    def __init__(self, store: Any, here: Processes) -> None:
        self.store, self.here, self.count = store, here, 0
        self.hosts = [socket.gethostname()]

    def gather(self, topic: str, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks. `topic` says what is exchanged; `value` is what
        JSON can say. Waits for as long as the others live. Raises LostPeerError if one has failed, and
        DisagreementError if one is at another topic."""
        prepare_to_meet()
        self.count += 1
        name, here = f"exchange/{self.count}", self.here
        own = json.dumps({"topic": topic, "value": value, "host": socket.gethostname()})
        self._set(f"{name}/{here.rank}", own)
        if here.is_main:
            said = [self._wait(f"{name}/{rank}") for rank in range(here.size)]
            self._set(f"{name}/all", json.dumps([json.loads(one) for one in said]))
        everything = json.loads(self._wait(f"{name}/all"))
        self._leave(f"{name}/read")
        topics = [{"what comes next": one["topic"]} for one in everything]
        self.hosts = [str(one["host"]) for one in everything]
        refuse_difference(topics, self.hosts)
        return [one["value"] for one in everything]

    def _leave(self, name: str) -> None:
        """The first process keeps what all read: it stays until they have."""
        self._call(lambda: self.store.add(name, 1))
        deadline = time.monotonic() + PATIENCE
        while self.here.is_main and time.monotonic() < deadline:
            if self._call(lambda: self.store.add(name, 0)) >= self.here.size:
                return
            time.sleep(0.01)

    def _set(self, name: str, value: str) -> None:
        """In parts: torch takes no more than 8 MiB at once. All of it is there once `name` is."""
        parts = range(0, len(value), PART)
        for number, start in enumerate(parts):
            self._call(partial(self.store.set, f"{name}/part-{number}", value[start : start + PART]))
        self._call(lambda: self.store.set(name, str(len(parts))))

    def _wait(self, name: str) -> str:
        pause = 0.005
        while not self._call(lambda: self.store.check([name])):
            refuse_lost()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        count = int(self._call(lambda: self.store.get(name)))
        parts: list[bytes] = [self._call(partial(self.store.get, f"{name}/part-{number}")) for number in range(count)]
        return b"".join(parts).decode()

    def _call(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:
            refuse_lost(PAUSE)
            raise LostPeerError(
                f"{name_process(0, self.here.size, 'the first host')} is gone, or cannot be reached any more:"
                f" {first_line(error)}.",
                AGAIN,
            ) from error


@cache
def open_exchange() -> Exchange:
    """This process's way to the others, whom it watches from now on. Waits until all have come, for 15 minutes at most.
    Raises InterlaceError if they do not."""
    return _open(ARRIVAL)


def _open(arrival: float) -> Exchange:
    here = find_processes()
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", here.rank, here.size, timeout=timedelta(seconds=arrival)))
    except (RuntimeError, ValueError) as error:
        raise InterlaceError(
            f"{name_process(here.rank, here.size, socket.gethostname())} waited for the others for"
            f" {arrival / 60:.0f} minutes, or could not reach the first of them: {first_line(error)}.",
            "MASTER_ADDR and MASTER_PORT say where the first process is; the launcher sets them.",
        ) from error
    made = Exchange(PrefixStore("interlace", store), here)
    listener, hub = open_hub() if here.is_main else (None, None)
    watch(here, made.gather("the watch", hub)[0], listener)
    return made


def gather_values(topic: str, value: Any) -> list[Any]:
    """`Exchange.gather`; where there is but one process, its value."""
    return [value] if find_processes().size == 1 else open_exchange().gather(topic, value)


def take_from_main(topic: str, make: Callable[[], T]) -> T:
    """What `make` returns on the first process, on all of them; it is called there alone. What it raises is raised
    there, and as a RefusedError with the same words on the others. Values are pickled, as by torch's own collectives of
    objects."""
    here = find_processes()
    if here.size == 1:
        return make()
    exchange = open_exchange()
    if not here.is_main:
        answer = exchange.gather(topic, None)[0]
        if answer["refused"] is not None:
            raise RefusedError(*answer["refused"])
        found: T = pickle.loads(b64decode(answer["value"]))
        return found
    try:
        value = make()
    except Exception as error:
        said = error if isinstance(error, InterlaceError) else InterlaceError(f"{first_line(error).rstrip('.')}.")
        exchange.gather(topic, {"refused": [said.what, said.fix, said.exit_code]})
        raise
    exchange.gather(topic, {"refused": None, "value": b64encode(pickle.dumps(value)).decode()})
    return value


def leave_processes() -> None:
    """Waits for the other processes at the end, as long as they live, and closes their group: without that, some have
    been seen to abort. No collective of the group waits: NCCL would end it while the first one writes a large result.
    """
    if find_processes().size == 1 or not has_open_group():
        return
    import torch.distributed as dist

    gather_values("the end", None)
    dist.destroy_process_group()


def find_hosts() -> list[str]:
    """The host of each rank, as it was said in the last exchange."""
    return open_exchange().hosts if find_processes().size > 1 else [socket.gethostname()]


def agree(topic: str, facts: Mapping[str, str]) -> None:
    """Compares `facts` (name as in a sentence -> value) and the versions of what is installed over all processes, which
    all have to call it. Raises DisagreementError, with the same sentence on each of them."""
    if find_processes().size == 1:
        return
    found = gather_values(topic, {**find_versions(), **facts})
    refuse_difference(found, find_hosts())


def explain_lost(error: BaseException) -> LostPeerError | None:
    """What really happened, where this process ends because another one did."""
    if isinstance(error, KeyboardInterrupt):
        lost = find_lost(SIGNAL_PAUSE)
    else:
        lost = find_lost(PAUSE) if is_connection_lost(error) else None
    return None if lost is None else LostPeerError(lost)


def leave_word(error: BaseException) -> None:
    """Tells the others that this process ends by `error`, so that none waits for it. What they know is not told, and
    nothing if they cannot be reached soon."""
    if find_processes().size == 1:
        return
    said = describe_failure(error)
    if said is not None and not is_watching():
        with suppress(InterlaceError):
            _open(SOON)
    tell_others({"done": True} if said is None else {"failed": said})


def describe_failure(error: BaseException) -> str | None:
    """What the others have to be told of it; None if nothing."""
    if isinstance(error, AgreedError) or is_connection_lost(error):
        return None
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted."
    return str(error) if isinstance(error, InterlaceError) else f"{type(error).__name__}: {first_line(error)}"


def refuse_difference(facts: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> None:
    """Raises DisagreementError if `facts[rank]` are not the same for all."""
    sentence = describe_difference(facts, hosts)
    if sentence is not None:
        raise DisagreementError(sentence, "All of them have to be started alike.")
