"""Whether this machine's user has switched the Hub off, and by which variable."""

from __future__ import annotations

import os

from interlace_cli.errors import MissingInputError

_TRUE = ("1", "on", "yes", "true")


def find_offline_switch(is_dataset: bool = False) -> str | None:
    """The setting that keeps the Hub from being asked, such as `HF_HUB_OFFLINE=1`; None where it may be asked. For
    datasets `HF_DATASETS_OFFLINE` counts too, as in `datasets`."""
    from huggingface_hub import constants

    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *(["HF_DATASETS_OFFLINE"] if is_dataset else [])]
    name = next((name for name in names if os.environ.get(name, "").lower() in _TRUE), None)
    if name is not None:
        return f"{name}={os.environ[name]}"
    # What the Hub's library goes by is what it read when it was loaded.
    return "HF_HUB_OFFLINE=1" if constants.HF_HUB_OFFLINE else None


def check_online(what: str, instead: str) -> None:
    """Raises MissingInputError if the Hub may not be asked for data. `what` lies there; `instead` is what else would
    do."""
    switch = find_offline_switch(is_dataset=True)
    if switch is not None:
        raise MissingInputError(
            f"{what} is on the Hub, which is not asked because of {switch}.",
            f"Unset {switch.partition('=')[0]}, or {instead}.",
        )
