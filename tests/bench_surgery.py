"""Surgery against `cp -r` of the bytes that stay, alternately, with the peak memory of both.

python tests/bench_surgery.py --gigabytes 4 --rounds 6 --folder /some/disk
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAYERS, DROP = 36, "3,6,9,12,15,18,21,24,27"
HIDDEN = 2048
LAUNCHER = """
import os, sys, time
began = time.monotonic()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
print(time.monotonic() - began, usage.ru_maxrss)
sys.exit(status != 0)
"""
"""A process's peak counts from what its parent holds, so the parent has to be small."""


def write_checkpoint(folder: Path, gigabytes: float, shards: int = 4) -> None:
    """A Qwen3-VL of random bytes in bfloat16, 36 layers deep, in `shards` files."""
    inner = int(gigabytes * 1e9 / 2 / LAYERS / HIDDEN / 3.6)
    layer = {"self_attn.q_proj": HIDDEN, "mlp.gate_proj": inner, "mlp.up_proj": inner, "mlp.down_proj": inner}
    tensors = {"model.language_model.embed_tokens.weight": (8 * inner, HIDDEN)}
    for number in range(LAYERS):
        tensors |= {f"model.language_model.layers.{number}.{n}.weight": (s, HIDDEN) for n, s in layer.items()}
    tensors |= {f"model.visual.blocks.{number}.attn.qkv.weight": (inner // 8, HIDDEN) for number in range(24)}
    sizes = {name: 2 * rows * columns for name, (rows, columns) in tensors.items()}
    limit, files, filled = sum(sizes.values()) / shards, [[]], 0
    for name, size in sizes.items():
        if filled > limit * len(files):
            files.append([])
        files[-1].append(name)
        filled += size
    weight_map, block = {}, os.urandom(1 << 24)
    for number, names in enumerate(files, start=1):
        path = folder / f"model-{number:05d}-of-{len(files):05d}.safetensors"
        header, end = {}, 0
        for name in names:
            shape = list(tensors[name])
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + sizes[name]]}
            end += sizes[name]
            weight_map[name] = path.name
        encoded = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for start in range(0, end, len(block)):
                file.write(block[: end - start])
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    text = {"model_type": "qwen3_vl_text", "num_hidden_layers": LAYERS}
    config = {"model_type": "qwen3_vl", "text_config": text, "vision_config": {"depth": 24}}
    (folder / "config.json").write_text(json.dumps(config))


def measure(*command: str | Path) -> tuple[float, int]:
    """Seconds, and the peak resident set in KiB."""
    words = [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)]
    seconds, peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), int(peak)


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "dense").mkdir()
        write_checkpoint(folder / "dense", options.gigabytes)
        prune = (sys.executable, "-m", "interlace_cli", "prune", folder / "dense", "--drop-layers", DROP, "-q", "--out")
        measure(*prune, folder / "kept")
        commands = {"cp -r": ("cp", "-r", folder / "kept"), "interlace prune": prune}
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
        for round_ in range(options.rounds):
            for which in list(commands)[:: 1 if round_ % 2 else -1]:
                os.sync()
                time.sleep(3)
                found[which].append(measure(*commands[which], folder / "out"))
                shutil.rmtree(folder / "out")
        kept = sum(path.stat().st_size for path in (folder / "kept").iterdir())
    bare = measure(sys.executable, "-c", "pass")[1]
    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in found.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores, {kept / 1e9:.2f} GB stay, {options.rounds} rounds")
    for which, runs in found.items():
        seconds = ", ".join(f"{seconds:.2f}" for seconds, _ in runs)
        print(
            f"{which}: median {medians[which]:.2f} s ({seconds}), peak {max(peak for _, peak in runs) / 1024:.0f} MiB"
        )
    print(f"ratio {medians['interlace prune'] / medians['cp -r']:.2f}; an empty interpreter: {bare / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
