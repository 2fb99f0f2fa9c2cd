"""The answers of an unfinished evaluation on disk, checkpoint by checkpoint, so that the same command goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.evaluation import KeptAnswers, UnfinishedEvaluation
from interlace_cli.domain.record import Settings
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.artifacts import build_origin, load_own, save_artifact
from interlace_cli.io.files import hash_bytes

if TYPE_CHECKING:
    from interlace_cli.evaluation.answering import Answered

SUFFIX = ".answers.json"


class AnswerFile:
    """The file beside the evaluation; it is deleted when that is there. `settings`, `inputs` and the samples of
    `tasks` are what answers depend on beside their checkpoint. Checkpoints are told apart by their files."""

    def __init__(self, out: Path, settings: Settings, inputs: Mapping[str, str], tasks: Sequence[EvalTask]) -> None:
        self.path, self.settings = out.with_suffix(SUFFIX), settings
        self.inputs = {**inputs, "samples": hash_tasks(tasks)}
        self._kept: dict[str, KeptAnswers] = {}
        self._is_read = False

    def find(self, opened: OpenedModel) -> Answered | None:
        """A checkpoint's answers, if an earlier call made them of the same."""
        from interlace_cli.evaluation.answering import Answered

        self._read()
        kept = self._kept.get(_name(opened))
        if kept is None:
            return None
        scored = Points(kept.points, kept.weights)
        return Answered(kept.kinds, scored, kept.loss, kept.cut, kept.empty, kept.generation)

    def keep(self, opened: OpenedModel, answered: Answered) -> None:
        """Writes a checkpoint's answers beside those that are there, at once or not at all."""
        self._read()
        scored = answered.scored
        self._kept[_name(opened)] = KeptAnswers(
            kinds=answered.kinds,
            points=list(scored.points),
            weights=None if scored.weights is None else list(scored.weights),
            loss=answered.loss,
            cut=answered.cut,
            empty=answered.empty,
            generation=answered.generation,
        )
        unfinished = UnfinishedEvaluation(
            kind=UnfinishedEvaluation.KIND,
            schema_version=UnfinishedEvaluation.SCHEMA,
            created_by=build_origin("eval", self.settings),
            inputs=self.inputs,
            answers=self._kept,
        )
        save_artifact(unfinished, self.path)

    def remove(self) -> None:
        """Deletes the file; call it when the result is in the evaluation."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        if self._is_read:
            return
        self._is_read = True
        found = load_own(self.path, UnfinishedEvaluation, build_origin("eval", self.settings), self.inputs)
        self._kept = {} if found is None else dict(found.answers)


def hash_tasks(tasks: Sequence[EvalTask]) -> str:
    """A digest of what is asked: the samples, their pictures by name, and the limits of tokens."""
    asked: list[Mapping[str, object]] = [
        {"task": task.name, "limit": task.max_new_tokens, "samples": [sample.model_dump() for sample in task.samples]}
        for task in tasks
    ]
    return hash_bytes(repr(asked).encode())


def _name(opened: OpenedModel) -> str:
    return f"{opened.facts.fingerprint} {opened.facts.processor}"
