"""Whether results belong together: healed to pruned, pruned to plan, all of them to one dense model; and whether a
checkpoint is judged on samples that it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.layers import describe_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import CheckpointError, OverlapError, PlanMismatchError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.sample_keys import CALIBRATED, TRAINED, find_seen, load_keys
from interlace_cli.io.workspace import METADATA

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Member:
    """A checkpoint beside others: `card` is what interlace says of it, None for one that it has not made."""

    name: str
    fingerprint: str
    card: CheckpointCard | None = None

    @property
    def dense(self) -> str:
        """The fingerprint of the dense model that it comes from, its own where it comes from none."""
        return self.card.base.fingerprint if self.card else self.fingerprint


@dataclass(frozen=True)
class Seen:
    """How many of the samples a checkpoint was trained on, and how many it was calibrated on."""

    trained: int = 0
    calibrated: int = 0


def load_card(folder: Path) -> CheckpointCard | None:
    """What interlace says of the folder, if it has made it."""
    path = folder / METADATA
    return load_artifact(path, CheckpointCard) if path.exists() else None


def find_mismatches(members: Sequence[Member], plan: Plan | None = None) -> list[str]:
    """Which two of them do not belong together, a sentence each. The first member is what the others are compared
    with. With a plan, the pruned ones have to be cut by it."""
    found = []
    reference = members[0] if members else None
    pruned = [one for one in members if one.card is not None and one.card.stage == "pruned"]
    for one in members:
        card = one.card
        if card is None:
            continue
        if reference is not None and one is not reference and card.base.fingerprint != reference.dense:
            found.append(
                f"{one.name} and {reference.name} do not belong together: {one.name} comes from {card.base.name}"
                f" ({card.base.fingerprint[:12]}), and {reference.name} is another model ({reference.dense[:12]})"
            )
        parent = card.inputs.get("pruned") if card.stage == "healed" else None
        rivals = [other for other in pruned if other.dense == one.dense]
        if parent is not None and rivals and all(other.fingerprint != parent for other in rivals):
            found.append(_describe_orphan(one.name, card, rivals[0]))
        if plan is not None and card.stage == "pruned" and card.strategy != "by hand" and plan.drop != card.dropped:
            found.append(
                f"{one.name} and the plan do not belong together: the plan drops layers {describe_layers(plan.drop)},"
                f" and {one.name} was cut by {describe_layers(card.dropped)}"
            )
    return found


def check_mismatches(members: Sequence[Member], is_allowed: bool) -> list[str]:
    """The mismatches, to be said; raises PlanMismatchError for the first of them unless that `is_allowed`."""
    found = find_mismatches(members)
    if found and not is_allowed:
        raise PlanMismatchError(
            f"{found[0]}.", "Make the later one again (`interlace status` says which), or add --allow-mismatch."
        )
    return found


def find_strangers(card: CheckpointCard, evaluation: Evaluation) -> list[str]:
    """Rows of the evaluation that do not belong to the checkpoint of `card`, a sentence each: another dense model in
    front, or another `pruned`."""
    found = []
    first = evaluation.results[0] if evaluation.results else None
    if first is not None and first.fingerprint not in (card.base.fingerprint, card.inputs.get("pruned")):
        found.append(
            f"the evaluation and the {card.stage} checkpoint do not belong together: it compares with {first.name}"
            f" ({first.fingerprint[:12]}), and the checkpoint comes from {card.base.name}"
            f" ({card.base.fingerprint[:12]})"
        )
    parent = card.inputs.get("pruned")
    for result in evaluation.results:
        if result.name == "pruned" and parent is not None and result.fingerprint != parent:
            found.append(
                f"pruned in the evaluation and the {card.stage} checkpoint do not belong together: it has"
                f" {result.layers} layers, and is not the one that was healed ({len(card.dense_index)} layers)"
            )
    return found


def count_seen(folder: Path, samples: Sequence[Sample]) -> Seen:
    """By the keys that lie beside the checkpoint; none for one that does not say."""
    keys = load_keys(folder)
    return Seen(*(len(find_seen(keys[name], samples)) if name in keys else 0 for name in (TRAINED, CALIBRATED)))


def read_keys(folder: Path) -> Mapping[str, np.ndarray]:
    """The keys that lie beside a checkpoint that can be given them again: none for a broken file."""
    try:
        return load_keys(folder)
    except CheckpointError:
        return {}


def find_lacking_keys(folder: Path, wanted: Mapping[str, np.ndarray]) -> list[str]:
    """Whether the list of samples beside the checkpoint has others, or none, or is broken, as a sentence; nothing where
    it has the `wanted`. It is no part of the weights: the same ones may come of other samples."""
    import numpy as np

    found = read_keys(folder)
    is_whole = all(name in found and np.array_equal(found[name], keys) for name, keys in wanted.items())
    return [] if is_whole else ["its list of the samples that it has seen is of others"]


def check_overlap(seen: Mapping[str, Seen], samples: int, is_allowed: bool) -> list[str]:
    """What each checkpoint has seen of the samples, a sentence each. Raises OverlapError unless that `is_allowed`."""
    found = []
    for name, one in seen.items():
        if one.trained:
            found.append(f"{name} was trained on {one.trained} of the {samples} samples that it is judged on")
        if one.calibrated:
            found.append(f"{name} was calibrated on {one.calibrated} of the {samples} samples that it is judged on")
    if found and not is_allowed:
        raise OverlapError(
            f"{'; '.join(found)}.",
            "Evaluate on the dataset that it was made with, or on others (--dataset, --tasks); with --allow-overlap it"
            " is done all the same, and the card says so.",
        )
    return found


def _describe_orphan(name: str, card: CheckpointCard, pruned: Member) -> str:
    assert pruned.card is not None
    own, other = describe_layers(card.dropped), describe_layers(pruned.card.dropped)
    cut = f"{name} lacks layers {own}, {pruned.name} lacks {other}" if own != other else "the weights differ"
    return f"{name} and {pruned.name} do not belong together: {name} was healed from another pruned checkpoint ({cut})"
