"""How a model can be run from the middle, found by a trial: no architecture has to be listed."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

from interlace_cli.families.replay import Inputs, Replay
from interlace_cli.runtime.memory import is_out_of_memory


class Way(Enum):
    """How a candidate is run: its layers are called directly; through the model's own code around them; or not from the
    middle at all."""

    DIRECT = "direct"
    THROUGH = "through"
    WHOLE = "whole"


def find_way(model: nn.Module, layers: nn.ModuleList, inputs: Inputs) -> Way:
    """The fastest way that gives the logits of the whole forward (relative and absolute tolerance 1e-4), found by a
    trial. There is none from the middle if later layers take more from earlier ones than the hidden state, such as
    shared keys and values."""
    with torch.inference_mode():
        whole: Tensor = model(**inputs).logits
        for way in (Way.DIRECT, Way.THROUGH):
            with Replay(model, layers, way is Way.DIRECT) as replay:
                try:
                    if _is_alike(replay, inputs, whole):
                        return way
                # What models raise when a later layer misses something of an earlier one (Gemma 4: shared keys in a
                # dict), and what they say of an argument that they do not take.
                except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                    if is_out_of_memory(error):
                        raise
    return Way.WHOLE


def _is_alike(replay: Replay, inputs: Inputs, whole: Tensor) -> bool:
    """Runs from every layer on are compared; the device is waited for once."""
    stream: dict[int, Tensor] = {}
    recording, outputs = replay.record(inputs, keep=stream.__setitem__)
    alike = [_are_close(outputs.logits, whole)]
    starts = sorted(stream, key=lambda layer: abs(layer - len(replay.layers) // 2))
    alike += [_are_close(replay.run(recording, start, stream[start]).logits, whole) for start in starts]
    if replay.is_direct:
        reached = [i for i in sorted(stream) if recording.calls.list_run(i, None, len(replay.layers)) is not None]
        if not reached:
            return False
        # What layers are called with may come from layers before them: without one of these it is another.
        without = replay.record(inputs, reached[:1])[1].logits
        alike.append(_are_close(replay.run(recording, reached[0], stream[reached[0]], reached[:1]).logits, without))
    return bool(torch.stack(alike).all())


def _are_close(found: Tensor, wanted: Tensor) -> Tensor:
    # NaN is as much a logit as another here; who computes with it says so.
    return torch.isclose(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=True).all()


def can_replay(model: nn.Module, layers: nn.ModuleList, inputs: Inputs) -> bool:
    """Whether a forward from any layer on gives the logits of the whole forward, one way or another."""
    return find_way(model, layers, inputs) is not Way.WHOLE
