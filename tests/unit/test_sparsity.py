"""N:M sparsity: how many weights go, which ones, and that what comes out is a plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.core.prune import prune
from interlace_cli.data.batches import Batcher
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import UsageError
from interlace_cli.evaluation.sparse_kernels import use_sparse_kernels
from interlace_cli.families.modules import find_layers
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import import_transformers, load_model, load_processor
from interlace_cli.io.sample_keys import build_keys, load_keys
from interlace_cli.options import PruneOptions
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.sparsity.wanda import prune_by_wanda

TWO_OF_FOUR = Pattern(2, 4)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), group=st.integers(2, 8))
def test_the_lowest_of_each_group_go(data: st.DataObject, group: int) -> None:
    keep, rows, groups = (
        data.draw(st.integers(1, group - 1)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 4)),
    )
    values = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=rows * groups * group, max_size=96 * 2))
    metric = torch.tensor(values[: rows * groups * group]).reshape(rows, groups * group)
    dropped = Pattern(keep, group).find_dropped(metric)
    for row in range(rows):
        for start in range(0, groups * group, group):
            mask, own = dropped[row, start : start + group], metric[row, start : start + group]
            assert int(mask.sum()) == group - keep
            assert own[mask].max() <= own[~mask].min()


@pytest.mark.parametrize("text", ["2", "4:2", "0:4", "4:4", "2:4:8", "half"])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--sparsity does not take"):
        Pattern.parse(text)


def naive_wanda(model: Any, batches: list[dict[str, Tensor]]) -> None:
    """The paper's words: all layers in turn, each time the whole model over the data, token by token."""
    for layer in find_layers(model):
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        inputs: dict[nn.Linear, list[Tensor]] = {linear: [] for linear in linears}
        handles = [
            linear.register_forward_pre_hook(lambda module, args, kept=inputs: kept[module].append(args[0]))
            for linear in linears
        ]
        with torch.no_grad():
            for batch in batches:
                model(**batch, use_cache=False)
        for handle in handles:
            handle.remove()
        for linear in linears:
            tokens = torch.cat([x[b["attention_mask"].bool()] for x, b in zip(inputs[linear], batches, strict=True)])
            metric = linear.weight.abs() * tokens.norm(dim=0)
            for row in range(len(metric)):
                for start in range(0, metric.shape[1], 4):
                    order = metric[row, start : start + 4].argsort(stable=True)[:2]
                    linear.weight.data[row, start + order] = 0


def test_wanda_is_the_papers(chain_model: Path, small_dataset: Path) -> None:
    samples = load_split(small_dataset, "calibration")[:6]
    batcher = Batcher(load_processor(chain_model), small_dataset)
    batches = [batcher.build_conversations(samples[i : i + 3]) for i in (0, 3)]
    for batch in batches:
        del batch["labels"]
    ours, theirs = load_model(chain_model), load_model(chain_model)
    prune_by_wanda(ours, find_layers(ours), batches, TWO_OF_FOUR, lambda *_: None)
    naive_wanda(theirs, batches)
    pairs = list(zip(ours.named_parameters(), theirs.parameters(), strict=True))
    alike = [float(((a == 0) == (b == 0)).float().mean()) for (_, a), b in pairs]
    assert min(alike) > 0.995, "but for rounding, the same weights go"


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_the_checkpoint_is_plain_and_half_empty(
    method: str, dtype: str, chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    options = PruneOptions(
        model=str(chain_model),
        method=method,
        sparsity="2:4",
        samples=6,
        dataset=small_dataset,
        out=tmp_path / "out",
        dtype=dtype,
    )
    card = prune(options, Silent()).checkpoint
    assert (card.stage, card.sparsity, card.dropped) == ("sparse", "2:4", [])
    seen = build_keys(load_split(small_dataset, "calibration")[:6]).tolist()
    found = {name: keys.tolist() for name, keys in load_keys(tmp_path / "out").items()}
    assert found == ({"calibrated": seen} if method == "wanda" else {})
    dense, sparse = (
        import_transformers().AutoModelForImageTextToText.from_pretrained(folder)
        for folder in (chain_model, tmp_path / "out")
    )
    layers = find_layers(sparse)
    inside = {id(p) for layer in layers for m in layer.modules() if isinstance(m, nn.Linear) for p in [m.weight]}
    for (name, before), after in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        if id(after) not in inside:
            assert torch.equal(before, after), name
            continue
        zeros = (after == 0).reshape(len(after), -1, 4).sum(-1)
        assert (zeros == 2).all(), name
        assert torch.equal(after[after != 0], before[after != 0]), "what stays is as it was"
        if method == "magnitude" and dtype == "auto":
            groups = before.abs().reshape(len(before), -1, 4)
            assert torch.equal(after.abs().reshape(groups.shape).sum(-1), groups.topk(2).values.sum(-1))


def test_the_command(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    def call(*words: str | Path) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, [str(word) for word in words])
        return done.exit_code, done.stdout, done.stderr

    base = ["prune", chain_model, "-w", tmp_path / "w", "--method"]
    code, out, err = call(*base, "wanda", "--dataset", small_dataset, "--samples", "4")
    assert code == 0, err
    assert "weights of the layers' linear maps are zero" in out
    assert (tmp_path / "w/wanda/interlace.json").exists()
    assert call(*base, "magnitude", "--sparsity", "1:4")[0] == 0
    code, _, err = call(*base, "magnitude")
    assert (code, "exists already" in err) == (1, True)
    for more in (["--drop-layers", "2"], ["--verify"], ["--stack", "vision"]):
        assert call(*base, "magnitude", *more)[0] == 2
    assert call(*base, "magnitude", "--sparsity", "5:4")[0] == 2
    code, _, err = call("prune", chain_model, "-w", tmp_path / "none", "--method", "wanda")
    assert code == 1
    assert "interlace prepare" in err


def test_without_kernels_sparse_weights_are_timed_as_dense_ones(chain_model: Path) -> None:
    said: list[str] = []

    class Listener(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    model = load_model(chain_model, device="cpu")
    assert use_sparse_kernels(model, Listener()) == 0
    assert "no kernels" in said[0]
