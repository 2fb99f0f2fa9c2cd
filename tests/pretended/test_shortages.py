"""The ladder of shortages on a GPU: a step that does not fit starts again as if it had not begun; what shorter rows
cannot help is said with figures and with advice that helps there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend import Pretend
from workspaces import Called, call

from interlace_cli.errors import ShortageError
from interlace_cli.healing.probe_loss import ProbeLoss
from interlace_cli.healing.trainer import HealingTrainer
from interlace_cli.io import models
from interlace_cli.io.models import import_transformers, load_model
from interlace_cli.runtime.memory import is_out_of_memory

ERROR = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.50 GiB of which 1.00 GiB is free."
)
Heal = Callable[..., Called]


@pytest.fixture
def heal(space: Path, tmp_path: Path) -> Heal:
    """`finetune` of one step, with `words`."""

    def run(*words: object) -> Called:
        given = ("--batch-size", "4", "--grad-accum", "1", "--epochs", "0.01", "--max-length", "256")
        return call("finetune", "-w", space, "--out", tmp_path / "healed", "--device", "cuda", *given, *words)

    return run


def fail_once(real: Callable[..., Any], seen: list[Any], look: Callable[[], Any]) -> Callable[..., Any]:
    """The step, whose first attempt fails when all of it is done; `seen` gets `look()` at the begin of each."""

    def accumulate(self: Any, model: Any, samples: Any) -> Any:
        seen.append(look())
        loss = real(self, model, samples)
        if len(seen) == 1:
            held = torch.ones(1 << 20, device="cuda")  # as activations are, by the error's traceback
            raise torch.OutOfMemoryError(ERROR + "" * held.ndim)
        return loss

    return accumulate


def test_a_step_starts_again_with_nothing_left_of_its_first_attempt(
    heal: Heal, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No gradients, no activations that the traceback holds, the same random numbers; and the next rung is taken."""
    seen: list[tuple[int, int]] = []

    def look() -> tuple[int, int]:
        gc.collect()
        return gpu.now[0], int(torch.randint(1 << 40, ()))

    make_room, left = HealingTrainer._make_room, list[int]()

    def watch(self: Any, *given: Any) -> None:
        left.append(look()[0])
        make_room(self, *given)

    monkeypatch.setattr(HealingTrainer, "_make_room", watch)
    monkeypatch.setattr(HealingTrainer, "_accumulate", fail_once(HealingTrainer._accumulate, seen, look))
    found = heal()
    assert left[0] < seen[0][0] + (1 << 20), "what the traceback held is gone"
    assert found.code == 0, found.err
    assert "out of memory: gradient checkpointing is switched on" in found.said
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_an_optimizer_that_does_not_fit_is_no_matter_of_rows(
    heal: Heal, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError(ERROR)

    del gpu
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    found = heal()
    assert found.code == 1
    assert "the optimizer's step does not fit into the memory: 2.50 GiB more were asked for" in found.sentence
    assert "1.00 GiB of 23.50 GiB are free on cuda:0. Take --engine offload, --optim adamw_8bit or" in found.sentence
    assert "out of memory: rows of" not in found.said
    assert "--max-length" not in found.sentence


def test_a_row_that_never_fits_gets_the_advice_that_is_left(
    heal: Heal, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accumulate(*_: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    del gpu
    monkeypatch.setattr(HealingTrainer, "_accumulate", accumulate)
    found = heal()
    assert found.code == 1
    assert "gradient checkpointing is switched on" in found.said
    assert "a row of" in found.sentence
    assert "--gradient-checkpointing" not in found.sentence
    assert "--engine offload" in found.sentence


@pytest.mark.long
def test_a_loss_that_cannot_be_measured_does_not_end_healing(
    heal: Heal, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[int] = []

    def measure(self: ProbeLoss, *_: Any) -> float:
        tokens.append(max(row.padded_tokens for row in self.rows))
        raise torch.OutOfMemoryError(ERROR)

    del gpu
    monkeypatch.setattr(ProbeLoss, "_measure", measure)
    found = heal()
    assert found.code == 0, found.err
    assert found.said.count("the loss before and after healing is not measured") == 1
    assert len(tokens) > 1
    assert tokens == sorted(set(tokens), reverse=True), "shorter rows first"


@pytest.mark.parametrize(
    ("command", "advice"),
    [("analyze", "--device-map auto"), ("finetune", "Take --engine fsdp or zero3 and more")],
    ids=["analyze", "heal"],
)
def test_a_model_that_does_not_fit_is_named_with_its_size(command: str, advice: str, space: Path) -> None:
    with Pretend(capacity=1 << 16):
        found = call(command, "-w", space, "--force", "--device", "cuda")
    assert found.code == 1
    assert "MiB of weights on disk, does not fit into the memory:" in found.sentence
    assert "are free on cuda:0" in found.sentence
    assert advice in found.sentence


def test_a_shortage_while_experts_are_joined_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes it for a fault of the checkpoint; where it does not any more, `shortages_raised` can go."""
    transformers = import_transformers()
    sizes = {"vocab_size": 64, "hidden_size": 64, "moe_intermediate_size": 64, "num_experts": 8, "head_dim": 32}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes, **layers))
    size = 4 * model.num_parameters()
    model.save_pretrained(tmp_path)
    del model
    # What it does beforehand on GPUs of more than a gigabyte.
    monkeypatch.setattr(transformers.modeling_utils, "caching_allocator_warmup", lambda *_: None)
    monkeypatch.setattr("interlace_cli.io.placement.TINY", 0)
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    with Pretend(capacity=size), pytest.raises(RuntimeError, match="issues during automatic conversion") as raised:
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cuda"})
    assert not is_out_of_memory(raised.value)
    with Pretend(capacity=size), pytest.raises(ShortageError, match="are free on cuda:0"):
        load_model(tmp_path, "float32", "cuda")


def test_a_teacher_that_does_not_fit_gets_advice_for_healing(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """finetune has no option for several devices."""
    real, loaded = models.load_model, []

    def load(path: Path, *args: Any) -> Any:
        loaded.append(path)
        return real(path, *args)

    def fail(*_: Any, **more: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes.")

    def load_second_short(path: Path, *args: Any) -> Any:
        if loaded:
            monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", fail)
        return load(path, *args)

    monkeypatch.setattr(models, "load_model", load_second_short)
    with Pretend():
        found = call("finetune", "-w", space, "--force", "--device", "cuda", "--objective", "distill")
    assert found.code == 1
    assert "on this machine. Take --objective ce" in found.sentence
    assert "--device-map" not in found.sentence
