"""The pretend GPU itself: it answers as CUDA does."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import threading
from pathlib import Path

import pytest
import torch
from pretend import Pretend
from safetensors.torch import load_file, save_file
from torch import nn


def test_what_is_made_on_a_device_is_there_and_views_inherit_it(gpu: Pretend) -> None:
    made = torch.zeros(4, 4, device="cuda")
    assert made.device == torch.device("cuda:0")
    assert made.is_cuda
    assert not made.is_cpu
    for view in (made.t(), made[1], made.view(16), made.detach(), made + 1, torch.empty_like(made), made.new_ones(2)):
        assert view.device == made.device
    assert torch.zeros(4).device == made.cpu().device == torch.zeros_like(made, device="cpu").device
    assert not gpu.waits.keys() - {key for key in gpu.waits if "to host" in key}


def test_a_tensor_on_meta_takes_no_memory(gpu: Pretend) -> None:
    """Where accelerate puts weights that it has offloaded."""
    there = torch.ones(1000, device="cuda")
    held = gpu.now[0]
    shape = nn.Parameter(there.to("meta"))
    assert shape.device.type == "meta"
    assert (gpu.now[0], gpu.waits) == (held, {})
    del there
    assert gpu.now[0] == 0


def test_devices_do_not_mix(gpu: Pretend) -> None:
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    for mix in (
        lambda: here + there,
        lambda: there.add_(here),
        lambda: torch.add(there, there, out=here),
        lambda: torch.cat([there, torch.ones(3)]),
        lambda: torch.stack([there.sum(), torch.tensor(1.0)]),
        lambda: torch.tensor(1.0).add_(there.sum()),
        lambda: here[there > 0],
        lambda: there.index_select(0, torch.tensor([1])),
        lambda: nn.Linear(3, 3)(there),
        lambda: nn.functional.embedding(torch.tensor([1]), torch.ones(2, 2, device="cuda")),
    ):
        with pytest.raises(RuntimeError, match="device"):
            mix()
    del gpu


def test_numbers_and_indices_of_the_host_go_with_a_device(gpu: Pretend) -> None:
    there = torch.ones(3, device="cuda")
    assert (there * torch.tensor(2.0)).device == there.device
    assert there[torch.tensor([0, 2])].device == there.device
    there[torch.tensor([True, False, False])] = 5.0
    there[1] = torch.tensor(7.0)
    there.copy_(there.cpu() + 1)
    assert there.tolist() == [6, 8, 2]
    del gpu


def test_what_a_function_of_torch_makes_inside_is_on_the_device(gpu: Pretend) -> None:
    rows = [torch.ones(2, device="cuda"), torch.ones(3, device="cuda")]
    assert nn.utils.rnn.pad_sequence(rows).device == rows[0].device
    assert nn.functional.one_hot(torch.ones(2, dtype=torch.long, device="cuda"), 3).is_cuda
    weight = torch.ones(3, requires_grad=True, device="cuda")
    weight[1:].prod().backward()
    assert weight.grad.is_cuda
    del gpu


def test_a_module_moves_trains_and_comes_back(gpu: Pretend) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    twin, rows = copy.deepcopy(model), torch.randn(4, 8)
    for net, device in ((model, "cuda"), (twin, "cpu")):
        net.to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        for _ in range(3):
            net(rows.to(device)).square().sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    for one, other in zip(model.cpu().parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    del gpu


def test_the_gradient_goes_back_to_the_device_it_came_from(gpu: Pretend) -> None:
    weight = torch.ones(3, requires_grad=True)
    (weight.to("cuda") * 2).sum().backward()
    assert weight.grad.device.type == "cpu"
    assert weight.grad.tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="gradient"):
        weight.grad = torch.ones(3, device="cuda")
    del gpu


def test_the_host_does_not_read_a_device_by_numpy(gpu: Pretend) -> None:
    there = torch.ones(3, device="cuda")
    for read in (there.numpy, there.__array__):
        with pytest.raises(TypeError, match="cuda:0"):
            read()
    assert there.cpu().numpy().tolist() == [1, 1, 1]
    del gpu


def test_files_keep_the_device_and_are_loaded_where_one_says(gpu: Pretend, tmp_path: Path) -> None:
    there = torch.arange(3.0, device="cuda")
    torch.save({"a": there}, tmp_path / "a.pt")
    for place, wanted in ((None, "cuda:0"), ("cpu", "cpu"), ({"cuda:0": "cpu"}, "cpu"), ("cuda", "cuda:0")):
        assert str(torch.load(tmp_path / "a.pt", map_location=place)["a"].device) == wanted
    assert pickle.loads(pickle.dumps(there)).is_cuda
    assert copy.deepcopy(there).is_cuda
    save_file({"a": there}, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors", device="cuda:0")["a"].tolist() == [0, 1, 2]
    assert load_file(tmp_path / "a.safetensors", device="cuda:0")["a"].is_cuda
    with io.BytesIO() as file:
        torch.save(nn.Linear(2, 2).cuda().state_dict(), file)
        file.seek(0)
        assert torch.load(file, map_location=torch.device("cpu"))["weight"].device.type == "cpu"
    del gpu


def test_bytes_are_counted_and_freed() -> None:
    with Pretend() as gpu:
        made = torch.empty(1 << 20, device="cuda")
        view = made[:10]
        del made
        assert gpu.now == [4 << 20] == [torch.cuda.memory_allocated()]
        del view
        assert gpu.now == [0]
        assert gpu.peak == [4 << 20] == [torch.cuda.max_memory_allocated()]
        torch.cuda.reset_peak_memory_stats()
        assert torch.cuda.max_memory_allocated() == 0
        made = torch.empty(1, device="cuda")
        made.untyped_storage().resize_(1 << 20)
        assert gpu.now == [1 << 20]
        made.untyped_storage().resize_(0)
        assert gpu.now == [0]


def test_a_device_has_a_capacity() -> None:
    with Pretend(gpus=2, capacity=1 << 20) as gpu:
        held = torch.empty(1 << 19, dtype=torch.uint8, device="cuda:1")
        assert torch.cuda.mem_get_info(1)[0] == 1 << 19
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            held.float()
        assert gpu.now == [0, 1 << 19]
        del held
        assert torch.empty(1 << 20, dtype=torch.uint8, device="cuda:1").is_cuda
        assert sum(gpu.shortages.values()) == 1


def test_waits_are_counted_by_line(gpu: Pretend) -> None:
    there = torch.ones(3, device="cuda")
    assert not gpu.waits
    float(there.sum())
    there[there > 0]
    there.nonzero()
    there.cpu()
    if there.all():
        torch.cuda.synchronize()
    there.masked_fill_(there > 0, 2.0)
    there[there > 0] = 1.0
    there.add_(1).mul_(2)
    kinds = [key.split(" @ ")[0] for key in gpu.waits]
    assert kinds == ["scalar_dense", "index by mask", "nonzero", "to host", "scalar_dense", "synchronize"]
    assert all("test_pretend.py:" in key for key in gpu.waits)


def test_operations_of_others_are_seen_in_inference_mode(gpu: Pretend) -> None:
    """There torch does not divide them before they come to a mode."""
    there, here = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
    with torch.inference_mode():
        there.sum().item()
        torch.where(there > 0)
        assert torch.nn.functional.linear(there, there).device.type == "cuda"
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            torch.nn.functional.linear(there, here)
    assert sorted(what.split(" @ ")[0] for what in gpu.waits) == ["nonzero", "scalar_dense"]


def test_pinned_memory_is_copied_without_a_wait(gpu: Pretend) -> None:
    row = torch.ones(100).pin_memory()
    assert row.is_pinned()
    row.to("cuda", non_blocking=True)
    assert not gpu.waits
    assert not gpu.pageable
    torch.ones(100).to("cuda")
    assert len(gpu.waits) == len(gpu.pageable) == 1
    with pytest.raises(RuntimeError, match="cannot pin"):
        row.cuda().pin_memory()


def test_there_are_as_many_devices_as_one_says() -> None:
    with Pretend(gpus=4, capability=(7, 5)) as gpu:
        assert torch.cuda.device_count() == torch.accelerator.device_count() == 4
        with torch.cuda.device(2):
            assert torch.ones(1, device="cuda").device.index == torch.cuda.current_device() == 2
        with torch.device("cuda:1"):
            assert torch.ones(1).device == torch.tensor([1]).device == nn.Linear(2, 2).weight.device
        assert torch.ones(1).to(3).device.index == nn.Linear(2, 2).to(3).weight.device.index == 3
        with pytest.raises(RuntimeError, match="two devices, cuda:0 and cuda:1"):
            torch.ones(2, device="cuda:0") + torch.ones(2, device="cuda:1")
        with pytest.raises(RuntimeError, match="ordinal"):
            torch.ones(1, device="cuda:4")
        assert torch.cuda.is_bf16_supported()
        assert not torch.cuda.is_bf16_supported(including_emulation=False)
        assert min(gpu.peak) > 0


def test_each_device_has_its_own_random_numbers(gpu: Pretend) -> None:
    torch.manual_seed(3)
    first = torch.rand(4, device="cuda")
    state = torch.cuda.get_rng_state()
    host, second = torch.rand(4), torch.rand(4, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.rand(4, device="cuda").tolist() == second.tolist() != first.tolist()
    torch.manual_seed(3)
    assert torch.rand(4).tolist() == host.tolist()
    made = torch.Generator("cuda").manual_seed(5)
    assert made.device.type == "cuda"
    assert torch.rand(4, device="cuda", generator=made).is_cuda
    del gpu


def test_threads_see_the_device_and_forked_processes_do_not(gpu: Pretend) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2, device="cuda") + 1))
    thread.start()
    thread.join()
    assert found[0].device.type == "cuda"  # type: ignore[attr-defined]
    child = os.fork()
    if child == 0:
        try:
            torch.ones(2).to("cuda")
        except RuntimeError as error:
            os._exit(7 if "forked subprocess" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    del gpu


def test_autocast_is_of_the_device(gpu: Pretend) -> None:
    layer, row = nn.Linear(4, 4).cuda(), torch.ones(2, 4, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cuda")
        assert layer(row).dtype == torch.bfloat16
        with torch.autocast("cuda", enabled=False):
            assert layer(row).dtype == torch.float32
    assert layer(row).dtype == torch.float32
    del gpu


def test_streams_and_events_are_there(gpu: Pretend) -> None:
    made, event = torch.cuda.Stream(), torch.cuda.Event()
    with torch.cuda.stream(made):
        assert torch.cuda.current_stream() is made
        torch.ones(2, device="cuda").record_stream(made)
        event.record()
    torch.cuda.current_stream().wait_stream(made)
    assert torch.cuda.current_stream() is torch.cuda.default_stream() is not made
    event.synchronize()
    assert [key.split(" @ ")[0] for key in gpu.waits] == ["Event.synchronize"]


def test_large_tensors_may_have_no_data() -> None:
    with Pretend(fake=True) as gpu:
        model = nn.Linear(1 << 16, 1 << 14, device="cuda", dtype=torch.bfloat16)
        assert gpu.now == [2 * ((1 << 30) + (1 << 14))]
        model(torch.ones(1, 1 << 16, device="cuda", dtype=torch.bfloat16)).sum().backward()
        assert gpu.now[0] > 4 << 30
        del model
        gc.collect()
        assert gpu.now == [0]


def test_nothing_of_it_is_left() -> None:
    with Pretend() as gpu:
        made = torch.ones(3, device="cuda")
    assert made.device.type == "cpu"
    assert not torch.cuda.is_available()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(3, device="cuda")
    del made
    assert gpu.now == [0]
