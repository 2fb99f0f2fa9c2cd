"""`--engine auto` on a GPU: the fastest way that fits, said and recorded, and kept by a run that goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pretend import Pretend
from workspaces import call, copy, succeed

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.rows import encode_sequences
from interlace_cli.data.usable import Usable
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.model import LayerWidths
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.families.model_files import open_model
from interlace_cli.healing import auto_engine, ways
from interlace_cli.healing.ladder import Place, Setup, list_rungs
from interlace_cli.healing.memory_need import MARGIN, RESERVE, RESERVED_SHARE, ModelSizes, RowSizes
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.healing.session import load_usable
from interlace_cli.healing.state import State
from interlace_cli.healing.trainer import HealingTrainer
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.options import FinetuneOptions

GIB = 2**30
RECIPE = ("--epochs", "1", "--batch-size", "8", "--grad-accum", "1", "--max-length", "256", "--save-every", "1")


class Said(Silent):
    """Progress of which only the lines are kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def give_room(monkeypatch: pytest.MonkeyPatch, device: float, host: float = 100 * GIB) -> None:
    """So much memory seems to be free on a GPU."""
    room = ways.Room(int(device), int(host))
    monkeypatch.setattr(auto_engine, "read_room", lambda name: room if name.startswith("cuda") else None)


def find_least(count: int) -> int:
    """The least free memory that is enough for so many bytes."""
    wanted = count * (1 + MARGIN)
    return math.ceil(min(wanted / (1 - RESERVED_SHARE), wanted + RESERVE)) + 1


def check_counts(usable: Usable, batcher: Batcher, row: RowSizes) -> None:
    """The tokens and labels that were counted while rendering are those of the encoded samples."""
    for sample, tokens, labels in zip(usable.samples[:5], usable.tokens, usable.labels, strict=False):
        made = encode_sequences(sample, batcher, lambda inputs: torch.zeros(1, 1, inputs["input_ids"].shape[1]))
        assert sum(len(one.targets_T) for one in made) == tokens
        assert sum(int((one.targets_T != IGNORE).sum()) for one in made) == labels
    assert len(usable.labels) == len(usable.tokens) == len(usable.samples)
    assert max(usable.tokens) <= row.tokens <= 256
    assert max(usable.labels) <= row.labels <= row.tokens


