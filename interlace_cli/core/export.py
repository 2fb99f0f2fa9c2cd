"""`export`: a folder for the Hub or a server: the checkpoint, all that belongs to it, and an honest card."""

from __future__ import annotations

import re
from pathlib import Path

from interlace_cli.core.inputs import hash_model, hash_split
from interlace_cli.core.lineage import find_lacking_keys, find_strangers, read_keys
from interlace_cli.core.step import Condition, Step, describe_changes
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import InterlaceError, PlanMismatchError, UsageError
from interlace_cli.families.architectures import ARCHITECTURES
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.io.artifacts import load_artifact, save_artifact
from interlace_cli.io.checkpoints import DEMO, resolve_location
from interlace_cli.io.datasets import MANIFEST, load_manifest
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.gguf import convert_gguf
from interlace_cli.io.hub import find_unpushed, push_folder
from interlace_cli.io.integrity import check_files, record_files
from interlace_cli.io.models import IMAGE_TEXT_TO_TEXT, choose_auto_class, is_text_only
from interlace_cli.io.sample_keys import load_keys, save_keys
from interlace_cli.io.surgery import copy_config, copy_side_files, select_tensors, write_tensors
from interlace_cli.io.workspace import METADATA, Workspace, require
from interlace_cli.options.export import ExportOptions
from interlace_cli.report.card import ServingEngine, build_card
from interlace_cli.report.card_metadata import build_metadata

SERVERS = (
    ServingEngine("vLLM", "not tried", "vllm serve {name}"),
    ServingEngine("SGLang", "not tried", "python -m sglang.launch_server --model-path {name}"),
)
LLAMA_TEXT = "llama-cli -m {name}-f16.gguf -p 'Where does tea come from?'"
LLAMA = "llama-mtmd-cli -m {name}-f16.gguf --mmproj mmproj-{name}-f16.gguf --image picture.png -p 'What is this?'"


def export(options: ExportOptions, progress: Progress) -> CheckpointCard:
    """Copies the checkpoint with a model card, whose tables are the evaluation's if that speaks of it. To push what is
    exported already, nothing is written anew. Raises PlanMismatchError for an evaluation of other checkpoints."""
    step = build_step(options, progress)
    state = step.find_state()
    if options.push_to_hub and state.is_current and not options.force and isinstance(state.artifact, CheckpointCard):
        card = state.artifact
    else:
        card = step.run(progress, options.force)
    if options.push_to_hub:
        if unpushed := find_unpushed(step.out):
            progress.say(f"not pushed, as no part of the checkpoint: {', '.join(unpushed)}")
        progress.say(f"pushed to {push_folder(step.out, options.push_to_hub, options.private)}")
    return card


def build_step(options: ExportOptions, progress: Progress) -> Step[CheckpointCard]:
    """The folder depends on the checkpoint and on all that its card says."""
    space = Workspace(options.workspace)
    checkpoint, out = options.checkpoint or space.healed, options.out or space.export
    card = load_artifact(require(require(checkpoint) / METADATA), CheckpointCard)
    opened = open_model(checkpoint, card.stack)
    if "gguf" in options.format and _reads_text_alone(opened):
        raise UsageError(
            "--format gguf is for vision-language models.",
            "Export without it, and run llama.cpp's convert_hf_to_gguf.py on the folder.",
        )
    evaluation = _find_evaluation(options, card, opened.facts.fingerprint, progress)
    text = _build_text(card, evaluation, options, opened)

    def make(progress: Progress, may_replace: bool) -> CheckpointCard:
        state = step.find_state()
        if not may_replace and state.condition is Condition.INCOMPLETE and isinstance(state.artifact, CheckpointCard):
            save_keys(out, load_keys(checkpoint))
            return state.artifact
        check_free(out, may_replace)
        return _write(checkpoint, card, opened, text, options, out, progress, may_replace)

    step = Step(
        name="export",
        settings=build_settings(options),
        inputs=hash_model(opened.facts),
        out=out,
        file=METADATA,
        record=CheckpointCard,
        make=make,
        find_differences=lambda exported, step: _find_differences(exported, card, text, options, out),
        find_lacks=lambda exported: find_lacking_keys(out, read_keys(checkpoint)),
        is_completed=True,
    )
    return step


def build_settings(options: ExportOptions) -> Settings:
    """What the card says beside what it knows of the checkpoint; the repository only as the model's name."""
    return {"name": options.name or options.push_to_hub, **options.build_settings("base_model", "license", "format")}


def _write(
    checkpoint: Path,
    card: CheckpointCard,
    opened: OpenedModel,
    text: str,
    options: ExportOptions,
    out: Path,
    progress: Progress,
    may_replace: bool,
) -> CheckpointCard:
    check_files(checkpoint)
    with folder_being_made(out, may_replace) as draft:
        copy_config(checkpoint, draft)
        side = copy_side_files(opened.checkpoint, draft)
        names = {tensor: tensor for tensor in opened.checkpoint.tensors}
        write_tensors(opened.checkpoint, draft, select_tensors(opened.checkpoint, names))
        (draft / "README.md").write_text(text, encoding="utf-8")
        keys = load_keys(checkpoint)
        if keys:
            save_keys(draft, keys)
        _complete(draft)
        # The names of somebody's own files are not to be published.
        made = card.model_copy(update={"left": [], "files": record_files(draft), "exported": build_settings(options)})
        save_artifact(made, draft / METADATA)
        if "gguf" in options.format:
            convert_gguf(draft, draft / "gguf", _find_name(card, options).split("/")[-1], progress)
    if side.left:
        progress.say(side.describe())
    return made.model_copy(update={"left": side.left})


