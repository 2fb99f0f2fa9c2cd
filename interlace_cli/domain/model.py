"""What a plan has to know of a model: how many layers, how large each is, which model it is."""

from __future__ import annotations

from pydantic import Field

from interlace_cli.domain.record import Record


class ModelFacts(Record):
    """Counted from a checkpoint's config and tensor headers; no weight is loaded for it.

    `fingerprint` is the sha256 of the config's content and of every tensor's name, dtype, shape and a sample of its
    bytes. `rest_parameters` is all that is neither in a decoder layer, nor embedding, nor head: the vision tower, the
    projector, norms. `layer_bytes` and `total_bytes` are bytes on disk.
    """

    name: str
    location: str
    fingerprint: str
    model_type: str
    layer_parameters: list[int] = Field(min_length=2)
    layer_bytes: list[int]
    embedding_parameters: int = Field(ge=0)
    head_parameters: int = Field(ge=0)
    rest_parameters: int = Field(ge=0)
    total_bytes: int = Field(ge=0)
    attention_width: int = Field(ge=0, description="query heads x head dimension")
    deepstack_layers: int = Field(ge=0, description="first n layers after which vision features are added")
    is_tied: bool

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layer_parameters)

    @property
    def total_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(self.layer_parameters) + self.embedding_parameters + self.head_parameters + self.rest_parameters