def test_the_fastest_way_that_fits_is_taken(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(batch_size=8, grad_accum=1, max_length=256, dtype="bfloat16")
    opened, card = open_model(space / "pruned"), load_artifact(space / "pruned/interlace.json", CheckpointCard)
    said, how = Said(), Execution(device="cuda:0")
    batcher, usable = load_usable(opened, space / "dataset", recipe, said)
    row, sizes = ways.bound_row(usable, recipe), ways.find_sizes(opened.facts, card, recipe)
    check_counts(usable, batcher, row)
    assert sizes is not None
    needs = ways.list_needs(sizes, row, ways.list_ways(recipe.optim), None)

    def settle(asked: Execution, device: float, host: float = 100 * GIB) -> tuple[str, bool]:
        give_room(monkeypatch, device, host)
        state = State(tmp_path / "healed", "key")
        found = auto_engine.settle_engine(opened.facts, card, usable, recipe, asked, state, said)
        return found.engine, found.gradient_checkpointing

    wanted = [("ddp", False), ("ddp", True), ("offload", False), ("offload", True)]
    assert [(need.engine, need.gradient_checkpointing) for need in needs] == wanted
    for need in needs:
        for free in (find_least(need.device_bytes), find_least(need.device_bytes) - 2):
            fitting = [way for way, one in zip(wanted, needs, strict=True) if find_least(one.device_bytes) <= free]
            assert settle(how, free) == (fitting or wanted[-1:])[0]
    # None fits: the smallest is tried, and it is said.
    assert settle(how, needs[3].device_bytes) == wanted[3]
    assert "No way is sure to fit" in said.lines[-1]
    # Offloading needs the host's memory, others do not.
    least = needs[3]
    assert settle(how, find_least(least.device_bytes), find_least(least.host_bytes) - 2) == wanted[3]
    assert "No way is sure to fit" in said.lines[-1]
    # What the host cannot hold is not tried: the process would be killed.
    assert settle(how, find_least(least.device_bytes), least.host_bytes - 1) == wanted[1]
    assert "No way is sure to fit" in said.lines[-1]
    assert settle(how, find_least(needs[0].device_bytes), 0) == wanted[0]
    assert "No way" not in said.lines[-1]
    # What was named stays, and nothing is said of it.
    told = len(said.lines)
    assert settle(Execution(device="cuda:0", engine="ddp"), GIB) == ("ddp", False)
    assert settle(Execution(device="cpu"), GIB) == ("auto", False)
    assert len(said.lines) == told
    assert settle(Execution(device="cuda:0", gradient_checkpointing=True), 100 * GIB) == ("ddp", True)
    # A run that goes on is as it began, whatever is free now.
    state = State(tmp_path / "healed", "key")
    state.save_way("offload", True)
    assert settle(how, 100 * GIB) == wanted[0], "nothing was trained yet"
    (state.stage(0) / "checkpoint-1").mkdir(parents=True)
    assert settle(how, 100 * GIB) == wanted[3]
    assert said.lines[-1] == "--engine auto: offload with gradient checkpointing, as the saved state has it"


def test_short_rows_on_24_gib_leave_room_to_compute_nothing_again() -> None:
    widths = LayerWidths(
        hidden=4096,
        query=4096,
        key_value=1024,
        heads=32,
        intermediate=12288,
        vocabulary=151_936,
        has_query_norm=True,
    )
    sizes = ModelSizes(widths, [192_951_040] * 27, range(18, 27), 2_000_000_000)
    room = ways.Room(24 * GIB, 100 * GIB)

    def choose(tokens: int) -> tuple[str, bool]:
        needs = ways.list_needs(sizes, RowSizes(tokens, tokens // 3), ways.list_ways("adamw_torch"), room)
        chosen = ways.choose_way(needs, room)
        assert f"{chosen.device_bytes / GIB:.1f} GiB of 24.0 GiB free on the GPU" in ways.describe_choice(
            chosen, needs, room, tokens
        )
        return chosen.engine, chosen.gradient_checkpointing

    assert choose(1024) == ("offload", False)
    assert choose(8192) == ("offload", True)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adamw_torch_8bit", "adamw_8bit", "sgd"])
def test_offloading_is_chosen_and_advised_for_optimizers_that_it_takes(optim: str) -> None:
    try:
        FinetuneOptions(engine="offload", optim=optim).check()
        takes = True
    except UsageError:
        takes = False
    assert any(way.engine == "offload" for way in ways.list_ways(optim)) == takes
    setup = Setup("cuda:0", "bfloat16", "ddp", optim, 1, is_checkpointed=True, has_teacher=False)
    assert ("--engine offload" in list_rungs(Place.OPTIMIZER, setup)) == takes


@pytest.mark.long
def test_the_choice_is_said_recorded_and_kept(
    space: Path, tmp_path: Path, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    healed = copy(space, tmp_path / "w")
    words = ("finetune", "-w", healed, *RECIPE, "--force", "--device", "cuda")
    # Enough for no way, so that the smallest is taken.
    give_room(monkeypatch, 2**20)
    train, done = HealingTrainer.training_step, []

    def stop_at_third(trainer: HealingTrainer, *arguments: object) -> object:
        done.append(type(trainer).__name__)
        if len(done) == 3:
            raise InterlaceError("stopped", "")
        return train(trainer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(HealingTrainer, "training_step", stop_at_third)
    stopped = call(*words)
    assert stopped.code == 1
    assert "--engine auto: offload with gradient checkpointing" in stopped.said
    monkeypatch.setattr(HealingTrainer, "training_step", train)
    give_room(monkeypatch, 100 * GIB)
    ended = succeed(*words, "--json")
    assert "offload with gradient checkpointing, as the saved state has it" in ended.said
    assert "going on from step 2" in ended.said
    assert set(done) == {"OffloadTrainer"}
    card = json.loads(ended.out)
    assert (card["healing"]["engine"], card["healing"]["gradient_checkpointing"]) == ("offload", True)


def test_an_estimate_shows_what_each_way_takes(space: Path, gpu: Pretend) -> None:
    found = succeed("finetune", "-w", space, *RECIPE, "--estimate", "--device", "cuda", "--json").json
    assert [way["fits"] for way in found["ways"]] == [True] * 5
    assert [way["host_bytes"] > 0 for way in found["ways"]] == [False, False, False, True, True]
    # The trial ran the first of them, with all that is around a step.
    assert found["peak_memory_bytes"] == pytest.approx(found["ways"][0]["device_bytes"], rel=0.15)
