"""`export`: a folder for the Hub or a server: the checkpoint, all that belongs to it, and an honest card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.families.model_files import open_model
from interlace_cli.io.artifacts import load_artifact, save_artifact
from interlace_cli.io.checkpoints import DEMO, resolve_location
from interlace_cli.io.datasets import MANIFEST, load_manifest
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.gguf import convert_gguf
from interlace_cli.io.hub import push_folder
from interlace_cli.io.integrity import check_files, record_files
from interlace_cli.io.surgery import copy_config, copy_side_files, select_tensors, write_tensors
from interlace_cli.io.workspace import METADATA, require
from interlace_cli.report.card import ServingEngine, build_card
from interlace_cli.report.card_metadata import build_metadata

FORMATS = ("hf", "gguf")
SERVERS = (
    ServingEngine("vLLM", "not tried", "vllm serve {name}"),
    ServingEngine("SGLang", "not tried", "python -m sglang.launch_server --model-path {name}"),
)
LLAMA = "llama-mtmd-cli -m {name}-f16.gguf --mmproj mmproj-{name}-f16.gguf --image picture.png -p 'What is this?'"


@dataclass(frozen=True)
class ExportOptions:
    """`base_model` and `licence` None: as the checkpoint's passport and the base model's own card say. `formats`:
    beside the plain folder, which there always is."""

    name: str | None = None
    base_model: str | None = None
    licence: str | None = None
    push_to_hub: str | None = None
    private: bool = True
    formats: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint: Path,
    evaluation_path: Path,
    out: Path,
    options: ExportOptions,
    progress: Progress,
    force: bool = False,
    dataset: Path | None = None,
) -> CheckpointCard:
    """Copies `checkpoint` to `out` with a model card; its tables are taken from the evaluation if that speaks of it. To
    push what `out` holds already, nothing is written anew."""
    unknown = next((name for name in options.formats if name not in FORMATS), None)
    if unknown is not None:
        raise UsageError(f"--format does not take {unknown!r}.", f"It takes {', '.join(FORMATS)}.")
    card = load_artifact(require(require(checkpoint) / METADATA), CheckpointCard)
    if not (options.push_to_hub and not force and is_exported(checkpoint, evaluation_path, out, options, dataset)):
        check_free(out, force)
        _write(checkpoint, card, evaluation_path, out, options, progress, force, dataset)
    if options.push_to_hub:
        progress.say(f"pushed to {push_folder(out, options.push_to_hub, options.private)}")
    return card


def _write(
    checkpoint: Path,
    card: CheckpointCard,
    evaluation_path: Path,
    out: Path,
    options: ExportOptions,
    progress: Progress,
    force: bool,
    dataset: Path | None,
) -> None:
    opened = open_model(checkpoint)
    check_files(checkpoint)
    evaluation = _find_evaluation(evaluation_path, opened.facts.fingerprint, progress)
    text = _build_text(card, evaluation, options, opened.facts.fingerprint, dataset)
    with folder_being_made(out, force) as draft:
        copy_config(checkpoint, draft)
        copy_side_files(checkpoint, draft)
        names = {tensor: tensor for tensor in opened.checkpoint.tensors}
        write_tensors(opened.checkpoint, draft, select_tensors(opened.checkpoint, names))
        (draft / "README.md").write_text(text, encoding="utf-8")
        _complete(draft)
        save_artifact(card.model_copy(update={"files": record_files(draft)}), draft / METADATA)
        if "gguf" in options.formats:
            convert_gguf(draft, draft / "gguf", _find_name(card, options).split("/")[-1], progress)


def is_exported(
    checkpoint: Path, evaluation_path: Path, out: Path, options: ExportOptions, dataset: Path | None = None
) -> bool:
    """Whether `out` already is what an export would write: the same passport, card and weights."""
    try:
        card = load_artifact(checkpoint / METADATA, CheckpointCard)
        exported = load_artifact(out / METADATA, CheckpointCard)
        if exported.model_copy(update={"files": card.files}) != card:
            return False
        fingerprint = open_model(checkpoint).facts.fingerprint
        evaluation = _find_evaluation(evaluation_path, fingerprint, Silent())
        text = _build_text(card, evaluation, options, fingerprint, dataset)
        is_same_card = (out / "README.md").read_text(encoding="utf-8") == text
        has_formats = "gguf" not in options.formats or any((out / "gguf").glob("*.gguf"))
        return is_same_card and has_formats and open_model(out).facts.fingerprint == fingerprint
    except (OSError, InterlaceError):
        return False


def _build_text(
    card: CheckpointCard, evaluation: Evaluation | None, options: ExportOptions, fingerprint: str, dataset: Path | None
) -> str:
    base = _find_base(card, options)
    licence = options.licence or _find_licence(card.base.pinned)
    name = _find_name(card, options)
    manifest = load_manifest(dataset) if dataset is not None and (dataset / MANIFEST).exists() else None
    metadata = build_metadata(card, evaluation, name, base, licence, fingerprint, manifest)
    return build_card(card, evaluation, name, base, metadata, _list_engines(evaluation, options))


def _find_base(card: CheckpointCard, options: ExportOptions) -> str:
    base = options.base_model or (card.base.name if card.base.location == DEMO else card.base.location)
    return card.base.name if base.startswith("/") else base.partition("@")[0]


def _find_name(card: CheckpointCard, options: ExportOptions) -> str:
    last = re.sub(r"[^A-Za-z0-9.-]+", "-", _find_base(card, options).split("/")[-1])
    return options.name or options.push_to_hub or f"{last}-interlace"


def _list_engines(evaluation: Evaluation | None, options: ExportOptions) -> list[ServingEngine]:
    """transformers loaded the config and the processor, and all of it where there is an evaluation."""
    from importlib.metadata import version

    ours = "evaluated" if evaluation and evaluation.results else "config and processor loaded"
    load = "AutoModelForImageTextToText.from_pretrained('{name}')"
    engines = [ServingEngine(f"transformers {version('transformers')}", f"tried: {ours}", load), *SERVERS]
    tried = "tried: converted, and answered about a picture" if "gguf" in options.formats else "not tried"
    return [*engines, ServingEngine("llama.cpp", tried, LLAMA)]


def _find_evaluation(path: Path, fingerprint: str, progress: Progress) -> Evaluation | None:
    if not path.exists():
        progress.say("There is no evaluation, so the card has no table; `interlace eval` makes one.")
        return None
    evaluation = load_artifact(path, Evaluation)
    known = {result.fingerprint for result in evaluation.results}
    rows = evaluation.benchmarks.rows if evaluation.benchmarks else []
    if fingerprint not in known | {row.fingerprint for row in rows}:
        progress.say(f"{path} does not speak of this checkpoint, so the card has no table.")
        return None
    return evaluation


def _find_licence(base_location: str) -> str:
    """From the base model's own card, if it is at hand; else `other`, which the Hub asks to be explained."""
    try:
        card = resolve_location(base_location)[0] / "README.md"
        match = re.search(r"^license: *(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, InterlaceError):
        match = None
    return match[1] if match else "other"


def _complete(draft: Path) -> None:
    """Adds a generation config where the base model has none, and loads config and processor as a user would."""
    from interlace_cli.io.models import import_transformers, load_config, load_processor

    config = load_config(draft)
    load_processor(draft)
    if not (draft / "generation_config.json").exists():
        import_transformers().GenerationConfig.from_model_config(config).save_pretrained(draft)
