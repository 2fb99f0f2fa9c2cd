"""Uploading to the Hub, with the token of its own login, which is never shown."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from interlace_cli.errors import InterlaceError
from interlace_cli.io.checkpoints import open_checkpoint
from interlace_cli.io.offline import find_offline_switch

GGUF = "gguf/"
"""Folder of an export that goes with it."""


def find_unpushed(folder: Path) -> list[str]:
    """What has come into the folder of a checkpoint since, and is no part of it; folders end in a slash."""
    return [name for name in open_checkpoint(folder).find_side_files().left if name != GGUF]


def push_folder(folder: Path, repo: str, private: bool) -> str:
    """Makes the model repository if it is not there (`private` holds for a new one), uploads the folder in one commit,
    but for what is no part of the checkpoint and what is hidden, and returns its address. Raises InterlaceError."""
    from huggingface_hub import HfApi, errors

    try:
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            commit_message=f"Upload {folder.name} by interlace",
            ignore_patterns=[".*", *map(escape, find_unpushed(folder))],
        )
        return str(address)
    except (
        errors.HTTPError,  # type: ignore[attr-defined]
        errors.HFValidationError,
        errors.LocalTokenNotFoundError,
        errors.OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        switch = find_offline_switch()
        fix = "Run `hf auth login`" if switch is None else f"Unset {switch.partition('=')[0]}"
        raise InterlaceError(
            f"{folder} is complete, but could not be pushed to {repo}: {reason.rstrip('.')}.",
            f"{fix}, then the same command again.",
        ) from error
