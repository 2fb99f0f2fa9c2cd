"""Models on the Hub: what of a repository is fetched, and what is refused before anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interlace_cli.errors import CheckpointError, MissingInputError
from interlace_cli.io.offline import find_offline_switch
from interlace_cli.io.weights import check_no_adapter, choose_weights

NOT_DOWNLOADED = (
    *("*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.tflite", "*.mlmodel"),
    *("original/*", "onnx/*", "openvino/*", "metal/*", "consolidated*.safetensors"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp4", "*.pdf"),
)
"""Weights in other forms, some of them a second copy in safetensors, and pictures for the card."""


def download_model(repo: str, revision: str | None, only: str | None = None) -> Path:
    """The folder in the Hub's cache; `only` one file of it, if that is given. Raises CheckpointError for a repository
    that has no weights which can be cut, before it is fetched, and MissingInputError where it cannot be fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    switch = find_offline_switch()
    try:
        unneeded = _choose_unneeded(repo, revision, only is not None)
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                ignore_patterns=[*NOT_DOWNLOADED, *unneeded],
                allow_patterns=only,
                # Else huggingface-hub 1 asks the Hub for the files of a commit that is whole in the cache.
                local_files_only=switch is not None,
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{repo} is gated.", "Accept its terms on the Hub and run `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise MissingInputError(
            f"{repo} has no revision {revision}.", "Check its commits, branches and tags."
        ) from error
    except RepositoryNotFoundError as error:
        raise MissingInputError(f"there is neither a folder nor a Hub model {repo}.", "Check the name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if switch is not None:
            raise MissingInputError(
                f"there is no folder {repo}, no model of that name in the Hub's cache, and {switch} keeps the Hub from"
                " being asked.",
                f"Unset {switch.partition('=')[0]}, or give a local folder.",
            ) from error
        raise MissingInputError(
            f"there is no folder {repo}, and the Hub cannot be reached for a model of that name.",
            "Give a local folder, or try again with a connection.",
        ) from error


def _choose_unneeded(repo: str, revision: str | None, is_one_file: bool) -> list[str]:
    """The repository's safetensors files that nobody reads, such as those of training states or of an older save; none
    where the Hub cannot be asked, and what is in the cache has to do."""
    listed = _list_files(repo, revision)
    if listed is None:
        return []
    names, commit = listed
    check_no_adapter(repo, names)
    if is_one_file:
        return []

    def read(name: str) -> Any:
        from huggingface_hub import hf_hub_download

        return json.loads(Path(hf_hub_download(repo, name, revision=commit)).read_bytes())

    try:
        config = read("config.json") if "config.json" in names else {}
        top = [name for name in names if "/" not in name]
        wanted = choose_weights(repo, top, names, config if isinstance(config, dict) else {}, read)
    except ValueError:
        # Broken JSON is told of when the folder is opened.
        return []
    return [name for name in names if name.endswith(".safetensors") and name not in wanted.names]


def _list_files(repo: str, revision: str | None) -> tuple[list[str], str | None] | None:
    """Of the commit that `revision` is now, and that commit; None where the Hub does not answer: `snapshot_download`
    says why, or takes what its cache has."""
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi().model_info(repo, revision=revision or "main")
    except (
        errors.HTTPError,  # type: ignore[attr-defined]
        errors.OfflineModeIsEnabled,
        OSError,
    ):
        return None
    return [file.rfilename for file in info.siblings or []], info.sha
