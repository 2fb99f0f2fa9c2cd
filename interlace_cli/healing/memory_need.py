"""The memory that healing takes, counted before anything is loaded: the peak of a device, and what an engine keeps on
the host, for each way of training. No torch: `plan` uses it too. `tests/pretended/test_memory_need.py` compares it with
real steps on a pretend device.

With P parameters in the tuned layers, P_l in the largest of them, F in all others, and D bytes of the compute dtype (2;
4 for float32):

    device  D F           frozen weights
            4 P           float32 master weights           offload: D P, the weights alone
            4 P           gradients                        offload: D P_l, one layer's on their way to the host
            m P           AdamW's moments: m is 8, and 2 in 8 bits     offload: none
            4 P           temporary of a foreach step      fused, offload: none
            D T           what the teacher holds alone: dropped layers, and the tuned ones as they were
            activations   `layer_memory.py`: of all layers from the first tuned one on, or, checkpointed, each one's
                          input and all of the one that is computed again
            head          two chunks of logits in float32 (five with a teacher), or all labels' logits where the model
                          scales them: `loss.py`
    host    16 P + 3 D P_l   offload alone: masters, gradients, moments, and pinned buffers

They are not alive all at once, so that the peak is not their sum: `_walk` goes through the forward, the head and the
backward, and takes the largest moment. It counts live tensors, as `torch.cuda.max_memory_allocated` does; a device
needs MARGIN and RESERVE beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from interlace_cli.domain.model import LayerWidths, ModelFacts
from interlace_cli.healing.layer_memory import Operation, list_operations

CHUNK = 512
"""Labels at once in the loss of the head (`loss.CHUNK`)."""
MARGIN = 0.05
"""Share of the need that has to be free beside it, for what the formula does not know."""
RESERVE, RESERVED_SHARE = 1 << 30, 1 / 16
"""Bytes that have to stay free, but at most this share of what is free: for the workspaces of CUDA's libraries and
holes between the allocator's blocks; on the host for what else the process comes to hold."""
MASTER = 4
STATE = {"8bit": 2.0625, "4bit": 1.125, "sgd": 0.0, "lion": 4.0, "adagrad": 4.0, "rmsprop": 4.0, "adafactor": 0.01}
"""Part of an optimizer's name -> bytes of its state for a parameter; 8 where none is in it (AdamW). In 8 and 4 bits
each block has a scale."""
FOREACH = ("adamw_torch",)
"""Optimizers whose step makes a float32 temporary of all parameters at once."""
OFFLOAD = "offload"


@dataclass(frozen=True)
class Way:
    """A way of training: the engine (`ddp`, in one process, or `offload`), whether layers are checkpointed, and the
    optimizer's name, as `--optim` takes it."""

    engine: str
    is_checkpointed: bool
    optim: str = "adamw_torch_fused"

    @property
    def is_offloaded(self) -> bool:
        """Whether the training state lies on the host."""
        return self.engine == OFFLOAD

    @property
    def state(self) -> float:
        """Bytes of the optimizer's state for a parameter, wherever it lies."""
        return next((size for name, size in STATE.items() if name in self.optim), 8.0)


@dataclass(frozen=True)
class Need:
    """Bytes: the peak on the device, and on the host what lies there beside what every way takes."""

    device: int
    host: int = 0

    def fits(self, device: int | None, host: int | None = None) -> bool:
        """Whether so many free bytes are enough, with MARGIN and `reserve` beside them. None is unknown, and counts as
        enough; so does any host where nothing lies."""
        return _has_room(self.device, device) and (not self.host or _has_room(self.host, host))


@dataclass(frozen=True)
class RowSizes:
    """The largest row of a step: its `tokens`, those of pictures among them, and its labels. `is_alone`: no step has
    another row, whose gradients would wait for it. `mask`: bytes of an attention mask for a pair of tokens."""

    tokens: int
    labels: int
    image_tokens: int = 0
    is_alone: bool = False
    mask: int = 0


@dataclass(frozen=True)
class ModelSizes:
    """The model that is healed. `layers`: parameters of each language layer; `tuned`: positions; `rest`: parameters of
    all else; `deepstack`: after how many layers pictures' features are added. `teacher`: parameters that the teacher
    holds alone; `has_distill`: it gives a distribution; `anchors`: hidden states that are compared with its own.
    `element`: bytes of the compute dtype."""

    widths: LayerWidths
    layers: Sequence[int]
    tuned: Sequence[int]
    rest: int
    deepstack: int = 0
    teacher: int = 0
    has_distill: bool = False
    anchors: int = 0
    element: int = 2

    @property
    def tuned_parameters(self) -> int:
        """P, the parameters that train."""
        return sum(self.layers[position] for position in self.tuned)

    @property
    def largest_tuned(self) -> int:
        """P_l, those of the largest layer among them."""
        return max(self.layers[position] for position in self.tuned)

    def add_teacher(self, dropped: int, anchors: int, has_distill: bool) -> ModelSizes:
        """With the dense model as a teacher; `dropped`: parameters of the dropped layers."""
        return replace(self, teacher=dropped + self.tuned_parameters, anchors=anchors, has_distill=has_distill)


