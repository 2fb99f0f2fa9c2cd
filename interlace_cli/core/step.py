"""A step as a value: what its result depends on, and whether what lies there is that result.

`settings` are the options that decide the result, `inputs` name what is read: digests of its content, or words. Both
are written into the artifact when it is made, and compared when somebody asks: the command that would make it again,
`run` that would skip it, `compare` that names a cell after them, `status`. No other rule says what is up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from interlace_cli import __version__
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Artifact, Origin, Settings
from interlace_cli.errors import ArtifactError, ExistsError
from interlace_cli.io.artifacts import build_origin, load_artifact, to_json_text
from interlace_cli.io.files import hash_bytes
from interlace_cli.runtime.processes import find_processes

A = TypeVar("A", bound=Artifact)

INPUTS = {
    "model": "the model",
    "processor": "the model's processor, tokenizer or chat template",
    "source": "the source's files",
    "train": "the training samples",
    "calibration": "the calibration samples",
    "heldout": "the held-out samples",
    "scores": "the scores of the analysis",
    "constraints": "what the model's config allows",
    "drop": "the layers that the plan drops",
    "tune": "the layers that the plan tunes",
    "pruned": "the pruned checkpoint",
    "healed": "the healed checkpoint",
    "dense": "the dense model",
    "checkpoint": "the checkpoint",
    "evaluation": "the evaluation",
}
"""What people call an input."""


class Condition(Enum):
    """What lies at a step's path: nothing; its result; a part of it, to be completed; what is no longer whole; or the
    result of something else."""

    MISSING = "missing"
    CURRENT = "up to date"
    INCOMPLETE = "incomplete"
    DAMAGED = "damaged"
    STALE = "stale"


@dataclass(frozen=True)
class State:
    """`reasons`: sentences on why it is not current; `artifact`: what lies there, if it can be read."""

    condition: Condition
    reasons: tuple[str, ...] = ()
    artifact: Artifact | None = None

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to do."""
        return self.condition is Condition.CURRENT

    @property
    def is_stale(self) -> bool:
        """Whether it is the result of something else, which only --force replaces."""
        return self.condition is Condition.STALE


