"""The answers of an unfinished evaluation on disk, so that the same command goes on, in as many processes as it likes.

A file holds the scored answers of the checkpoints that have finished. Beside it each process appends what the batches
of the others come to, to a file of its own.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.evaluation import KeptAnswers, KeptBatch, UnfinishedEvaluation
from interlace_cli.domain.record import Settings
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.append_log import AppendLog, read_log
from interlace_cli.io.artifacts import build_origin, load_own, save_artifact, to_json
from interlace_cli.io.files import hash_bytes
from interlace_cli.io.sample_lines import to_line
from interlace_cli.runtime.exchange import take_from_main
from interlace_cli.runtime.processes import find_processes, gather

if TYPE_CHECKING:
    from interlace_cli.evaluation.answering import Answered
    from interlace_cli.evaluation.batch_answers import BatchAnswers

SUFFIX = ".answers.json"


class AnswerFile:
    """The files beside the evaluation; they are deleted when that is there. `settings`, `inputs` and the samples of
    `tasks` are what answers depend on beside their checkpoint. Checkpoints are told apart by their files.

    Where there are several processes, all of them call `find`, `open_batches`, `keep` and `remove`, in the same order.
    """

    def __init__(self, out: Path, settings: Settings, inputs: Mapping[str, str], tasks: Sequence[EvalTask]) -> None:
        self.path, self.settings = out.with_suffix(SUFFIX), settings
        self.inputs = {**inputs, "samples": hash_tasks(tasks)}
        self._kept: dict[str, KeptAnswers] = {}
        self._batches: list[KeptBatch] = []
        self._is_read = False
        key = hash_bytes(to_json(build_origin("eval", settings)) + repr(sorted(self.inputs.items())).encode())
        self._log = AppendLog(out.with_suffix(f".answers.{find_processes().rank}.jsonl"), key)

    def find(self, opened: OpenedModel) -> Answered | None:
        """A checkpoint's answers, if an earlier call made them of the same."""
        from interlace_cli.evaluation.answering import Answered

        self._read()
        kept = self._kept.get(_name(opened))
        if kept is None:
            return None
        scored = Points(kept.points, kept.weights)
        return Answered(kept.kinds, scored, kept.loss, kept.cut, kept.empty, kept.generation)

    def open_batches(self, opened: OpenedModel, part: str = "") -> BatchAnswers:
        """A checkpoint's batches, with those that an earlier call has finished. `part`: replies or losses, where these
        do not come of the same batches."""
        from interlace_cli.evaluation.batch_answers import BatchAnswers, read_records

        self._read()
        name = f"{_name(opened)} {part}".rstrip()
        return BatchAnswers(name, self._log, read_records(self._batches).get(name))

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
        if not find_processes().is_main:
            return
        unfinished = UnfinishedEvaluation(
            kind=UnfinishedEvaluation.KIND,
            schema_version=UnfinishedEvaluation.SCHEMA,
            created_by=build_origin("eval", self.settings),
            inputs=self.inputs,
            answers=self._kept,
        )
        save_artifact(unfinished, self.path)

    def remove(self) -> None:
        """Deletes the files; call it when the result is in the evaluation."""
        self._log.close()
        if find_processes().is_main:
            self.path.unlink(missing_ok=True)
        for path in [self._log.path, *(self._list_logs() if find_processes().is_main else [])]:
            path.unlink(missing_ok=True)

    def _list_logs(self) -> list[Path]:
        """Those of all processes, also of a call that had more of them."""
        stem = self.path.name.removesuffix(SUFFIX)
        return sorted(self.path.parent.glob(f"{glob.escape(stem)}.answers.*.jsonl"))

    def _read(self) -> None:
        """What the first process finds of finished checkpoints, and what any process finds of batches: each may see
        other files."""
        if self._is_read:
            return
        self._is_read = True
        self._kept = take_from_main("the answers that are there", self._read_kept)
        own = [record for path in self._list_logs() for record in read_log(path, self._log.key, KeptBatch)]
        self._batches = [record for records in gather([own]) for record in records]

    def _read_kept(self) -> dict[str, KeptAnswers]:
        found = load_own(self.path, UnfinishedEvaluation, build_origin("eval", self.settings), self.inputs)
        return {} if found is None else dict(found.answers)


def hash_tasks(tasks: Sequence[EvalTask]) -> str:
    """A digest of what is asked: the samples, their pictures by name, and the limits of tokens."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(repr((task.name, task.max_new_tokens, len(task.samples))).encode())
        for sample in task.samples:
            digest.update(to_line(sample))
    return digest.hexdigest()


def _name(opened: OpenedModel) -> str:
    return f"{opened.facts.fingerprint} {opened.facts.processor}"
