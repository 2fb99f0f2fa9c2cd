"""`export`: a folder for the Hub or a server: the checkpoint, all that belongs to it, and an honest card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.core.opened import open_model
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.domain.record import Settings
from interlace_cli.errors import InterlaceError
from interlace_cli.io.artifacts import load_artifact, save_artifact
from interlace_cli.io.checkpoints import DEMO, resolve_location
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.surgery import copy_config, copy_side_files, select_tensors, write_tensors
from interlace_cli.io.workspace import PASSPORT, require
from interlace_cli.report.card import build_card


@dataclass(frozen=True)
class ExportOptions:
    """`base_model` and `licence` None: as the checkpoint's passport and the base model's own card say."""

    name: str | None = None
    base_model: str | None = None
    licence: str | None = None
    push_to_hub: str | None = None
    private: bool = True


def build_settings(options: ExportOptions) -> Settings:
    """What the card depends on."""
    return {"name": options.name, "base_model": options.base_model, "licence": options.licence}


def export_checkpoint(
    checkpoint: Path, evaluation_path: Path, out: Path, options: ExportOptions, progress: Progress, force: bool = False
) -> CheckpointCard:
    """Copies `checkpoint` to `out` with a model card; its table is taken from the evaluation if that speaks of it."""
    check_free(out, force)
    card = load_artifact(require(require(checkpoint) / PASSPORT), CheckpointCard)
    opened = open_model(checkpoint)
    text = _build_text(card, _find_evaluation(evaluation_path, opened.facts.fingerprint, progress), options)
    with folder_being_made(out, force) as draft:
        copy_config(checkpoint, draft)
        copy_side_files(checkpoint, draft)
        names = {tensor: tensor for tensor in opened.checkpoint.tensors}
        write_tensors(opened.checkpoint, draft, select_tensors(opened.checkpoint, names))
        (draft / "README.md").write_text(text, encoding="utf-8")
        save_artifact(card, draft / PASSPORT)
        _complete(draft)
    if options.push_to_hub:
        _push(out, options.push_to_hub, options.private)
    return card


def is_exported(checkpoint: Path, evaluation_path: Path, out: Path, options: ExportOptions) -> bool:
    """Whether `out` already is what an export would write: the same passport, card and weights."""
    try:
        card = load_artifact(checkpoint / PASSPORT, CheckpointCard)
        if load_artifact(out / PASSPORT, CheckpointCard) != card:
            return False
        fingerprint = open_model(checkpoint).facts.fingerprint
        text = _build_text(card, _find_evaluation(evaluation_path, fingerprint, Silent()), options)
        is_same_card = (out / "README.md").read_text(encoding="utf-8") == text
        return is_same_card and open_model(out).facts.fingerprint == fingerprint
    except (OSError, InterlaceError):
        return False


def _build_text(card: CheckpointCard, evaluation: Evaluation | None, options: ExportOptions) -> str:
    base = options.base_model or (card.base.name if card.base.location == DEMO else card.base.location)
    if base.startswith("/"):
        base = card.base.name
    datasets = [card.healing.dataset] if card.healing else []
    licence = options.licence or _find_licence(card.base.location)
    name = options.name or options.push_to_hub or f"{re.sub(r'[^A-Za-z0-9.-]+', '-', base.split('/')[-1])}-interlace"
    return build_card(card, evaluation, name, base, licence, datasets)


def _find_evaluation(path: Path, fingerprint: str, progress: Progress) -> Evaluation | None:
    if not path.exists():
        progress.say("There is no evaluation, so the card has no table; `interlace eval` makes one.")
        return None
    evaluation = load_artifact(path, Evaluation)
    if all(result.fingerprint != fingerprint for result in evaluation.results):
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


def _push(folder: Path, repo: str, private: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except (HfHubHTTPError, OSError) as error:
        raise InterlaceError(
            f"{folder} is complete, but could not be pushed to {repo}: {str(error).splitlines()[0]}.",
            "Run `hf auth login`, then push again.",
        ) from error
