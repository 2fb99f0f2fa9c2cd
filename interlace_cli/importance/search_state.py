"""A search by loss under way, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from interlace_cli.domain.importance import GreedyStep, LossSearch
from interlace_cli.domain.record import Settings
from interlace_cli.errors import ArtifactError
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact


@dataclass
class SearchState:
    """What is known so far; `domain.importance.LossSearch` says what of."""

    tokens: list[int] = field(default_factory=list)
    dense: list[float] = field(default_factory=list)
    single: list[list[float] | None] = field(default_factory=list)
    path: list[GreedyStep] = field(default_factory=list)
    tried: dict[int, float] = field(default_factory=dict)
    layer_runs: int = 0
    naive_layer_runs: int = 0

    @property
    def dropped(self) -> frozenset[int]:
        """The layers that the search has dropped."""
        return frozenset(step.layer for step in self.path)

    @property
    def is_new(self) -> bool:
        """Whether nothing has been tried yet."""
        return not self.dense


class SearchFile:
    """The file beside the analysis that an interrupted search goes on from; gone when the search is done."""

    def __init__(self, path: Path, settings: Settings, inputs: dict[str, str]) -> None:
        self.path, self.settings, self.inputs = path, settings, inputs

    def load(self) -> SearchState:
        """What an earlier call left, if it was this very search; else a new state."""
        if not self.path.exists():
            return SearchState()
        try:
            found = load_artifact(self.path, LossSearch)
        except ArtifactError:
            return SearchState()
        if found.created_by != build_origin("analyze", self.settings) or found.inputs != self.inputs:
            return SearchState()
        return SearchState(
            tokens=found.tokens,
            dense=found.dense,
            single=list(found.single),
            path=list(found.path),
            tried={int(layer): loss for layer, loss in found.tried.items()},
            layer_runs=found.layer_runs,
            naive_layer_runs=found.naive_layer_runs,
        )

    def save(self, state: SearchState) -> None:
        """Whole or not at all."""
        search = LossSearch(
            kind=LossSearch.KIND,
            schema_version=LossSearch.SCHEMA,
            created_by=build_origin("analyze", self.settings),
            inputs=self.inputs,
            tokens=state.tokens,
            dense=state.dense,
            single=state.single,
            path=state.path,
            tried={str(layer): loss for layer, loss in state.tried.items()},
            layer_runs=state.layer_runs,
            naive_layer_runs=state.naive_layer_runs,
        )
        save_artifact(search, self.path)

    def remove(self) -> None:
        """The search is done, and its result is in the analysis."""
        self.path.unlink(missing_ok=True)
