"""The plan: one role for each layer, and why."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from interlace_cli.domain.layers import Role, kept_layers
from interlace_cli.domain.memory import WayNeed
from interlace_cli.domain.model import Lock, ModelFacts
from interlace_cli.domain.record import Artifact, Record


class Pick(Record):
    """One decision of a strategy: a span of layers and what becomes of each.

    `rule` is how it was found (triplet, pair, next, random, block, influence, angle, loss, taylor_weight); `score` is
    what it was ranked by, if anything.
    """

    rule: str
    layers: list[int]
    drop: list[int]
    tune: list[int]
    anchor: list[int]
    score: float | None


class LayerNote(Record):
    """What is known of one layer: its span similarities where a span starts at it, what dropping it alone adds to the
    loss, its size, and why its role."""

    index: int
    s1: float | None
    s2: float | None
    s3: float | None
    loss_increase: float | None = None
    parameters: int | None
    why: str


class PlanSummary(Record):
    """What the plan saves, counted and not measured. None where no model was at hand.

    `prefill_speedup`: FLOPs of a prefill of the calibration's mean prompt, dense over pruned. `healing`: what healing
    takes in rows of `healing_tokens` tokens with the default objective, the fastest way first.
    """

    layers: int
    layers_left: int
    parameters: int | None = None
    parameters_left: int | None = None
    bytes: int | None = None
    bytes_left: int | None = None
    prefill_speedup: float | None = None
    healing_tokens: int | None = None
    healing: list[WayNeed] = []


class Plan(Artifact):
    """Roles over the dense layers. `roles` is the truth; `drop`, `tune` and `anchor` repeat it and must agree.

    `pair_bar` is the S_2 that a pair had to have to be taken; `correlation` the analysis' own (`domain/analysis.py`).
    An edited plan may leave out `drop`, `tune`, `anchor`, `picks`, `layers` and `summary`; what it has must agree.
    """

    KIND: ClassVar[str] = "interlace.plan"

    strategy: str
    stack: str = "language"
    num_layers: int = Field(ge=2)
    roles: list[Role]
    drop: list[int]
    tune: list[int]
    anchor: list[int]
    protect: list[int] = []
    locked: list[Lock] = []
    pair_bar: float | None = None
    correlation: float | None = None
    picks: list[Pick] = []
    layers: list[LayerNote] = []
    summary: PlanSummary | None = None
    model: ModelFacts | None = None

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, data: Any) -> Any:
        """Fills the lists that an edited plan left out."""
        if isinstance(data, dict) and isinstance(data.get("roles"), list):
            for role in ("drop", "tune", "anchor"):
                data = {role: [i for i, r in enumerate(data["roles"]) if r == role], **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Plan:
        if len(self.roles) != self.num_layers:
            raise ValueError(f"roles has {len(self.roles)} entries for a model of {self.num_layers} layers")
        for role in (Role.DROP, Role.TUNE, Role.ANCHOR):
            listed, said = getattr(self, role.value), [i for i, r in enumerate(self.roles) if r is role]
            if listed != said:
                layer = min(set(listed) ^ set(said), default=None)
                difference = f"differ at layer {layer}" if layer is not None else "are not in ascending order"
                raise ValueError(
                    f"{role.value} and roles {difference}; roles gives {role.value} as {said}:"
                    f" correct one of them, or delete {role.value}"
                )
        if not self.drop:
            raise ValueError("roles drops no layer")
        if len(self.drop) == self.num_layers:
            raise ValueError("roles drops every layer")
        if self.model is not None and self.model.num_layers != self.num_layers:
            raise ValueError(f"num_layers is {self.num_layers} but the model has {self.model.num_layers}")
        if self.summary is not None and self.summary.layers_left != len(self.kept):
            raise ValueError(
                f"summary.layers_left is {self.summary.layers_left} but roles leaves {len(self.kept)} layers:"
                " set summary to null after editing"
            )
        return self

    @property
    def kept(self) -> list[int]:
        """Dense indices of the layers that stay; the index in the list is the new position."""
        return kept_layers(self.drop, self.num_layers)

    @property
    def is_edited(self) -> bool:
        """Whether the roles are no longer those that the strategy's picks gave."""
        roles = [Role.KEEP] * self.num_layers
        for pick in self.picks:
            for role, members in ((Role.DROP, pick.drop), (Role.TUNE, pick.tune), (Role.ANCHOR, pick.anchor)):
                for layer in members:
                    roles[layer] = role
        return roles != self.roles

    @property
    def tune_positions(self) -> list[int]:
        """Positions after pruning of the layers to be tuned."""
        return [position for position, layer in enumerate(self.kept) if self.roles[layer] is Role.TUNE]
