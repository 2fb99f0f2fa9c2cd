"""What the Trainer tells us while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlace_cli.domain.progress import Advance
from interlace_cli.io.models import import_transformers

transformers = import_transformers()


class StepProgress(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Calls `advance` after every optimizer step, with its loss."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        """After a step."""
        del args, state, control, rest
        if logs and "loss" in logs:
            self.advance(1, f"loss {logs['loss']:.4f}")


class StageEnds(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Calls `begin` before the first step and `end` after the last one, when the engine has the model in its hands."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.begin, self.end = begin, end

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Before the first step."""
        del args, state, control, rest
        self.begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """After the last step."""
        del args, state, control, rest
        self.end()
