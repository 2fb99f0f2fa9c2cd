"""One analysis being made: the model is loaded once, each importance is measured by its own file of this room, and what
was measured is saved as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.domain.analysis import Analysis, Calibration
from interlace_cli.domain.cautions import check_calibration
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.importance import LossImportance, TaylorImportance
from interlace_cli.domain.layers import count_drops
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.domain.record import Settings
from interlace_cli.errors import UsageError
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.importance.correlation import compute_spearman
from interlace_cli.importance.means import Arrays, average_angles, average_spans, build_groups
from interlace_cli.io.arrays import save_arrays
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.files import hash_file
from interlace_cli.io.sample_keys import build_keys
from interlace_cli.io.text_processor import tell_format
from interlace_cli.options.analyze import SIMILARITY_SETTINGS, AnalyzeOptions
from interlace_cli.runtime.exchange import take_from_main
from interlace_cli.runtime.processes import Processes, find_processes

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
    from transformers import PreTrainedModel

    from interlace_cli.data.batches import Batcher, Inputs
    from interlace_cli.importance.search_state import SearchFile

SEARCH_SUFFIX = ".search.json"


def build_settings(options: AnalyzeOptions) -> Settings:
    """What the similarities depend on."""
    return {**options.build_settings(*SIMILARITY_SETTINGS), "stack": options.stack or LANGUAGE}


def fits(analysis: Analysis, options: AnalyzeOptions) -> bool:
    """Whether the loss was measured as it is wanted now, or deeper."""
    loss, layers = analysis.loss, analysis.model.num_layers
    if loss is None:
        return False
    wanted = min(options.loss_samples, analysis.calibration.samples)
    protected = choose_protected(options, layers, analysis.model.deepstack_layers)
    depth = count_depth(options, layers, protected | set(analysis.model.locked_layers))
    return loss.samples == wanted and len(loss.path) >= depth and loss.protected == sorted(protected)


def count_depth(options: AnalyzeOptions, layers: int, kept: frozenset[int]) -> int:
    """How many layers the greedy search drops: one at least stays."""
    return min(count_drops(options.search_ratio, layers), layers - len(kept), layers - 1)


def choose_protected(options: AnalyzeOptions, layers: int, deepstack: int) -> frozenset[int]:
    """Layers that the search leaves alone. Raises UsageError for one that there is not."""
    if options.protect is None:
        return frozenset([*range(deepstack), layers - 1])
    outside = [layer for layer in options.protect if layer >= layers]
    if outside:
        raise UsageError(f"--protect names layer {outside[0]}, and the layers are 0 to {layers - 1}.")
    return frozenset(options.protect)


def _keep(state: object) -> None:
    """No-op on ranks other than 0."""


def open_measuring(
    opened: OpenedModel,
    dataset: Path,
    samples: Sequence[Sample],
    out: Path,
    options: AnalyzeOptions,
    progress: Progress,
    inputs: dict[str, str],
) -> Measuring:
    """Loads the model."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.usable import find_usable
    from interlace_cli.families.modules import find_layers
    from interlace_cli.io.models import check_goes_on_from_prompt, load_model, load_processor
    from interlace_cli.io.placement import Placement

    path, processes = opened.checkpoint.path, find_processes()
    if {"loss", "taylor"} & set(options.importance):
        check_goes_on_from_prompt(path, "--importance loss or taylor")
    processor = load_processor(path, options.min_pixels, options.max_pixels)
    if processes.is_main:
        tell_format(processor, progress.say)
    batcher, told = Batcher(processor, dataset), progress if processes.is_main else Silent()
    usable = find_usable(batcher, samples, "calibration samples", told, is_dealt=True)
    model = load_model(path, options.dtype, Placement.of(options), options.attention)
    return Measuring(
        opened=opened,
        samples=usable.samples,
        left_out=usable.left_out,
        out=out,
        options=options,
        processes=processes,
        progress=told,
        inputs=inputs,
        model=model,
        batcher=batcher,
        layers=find_layers(model, options.stack or LANGUAGE),
    )


