"""Files that are written tensor by tensor are what safetensors writes, and are never left with a gap."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interlace_cli.healing.tensor_files import Held, list_tensors, save_tensors, view_bytes
from interlace_cli.io.tensor_stream import TensorWriter


def test_what_is_written_in_any_order_is_read_by_safetensors(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.arange(4, dtype=torch.uint8),
        "none": torch.empty(0, 3),
        "c": torch.randn(3, 5).to(torch.bfloat16),
    }
    names = {torch.float32: "F32", torch.uint8: "U8", torch.bfloat16: "BF16"}
    entries = {name: (names[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(tmp_path / "file", entries) as file:
        for name in reversed(tensors):
            file.write(name, view_bytes(tensors[name]))
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    read = {stored.name: stored.read() for stored in list_tensors(tmp_path / "file")}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())  # type: ignore[arg-type]


def test_a_gap_or_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="b was not written"), TensorWriter(tmp_path / "x", _two()) as file:
        file.write("a", bytes(8))
    with pytest.raises(ValueError, match="4 bytes for 8"), TensorWriter(tmp_path / "y", _two()) as file:
        file.write("a", bytes(4))


def _two() -> dict[str, tuple[str, tuple[int, ...]]]:
    return {"a": ("F32", (2,)), "b": ("F32", (1,))}


def test_each_tensor_is_fetched_when_its_turn_comes(tmp_path: Path) -> None:
    asked: list[str] = []

    def build(name: str) -> Held:
        def fetch() -> torch.Tensor:
            asked.append(name)
            return torch.full((2, 2), float(len(asked)), dtype=torch.float64)

        return Held(name, torch.float32, (2, 2), fetch)

    save_tensors(tmp_path / "file", [build("x"), build("y")])
    assert asked == ["x", "y"]
    assert load_file(tmp_path / "file")["y"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
