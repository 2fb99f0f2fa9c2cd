"""`export`: what the published folder is called, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.options.option import Options, option
from interlace_cli.options.shared import ALLOW_MISMATCH, FORCE, OUT, PLACES, PUBLISHING, WORKSPACE

FORMATS = ("hf", "gguf")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """`base_model` and `license` None: as the checkpoint's metadata and the base model's own card say."""

    checkpoint: Path | None = option(
        None,
        "A healed checkpoint.",
        is_argument=True,
        is_alone=True,
        shown_default="the workspace's",
        decides=False,
    )
    evaluation: Path | None = option(
        None, "An eval.json, instead of the workspace's.", is_alone=True, decides=False, group=PLACES
    )
    name: str | None = option(None, "The model's name in its card.", group=PUBLISHING)
    base_model: str | None = option(None, "Hub id of the dense model, for the card.", group=PUBLISHING)
    license: str | None = option(
        None, "License of the model.", shown_default="the base model's, if its card is at hand", group=PUBLISHING
    )
    push_to_hub: str | None = option(None, "Also upload, to this repository.", metavar="OWNER/NAME", group=PUBLISHING)
    format: tuple[str, ...] = option(
        (),
        "hf, which is always written, or gguf beside it, by the llama.cpp that $LLAMA_CPP names; may be repeated.",
        choices=FORMATS,
        group=PUBLISHING,
    )
    private: bool = option(
        True, "Whether a new repository is private.", negative="--public", decides=False, group=PUBLISHING
    )
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    allow_mismatch: bool = ALLOW_MISMATCH.field()
    force: bool = FORCE.field()
