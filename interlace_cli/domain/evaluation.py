"""What an evaluation says of each checkpoint."""

from __future__ import annotations

from typing import ClassVar

from interlace_cli.domain.record import Artifact, Record


class Speed(Record):
    """Medians over repeats of one prompt with one image, batch 1, the checkpoints taking turns.

    `peak_memory_bytes`: on a GPU what the allocator held at most; on a CPU the weights and the growth of the
    process while generating, None where the system does not tell.
    """

    ttft_ms: float
    tokens_per_second: float
    peak_memory_bytes: int | None
    repeats: int
    prompt_tokens: int
    new_tokens: int


class Result(Record):
    """One checkpoint's figures. `score` is the macro exact match over kinds in 0 ... 1, `loss` the mean cross-entropy
    of an answer token; `retention` is in percent of the first checkpoint, the mean over kinds of the ratio."""

    name: str
    location: str
    fingerprint: str
    layers: int
    parameters: int
    bytes: int
    score: float
    loss: float
    kinds: dict[str, float]
    retention: float | None = None
    retention_interval: tuple[float, float] | None = None
    speed: Speed | None = None

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token in milliseconds, if it was measured."""
        return self.speed.ttft_ms if self.speed else None


class Evaluation(Artifact):
    """Results in the order of the call; the first is what the others are compared with."""

    KIND: ClassVar[str] = "interlace.evaluation"

    device: str
    dtype: str
    samples: dict[str, int]
    results: list[Result]