@dataclass(frozen=True)
class Measuring:
    """One analysis being made: each part is saved as soon as it is there."""

    opened: OpenedModel
    samples: Sequence[Sample]
    left_out: dict[str, int]
    out: Path
    options: AnalyzeOptions
    processes: Processes
    progress: Progress
    inputs: dict[str, str]
    model: PreTrainedModel
    batcher: Batcher
    layers: nn.ModuleList

    def complete(self, found: tuple[Analysis, Arrays] | None) -> tuple[Analysis, Arrays]:
        """Measures what `found` lacks."""
        analysis, arrays = found or self._measure_similarity()
        wanted = self.options.importance
        if "loss" in wanted and not fits(analysis, self.options):
            loss, more = self._measure_loss()
            arrays |= more
            pairs = [(1 - s1, rise) for s1, rise in zip(analysis.similarity.s1, loss.loss_increase, strict=True)]
            known = [pair for pair in pairs if pair[1] != float("inf")]
            correlation = compute_spearman([a for a, _ in known], [b for _, b in known])
            analysis = self._save(analysis.model_copy(update={"loss": loss, "correlation": correlation}), arrays)
            if self.processes.is_main:
                self._find_search().remove()
        samples = min(self.options.loss_samples, analysis.calibration.samples)
        if "taylor" in wanted and (analysis.taylor is None or analysis.taylor.samples != samples):
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
                o.stack or LANGUAGE,
                self.batcher,
                self.samples,
                o.batch_size,
                o.text,
                advance,
                self.progress.say,
            )
        arrays = build_arrays(found, self.opened.facts.num_layers) | {"sample_keys": build_keys(self.samples)}
        similarity = average_spans(arrays, "all")
        assert similarity is not None
        cautions = check_calibration(len(found.rows))
        for line in cautions:
            self.progress.say(f"Careful: {line}")
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
                left_out=self.left_out,
                cautions=cautions,
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

        back = np.argsort(order_by_length(self.samples[: self.options.loss_samples]))
        return np.array(values)[..., back]

    def _iter_batches(self, is_moved: bool = True) -> Iterator[Inputs]:
        """Whole conversations, with labels at the places where the model is asked for logits; on the host if they are
        not `is_moved`."""
        from interlace_cli.data.labels import keep_label_positions
        from interlace_cli.data.prefetch import iter_calibration

        if self.model.config.is_encoder_decoder or not self.model.can_generate():
            raise UsageError(
                f"the loss of {type(self.model).__name__} cannot be measured layer by layer: it does not go on from a"
                " prompt.",
                "Only similarity can.",
            )
        samples = self.samples[: self.options.loss_samples]
        ways = (self.batcher, samples, self.options.batch_size, self.model, keep_label_positions, is_moved)
        return iter_calibration(*ways)

    def _measure_loss(self) -> tuple[LossImportance, Arrays]:
        from interlace_cli.families.ways import Way
        from interlace_cli.importance.loss import Limits, count_candidates, search_by_loss
        from interlace_cli.importance.room import find_room

        facts = self.opened.facts
        layers, locked = facts.num_layers, frozenset(facts.locked_layers)
        protected = choose_protected(self.options, layers, facts.deepstack_layers)
        depth = count_depth(self.options, layers, protected | locked)
        limits = Limits(locked, protected, depth)
        batches = list(self._iter_batches(is_moved=False))
        way, room = find_room(self.model, self.layers, batches, self.options.loss_samples)
        if way is Way.WHOLE:
            self.progress.say(f"{type(self.model).__name__} cannot be run from the middle: every candidate runs whole.")
        file = self._find_search()
        state = take_from_main("the search by loss", file.load)
        if not state.is_new:
            self.progress.say(f"going on with the search by loss, {len(state.path)} layers into it")
        total = count_candidates(layers, limits)
        with self.progress.task("analyze loss", total, "candidates") as advance:
            search_by_loss(
                self.model,
                self.layers,
                self.options.stack or LANGUAGE,
                batches,
                limits,
                state,
                file.save if self.processes.is_main else _keep,
                advance,
                way,
                room,
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
