"""The workspace: one folder with conventional names, so that steps find each other's artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.errors import MissingInputError

METADATA = "interlace.json"
"""The file in a checkpoint folder that says how interlace made it."""

REPORT = "report.html"
MADE_BY = {
    "dataset": "interlace prepare",
    "analysis.json": "interlace analyze",
    "plan.json": "interlace plan",
    "pruned": "interlace prune",
    "healed": "interlace finetune",
    "dense-ft": "interlace finetune --dense",
    "eval.json": "interlace eval",
    METADATA: "interlace prune",
}


@dataclass(frozen=True)
class Workspace:
    """Paths of the artifacts; nothing is created by naming it."""

    root: Path

    @property
    def dataset(self) -> Path:
        """Folder of the prepared dataset."""
        return self.root / "dataset"

    @property
    def analysis(self) -> Path:
        """The analysis."""
        return self.root / "analysis.json"

    @property
    def plan(self) -> Path:
        """The plan."""
        return self.root / "plan.json"

    @property
    def pruned(self) -> Path:
        """Folder of the pruned checkpoint."""
        return self.root / "pruned"

    @property
    def healed(self) -> Path:
        """Folder of the healed checkpoint."""
        return self.root / "healed"

    @property
    def evaluation(self) -> Path:
        """The evaluation."""
        return self.root / "eval.json"

    @property
    def tasks(self) -> Path:
        """Folder of the datasets of `eval --tasks`."""
        return self.root / "tasks"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.root / REPORT

    @property
    def export(self) -> Path:
        """Folder for the Hub."""
        return self.root / "export"


def require(path: Path) -> Path:
    """`path` itself if it is there; else MissingInputError that names the command which makes it."""
    if not path.exists():
        maker = MADE_BY.get(path.name)
        raise MissingInputError(f"there is no {path}.", f"Run `{maker}` first." if maker else "Check the path.")
    return path
