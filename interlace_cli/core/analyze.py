"""`analyze`: how much each layer matters, measured on the calibration split.

Similarity takes one pass and is always measured; the loss without each layer and the gradients are measured on request.
What the analysis at hand has already is kept and not measured again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interlace_cli.domain.analysis import Analysis, Calibration
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.importance import LossImportance, TaylorImportance
from interlace_cli.domain.layers import count_drops
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.domain.record import Settings
from interlace_cli.errors import ArtifactError, InterlaceError, UsageError
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.importance.correlation import compute_spearman
from interlace_cli.importance.means import Arrays, average_angles, average_spans, build_groups
from interlace_cli.io.arrays import load_arrays, save_arrays
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_split
from interlace_cli.io.files import check_free, hash_file
from interlace_cli.io.score_files import save_scores
from interlace_cli.runtime.processes import find_processes, leave_processes

if TYPE_CHECKING:
    import numpy as np

    from interlace_cli.data.batches import Inputs
    from interlace_cli.importance.search_state import SearchFile

IMPORTANCES = ("similarity", "loss", "taylor")
GROUPINGS = ("modality", "source", "kind")
SEARCH_SUFFIX = ".search.json"


@dataclass(frozen=True)
class AnalyzeOptions:
    """`text`: `prompt` is the first human turn with the generation prompt, as the released scripts measure.

    `importance` says what is measured beside similarity; `by` which groups of samples have importances of their own
    (those by modality always do). Loss and gradients are measured on the first `loss_samples`; the greedy search goes
    as far as dropping `search_ratio` of the layers, and leaves `protect` alone (None: DeepStack layers and the last).
    """

    samples: int | None = None
    batch_size: int = 8
    text: Literal["prompt", "conversation"] = "prompt"
    dtype: str = "auto"
    device: str = "auto"
    attention: str | None = None
    stack: str = LANGUAGE
    importance: tuple[str, ...] = ("similarity",)
    by: tuple[str, ...] = ("modality",)
    loss_samples: int = 256
    search_ratio: float = 0.5
    protect: tuple[int, ...] | None = None


def build_settings(options: AnalyzeOptions) -> Settings:
    """What the similarities depend on; the batch size moves them by rounding alone."""
    return {
        "samples": options.samples,
        "text": options.text,
        "dtype": options.dtype,
        "device": options.device,
        "attention": options.attention,
        "batch_size": options.batch_size,
        "stack": options.stack,
    }


def check_options(options: AnalyzeOptions) -> None:
    """Raises UsageError for what is wrong whatever the model."""
    for option, given, known in (("--importance", options.importance, IMPORTANCES), ("--by", options.by, GROUPINGS)):
        wrong = next((name for name in given if name not in known), None)
        if wrong is not None:
            raise UsageError(f"{option} does not take {wrong!r}.", f"It takes {', '.join(known)}, with commas between.")
    if not 0 <= options.search_ratio < 1:
        raise UsageError(f"--search-ratio {options.search_ratio:g} is not between 0 and 1.", "Such as 0.5.")


def has_importances(analysis: Analysis, options: AnalyzeOptions) -> bool:
    """Whether there is nothing left to measure."""
    loss = analysis.loss is not None and _fits(analysis, options)
    have = {"similarity": True, "loss": loss, "taylor": analysis.taylor is not None}
    groupings = {group.by for group in analysis.groups} | {"modality"}
    return all(have[name] for name in options.importance) and set(options.by) <= groupings


def analyze_model(
    location: str,
    dataset: Path,
    out: Path,
    options: AnalyzeOptions,
    progress: Progress,
    scores_folder: Path | None = None,
    may_replace: bool = True,
    anew: bool = False,
) -> Analysis:
    """Measures what is missing of the model at `location` and writes `out`, with the per-sample arrays beside it.

    An analysis at `out` of another model, dataset or setting is left alone unless it `may_replace` it; `anew` measures
    again what is there.
    """
    check_options(options)
    opened = open_model(location, options.stack)
    samples = load_split(dataset, "calibration")[: options.samples]
    inputs = {"model": opened.facts.fingerprint, "dataset": hash_dataset(dataset)}
    before = _find_analysis(out, options, inputs)
    found = None if before is None or anew else _find_arrays(before, out)
    if found is None and (before is None or anew):
        check_free(out, may_replace)
    elif found is None:
        progress.say(f"What lies beside {out} does not belong to it: measured again.")
    if found is None or not has_importances(found[0], options):
        found = _Measuring(opened, dataset, samples, out, options, progress, inputs).complete(found)
        leave_processes()
    analysis, arrays = found
    if scores_folder is not None and find_processes().is_main:
        save_scores(scores_folder, [arrays[f"all_s{p}"] for p in (1, 2, 3)])
    return analysis


def _find_analysis(path: Path, options: AnalyzeOptions, inputs: dict[str, str]) -> Analysis | None:
    """The analysis that is there, if its similarities are the ones that are wanted."""
    try:
        analysis = load_artifact(path, Analysis)
    except ArtifactError:
        return None
    is_wanted = analysis.created_by == build_origin("analyze", build_settings(options)) and analysis.inputs == inputs
    return analysis if is_wanted else None


def _find_arrays(analysis: Analysis, path: Path) -> tuple[Analysis, Arrays] | None:
    """With the per-sample arrays that were written with it. A call that was killed between the two left others."""
    beside = path.with_suffix(".safetensors")
    if not beside.exists() or hash_file(beside) != analysis.arrays:
        return None
    return analysis, load_arrays(beside)


def _fits(analysis: Analysis, options: AnalyzeOptions) -> bool:
    """Whether the loss was measured as it is wanted now, or on more."""
    loss, layers = analysis.loss, analysis.model.num_layers
    if loss is None:
        return False
    wanted = min(options.loss_samples, analysis.calibration.samples)
    protected = _choose_protected(options, layers, analysis.model.deepstack_layers)
    free = layers - len(protected | set(analysis.model.locked_layers))
    depth = min(count_drops(options.search_ratio, layers), free)
    return loss.samples == wanted and len(loss.path) >= depth and loss.protected == sorted(protected)


def _choose_protected(options: AnalyzeOptions, layers: int, deepstack: int) -> frozenset[int]:
    if options.protect is None:
        return frozenset([*range(deepstack), layers - 1])
    outside = [layer for layer in options.protect if layer >= layers]
    if outside:
        raise UsageError(f"--protect names layer {outside[0]}, and the layers are 0 to {layers - 1}.")
    return frozenset(options.protect)


def _keep(state: object) -> None:
    """What the first process writes down need not be written twice."""


class _Measuring:
    """One analysis being made: each part is saved as soon as it is there."""

    def __init__(
        self,
        opened: OpenedModel,
        dataset: Path,
        samples: list[Sample],
        out: Path,
        options: AnalyzeOptions,
        progress: Progress,
        inputs: dict[str, str],
    ) -> None:
        from interlace_cli.data.batches import Batcher
        from interlace_cli.families.modules import find_layers
        from interlace_cli.io.models import load_model, load_processor

        path = opened.checkpoint.path
        self.opened, self.samples, self.out, self.options = opened, samples, out, options
        self.processes = find_processes()
        self.progress, self.inputs = progress if self.processes.is_main else Silent(), inputs
        self.model = load_model(path, options.dtype, self.processes.place(options.device), options.attention)
        self.batcher = Batcher(load_processor(path), dataset)
        self.layers = find_layers(self.model, options.stack)

    def complete(self, found: tuple[Analysis, Arrays] | None) -> tuple[Analysis, Arrays]:
        """Measures what `found` lacks."""
        analysis, arrays = found or self._measure_similarity()
        wanted = self.options.importance
        if "loss" in wanted and not _fits(analysis, self.options):
            loss, more = self._measure_loss()
            arrays |= more
            pairs = [(1 - s1, rise) for s1, rise in zip(analysis.similarity.s1, loss.loss_increase, strict=True)]
            known = [pair for pair in pairs if pair[1] != float("inf")]
            correlation = compute_spearman([a for a, _ in known], [b for _, b in known])
            analysis = self._save(analysis.model_copy(update={"loss": loss, "correlation": correlation}), arrays)
            if self.processes.is_main:
                self._find_search().remove()
        if "taylor" in wanted and analysis.taylor is None:
            taylor, more = self._measure_taylor()
            arrays |= more
            analysis = self._save(analysis.model_copy(update={"taylor": taylor}), arrays)
        by = sorted({group.by for group in analysis.groups} | set(self.options.by) - {"modality"})
        groups = build_groups(arrays, self.samples, by)
        return self._save(analysis.model_copy(update={"groups": groups}), arrays), arrays

    def _save(self, analysis: Analysis, arrays: Arrays) -> Analysis:
        if self.processes.is_main:
            path = self.out.with_suffix(".safetensors")
            save_arrays(arrays, path)
            analysis = analysis.model_copy(update={"arrays": hash_file(path)})
            save_artifact(analysis, self.out)
        return analysis

    def _measure_similarity(self) -> tuple[Analysis, Arrays]:
        from interlace_cli.importance.rows import build_arrays, measure_rows

        o = self.options
        with self.progress.task("analyze", len(self.samples), "samples") as advance:
            found = measure_rows(
                self.model,
                self.layers,
                o.stack,
                self.batcher,
                self.samples,
                o.batch_size,
                o.text,
                advance,
                self.progress.say,
            )
        arrays = build_arrays(found, self.opened.facts.num_layers)
        similarity = average_spans(arrays, "all")
        assert similarity is not None
        analysis = Analysis(
            kind=Analysis.KIND,
            schema_version=Analysis.SCHEMA,
            created_by=build_origin("analyze", build_settings(self.options)),
            inputs=self.inputs,
            model=self.opened.facts,
            calibration=Calibration(
                samples=len(found.rows),
                tokens=float(arrays["tokens"].mean()),
                image_tokens=float(arrays["image_tokens"].mean()),
                vision_patches=found.patches / len(self.samples),
            ),
            similarity=similarity,
            image=average_spans(arrays, "image"),
            text=average_spans(arrays, "text"),
            angular=None if found.angles is None else average_angles(found.angles, len(found.rows)),
        )
        return self._save(analysis, arrays), arrays

    def _restore_order(self, values: Sequence[Any]) -> np.ndarray:
        """What was measured sample by sample, last axis in the order of the batches -> in the order of the split."""
        import numpy as np

        from interlace_cli.data.batches import order_by_length

        place = np.argsort(order_by_length(self.samples[: self.options.loss_samples]))
        return np.array(values)[..., place]

    def _iter_batches(self) -> Iterator[Inputs]:
        """Whole conversations, with labels at the places where the model is asked for logits."""
        from interlace_cli.data.labels import keep_label_positions
        from interlace_cli.data.prefetch import iter_calibration

        if self.model.config.is_encoder_decoder or not self.model.can_generate():
            raise UsageError(
                f"the loss of {type(self.model).__name__} cannot be measured layer by layer: it does not go on from a"
                " prompt.",
                "Only similarity can.",
            )
        samples = self.samples[: self.options.loss_samples]
        return iter_calibration(self.batcher, samples, self.options.batch_size, self.model, keep_label_positions)

    def _measure_loss(self) -> tuple[LossImportance, Arrays]:
        from interlace_cli.families.replay import can_replay
        from interlace_cli.importance.loss import Limits, count_candidates, search_by_loss

        facts = self.opened.facts
        layers, locked = facts.num_layers, frozenset(facts.locked_layers)
        protected = _choose_protected(self.options, layers, facts.deepstack_layers)
        free = layers - len(protected | locked)
        depth = min(count_drops(self.options.search_ratio, layers), free)
        limits = Limits(locked, protected, depth)
        batches = list(self._iter_batches())
        self._check_memory(batches)
        prompt = {name: value for name, value in batches[0].items() if name != "labels"}
        is_replayable = can_replay(self.model, self.layers, prompt)
        if not is_replayable:
            self.progress.say(f"{type(self.model).__name__} cannot be run from the middle: every candidate runs whole.")
        file = self._find_search()
        state = file.load()
        if not state.is_new:
            self.progress.say(f"going on with the search by loss, {len(state.path)} layers into it")
        total = count_candidates(layers, limits)
        with self.progress.task("analyze loss", total, "candidates") as advance:
            search_by_loss(
                self.model,
                self.layers,
                self.options.stack,
                batches,
                limits,
                state,
                file.save if self.processes.is_main else _keep,
                advance,
                is_replayable,
            )
        tokens = sum(state.tokens)
        importance = LossImportance(
            dense=sum(state.dense) / tokens,
            single=[None if losses is None else sum(losses) / tokens for losses in state.single],
            path=state.path,
            protected=sorted(protected),
            samples=len(state.tokens),
            answer_tokens=tokens,
            layer_runs=state.layer_runs,
            naive_layer_runs=state.naive_layer_runs,
        )
        missing = [float("nan")] * len(state.tokens)
        return importance, {
            "loss_tokens": self._restore_order(state.tokens).astype("int32"),
            "loss_dense": self._restore_order(state.dense),
            "loss_single": self._restore_order([missing if one is None else one for one in state.single]),
        }

    def _measure_taylor(self) -> tuple[TaylorImportance, Arrays]:
        from interlace_cli.importance.taylor import measure_taylor

        count = len(self.samples[: self.options.loss_samples])
        with self.progress.task("analyze taylor", count, "samples") as advance:
            found = measure_taylor(self.model, self.layers, self._iter_batches(), advance)
        tokens = sum(found.tokens)
        importance = TaylorImportance(
            taylor_weight=found.taylor_weight,
            taylor_activation=[sum(estimates) / tokens for estimates in found.taylor_activation],
            samples=len(found.tokens),
        )
        return importance, {
            "taylor_activation": self._restore_order(found.taylor_activation),
            "taylor_tokens": self._restore_order(found.tokens).astype("int32"),
        }

    def _find_search(self) -> SearchFile:
        from interlace_cli.importance.search_state import SearchFile

        options = self.options
        settings: Settings = {
            **build_settings(options),
            "loss_samples": options.loss_samples,
            "search_ratio": options.search_ratio,
            "protect": None if options.protect is None else list(options.protect),
        }
        return SearchFile(self.out.with_suffix(SEARCH_SUFFIX), settings, self.inputs)

    def _check_memory(self, batches: Sequence[Inputs]) -> None:
        """The search holds the hidden states of all layers, of the model as it is and of two candidates."""
        width = self.model.get_input_embeddings().weight.shape[-1]
        tokens = sum(batch["input_ids"].numel() for batch in batches)
        need = 3 * tokens * width * len(self.layers) * self.model.dtype.itemsize
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if need > free:
            raise InterlaceError(
                f"the search by loss would hold {need / 1e9:.1f} GB of hidden states, and {free / 1e9:.1f} GB are"
                " free.",
                f"Give fewer --loss-samples than {self.options.loss_samples}.",
            )
