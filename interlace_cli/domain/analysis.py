"""The analysis: how similar hidden states are across spans of one, two and three layers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.record import Artifact, Record


class SpanSimilarity(Record):
    """`s1[i]`, `s2[i]`, `s3[i]`: mean cosine of `x[i]` and `x[i+p]`, in -1 ... 1; high = redundant.

    With L layers there are L, L-1 and L-2 spans.
    """

    s1: list[float]
    s2: list[float]
    s3: list[float]

    @model_validator(mode="after")
    def _check(self) -> SpanSimilarity:
        for name, values in (("s1", self.s1), ("s2", self.s2), ("s3", self.s3)):
            for index, value in enumerate(values):
                if not -1.001 <= value <= 1.001:
                    raise ValueError(f"{name}[{index}] is {value}, and a cosine lies between -1 and 1")
        return self


class Calibration(Record):
    """What the similarities were measured on; token counts are per sample, on average."""

    samples: int = Field(ge=1)
    tokens: float = Field(ge=1)
    image_tokens: float = Field(ge=0)
    vision_patches: float = Field(ge=0)


class Analysis(Artifact):
    """`similarity` over all tokens, `image` and `text` over those alone (`image` is None where there are none)."""

    KIND: ClassVar[str] = "interlace.analysis"

    model: ModelFacts
    calibration: Calibration
    similarity: SpanSimilarity
    image: SpanSimilarity | None
    text: SpanSimilarity | None

    @model_validator(mode="after")
    def _check_lengths(self) -> Analysis:
        layers = self.model.num_layers
        for name in ("similarity", "image", "text"):
            spans = getattr(self, name)
            if spans is None:
                continue
            found = [len(spans.s1), len(spans.s2), len(spans.s3)]
            wanted = [layers, max(layers - 1, 0), max(layers - 2, 0)]
            if found != wanted:
                raise ValueError(f"{name} has {found} spans where a model of {layers} layers has {wanted}")
        return self