def _find_differences(
    exported: CheckpointCard, card: CheckpointCard, text: str, options: ExportOptions, out: Path
) -> list[str]:
    """What an export would write otherwise than it lies there: another checkpoint, another card, more formats."""
    if exported.model_copy(update={"left": card.left, "files": card.files, "exported": card.exported}) != card:
        return ["it is of another checkpoint"]
    before, now = ({**made, "format": None} for made in (exported.exported, build_settings(options)))
    page = out / "README.md"
    is_same = page.exists() and page.read_bytes().decode(errors="replace") == text
    reasons = [] if is_same else describe_changes(before, now) or ["its card would say something else now"]
    if "gguf" in options.format and not any((out / "gguf").glob("*.gguf")):
        reasons.append("it has no GGUF files")
    return reasons


def _build_text(
    card: CheckpointCard, evaluation: Evaluation | None, options: ExportOptions, opened: OpenedModel
) -> str:
    base = _find_base(card, options)
    licence = options.license or _find_licence(card.base.pinned)
    name = _find_name(card, options)
    manifest = _find_manifest(options, evaluation)
    auto, is_text = _find_auto_class(opened), _reads_text_alone(opened)
    metadata = build_metadata(card, evaluation, name, base, licence, opened.facts.fingerprint, manifest, is_text)
    return build_card(card, evaluation, name, base, metadata, _list_engines(evaluation, options, auto), is_text)


def _find_auto_class(opened: OpenedModel) -> str:
    """As `choose_auto_class`, which loads transformers: it is not asked of the tested architectures."""
    model_type = opened.facts.model_type
    return IMAGE_TEXT_TO_TEXT if model_type in ARCHITECTURES else choose_auto_class(model_type)


def _reads_text_alone(opened: OpenedModel) -> bool:
    return opened.facts.model_type not in ARCHITECTURES and is_text_only(opened.facts.model_type)


def _find_base(card: CheckpointCard, options: ExportOptions) -> str:
    base = options.base_model or (card.base.name if card.base.location == DEMO else card.base.location)
    return card.base.name if base.startswith("/") else base.partition("@")[0]


def _find_name(card: CheckpointCard, options: ExportOptions) -> str:
    last = re.sub(r"[^A-Za-z0-9.-]+", "-", _find_base(card, options).split("/")[-1])
    return options.name or options.push_to_hub or f"{last}-interlace"


def _list_engines(evaluation: Evaluation | None, options: ExportOptions, auto: str) -> list[ServingEngine]:
    """transformers loaded the config and the processor, and all of it where there is an evaluation."""
    from importlib.metadata import version

    ours = "evaluated" if evaluation and evaluation.results else "config and processor loaded"
    load = f"{auto}.from_pretrained('{{name}}')"
    engines = [ServingEngine(f"transformers {version('transformers')}", f"tried: {ours}", load), *SERVERS]
    tried = "tried: converted, and answered about a picture" if "gguf" in options.format else "not tried"
    return [*engines, ServingEngine("llama.cpp", tried, LLAMA if auto == IMAGE_TEXT_TO_TEXT else LLAMA_TEXT)]


def _find_evaluation(
    options: ExportOptions, card: CheckpointCard, fingerprint: str, progress: Progress
) -> Evaluation | None:
    """The evaluation, if it speaks of this checkpoint. Raises PlanMismatchError if the others in it do not belong to
    it, unless that is allowed."""
    path = options.evaluation or Workspace(options.workspace).evaluation
    if not path.exists():
        progress.say("There is no evaluation, so the card has no table; `interlace eval` makes one.")
        return None
    evaluation = load_artifact(path, Evaluation)
    known = {result.fingerprint for result in evaluation.results}
    rows = evaluation.benchmarks.rows if evaluation.benchmarks else []
    if fingerprint not in known | {row.fingerprint for row in rows}:
        progress.say(
            f"{path} and this checkpoint do not belong together: it was evaluated before, or is another one; the card"
            " has no table."
        )
        return None
    for line in (mismatches := find_strangers(card, evaluation)):
        progress.say(f"{line}.")
    if mismatches and not options.allow_mismatch:
        raise PlanMismatchError(f"{mismatches[0]}.", "Run `interlace eval --force` again, or add --allow-mismatch.")
    return evaluation


def _find_manifest(options: ExportOptions, evaluation: Evaluation | None) -> Manifest | None:
    """The workspace's dataset, if it is the one that the evaluation asked."""
    folder = Workspace(options.workspace).dataset
    if evaluation is None or not (folder / MANIFEST).exists():
        return None
    return load_manifest(folder) if evaluation.inputs.get("heldout") == hash_split(folder, "heldout") else None


def _find_licence(base_location: str) -> str:
    """From the base model's own card, if it is at hand; else `other`, which the Hub asks to be explained."""
    try:
        card = resolve_location(base_location, only="README.md")[0] / "README.md"
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
