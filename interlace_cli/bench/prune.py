"""Benchmark of `prune`: cutting layers out of a checkpoint on disk, beside `cp -r` of the bytes that stay."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interlace_cli.bench.interleaved_timing import BASELINE, OURS, build_case
from interlace_cli.domain.benchmark import Case
from interlace_cli.io.artifacts import to_json_text
from interlace_cli.io.child import ask
from interlace_cli.io.models import choose_auto_class, import_transformers, load_config

LAYERS, DROP, HIDDEN = 36, "3,6,9,12,15,18,21,24,27", 1024
GOAL = 1.0
"""Times as long as `cp -r`."""
REST = 3.0
"""Seconds to wait between two runs, so that written data reaches the disk."""
LAUNCHER = """
import os, sys, time
began = time.monotonic()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
print(time.monotonic() - began, usage.ru_maxrss)
sys.exit(status != 0)
"""
"""Runs a command and prints its seconds and peak memory in KiB. A child inherits its parent's peak, so the parent must
be a small process."""


def write_checkpoint(folder: Path, gigabytes: float, shards: int = 4) -> None:
    """Writes a Qwen3-VL of 36 layers with random bytes as bfloat16 weights: about `gigabytes` GB in `shards` files."""
    (folder / "config.json").write_text(to_json_text(build_config(gigabytes)))
    tensors = ask("interlace_cli.bench.prune:list_tensors", str(folder))
    sizes = {name: 2 * math.prod(shape) for name, shape in tensors.items()}
    files: list[list[str]] = [[]]
    limit, filled = sum(sizes.values()) / shards, 0
    for name, size in sizes.items():
        if filled > limit * len(files):
            files.append([])
        files[-1].append(name)
        filled += size
    weight_map: dict[str, str] = {}
    block = os.urandom(1 << 24)
    for number, names in enumerate(files, start=1):
        path = folder / f"model-{number:05d}-of-{len(files):05d}.safetensors"
        header: dict[str, Any] = {}
        end = 0
        for name in names:
            header[name] = {"dtype": "BF16", "shape": tensors[name], "data_offsets": [end, end + sizes[name]]}
            end += sizes[name]
            weight_map[name] = path.name
        encoded = to_json_text(header).encode()
        with path.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for start in range(0, end, len(block)):
                file.write(block[: end - start])
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(to_json_text(index))


def build_config(gigabytes: float) -> dict[str, Any]:
    """Its MLPs and its vocabulary are as wide as the size asks, and its vision tower is small."""
    heads, width = HIDDEN // 128, 512
    attention = 2 * HIDDEN * (heads + heads // 2) * 128
    inner = (gigabytes * 1e9 / 2 - LAYERS * attention) / HIDDEN / (3 * LAYERS + 8)
    inner = max(int(inner) // 128, 1) * 128
    text = {
        "model_type": "qwen3_vl_text",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "head_dim": 128,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "intermediate_size": inner,
        "vocab_size": 8 * inner,
    }
    vision = {
        "depth": 24,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": 8,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    return {"model_type": "qwen3_vl", "text_config": text, "vision_config": vision, "tie_word_embeddings": True}


def list_tensors(folder: str) -> dict[str, list[int]]:
    """Name -> shape of what the config in the folder makes."""
    transformers = import_transformers()
    import torch

    config = load_config(Path(folder))
    with torch.device("meta"):
        model = getattr(transformers, choose_auto_class(config.model_type)).from_config(config)
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def _run(*command: str | Path) -> tuple[float, int]:
    """`(seconds, peak resident memory in KiB)` of a command. Raises CalledProcessError if it fails."""
    words = [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)]
    seconds, peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), int(peak)


def measure_pruning(gigabytes: float, repeats: int, folder: Path | None, advance: Callable[[], None]) -> list[Case]:
    """One case: drop 9 of 36 layers from a random checkpoint, against `cp -r` of the pruned checkpoint.

    A temporary folder in `folder` is used, so `folder` chooses the disk; None takes the system's.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        (scratch / "dense").mkdir()
        write_checkpoint(scratch / "dense", gigabytes)
        words = ("prune", str(scratch / "dense"), "--drop-layers", DROP, "-q", "--out")
        ours = (sys.executable, "-m", "interlace_cli", *words)
        _run(*ours, scratch / "kept")
        commands: dict[str, tuple[str | Path, ...]] = {OURS: ours, BASELINE: ("cp", "-r", scratch / "kept")}
        found: dict[str, list[tuple[float, int]]] = {way: [] for way in commands}
        for turn in range(repeats):
            for way in list(commands)[:: 1 if turn % 2 else -1]:
                os.sync()
                time.sleep(min(REST, gigabytes * REST))
                found[way].append(_run(*commands[way], scratch / "out"))
                shutil.rmtree(scratch / "out")
                advance()
        kept = sum(path.stat().st_size for path in (scratch / "kept").iterdir())
    bare = _run(sys.executable, "-c", "pass")[1]
    return [
        build_case(
            "prune",
            "cp -r of the bytes that stay",
            {way: [seconds for seconds, _ in runs] for way, runs in found.items()},
            GOAL,
            is_speedup=False,
            ours_peak_bytes=1024 * max(peak for _, peak in found[OURS]),
            baseline_peak_bytes=1024 * max(peak for _, peak in found[BASELINE]),
            notes=[f"{kept / 1e9:.2f} GB stay; an empty interpreter holds {bare / 1024:.0f} MiB"],
        )
    ]
