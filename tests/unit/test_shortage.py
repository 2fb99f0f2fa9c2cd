"""What counts as a shortage of memory, what is said of it, and which advice is given where."""

from __future__ import annotations

import errno
from itertools import product

import pytest
import torch

from interlace_cli.errors import InterlaceError, ShortageError
from interlace_cli.healing.ladder import Place, Setup, build_shortage, explained, list_rungs
from interlace_cli.runtime.memory import is_out_of_memory
from interlace_cli.runtime.shortage import read_shortage

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.50 GiB of which 512.00 MiB is"
    " free. Process 1 has 23.00 GiB memory in use."
)
SHORT = [
    torch.OutOfMemoryError(CUDA),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GiB). Tried to allocate 1.00 GiB on private pool."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes."),
]
OTHER = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("out of memory"),
    ShortageError("it does not fit"),
]


@pytest.mark.parametrize("error", SHORT, ids=range(len(SHORT)))
def test_a_shortage_is_known_whoever_says_it(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=range(len(OTHER)))
def test_what_is_none_is_taken_for_none(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_figures_are_those_of_the_error() -> None:
    found = read_shortage(SHORT[0], "cuda:0")
    assert (found.where, found.wanted, found.free, found.total) == ("cuda:1", 5 << 29, 1 << 29, 47 << 29)
    assert str(found) == "2.50 GiB more were asked for, and 0.50 GiB of 23.50 GiB are free on cuda:1"
    host = read_shortage(SHORT[-1])
    assert (host.where, host.wanted) == ("this machine", 80_000_000_000)
    assert host.free
    assert read_shortage(RuntimeError("CUDA error: out of memory"), "mps").free is None
    assert str(read_shortage(RuntimeError("CUDA error: out of memory"))) == "the memory of the device is used up"


def list_setups() -> list[Setup]:
    choices = product(
        ("cpu", "cuda:0"),
        ("float32", "bfloat16"),
        ("auto", "offload", "zero3", "fsdp"),
        ("adamw_torch", "adamw_8bit"),
        (1, 2),
        (False, True),
        (False, True),
    )
    return [Setup(*choice) for choice in choices]


def test_no_advice_is_what_is_done_already_or_cannot_help_there() -> None:
    for setup, place in product(list_setups(), Place):
        rungs = " ".join(list_rungs(place, setup))
        if setup.is_checkpointed or place is not Place.ROW:
            assert "checkpointing" not in rungs
        if place in (Place.MODEL, Place.TEACHER, Place.STATE, Place.OPTIMIZER, Place.SAVING):
            assert "--max-length" not in rungs, "shorter rows make neither weights nor moments smaller"
        if setup.device == "cpu":
            assert "offload" not in rungs
            assert "fsdp" not in rungs
        if setup.engine == "offload" or setup.processes > 1:
            assert "--engine offload" not in rungs
        if "8bit" in setup.optim:
            assert "8bit" not in rungs
        if setup.dtype != "float32":
            assert "bfloat16" not in rungs
        if place is Place.SAVING:
            assert "--dtype" not in rungs


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        (Place.ROW, "--gradient-checkpointing"),
        (Place.OPTIMIZER, "--engine offload"),
        (Place.MODEL, "--engine offload"),
        (Place.TEACHER, "--objective ce"),
        (Place.TEACHER, "--engine fsdp or zero3"),
        (Place.TRIAL, "--max-length"),
        (Place.LOCAL, "--max-length"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_on_a_gpu_there_is_something_to_do_at_each_place(place: Place, wanted: str) -> None:
    setup = Setup("cuda:0", "bfloat16", "auto", "adamw_torch_fused", 1, False, True)
    assert wanted in " ".join(list_rungs(place, setup))


def test_a_shortage_is_explained_once_and_other_errors_pass() -> None:
    setup = Setup("cuda:0", "bfloat16", "auto", "adamw_torch", 1, False, False)
    words = r"optimizer's step does not fit .* Take --engine offload, --optim"
    with pytest.raises(ShortageError, match=words), explained(Place.OPTIMIZER, setup):
        raise SHORT[0]
    inner = build_shortage(Place.MODEL, setup, read_shortage(SHORT[0]), "model X")
    with pytest.raises(ShortageError, match=r"model X .* Take --engine offload"), explained(Place.MODEL, setup):
        raise inner
    with pytest.raises(InterlaceError, match="is broken"), explained(Place.MODEL, setup):
        raise InterlaceError("it is broken.")


def test_what_helps_the_gpu_is_no_advice_where_the_host_is_short() -> None:
    host = read_shortage(SHORT[-1], "cuda:0")
    for setup, place in product(list_setups(), Place):
        if not setup.is_gpu:
            continue
        fix = build_shortage(place, setup, host).fix
        assert not any(word in fix for word in ("offload", "zero3", "8bit", "checkpointing", "--max-length"))
        assert ("--processes" in fix) is (setup.processes > 1)
        assert place is not Place.TEACHER or not setup.has_teacher or "--objective ce" in fix
    setup = Setup("cuda:0", "bfloat16", "offload", "adamw_torch_fused", 1, True, False)
    with pytest.raises(ShortageError, match="Take fewer layers"), explained(Place.MODEL, setup):
        raise ShortageError("the host is full.", "Say less.", is_on_host=True)
