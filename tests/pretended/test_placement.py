"""A command computes on the GPU that it is told, and on no other."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest
import torch
from pretend import Pretend
from workspaces import succeed

from interlace_cli.healing.arguments import build_arguments
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.io.models import load_model

HEAL = ("--epochs", "0.5", "--batch-size", "8", "--grad-accum", "1", "--max-length", "256", "--dtype", "float32")


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ("finetune", *HEAL, "--objective", "distill+anchor"),
        ("finetune", *HEAL, "--objective", "local"),
        ("analyze", "demo", "--samples", "8"),
        ("prune", "--compensate", "linear"),
        ("prune", "--verify"),
        ("eval", "--samples", "8", "--no-speed"),
    ],
    ids=["distill", "local", "analyze", "compensate", "verify", "eval"],
)
def test_the_gpu_that_is_named_does_all(words: tuple[str, ...], space: Path, tmp_path: Path) -> None:
    """Each command alone; test_commands.py has them together."""
    copytree(space, tmp_path / "w")
    with Pretend(gpus=2) as gpu:
        succeed(*words, "-w", tmp_path / "w", "--force", "--device", "cuda:1")
        assert gpu.peak[1] > 1 << 20
        assert gpu.peak[0] == 0
        assert torch.cuda.current_device() == 1


def test_the_trainer_would_take_the_first(tmp_path: Path) -> None:
    """If this fails, `healing/arguments.py` is no longer needed."""
    from transformers import TrainingArguments

    with Pretend(gpus=2):
        torch.cuda.set_device(1)
        plain = TrainingArguments(output_dir=str(tmp_path), report_to="none")
        assert (plain.device, plain.n_gpu) == (torch.device("cuda:0"), 2)
        torch.cuda.set_device(1)
        ours = build_arguments(Recipe(dtype="float32"), Execution(), 1, tmp_path, "cuda")
        assert (ours.device, ours.n_gpu) == (torch.device("cuda:1"), 1)


def test_a_model_is_read_straight_to_its_gpu(chain_model: Path) -> None:
    """Never whole on the host: each tensor leaves it before the next is read. Tied weights stay one tensor."""
    wanted = load_model(chain_model, "float32", "cpu")
    state = {name: tensor.clone() for name, tensor in wanted.state_dict().items()}
    with Pretend(gpus=2) as gpu:
        model = load_model(chain_model, "float32", "cuda:1")
        assert {tensor.device for tensor in (*model.parameters(), *model.buffers())} == {torch.device("cuda:1")}
        held = {tensor.untyped_storage()._cdata: tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
        assert gpu.peak[0] == 0
        assert len(list(model.parameters())) == len(list(wanted.parameters()))
        assert sum(held.values()) <= gpu.now[1]
        found = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.long
def test_an_old_gpu_heals_in_float16_with_scaled_losses(space: Path, tmp_path: Path) -> None:
    """A T4 has no bfloat16 of its own."""
    copytree(space, tmp_path / "w")
    with Pretend(capability=(7, 5)) as gpu:
        done = succeed("finetune", "-w", tmp_path / "w", "--force", *HEAL[:-2], "--objective", "local,ce", "--json")
        assert gpu.peak[0] > 0
    healing = done.json["healing"]
    assert healing["recipe"]["dtype"] == "float16"
    assert healing["loss_after"] < healing["loss_before"]
