"""Which device a process takes, of the GPUs that it sees: pretended by torch's own answers, no GPU is asked."""

from __future__ import annotations

import os

import pytest
import torch

from interlace_cli.errors import UsageError
from interlace_cli.options import AnalyzeOptions, FinetuneOptions
from interlace_cli.runtime import device as module
from interlace_cli.runtime.device import choose_device, choose_dtype, use_device


class Gpus:
    """As many GPUs as are said, of one compute capability."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set, self.count, self.current = monkeypatch, 0, 0
        monkeypatch.setattr(module, "_find_default", lambda: 0)

    def show(self, count: int, capability: tuple[int, int] = (9, 0)) -> None:
        self.count = count
        self.set.setattr(torch.cuda, "is_available", lambda: count > 0)
        self.set.setattr(torch.cuda, "device_count", lambda: count)
        self.set.setattr(torch.cuda, "set_device", self.take)
        self.set.setattr(torch.cuda, "current_device", lambda: self.current)
        self.set.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        self.set.setattr(torch.cuda, "_lazy_init", lambda: None)
        properties = type("Properties", (), {"major": capability[0], "minor": capability[1]})
        self.set.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
        self.set.setattr(torch.cuda, "_exchange_device", lambda index: self.current)
        self.set.setattr(torch.cuda, "_maybe_exchange_device", lambda index: self.current)
        # What emulates bfloat16 says that it has it.
        self.set.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
        self.set.setattr(torch, "empty", self.make)

    def take(self, index: int) -> None:
        self.current = index

    def make(self, size: int, device: str) -> None:
        wanted = torch.device(device)
        if wanted.type == "cuda" and (wanted.index or 0) >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return Gpus(monkeypatch)


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int, local: int, beside: int) -> None:
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": beside}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("asked", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("local", "count", "chosen"),
    [(0, 4, "cuda:0"), (3, 4, "cuda:3"), (3, 1, "cuda:0"), (3, 2, "cuda:1")],
    ids=["first", "last", "slurm-shows-one", "two-on-a-gpu"],
)
def test_each_process_takes_a_gpu_of_those_that_it_sees(
    asked: str, local: int, count: int, chosen: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_rank(monkeypatch, rank=local, size=4, local=local, beside=4)
    gpus.show(count)
    assert choose_device(asked) == chosen
    assert use_device(asked) == chosen
    assert f"cuda:{gpus.current}" == chosen
    assert os.environ["LOCAL_RANK"] == chosen[-1], "by which DeepSpeed chooses"
    assert choose_device(asked) == choose_device(chosen) == chosen


def test_one_gpu_is_not_for_several_processes(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.show(4)
    for rank in (0, 2):  # that of rank 1 is its own
        be_rank(monkeypatch, rank=rank, size=4, local=rank, beside=4)
        with pytest.raises(
            UsageError, match=r"--device cuda:1 is one GPU, and there are 4 processes\..*--device cuda:"
        ):
            choose_device("cuda:1")
    be_rank(monkeypatch, rank=1, size=2, local=0, beside=1)
    gpus.show(1)
    assert choose_device("cuda:0") == "cuda:0", "the one that each of two machines has"
    for options in (FinetuneOptions(device="cuda:1", processes=1), AnalyzeOptions(device="cuda", processes=4)):
        options.check()
    for make in (FinetuneOptions, AnalyzeOptions):
        with pytest.raises(UsageError, match="--device cuda:1 is one GPU, and --processes 4 needs one for each"):
            make(device="cuda:1", processes=4).check()


def test_alone_a_gpu_is_named_or_the_first(gpus: Gpus) -> None:
    gpus.show(2)
    assert (use_device("cuda:1"), gpus.current) == ("cuda:1", 1)
    assert (use_device("auto"), gpus.current) == ("cuda", 0)
    with pytest.raises(UsageError, match="--device cuda:2 cannot be used here: CUDA error: invalid device ordinal"):
        use_device("cuda:2")
    gpus.show(0)
    assert use_device("auto") == "cpu"
    with pytest.raises(UsageError, match="--device cuda cannot be used here"):
        use_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), "bfloat16"),
        ((8, 0), "bfloat16"),
        ((7, 5), "float16"),
        ((7, 0), "float16"),
        ((6, 1), "float32"),
    ],
    ids=["h100", "a100", "t4", "v100", "p40"],
)
def test_auto_is_the_dtype_that_the_gpu_computes_in(capability: tuple[int, int], dtype: str, gpus: Gpus) -> None:
    gpus.show(1, capability)
    assert str(choose_dtype("auto", "cuda")) == f"torch.{dtype}"
    assert str(choose_dtype("auto", "cuda:0")) == f"torch.{dtype}"
    assert str(choose_dtype("bfloat16", "cuda")) == "torch.bfloat16", "what is asked for is taken"
