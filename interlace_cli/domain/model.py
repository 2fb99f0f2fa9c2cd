"""What a plan has to know of a model: how many layers, how large each is, which model it is."""

from __future__ import annotations

from pydantic import Field

from interlace_cli.domain.record import Record


class Lock(Record):
    """Layers that cannot be dropped, because no config of the architecture would express what is left."""

    layers: list[int]
    reason: str


class LayerWidths(Record):
    """Sizes of what a language layer computes for a token, from the config: `query` and `key_value` are heads x head
    dimension, `intermediate` that of all experts that a token uses. `is_gated`: the MLP has gate and up, and not one
    matrix before its activation; `has_query_norm`: queries and keys are normalized; `scales_logits`: the model does
    something to the head's output."""

    hidden: int = Field(ge=1)
    query: int = Field(ge=1)
    key_value: int = Field(ge=1)
    heads: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    is_gated: bool = True
    has_query_norm: bool = False
    scales_logits: bool = False


class ModelFacts(Record):
    """Counted from a checkpoint's config and tensor headers; no weight is loaded for it.

    `fingerprint` is the sha256 of the config's content and of every tensor's name, dtype, shape and a sample of its
    bytes; `processor` that of the files that make tokens and pixels (processor, tokenizer, chat template, generation
    config); `revision` the commit on the Hub. `stack` is whose layers are counted one by one: the language model's, the
    vision tower's ... and
    `rest_parameters` is all that is neither in one of them, nor embedding, nor head. Packed weights count as what they
    stand for. `layer_active` is how many of a layer's parameters one token uses; None where that is all of them.
    `layer_bytes` and `total_bytes` are bytes on disk. `widths` None: the config does not say them, or the stack is not
    a language model's.
    """

    name: str
    location: str
    revision: str | None = None
    fingerprint: str
    processor: str = "unknown"
    model_type: str
    layer_parameters: list[int] = Field(min_length=2)
    layer_active: list[int] | None = None
    layer_bytes: list[int]
    embedding_parameters: int = Field(ge=0)
    head_parameters: int = Field(ge=0)
    rest_parameters: int = Field(ge=0)
    total_bytes: int = Field(ge=0)
    attention_width: int = Field(ge=0, description="query heads x head dimension")
    deepstack_layers: int = Field(ge=0, description="first n layers after which vision features are added")
    is_tied: bool
    widths: LayerWidths | None = None
    stack: str = "language"
    locked: list[Lock] = []

    @property
    def pinned(self) -> str:
        """Where the very same model is found again: a Hub id at its commit."""
        is_on_hub = self.revision is not None and not self.location.startswith("/")
        return f"{self.location.partition('@')[0]}@{self.revision}" if is_on_hub else self.location

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layer_parameters)

    @property
    def locked_layers(self) -> list[int]:
        """All layers that cannot be dropped."""
        return sorted(layer for lock in self.locked for layer in lock.layers)

    @property
    def total_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(self.layer_parameters) + self.embedding_parameters + self.head_parameters + self.rest_parameters