@dataclass(frozen=True)
class Step(Generic[A]):
    """`name` is the command; `out` the artifact's file, or the folder whose `file` it is; `make` does the work, and may
    replace what lies at `out`. `find_lacks` says what else of an artifact that was made from the same is not as it is
    wanted, `is_completed` whether `make` adds what lacks and keeps the rest. `find_differences` compares in another way
    than by settings and inputs.

    `is_shared`: of several processes all make it together; `find_facts` names what else they have to agree on (name as
    in a sentence -> value), and `is_local` says that they need not see each other's files."""

    name: str
    settings: Settings
    inputs: Mapping[str, str]
    out: Path
    record: type[A]
    make: Callable[[Progress, bool], A]
    file: str = ""
    find_lacks: Callable[[A], list[str]] = lambda artifact: []
    is_completed: bool = False
    find_differences: Callable[[A, Step[A]], list[str]] | None = None
    is_shared: bool = False
    is_local: bool = False
    find_facts: Callable[[], Mapping[str, str]] = dict

    @property
    def path(self) -> Path:
        """Where the artifact is."""
        return self.out / self.file if self.file else self.out

    @property
    def origin(self) -> Origin:
        """Who makes it now."""
        return build_origin(self.name, self.settings)

    @property
    def key(self) -> str:
        """Ten hexadecimal digits that stand for all that the result depends on."""
        known = {"name": self.name, "settings": self.settings, "inputs": dict(self.inputs), "interlace": __version__}
        return hash_bytes(to_json_text(_sort(known)).encode())[:10]

    def find_state(self) -> State:
        """Compares what lies there with what would be made now."""
        if not self.path.exists():
            if self.out.is_dir() and any(self.out.iterdir()):
                return State(Condition.STALE, (f"it has no {self.file}: interlace did not make it",))
            return State(Condition.MISSING)
        try:
            artifact = load_artifact(self.path, self.record)
        except ArtifactError as error:
            return State(Condition.STALE, (error.what.rstrip("."),))
        if self.find_differences is not None:
            reasons = self.find_differences(artifact, self)
        else:
            reasons = describe_differences(artifact, self.settings, self.inputs)
        if reasons:
            return State(Condition.STALE, tuple(reasons), artifact)
        # Only what is asked for such questions is loaded for them.
        from interlace_cli.core.damage import find_damage

        damage = find_damage(self.out, artifact)
        if damage is not None:
            return State(Condition.DAMAGED, (damage,), artifact)
        lacks = tuple(self.find_lacks(artifact))
        if not lacks:
            return State(Condition.CURRENT, (), artifact)
        return State(Condition.INCOMPLETE if self.is_completed else Condition.STALE, lacks, artifact)

    def begin(self) -> State:
        """`find_state`, for who is about to make it. Of several processes that do so together, the first one's is that
        of all. Raises DisagreementError if they are about to do different things."""
        if not self.is_shared or find_processes().size == 1:
            return self.find_state()
        from interlace_cli.core.together import begin_together

        return begin_together(self)

    def run(self, progress: Progress, force: bool, state: State | None = None) -> A:
        """Makes it, as its own command does; `state` is what `begin` has returned, if it was called. Raises ExistsError
        where something is in the way and not `force`."""
        state = self.begin() if state is None else state
        if not force and state.condition not in (Condition.MISSING, Condition.INCOMPLETE, Condition.DAMAGED):
            raise self.build_refusal(state)
        self.tell_damage(state, progress)
        return self.make(progress, force or state.condition is Condition.DAMAGED)

    def tell_damage(self, state: State, progress: Progress) -> None:
        """Says why it is made again, where nobody asked for that."""
        if state.condition is Condition.DAMAGED:
            progress.say(f"{self.out}: {'; '.join(state.reasons)}: it is made again")

    def build_refusal(self, state: State) -> ExistsError:
        """What is there, of what, whether it is current, and the command that would replace it."""
        from interlace_cli.core.descriptions import describe_artifact

        there = f" ({describe_artifact(state.artifact)})" if state.artifact else ""
        is_edited = state.artifact is not None and state.artifact.is_edited
        current = "it was edited by hand" if is_edited else "it is up to date"
        why = current if state.is_current else "; ".join(state.reasons)
        return ExistsError(
            f"{self.out} exists already{there}: {why}.",
            f"`interlace {self.name} --force` replaces it, or name another place.",
        )


def describe_differences(artifact: Artifact, settings: Settings, inputs: Mapping[str, str]) -> list[str]:
    """What it was made from that is different now, a sentence each; nothing for what would be made again the same."""
    origin = artifact.created_by
    reasons = describe_changes(origin.settings, settings)
    for name in sorted({*artifact.inputs, *inputs}):
        old, new = artifact.inputs.get(name), inputs.get(name)
        if old == new:
            continue
        what = INPUTS.get(name, name)
        is_digest = max(len(old or ""), len(new or "")) >= 32
        if not is_digest:
            reasons.append(f"{what}: {old or 'none'} then, {new or 'none'} now")
        elif old is not None and new is not None:
            reasons.append(f"{what} changed")
        else:
            reasons.append(f"it was made {'without' if old is None else 'from'} {what}")
    if not reasons and origin.interlace != __version__:
        reasons.append(f"interlace {origin.interlace} made it, and this is {__version__}")
    return reasons


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which settings have another value, a sentence each."""
    return [
        f"{name} was {show_value(before.get(name))}, and is {show_value(now.get(name))} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def show_value(value: Any) -> str:
    """As it would be typed."""
    if isinstance(value, list):
        return join_values(value)
    if isinstance(value, dict):
        return join_values(f"{name}={show_value(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def join_values(values: Any) -> str:
    """With commas between; "none" for none."""
    return ",".join(map(str, values)) or "none"


def _sort(value: Any) -> Any:
    return {name: _sort(value[name]) for name in sorted(value)} if isinstance(value, dict) else value
