"""What helps when healing runs out of memory, and where: the one rule.

A step that does not fit goes down two rungs by itself: gradient checkpointing, then rows of half as many tokens. Both
make activations smaller, so they help where a row is computed, and nowhere else. What does not fit for the weights, the
optimizer or the host needs another command; `advise` names what of it is left and helps at that place. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from interlace_cli.errors import ShortageError
from interlace_cli.options.finetune import HOST_OPTIMIZERS
from interlace_cli.runtime.accelerator import is_cpu
from interlace_cli.runtime.memory import is_out_of_memory
from interlace_cli.runtime.shortage import Shortage, read_shortage

if TYPE_CHECKING:
    from interlace_cli.healing.engine import Engine
    from interlace_cli.healing.recipe import Recipe


class Place(Enum):
    """What did not fit."""

    MODEL = "the model with its tuned layers in float32"
    TEACHER = "the dense model beside the one that is healed"
    TRIAL = "a first forward of a few samples"
    STATE = "the state of training"
    ROW = "a row"
    OPTIMIZER = "the optimizer's step"
    LOCAL = "a layer that learns alone"
    SAVING = "what is copied to the host to be saved"


COMPUTED = frozenset({Place.TRIAL, Place.ROW, Place.LOCAL})
"""Where activations are part of it."""
TRAINED = frozenset({Place.STATE, Place.ROW, Place.OPTIMIZER})
"""Where gradients, master weights and moments are."""
DEVICE = frozenset(Place) - {Place.SAVING}
HOST = frozenset(Place)
MOST = 3
"""Pieces of advice that are given at once."""


@dataclass(frozen=True)
class Setup:
    """How healing runs: what of the ladder is used already."""

    device: str
    dtype: str
    engine: str
    optim: str
    processes: int
    is_checkpointed: bool
    has_teacher: bool

    @classmethod
    def of(cls, recipe: Recipe, engine: Engine, device: str, is_checkpointed: bool, has_teacher: bool) -> Setup:
        """That of a recipe on an engine."""
        return cls(device, recipe.dtype, engine.name, recipe.optim, engine.size, is_checkpointed, has_teacher)

    @property
    def is_gpu(self) -> bool:
        """Whether weights and training state lie on a device of their own."""
        return not is_cpu(self.device)

    @property
    def is_whole(self) -> bool:
        """Whether one process holds all of the training state on its device."""
        return self.engine in ("auto", "ddp")


@dataclass(frozen=True)
class Rung:
    """Something to do, the places where it helps, and whether it is left to be done. `host`: the places where it also
    helps when the host's memory is short, and a GPU computes."""

    words: str
    places: frozenset[Place]
    is_left: Callable[[Setup], bool]
    host: frozenset[Place] = frozenset()


LADDER = (
    Rung("--gradient-checkpointing", frozenset({Place.ROW}), lambda s: not s.is_checkpointed),
    Rung(
        "--dtype bfloat16",
        DEVICE,
        lambda s: s.dtype == "float32" and s.is_gpu,
        host=frozenset({Place.MODEL, Place.TEACHER}),
    ),
    Rung(
        "--engine offload",
        TRAINED | {Place.MODEL, Place.TEACHER, Place.TRIAL},
        lambda s: s.is_gpu and s.is_whole and s.processes == 1 and s.optim in HOST_OPTIMIZERS,
    ),
    Rung(
        "--objective ce, which needs no dense model",
        frozenset({Place.TEACHER}),
        lambda s: s.has_teacher,
        host=frozenset({Place.TEACHER}),
    ),
    Rung("--optim adamw_8bit", TRAINED, lambda s: s.is_gpu and s.is_whole and "8bit" not in s.optim),
    Rung("a smaller --max-length or --max-pixels", COMPUTED, lambda s: True),
    Rung(
        "fewer layers (--tune-layers)",
        TRAINED | {Place.TRIAL},
        lambda s: True,
        host=frozenset({Place.SAVING}),
    ),
    # Their float32 copies are on the host with `offload`.
    Rung("fewer layers (--tune-layers)", frozenset({Place.MODEL}), lambda s: s.engine != "offload"),
    Rung(
        "fewer layers (--tune-layers)",
        frozenset(),
        lambda s: s.engine.endswith("offload"),
        host=TRAINED | {Place.MODEL},
    ),
    Rung(
        "--engine fsdp or zero3 and more --processes, each with a GPU",
        DEVICE - {Place.LOCAL},
        lambda s: s.is_gpu and not s.engine.startswith(("zero3", "fsdp")),
    ),
    Rung("fewer --processes on this machine", frozenset({Place.SAVING}), lambda s: s.processes > 1, host=HOST),
)
"""In the order in which to try them: what costs least comes first."""


def list_rungs(place: Place, setup: Setup, is_on_host: bool = False) -> list[str]:
    """What is left to do and helps at this place, at most MOST. `is_on_host`: it is the host's memory that is short."""
    is_host_alone = is_on_host and setup.is_gpu
    return [
        rung.words for rung in LADDER if place in (rung.host if is_host_alone else rung.places) and rung.is_left(setup)
    ][:MOST]


def advise(place: Place, setup: Setup, is_on_host: bool = False) -> str:
    """A sentence of what to do."""
    rungs = list_rungs(place, setup, is_on_host)
    if not rungs:
        return "End what else uses this memory; the same command goes on."
    last = f"{', '.join(rungs[:-1])} or {rungs[-1]}" if len(rungs) > 1 else rungs[0]
    return f"Take {last}."


def build_shortage(place: Place, setup: Setup, shortage: Shortage, what: str = "") -> ShortageError:
    """The error for a place where nothing helps that healing can do itself. `what` names it more closely ("a row of 900
    tokens")."""
    is_on_host = shortage.is_on_host
    fix = advise(place, setup, is_on_host)
    return ShortageError(f"{what or place.value} does not fit into the memory: {shortage}.", fix, is_on_host)


@contextmanager
def explained(place: Place, setup: Setup, what: str = "") -> Iterator[None]:
    """Turns a shortage of memory inside into the error for this place; one that has been explained gets the advice for
    it."""
    try:
        yield
    except ShortageError as error:
        raise ShortageError(error.what, advise(place, setup, error.is_on_host), error.is_on_host) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise build_shortage(place, setup, read_shortage(error, setup.device), what) from error
