"""What a teacher shares, what it teaches, and the stage in which each layer learns alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_cut, make_healed
from safetensors.torch import load_file

from interlace_cli.data.batches import Batcher
from interlace_cli.data.rows import encode, pack
from interlace_cli.errors import PlanMismatchError, UsageError
from interlace_cli.families.modules import find_layers
from interlace_cli.families.packing import find_positions
from interlace_cli.healing.loss import choose_loss
from interlace_cli.healing.objective import Stage, parse_objective
from interlace_cli.healing.recipe import Recipe
from interlace_cli.healing.step import RowLoss, Teacher, TermWeights, sum_errors
from interlace_cli.healing.teacher import capture_inputs, share_frozen
from interlace_cli.healing.trainable import apply_trainable_set
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor

DROP, TUNE, KEPT = [2, 6], [3, 5], [0, 1, 3, 4, 5, 7]
RECIPE = {"lr": 1e-3, "batch_size": 32, "grad_accum": 1}


@pytest.fixture(scope="module")
def pruned(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives") / "pruned"
    make_cut(chain_model, DROP, folder)
    return folder


@pytest.fixture
def pair(chain_model: Path, pruned: Path, small_dataset: Path) -> tuple[Any, Any, Any]:
    """Student, dense model, and a packed row of samples."""
    student, dense = load_model(pruned, "float32", "cpu"), load_model(chain_model, "float32", "cpu")
    apply_trainable_set(student, find_layers(student), [2, 4])
    dense.requires_grad_(False)
    batcher, positions = Batcher(load_processor(pruned, 784, 50176), small_dataset), find_positions(student)
    samples = load_split(small_dataset, "train")[:6]
    return student, dense, pack([encode(sample, batcher, positions) for sample in samples])


def rename() -> dict[str, str]:
    prefix = "model.language_model.layers"
    return {f"{prefix}.{position}.": f"{prefix}.{layer}." for position, layer in enumerate(KEPT)}


def test_the_teacher_holds_only_dropped_layers_and_copies_of_tuned_ones(pair: tuple[Any, Any, Any]) -> None:
    student, dense, row = pair
    before = dense(**row.inputs, use_cache=False).logits
    own = share_frozen(student, dense, rename())
    layers = find_layers(dense)
    expected = {id(p): p for layer in [*DROP, *TUNE] for p in layers[layer].parameters()}
    assert own == sum(p.nbytes for p in expected.values())
    assert torch.equal(dense(**row.inputs, use_cache=False).logits, before)
    both = {id(p): p.nbytes for model in (student, dense) for p in model.parameters()}
    assert sum(both.values()) == sum(p.nbytes for p in student.parameters()) + own


def test_a_frozen_layer_that_differs_is_not_shared(pair: tuple[Any, Any, Any]) -> None:
    """The layer in front of a gap, when it was compensated."""
    student, dense, row = pair
    find_layers(student)[1].mlp.down_proj.weight.data *= 1.01
    before = dense(**row.inputs, use_cache=False).logits
    share_frozen(student, dense, rename())
    assert torch.equal(dense(**row.inputs, use_cache=False).logits, before)


def test_terms_against_their_definitions(pair: tuple[Any, Any, Any]) -> None:
    student, dense, row = pair
    loss = choose_loss(student, row)
    layers, own = list(find_layers(dense)), list(find_layers(student))
    teacher = Teacher(dense, layers, choose_loss(dense, row), [5, 8], own, [4, 6])
    sums = RowLoss(Stage(("distill", "anchor")), loss, TermWeights(0.25, 1.0), teacher).compute(student, row)

    with torch.no_grad():
        is_label = row.is_label_BK
        log_p = student(**row.inputs, use_cache=False).logits[is_label].log_softmax(-1)
        log_t = dense(**row.inputs, use_cache=False).logits[is_label].log_softmax(-1)
        ce = -log_p.gather(1, row.targets_BK[is_label][:, None]).sum()
        divergence = (log_t.exp() * (log_t - log_p)).sum()
        states = []
        for model, stack, at in ((student, own, (4, 6)), (dense, layers, (5, 8))):
            with capture_inputs(stack, at) as found:
                model(**row.inputs, use_cache=False)
            states.append([found[index].hidden for index in at])
        errors = [((a - b) ** 2).sum(-1) / (b**2).sum(-1) for a, b in zip(*states, strict=True)]
    torch.testing.assert_close(sums.ce, ce, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums.token.detach(), 0.75 * ce + 0.25 * divergence, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums.anchor.detach(), sum(error.sum() for error in errors) / 2, rtol=1e-4, atol=1e-4)
    alone = RowLoss(Stage(("anchor",)), loss, TermWeights(0.25, 1.0), teacher).compute(student, row)
    torch.testing.assert_close(alone.anchor, sums.anchor, rtol=1e-5, atol=1e-5)
    assert not alone.token.requires_grad


def test_an_undamaged_student_has_nothing_to_learn_of_its_teacher(pair: tuple[Any, Any, Any]) -> None:
    _, dense, row = pair
    student = copy.deepcopy(dense)
    apply_trainable_set(student, find_layers(student), TUNE)
    layers, own = list(find_layers(dense)), list(find_layers(student))
    teacher = Teacher(dense, layers, choose_loss(dense, row), [5, 7], own, [5, 7])
    stage = Stage(("distill", "anchor"))
    sums = RowLoss(stage, choose_loss(student, row), TermWeights(1.0, 1.0), teacher).compute(student, row)
    assert float(sums.token.detach()) == pytest.approx(0, abs=1e-3)
    assert float(sums.anchor) == pytest.approx(0, abs=1e-6)


def test_padding_does_not_count_in_errors() -> None:
    made, wanted = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    whole = sum_errors([made[:1, 1:]], [wanted[:1, 1:]], None) + sum_errors([made[1:]], [wanted[1:]], None)
    torch.testing.assert_close(sum_errors([made], [wanted], mask), whole)


@pytest.mark.parametrize("objective", ["distill", "ce+anchor", "anchor", "local", "local,distill"])
def test_every_objective_heals_and_moves_the_tuned_layers_alone(
    objective: str, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    recipe = {**RECIPE, "objective": objective, "epochs": 2.0}
    card = make_healed(pruned, small_dataset, tmp_path / "out", tune_layers=TUNE, **recipe)
    before, after = load_file(pruned / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    changed = {name.split(".layers.")[1][0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"2", "4"}
    assert card.healing is not None
    assert card.healing.last_loss < card.healing.first_loss
    assert card.healing.steps == Recipe(**recipe).count_steps(card.healing.samples)
    assert json.loads((tmp_path / "out/interlace.json").read_text())["healing"]["recipe"]["objective"] == objective


def test_local_brings_each_layer_nearer_to_its_pair(
    chain_model: Path, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    make_healed(pruned, small_dataset, tmp_path / "out", tune_layers=TUNE, objective="local", epochs=3.0, **RECIPE)
    dense = load_model(chain_model, "float32", "cpu")
    batcher = Batcher(load_processor(pruned, 784, 50176), small_dataset)
    row = pack([encode(s, batcher, find_positions(dense)) for s in load_split(small_dataset, "train")[:8]])
    with torch.no_grad(), capture_inputs(list(find_layers(dense)), [2, 3, 4, 5, 7]) as found:
        dense(**row.inputs, use_cache=False)
    for position, layer, start, stop in ((2, 3, 2, 4), (4, 5, 5, 7)):
        errors = []
        for folder in (pruned, tmp_path / "out"):
            own = find_layers(load_model(folder, "float32", "cpu"))[position]
            with torch.no_grad():
                kwargs = {k: v for k, v in found[layer].kwargs.items() if k != "hidden_states"}
                out = own(found[start].hidden, **kwargs)
            errors.append(float(sum_errors([out], [found[stop].hidden], None)))
        assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl", "does not take 'kl'"),
        ("ce,distill", "only local goes before"),
        ("ce,local", "and the first"),
        ("local+ce", "a stage of its own"),
        ("local,ce,distill", "only local goes before"),
    ],
)
def test_what_is_no_objective_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_objective(text)


def test_a_teacher_that_is_not_there_or_another_is_refused(
    chain_model: Path, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    distill = {"objective": "distill", "tune_layers": TUNE}
    with pytest.raises(UsageError, match="its own teacher"):
        make_healed(chain_model, small_dataset, tmp_path / "out", dense=True, **distill)
    card = json.loads((pruned / "interlace.json").read_text())
    card["base"]["fingerprint"] = "0" * 64
    del card["sha256"]
    other = tmp_path / "other"
    other.mkdir()
    for path in pruned.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "interlace.json").write_text(json.dumps(card))
    with pytest.raises(PlanMismatchError, match="is not the model any more"):
        make_healed(other, small_dataset, tmp_path / "out", **distill)
