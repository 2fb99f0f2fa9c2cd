"""The state of an unfinished search by loss, in memory and on disk, so that the same command resumes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from interlace_cli.domain.importance import GreedyStep, LossSearch
from interlace_cli.domain.record import Settings
from interlace_cli.io.artifacts import build_origin, load_own, save_artifact


@dataclass
class SearchState:
    """What the search has found so far; the fields are those of `domain.importance.LossSearch`."""

    tokens: list[int] = field(default_factory=list)
    dense: list[float] = field(default_factory=list)
    single: list[list[float] | None] = field(default_factory=list)
    path: list[GreedyStep] = field(default_factory=list)
    tried: dict[int, float] = field(default_factory=dict)
    layer_runs: int = 0
    naive_layer_runs: int = 0

    @property
    def dropped(self) -> frozenset[int]:
        """Dense indices of the layers that the search has dropped so far."""
        return frozenset(step.layer for step in self.path)

    @property
    def is_new(self) -> bool:
        """Whether nothing has been tried yet."""
        return not self.dense


class SearchFile:
    """The file beside the analysis that holds an unfinished search; it is deleted when the search is done. `settings`
    and `inputs` identify the search."""

    def __init__(self, path: Path, settings: Settings, inputs: dict[str, str]) -> None:
        self.path, self.settings, self.inputs = path, settings, inputs

    def load(self) -> SearchState:
        """The saved state, if it belongs to a search with the same settings and inputs; else a new state."""
        found = load_own(self.path, LossSearch, build_origin("analyze", self.settings), self.inputs)
        if found is None:
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
        """Writes the state atomically: an interrupted call leaves the old file."""
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
        """Deletes the file; call it when the result is in the analysis."""
        self.path.unlink(missing_ok=True)
