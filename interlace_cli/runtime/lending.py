"""How processes that hold a part of a model each get at the whole: whoever needs a layer's weights asks, and all lend
theirs for it.

The processes need not do the same. They meet in rounds, in which each says what it waits for; from that all choose the
same, do it, and go on to the next round until each has what it asked for. One that waits for the others elsewhere
(`settle`), or has nothing of its own to do (`lend`), serves meanwhile. So samples may be dealt out, replies may be of
different lengths, some forwards may have no picture, and one process may work while the others only hold their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from interlace_cli.errors import InterlaceError
from interlace_cli.runtime.accelerator import is_cuda
from interlace_cli.runtime.processes import call_before_meeting, find_processes

if TYPE_CHECKING:
    from torch import Tensor

LONG = timedelta(days=30)
"""Others may wait for what one process does by itself. One that is gone is noticed at once."""


class Wish(IntEnum):
    """What a process waits for: nothing of its own, that all are ready to load a model, a unit's weights, or that all
    take their part of a unit's changed weights."""

    NOTHING = 0
    LOAD = 1
    GATHER = 2
    STORE = 3


@dataclass(frozen=True, order=True)
class Post:
    """What one process says in a round."""

    wish: Wish = Wish.NOTHING
    model: int = 0
    unit: int = 0


@dataclass(frozen=True)
class Choice:
    """What a round does, for the processes `ranks`."""

    post: Post
    ranks: tuple[int, ...]


def choose(posts: Sequence[Post]) -> Choice:
    """The same from the same posts. Changed weights go first, one process's at a time; then the unit that comes first
    in the model, so that whoever is behind catches up. Models are loaded when nobody needs another one any more."""
    stores = [rank for rank, post in enumerate(posts) if post.wish is Wish.STORE]
    if stores:
        return Choice(posts[stores[0]], (stores[0],))
    gathers = [post for post in posts if post.wish is Wish.GATHER]
    wanted = min(gathers) if gathers else max(posts)
    return Choice(wanted, tuple(rank for rank, post in enumerate(posts) if post.wish is wanted.wish and post == wanted))


