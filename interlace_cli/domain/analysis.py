"""The record of `analysis.json`: the similarity of hidden states across spans of layers, and other importances.

Notation: x[i] is the hidden state that enters layer i, x[L] the one that leaves the last layer before the final norm.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from interlace_cli.domain.importance import LossImportance, TaylorImportance
from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.record import Artifact, Record


class SpanSimilarity(Record):
    """Similarity of the spans of one, two and three layers, in -1 ... 1; high means redundant.

    `s1[i]`, `s2[i]`, `s3[i]` are the mean cosine of x[i] and x[i+p] for p = 1, 2, 3: the mean over samples of the mean
    over tokens (INTERLACE, arXiv 2511.19676). With L layers the lists have L, L-1 and L-2 entries.
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
    """The samples that were measured: their number, and the mean number per sample of tokens and vision patches.
    `left_out` counts those that the model cannot be given, by reason; `cautions` say where they are too few."""

    samples: int = Field(ge=1)
    tokens: float = Field(ge=1)
    image_tokens: float = Field(ge=0)
    vision_patches: float = Field(ge=0)
    left_out: dict[str, int] = {}
    cautions: list[str] = []


class Group(Record):
    """Importances over one group of samples: those of one source (`by="source"`) or of one kind (`by="kind"`).

    `loss_increase` and `taylor_activation` mean the same as in the whole analysis (`domain/importance.py`). They are
    None if they were not measured on any sample of the group.
    """

    by: str
    name: str
    samples: int = Field(ge=1)
    similarity: SpanSimilarity
    loss_increase: list[float | None] | None = None
    taylor_activation: list[float] | None = None


class Analysis(Artifact):
    """All importances of a model's L layers.

    - `similarity` is over all tokens; `image` and `text` are over image or text tokens only, None if there are none.
    - `angular[n-1][i]` is the mean angular distance, in 0 ... 1, between x[i] and x[i+n] at the last token.
    - `loss` and `taylor` are None unless they were asked for (`domain/importance.py`).
    - `correlation` is Spearman's rank correlation between 1 - s1[i] and the loss increase of dropping layer i: 1 means
      that both rank the layers alike.
    - `arrays` is the sha256 of the file of per-sample arrays beside this one.
    """

    KIND: ClassVar[str] = "interlace.analysis"

    model: ModelFacts
    calibration: Calibration
    similarity: SpanSimilarity
    image: SpanSimilarity | None
    text: SpanSimilarity | None
    angular: list[list[float]] | None = None
    loss: LossImportance | None = None
    taylor: TaylorImportance | None = None
    correlation: float | None = None
    arrays: str | None = None
    groups: list[Group] = []

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
        found_angles = None if self.angular is None else [len(row) for row in self.angular]
        if found_angles not in (None, list(range(layers, 0, -1))):
            raise ValueError(f"angular has {found_angles} distances where a model of {layers} layers has a triangle")
        if self.loss is not None:
            outside = [step.layer for step in self.loss.path if not 0 <= step.layer < layers]
            if len(self.loss.single) != layers or outside:
                raise ValueError(f"loss does not fit a model of {layers} layers")
        if self.taylor is not None and {len(self.taylor.taylor_weight), len(self.taylor.taylor_activation)} != {layers}:
            raise ValueError(f"taylor does not fit a model of {layers} layers")
        return self
