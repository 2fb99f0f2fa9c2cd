"""The optimizer's state between engines, without processes."""

from __future__ import annotations

import copy

import torch

from interlace_cli.healing.optimizer_state import TorchState


def test_steps_that_deepspeed_counted_go_on_in_torch() -> None:
    """As a number, which torch's optimizers would read and never change."""
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))]
    optimizers = [torch.optim.AdamW([weight], lr=0.1) for weight in weights]

    def step(number: int) -> None:
        weights[number].grad = torch.tensor([1.0, -2.0, 0.5])
        optimizers[number].step()

    for number in (0, 0, 1, 1):
        step(number)
    state = TorchState(optimizers[0], {"w": weights[0]})
    rest = copy.deepcopy(state.read_rest())
    rest["values"]["w"] = {path: int(value) for path, value in rest["values"]["w"].items()}
    moments = {key: value.clone() for key, value in optimizers[0].state[weights[0]].items() if value.ndim}
    state.load([], rest)
    optimizers[0].state[weights[0]].update(moments)
    for number in (0, 0, 0, 1, 1, 1):
        step(number)
    assert torch.equal(*weights)


def test_each_weight_counts_its_own_steps() -> None:
    """Saved counts may be one tensor for all weights: DeepSpeed's flat parts have all done as many steps."""
    weights = {name: torch.nn.Parameter(torch.ones(3)) for name in ("a", "b")}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    count = torch.tensor(4.0)
    groups = [{"lr": 0.1}]
    TorchState(optimizer, weights).load(
        [], {"groups": groups, "values": {name: {("step",): count} for name in weights}}
    )
    for one in weights.values():
        optimizer.state[one] |= {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
        one.grad = torch.ones(3)
    optimizer.step()
    assert [optimizer.state[one]["step"].item() for one in weights.values()] == [5, 5]
    assert count == 4
