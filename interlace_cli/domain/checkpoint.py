"""`interlace.json`, the passport inside a pruned, healed or exported folder. `from_pretrained` needs none of it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.record import Artifact, Record


class Healing(Record):
    """How a checkpoint was healed: the recipe, and the loss on the first and the last steps."""

    dataset: str
    recipe: dict[str, str | int | float | bool]
    steps: int
    samples: int
    first_loss: float
    last_loss: float
    trained_parameters: int
    frozen_sha256: str = Field(description="over all frozen tensors; the same before and after")


class CheckpointCard(Artifact):
    """`dense_index[position]` is the layer's index in the dense model `base`; `tune` holds positions."""

    KIND: ClassVar[str] = "interlace.checkpoint"

    stage: str
    base: ModelFacts
    stack: str = "language"
    strategy: str
    ratio: float
    dense_index: list[int]
    dropped: list[int]
    tune: list[int]
    notes: list[str] = []
    healing: Healing | None = None
