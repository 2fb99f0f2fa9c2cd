"""`interlace.json`, the metadata inside a pruned, healed or exported folder. `from_pretrained` needs none of it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from interlace_cli.domain.memory import WayNeed
from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.record import Artifact, Record, Settings


class Healing(Record):
    """How a checkpoint was healed: the recipe, and the loss: `loss_before` and `loss_after` on the same few training
    samples (None where it was not measured), `first_loss` and `last_loss` of the first and the last steps. `left_out`
    counts training samples that could not be used, by reason; `shortened` of the used ones lose the end of an answer.
    `curve` holds steps of the last stage, each with the mean loss since the one before; `dataset_location` and
    `dataset_revision` are on the Hub."""

    dataset: str
    dataset_location: str | None = None
    dataset_revision: str | None = None
    recipe: dict[str, str | int | float | bool]
    steps: int
    samples: int
    left_out: dict[str, int] = {}
    shortened: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    first_loss: float
    last_loss: float
    curve: list[tuple[int, float]] = []
    engine: str | None = Field(default=None, description="as `--engine` takes it, where it was named or chosen")
    gradient_checkpointing: bool = False
    trained_parameters: int
    frozen_sha256: str = Field(description="over all frozen tensors; the same before and after")
    cautions: list[str] = []

    @property
    def losses(self) -> tuple[float, float]:
        """The loss before and after, on the same samples; where that was not measured, on the first and last steps."""
        if self.loss_before is None or self.loss_after is None:
            return self.first_loss, self.last_loss
        return self.loss_before, self.loss_after


class CheckpointCard(Artifact):
    """`dense_index[position]` is the layer's index in the dense model `base`; `tune` and `compensated` (layers whose
    last weight makes up for dropped ones) hold positions. `stage` is pruned, healed, sparse (weights are dropped, in
    the pattern `sparsity`, and no layers) or dense-ft (nothing is)."""

    KIND: ClassVar[str] = "interlace.checkpoint"

    stage: str
    base: ModelFacts
    stack: str = "language"
    strategy: str
    ratio: float
    dense_index: list[int]
    dropped: list[int]
    tune: list[int]
    compensated: list[int] = []
    sparsity: str | None = None
    notes: list[str] = []
    healing: Healing | None = None
    left: list[str] = Field(default=[], description="what lay beside the weights it was made of, and is no part of it")
    files: dict[str, str] = Field(default={}, description="name -> checksum of what was written (io/integrity.py)")
    exported: Settings = Field(default={}, description="the options of `export`, of a folder that it wrote")


class HealingEstimate(Record):
    """What healing will need on a device, by a trial of a few steps: seconds in all with loading and saving, a step of
    each stage and one saving; the peak of the device's memory, on a CPU of the process. FLOPs are counted, without the
    vision tower: ours, and those of the released recipe's way. `ways`: what each way would take of a GPU, computed for
    rows of `row_tokens` tokens."""

    steps: int
    seconds: float
    seconds_per_step: list[float]
    seconds_per_save: float
    peak_memory_bytes: int
    device: str
    layout: str
    tokens_per_step: int
    labels_per_step: int
    flops_per_step: int
    released_flops_per_step: int
    row_tokens: int = 0
    ways: list[WayNeed] = []


class Fidelity(Record):
    """What a comparison of a pruned checkpoint with the dense model found. `difference` is the largest between their
    outputs, the dropped layers of the dense model being bypassed; `effect` what bypassing them changed.

    `generates_alike`: whether greedy generation is the same with the cache and without; None where it cannot generate,
    or where the dense model's is not the same either.
    """

    difference: float
    effect: float
    tolerance: float
    generates_alike: bool | None
    inputs: str
    device: str
    dtype: str

    @property
    def is_exact(self) -> bool:
        """Whether all that was compared agrees."""
        return self.difference <= self.tolerance and self.generates_alike is not False

    def describe(self) -> list[str]:
        """Two lines on what was compared, and how near the two are. Only of one that is exact."""
        generation = "not compared" if self.generates_alike is None else "the same with and without the cache"
        return [
            f"verified: equals the dense model with these layers bypassed, by at most {self.difference:.1e}"
            f" (tolerance {self.tolerance:.0e}; the bypass itself changes {self.effect:.1e})",
            f"on {self.inputs}; {self.device}, {self.dtype}; greedy generation {generation}",
        ]


class PruneDraft(Record):
    """What `prune` would write: file name -> bytes, the config's fields that change, old and new, as JSON, and
    the files of the folder that are `left`, as no part of the model."""

    model: str
    stack: str
    dropped: list[int]
    dense_index: list[int]
    files: dict[str, int]
    bytes: int
    dense_bytes: int
    config: dict[str, tuple[str, str]]
    notes: list[str]
    left: list[str] = []


class PruneOutcome(Record):
    """What `prune` prints: the checkpoint's metadata, and the comparison if there was one."""

    checkpoint: CheckpointCard
    fidelity: Fidelity | None