def build_sizes(facts: ModelFacts, kept: Sequence[int], tuned: Sequence[int], element: int = 2) -> ModelSizes | None:
    """The sizes of a model that keeps the layers `kept` of `facts`; `tuned` are positions among them. None where the
    formula does not apply: widths are unknown, or nothing is tuned."""
    if facts.widths is None or not tuned:
        return None
    layers = [facts.layer_parameters[index] for index in kept]
    rest = facts.total_parameters - sum(facts.layer_parameters)
    return ModelSizes(facts.widths, layers, list(tuned), rest, facts.deepstack_layers, element=element)


def reserve(free: int) -> float:
    """Bytes of the `free` ones that have to stay free."""
    return min(RESERVE, free * RESERVED_SHARE)


def _has_room(count: int, free: int | None) -> bool:
    return free is None or count * (1 + MARGIN) + reserve(free) <= free


def count_need(sizes: ModelSizes, row: RowSizes, way: Way) -> Need:
    """The peak of a step after the first, when the optimizer's state is there."""
    trained, element = sizes.tuned_parameters, sizes.element
    frozen = sum(sizes.layers) - trained + sizes.rest + sizes.teacher
    if way.is_offloaded:
        host = (2 * MASTER + way.state) * trained + 3 * element * sizes.largest_tuned
        return Need(round(_walk(sizes, row, way, element * (frozen + trained))), round(host))
    base = element * frozen + (MASTER + way.state) * trained
    gradients = MASTER * trained
    temporary = MASTER * trained if way.optim in FOREACH else 0
    walked = _walk(sizes, row, way, base + (0 if row.is_alone else gradients))
    return Need(round(max(walked, base + gradients + temporary)))


def _walk(sizes: ModelSizes, row: RowSizes, way: Way, base: float) -> float:
    """The most bytes that are alive at a moment of the forward, the head and the backward; `base` always are."""
    h, e, tokens = sizes.widths.hidden, sizes.element, row.tokens
    first = min(sizes.tuned)
    state = e * h * tokens
    layers = [
        list_operations(sizes.widths, size, e, first + i in sizes.tuned, not way.is_offloaded, is_first=i == 0)
        for i, size in enumerate(sizes.layers[first:])
    ]
    # As long as the language model runs: what enters it, pictures' features, and a mask.
    running = state * sizes.deepstack * row.image_tokens / tokens + row.mask * tokens**2
    alive = base + 2 * state + _count_taught(sizes, row)
    peak = alive + running + tokens * (16 * h + 3 * e * sizes.widths.intermediate)
    casts = 0.0
    for layer in layers:
        peak = max(peak, alive + running + casts + _find_peak(layer, tokens, e))
        alive += state if way.is_checkpointed else _sum_kept(layer, tokens, e)
        # Autocast holds its casts until the forward ends, for layers that will be computed again too.
        casts += sum(e * part.parameters for part in layer if part.is_cast) if way.is_checkpointed else 0
    norm = 4 * h * tokens
    alive += norm + 2 * e * h * row.labels + sizes.anchors * 4 * h * tokens
    logits = _count_logits(sizes, row.labels)
    peak = max(peak, alive + casts + running + logits, alive + tokens * 20 * h + 2 * state)
    alive -= norm
    for layer, size in zip(reversed(layers), reversed(sizes.layers[first:]), strict=True):
        if way.is_checkpointed:
            peak = max(peak, alive + state + _find_peak(layer, tokens, e))
            alive += _sum_kept(layer, tokens, e) - state
        for part in reversed(layer):
            made, stays = _count_gradients(part, way, row, e, size)
            peak = max(peak, alive + part.backward * tokens + made)
            alive += stays - part.kept * tokens - (e * part.parameters if part.is_cast else 0)
    return peak


def _find_peak(layer: Sequence[Operation], tokens: int, element: int) -> float:
    """The most bytes of one layer at a moment of its forward."""
    alive = peak = 0.0
    for part in layer:
        alive += part.kept * tokens + (element * part.parameters if part.is_cast else 0)
        peak = max(peak, alive + part.forward * tokens)
    return peak


def _sum_kept(layer: Sequence[Operation], tokens: int, element: int) -> float:
    return sum(part.kept * tokens + (element * part.parameters if part.is_cast else 0) for part in layer)


def _count_gradients(part: Operation, way: Way, row: RowSizes, element: int, layer: int) -> tuple[float, float]:
    """Bytes of weights' gradients while an operation's backward runs, and those that stay afterwards. `layer`:
    parameters of the whole layer."""
    if not part.parameters:
        return 0, 0
    if way.is_offloaded:
        return element * layer, 0
    # The gradient of a cast, and that of the float32 weight that is made of it.
    made = (element if part.is_cast else 0) + MASTER
    return made * part.largest, MASTER * part.parameters if row.is_alone else 0


def _count_taught(sizes: ModelSizes, row: RowSizes) -> int:
    """What the teacher's forward leaves for the student's."""
    labels = row.labels if sizes.has_distill else 0
    return sizes.element * sizes.widths.hidden * (sizes.anchors * row.tokens + labels)


def _count_logits(sizes: ModelSizes, labels: int) -> int:
    """Bytes of logits that the loss holds at once."""
    if not sizes.widths.scales_logits:
        return (5 if sizes.has_distill else 2) * 4 * sizes.widths.vocabulary * min(labels, CHUNK)
    # The head's output, what the model makes of it, in float32 too, and log-probabilities; the teacher's beside them.
    each = 2 * sizes.element + 8
    return (each + sizes.element + 16 if sizes.has_distill else each) * sizes.widths.vocabulary * labels