def slice_rows(shape: Sequence[int], rank: int, size: int) -> slice:
    """The rows of the process `rank`."""
    rows = -(-shape[0] // size)
    return slice(min(rank * rows, shape[0]), min((rank + 1) * rows, shape[0]))


@dataclass
class Part:
    """One tensor that is divided by its rows (dimension 0): of the `shape`, this process has the rows `local`."""

    local: Tensor
    shape: tuple[int, ...]

    def count_rows(self, size: int) -> int:
        """Rows of one process; the last ones may have fewer, or none."""
        return -(-self.shape[0] // size)

    def make_room(self, size: int) -> Tensor:
        """An empty tensor for the rows of all, those that only fill up too."""
        import torch

        rows = self.count_rows(size) * size
        return torch.empty((rows, *self.shape[1:]), dtype=self.local.dtype, device=self.local.device)

    def pad(self, size: int) -> Tensor:
        """This process's rows as bytes, filled up to the number that all have."""
        rows, local = self.count_rows(size), self.local
        if len(local) < rows:
            filled = local.new_zeros((rows, *self.shape[1:]))
            filled[: len(local)] = local
            local = filled
        return _to_bytes(local)


@dataclass
class Units:
    """The divided tensors of a model, unit by unit: what is gathered at a time. `is_used`: whether this process still
    has the model itself."""

    parts: list[list[Part]]
    is_used: Callable[[], bool]


class Order(Protocol):
    """That a model is to be loaded. It is pickled."""

    @property
    def device(self) -> str:
        """The kind of it."""

    @property
    def key(self) -> tuple[str | None, ...]:
        """What all who order it have to agree on."""

    def load(self) -> None:
        """Loads this process's part."""


@dataclass
class Lending:
    """This process's end. `number` is that of the model that was begun last."""

    rank: int
    size: int
    control: Any
    weights: Any = None
    models: dict[int, Units] = field(default_factory=dict)
    number: int = -1
    is_ordered: bool = False

    def gather(self, model: int, unit: int) -> list[Tensor]:
        """The whole tensors of the unit, on the device of the parts. Room is made first: where there is none, the
        others do not wait for an answer."""
        room = [part.make_room(self.size) for part in self.models[model].parts[unit]]
        self._meet_until(Post(Wish.GATHER, model, unit), room)
        parts = self.models[model].parts[unit]
        return [whole[: part.shape[0]] for whole, part in zip(room, parts, strict=True)]

    def store(self, model: int, unit: int, wholes: Sequence[Tensor]) -> None:
        """Every process takes its rows of the changed tensors of the unit."""
        self._meet_until(Post(Wish.STORE, model, unit), list(wholes))

    def begin_load(self, order: Order) -> None:
        """Waits until all are ready to load this model, or to do it because they are told to; `number` is then its.
        Raises InterlaceError where some are about to load another one."""
        if not self.is_ordered:
            self._meet_until(Post(Wish.LOAD), [], order)

    def settle(self) -> None:
        """Serves the others until none waits for anything: all have come to the same place."""
        self._meet_until(Post(), [])

    def _meet_until(self, post: Post, tensors: list[Tensor], order: Order | None = None) -> None:
        is_done = False
        while not is_done:
            choice = choose(self._tell(post))
            is_done = self.rank in choice.ranks
            self._act(choice, tensors if is_done else None, order)

    def _tell(self, post: Post) -> list[Post]:
        import torch
        import torch.distributed as dist

        said = torch.tensor([post.wish, post.model, post.unit])
        heard = [torch.empty_like(said) for _ in range(self.size)]
        dist.all_gather(heard, said, group=self.control)
        return [Post(Wish(wish), model, unit) for wish, model, unit in (one.tolist() for one in heard)]

    def _act(self, choice: Choice, tensors: list[Tensor] | None, order: Order | None) -> None:
        wish = choice.post.wish
        if wish is Wish.LOAD:
            self._begin(choice, order)
        if wish not in (Wish.GATHER, Wish.STORE):
            return
        for index, part in enumerate(self.models[choice.post.model].parts[choice.post.unit]):
            mine = None if tensors is None else tensors[index]
            if wish is Wish.GATHER:
                self._gather_part(part, mine, choice.ranks)
            else:
                self._scatter_part(part, mine, choice.ranks[0])

    def _gather_part(self, part: Part, room: Tensor | None, ranks: tuple[int, ...]) -> None:
        """To one process alone where only one wants it: the others then need no room for the whole."""
        import torch.distributed as dist

        own = part.pad(self.size)
        if len(ranks) == 1:
            rows = None if room is None else list(_to_bytes(room).chunk(self.size))
            dist.gather(own, rows, group=self.weights, group_dst=ranks[0])
            return
        whole = part.make_room(self.size) if room is None else room
        # The first is the name since torch 2.13.
        gather_all = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather_all(_to_bytes(whole), own, group=self.weights)

    def _scatter_part(self, part: Part, whole: Tensor | None, source: int) -> None:
        import torch.distributed as dist

        rows = part.count_rows(self.size)
        own, given = _to_bytes(part.local.new_empty((rows, *part.shape[1:]))), None
        if whole is not None:
            filled = whole.new_zeros((rows * self.size, *part.shape[1:]))
            filled[: part.shape[0]] = whole
            given = list(_to_bytes(filled).chunk(self.size))
        dist.scatter(own, given, group=self.weights, group_src=source)
        part.local.copy_(own.view(part.local.dtype).view(rows, *part.shape[1:])[: len(part.local)])

    def _begin(self, choice: Choice, order: Order | None) -> None:
        """Those who wait for it load it; the others do as they say. Models that none has any more are given up."""
        import torch.distributed as dist

        unused = {number for number, units in self.models.items() if not units.is_used()}
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, (unused, order), group=self.control)
        for number in set.intersection(*(one for one, _ in said)):
            del self.models[number]
        orders = [said[rank][1] for rank in choice.ranks]
        if len({one.key for one in orders}) > 1:
            raise InterlaceError("the processes of this command are about to load different models.")
        if self.weights is None:
            backend = "nccl" if is_cuda(orders[0].device) else "gloo"
            self.weights = dist.new_group(backend=backend, timeout=LONG)
        self.number += 1
        if self.rank not in choice.ranks:
            self.is_ordered = True
            try:
                orders[0].load()
            finally:
                self.is_ordered = False


def _to_bytes(tensor: Tensor) -> Tensor:
    """The same memory, flat: libraries that send do not know every dtype."""
    import torch

    return tensor.detach().contiguous().view(-1).view(torch.uint8)


_open: list[Lending] = []


def open_lending() -> Lending:
    """That of this process; all call it together the first time."""
    import torch.distributed as dist

    if not dist.is_initialized():
        # That of an earlier command has left.
        _open.clear()
        dist.init_process_group("gloo")
    if not _open:
        here = find_processes()
        _open.append(Lending(here.rank, here.size, dist.new_group(backend="gloo", timeout=LONG)))
        call_before_meeting(settle)
    return _open[0]


def settle() -> None:
    """Before all processes meet for anything else: see `Lending.settle`. Nothing where no model is divided."""
    import torch.distributed as dist

    for lending in _open if dist.is_initialized() else []:
        lending.settle()
