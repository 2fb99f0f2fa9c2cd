"""`eval --harness` and `eval --import`: benchmarks of outside harnesses in the same evaluation.

Each checkpoint and benchmark is a run of its own, whose result file stays in the workspace: an interrupted call goes on
with the next, and what was scored for a checkpoint is not scored again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.domain.evaluation import Benchmarks
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import ArtifactError, InterlaceError, MissingInputError, UsageError
from interlace_cli.evaluation.harness import lmms_eval, vlmevalkit
from interlace_cli.evaluation.harness.benchmarks import JUDGE_KEYS, PAPER, Asked, find_benchmark, group_by_category
from interlace_cli.evaluation.harness.retention import Found, build_rows
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.io.artifacts import to_json_text
from interlace_cli.io.files import hash_bytes, parse_json, write_atomically
from interlace_cli.io.models import is_text_only
from interlace_cli.options.evaluate import EvaluateOptions

BATCH_SIZE = 1
Named = Sequence[tuple[str, str]]


def run_harness(
    checkpoints: Named, asked: Sequence[Asked], folder: Path, options: EvaluateOptions, progress: Progress
) -> Benchmarks:
    """Runs every benchmark on every `(name, location)`, with results under `folder`.

    Raises MissingInputError if the harness is not installed, InterlaceError if nothing could be scored.
    """
    harness = str(options.harness)
    version = _check_installed(harness)
    for name, location in checkpoints:
        model_type = open_model(location).facts.model_type
        if is_text_only(model_type):
            raise UsageError(
                f"{harness}'s benchmarks show pictures, and {name} is a {model_type} model, which reads text alone.",
                "For language models there is EleutherAI's lm-evaluation-harness, which takes the checkpoint's folder.",
            )
    found = {}
    with progress.task(harness, len(checkpoints) * len(asked), "benchmarks") as advance:
        for name, location in checkpoints:
            runner = _Runner(name, open_model(location), folder / harness / name, options, progress)
            found[name] = Found()
            for one in asked:
                runner.score(one, found[name])
                advance(1, f"{name}: {one.name}")
    if not any(one.scores for one in found.values()):
        reason = next((why for one in found.values() for why in one.not_run.values()), "nothing was asked")
        raise InterlaceError(f"{harness} scored nothing: {reason}")
    settings = {
        "decoding": "the harness's own",
        "limit": str(options.samples or "none"),
        "batch size": str(options.batch_size or BATCH_SIZE),
        "judge": "with a key" if _has_key() else "none",
    } | ({"arguments": " ".join(options.harness_arg)} if options.harness_arg else {})
    named = [(name, open_model(location).facts.fingerprint, found[name]) for name, location in checkpoints]
    return _combine(harness, version, settings, asked, named)


def import_results(given: Sequence[tuple[str, Path]], fingerprints: dict[str, str]) -> Benchmarks:
    """Results that are there already: `(checkpoint, file or folder)`, the first being what the others are compared
    with; lmms-eval's result files, VLMEvalKit's folders, or JSON of benchmark -> percent."""
    found: dict[str, Found] = {}
    kinds = set()
    asked: dict[str, Asked] = {}
    for name, path in given:
        kind, scores, errors = read_results(path)
        kinds.add(kind)
        one = found.setdefault(name, Found())
        one.scores.update(scores)
        one.errors.update(errors)
        for key in scores:
            known = find_benchmark(key)
            asked.setdefault(key, Asked(key, known.category if known else "tasks", known))
    order = {one.name: number for number, one in enumerate(PAPER)}
    wanted = sorted(asked.values(), key=lambda one: order.get(one.name, len(order)))
    for one in found.values():
        one.not_run.update({key.name: "not among the results" for key in wanted if key.name not in one.scores})
    files = {f"results of {name}": path.name for name, path in given}
    named = [(name, fingerprints.get(name), one) for name, one in found.items()]
    return _combine(" and ".join(sorted(kinds)), None, files, wanted, named)


def read_results(path: Path) -> tuple[str, dict[str, float], dict[str, float]]:
    """`(harness, scores, standard errors)` of whatever the file or folder is. Raises ArtifactError."""
    if not path.exists():
        raise MissingInputError(f"there are no results {path}.", "Give a result file, or a folder of them.")
    every = [Asked(one.name, one.category, one) for one in PAPER]
    if path.is_file() and path.suffix == ".json":
        data = parse_json(path.read_bytes())
        if isinstance(data, dict) and isinstance(data.get("results"), dict):
            own = [Asked(task, "tasks") for task in data["results"] if find_benchmark(task) is None]
            return lmms_eval.NAME, *lmms_eval.read_scores(path, every + own)
        if isinstance(data, dict) and data and all(_is_number(value) for value in data.values()):
            return "other results", {_name(key): float(value) for key, value in data.items()}, {}
    if path.is_dir():
        newest = lmms_eval.find_results(path)
        if newest is not None:
            return read_results(newest)
        files = {one.name: vlmevalkit.find_results(path, one) for one in every}
        scores = {one.name: vlmevalkit.read_score(file, one) for one in every if (file := files[one.name])}
        if scores:
            return vlmevalkit.NAME, scores, {}
    raise ArtifactError(
        f"{path} holds no results that can be read.",
        "Give lmms-eval's *_results.json, VLMEvalKit's work folder of a model, or JSON of benchmark -> percent.",
    )


@dataclass(frozen=True)
class _Runner:
    """The runs of one checkpoint; `folder` keeps their results."""

    name: str
    opened: OpenedModel
    folder: Path
    options: EvaluateOptions
    progress: Progress

    @property
    def model_type(self) -> str:
        """The architecture, as transformers calls it."""
        return self.opened.facts.model_type

    def score(self, asked: Asked, found: Found) -> None:
        """Adds the score of a benchmark, or why there is none."""
        if asked.known is not None and asked.known.is_judged and not _has_key():
            found.not_run[asked.name] = f"it is scored by a judge, and there is no key ({JUDGE_KEYS[0]})"
            return
        out = self.folder / (asked.known.task if asked.known else asked.name)
        mark, key = out / "run.json", self._describe(asked)
        if not (mark.exists() and parse_json(mark.read_bytes()) == key):
            failure = self._run(asked, out)
            if failure is not None:
                found.not_run[asked.name] = failure
                return
            write_atomically(mark, to_json_text(key).encode())
        try:
            found.scores.update(self._read(asked, out, found))
        except ArtifactError as error:
            found.not_run[asked.name] = str(error)

    def _run(self, asked: Asked, out: Path) -> str | None:
        """The reason, if it failed; its words are in `log.txt`."""
        out.mkdir(parents=True, exist_ok=True)
        log = out / "log.txt"
        with log.open("wb") as words:
            done = subprocess.run(self._build_command(asked, out), stdout=words, stderr=subprocess.STDOUT, check=False)
        if done.returncode == 0:
            return None
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip()[:200] if lines else "it said nothing"
        self.progress.say(f"{self.name}, {asked.name}: {self.options.harness} failed; see {log}")
        return f"{self.options.harness} failed with exit code {done.returncode}: {last}"

    def _build_command(self, asked: Asked, out: Path) -> list[str]:
        o, path = self.options, self.opened.checkpoint.path
        if o.harness == lmms_eval.NAME:
            model = o.harness_model or lmms_eval.MODELS.get(self.model_type, "huggingface")
            return lmms_eval.build_command(
                path, model, o.harness_arg, asked, out, o.batch_size or BATCH_SIZE, o.samples, o.include_path
            )
        kit_class = o.harness_model or vlmevalkit.CLASSES.get(self.model_type)
        if kit_class is None:
            raise UsageError(f"VLMEvalKit's class for {self.model_type} is not known.", "Name it with --harness-model.")
        settings = {"use_custom_prompt": False} if kit_class == "Qwen3VLChat" else {}
        given: dict[str, Any] = {name: _to_value(text) for name, _, text in (a.partition("=") for a in o.harness_arg)}
        vlmevalkit.write_config(out / "config.json", self.name, path, kit_class, {**settings, **given}, asked)
        return vlmevalkit.build_command(out / "config.json", out, _has_key())

    def _read(self, asked: Asked, out: Path, found: Found) -> dict[str, float]:
        if self.options.harness == lmms_eval.NAME:
            path = lmms_eval.find_results(out)
            if path is None:
                raise ArtifactError(f"lmms-eval left no result file in {out}.")
            scores, errors = lmms_eval.read_scores(path, [asked])
            found.errors.update(errors)
            return scores
        path = vlmevalkit.find_results(out, asked)
        if path is None:
            raise ArtifactError(f"VLMEvalKit left no result file in {out}.")
        return {asked.name: vlmevalkit.read_score(path, asked)}

    def _describe(self, asked: Asked) -> dict[str, Any]:
        """What a result depends on."""
        o = self.options
        include = sorted(
            path.name + hash_bytes(path.read_bytes()) for path in (o.include_path or Path("/nil")).glob("*.*")
        )
        own = [
            self.opened.facts.fingerprint,
            asked.name,
            asked.metric,
            o.harness,
            o.harness_model,
            list(o.harness_arg),
            o.samples,
        ]
        return {"key": hash_bytes(repr((own, include, o.batch_size or BATCH_SIZE)).encode())}


def _combine(
    harness: str,
    version: str | None,
    settings: dict[str, str],
    asked: Sequence[Asked],
    named: Sequence[tuple[str, str | None, Found]],
) -> Benchmarks:
    categories = group_by_category(asked)
    not_run = {key: why for _, _, found in named for key, why in found.not_run.items()}
    return Benchmarks(
        harness=harness,
        version=version,
        settings=settings,
        categories=categories,
        rows=build_rows(named, categories),
        not_run=not_run,
    )


def _check_installed(harness: str) -> str | None:
    """The harness's version. Raises MissingInputError."""
    if harness == vlmevalkit.NAME:
        vlmevalkit.find_kit()
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lmms-eval")
    except PackageNotFoundError as error:
        raise MissingInputError("lmms-eval is not installed.", f"Run `{lmms_eval.INSTALL}`.") from error


def _has_key() -> bool:
    return any(os.environ.get(name) for name in JUDGE_KEYS)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(key: str) -> str:
    known = find_benchmark(key)
    return known.name if known else key


def _to_value(text: str) -> Any:
    """JSON where it is, else text."""
    value = parse_json(text.encode())
    return text if isinstance(value, ValueError) else value
