"""What the processes of one command tell each other outside of torch's collectives: small values, and that one failed.

It goes through torch's own rendezvous (MASTER_ADDR and MASTER_PORT), so no group of processes has to be open, and none
is opened: which backend that has is decided later, by who trains.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from interlace_cli.errors import InterlaceError, first_line
from interlace_cli.runtime.agreement import describe_difference, find_versions, name_process
from interlace_cli.runtime.processes import Processes, find_processes

ARRIVAL = 900.0
"""Seconds within which all processes have to have come."""
PATIENCE = 60.0
"""Seconds that the first process stays so that the others can read what it has written."""
FAREWELL = 5.0
"""Seconds that it stays when it has failed."""
FAILED = "failed"


class LostPeerError(InterlaceError):
    """Another process of this command has failed, is gone or never came."""


class RefusedError(InterlaceError):
    """The first process has refused what all were about to do; it says why."""


class DisagreementError(InterlaceError):
    """The processes of one command are about to do different things."""


class Exchange:
    """Values of all processes, by rank. All of them have to make the same calls, in the same order."""

    def __init__(self, store: Any, here: Processes) -> None:
        self.store, self.here, self.count = store, here, 0

    def gather(self, topic: str, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks. `topic` says what is exchanged; `value` is what
        JSON can say. Waits for as long as the others live. Raises LostPeerError if one has failed, and
        DisagreementError if one is at another topic."""
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

    def fail(self, sentence: str) -> None:
        """Tells the others why this process ends, if it is the first that does, and stays until they have read it, for
        a few seconds at most. Never raises."""
        said = {"rank": self.here.rank, "host": socket.gethostname(), "why": sentence}
        try:
            self.store.compare_set(FAILED, "", json.dumps(said))
            self._leave(f"{FAILED}/read", FAREWELL)
        except (RuntimeError, LostPeerError):
            return

    def find_failed(self) -> str | None:
        """A sentence on the first process that said that it ends, if another one did."""
        if not self.store.check([FAILED]):
            return None
        said = json.loads(self.store.get(FAILED))
        self.store.add(f"{FAILED}/read", 1)
        if said["rank"] == self.here.rank:
            return None
        return f"{name_process(said['rank'], self.here.size, said['host'])} failed: {said['why']}"

    def _leave(self, name: str, patience: float = PATIENCE) -> None:
        """The first process keeps what all read: it stays until they have."""
        self._call(lambda: self.store.add(name, 1))
        deadline = time.monotonic() + patience
        while self.here.is_main and time.monotonic() < deadline:
            if self._call(lambda: self.store.add(name, 0)) >= self.here.size:
                return
            time.sleep(0.01)

    def _set(self, name: str, value: str) -> None:
        self._call(lambda: self.store.set(name, value))

    def _wait(self, name: str) -> str:
        pause = 0.005
        while not self._call(lambda: self.store.check([name])):
            failed = self._call(self.find_failed)
            if failed is not None:
                raise LostPeerError(failed)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        value: bytes = self._call(lambda: self.store.get(name))
        return value.decode()

    def _call(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:
            raise LostPeerError(
                f"{name_process(0, self.here.size, 'the first host')} is gone, or cannot be reached any more:"
                f" {first_line(error)}.",
                "The same command goes on.",
            ) from error


@cache
def open_exchange() -> Exchange:
    """This process's way to the others. Waits until all have come, for 15 minutes at most. Raises LostPeerError if they
    do not."""
    here = find_processes()
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", here.rank, here.size, timeout=timedelta(seconds=ARRIVAL)))
    except (RuntimeError, ValueError) as error:
        raise LostPeerError(
            f"{name_process(here.rank, here.size, socket.gethostname())} waited for the others for"
            f" {ARRIVAL / 60:.0f} minutes, or could not reach the first of them: {first_line(error)}.",
            "MASTER_ADDR and MASTER_PORT say where the first process is; the launcher sets them.",
        ) from error
    return Exchange(PrefixStore("interlace", store), here)


def gather_values(topic: str, value: Any) -> list[Any]:
    """`Exchange.gather`; where there is but one process, its value."""
    return [value] if find_processes().size == 1 else open_exchange().gather(topic, value)


def take_from_main(topic: str, make: Callable[[], Any]) -> Any:
    """What `make` returns on the first process, on all of them; it is called there alone. The value is what JSON can
    say. What it raises there is raised there, and as a RefusedError with the same words on the others."""
    here = find_processes()
    if here.size == 1:
        return make()
    exchange = open_exchange()
    if not here.is_main:
        said = exchange.gather(topic, None)[0]
        if said["refused"] is not None:
            raise RefusedError(*said["refused"])
        return said["value"]
    try:
        value = make()
    except Exception as error:
        words = [error.what, error.fix] if isinstance(error, InterlaceError) else [first_line(error), ""]
        exchange.gather(topic, {"refused": words})
        raise
    exchange.gather(topic, {"refused": None, "value": value})
    return value


def agree(topic: str, facts: Mapping[str, str]) -> None:
    """Compares `facts` (name as in a sentence -> value) and the versions of what is installed over all processes, which
    all have to call it. Raises DisagreementError, with the same sentence on each of them."""
    if find_processes().size == 1:
        return
    found = gather_values(topic, {**find_versions(), **facts})
    refuse_difference(found, open_exchange().hosts)


def refuse_difference(facts: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> None:
    """Raises DisagreementError if `facts[rank]` are not the same for all."""
    sentence = describe_difference(facts, hosts)
    if sentence is not None:
        raise DisagreementError(sentence, "All of them have to be started alike.")
