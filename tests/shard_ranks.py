"""One process of several that hold a part of each model: `python shard_ranks.py MODE FOLDER [NAME ...]`, started by
`start`. What it finds out goes to stdout as JSON, one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TESTS = Path(__file__).parent


def start(mode: str, folder: Path, *more: object, port: int, size: int = 2) -> list[subprocess.Popen[str]]:
    """Of each process what it has said is read by `finish`."""
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        subprocess.Popen(
            [sys.executable, str(Path(__file__)), mode, str(folder), *map(str, more)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[Any]:
    """What each of them has found out."""
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(said), "\n".join(err for _, err in said)
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def save_zoo(folder: Path, names: Sequence[str]) -> list[str]:
    """Saves those that can be built here."""
    import pytest
    import zoo

    saved = []
    for name in names:
        try:
            zoo.build_model(zoo.build_config(name)).save_pretrained(folder / name)
        except pytest.skip.Exception:
            continue
        saved.append(name)
    return saved


def compare_zoo(folder: Path, names: list[str]) -> dict[str, str]:
    """Each architecture, divided, beside itself in one process."""
    import zoo

    from interlace_cli.io.models import load_model
    from interlace_cli.io.shards import Shards

    found = {}
    for name in names:
        path = folder / name
        plain = load_model(path, "float32", "cpu")
        inputs = zoo.build_inputs(name, plain.config)
        divided = load_model(path, "float32", Shards("cpu"))
        share = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in divided.parameters())
        with torch.inference_mode():
            wanted, got = (model(**inputs, use_cache=False) for model in (plain, divided))
        is_alike = all(torch.equal(value, got[key]) for key, value in wanted.items() if isinstance(value, torch.Tensor))
        found[name] = "same" if is_alike else "other outputs"
        if share > 0.75 * sum(p.numel() for p in plain.parameters()):
            found[name] = "not divided"
    return found


def compare_uneven(folder: Path, models: list[str]) -> dict[str, bool]:
    """Each process does something else: replies of its own length, with a picture or without, similarities."""
    from interlace_cli.data.batches import to_model
    from interlace_cli.evaluation.fidelity import build_probe
    from interlace_cli.families.modules import find_layers
    from interlace_cli.importance.similarity import SpanHook
    from interlace_cli.io.models import load_model
    from interlace_cli.io.shards import Shards
    from interlace_cli.runtime.lending import settle

    rank, found = int(os.environ["RANK"]), {}
    for path in map(Path, models):
        plain = load_model(path, "float32", "cpu")
        inputs = to_model(build_probe(plain, path).inputs, plain)
        if rank % 2:
            ids = torch.arange(5, 15)[None]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        divided = load_model(path, "float32", Shards("cpu"))
        more = {"max_new_tokens": 3 + 4 * rank, "min_new_tokens": 3 + 4 * rank, "do_sample": False}
        with torch.inference_mode():
            tokens = [model.generate(**inputs, **more) for model in (plain, divided)]
            if rank == 0:
                # One forward more than the others.
                divided(**inputs)
        found[f"{path.name} tokens"] = torch.equal(*tokens)
        spans = []
        for model in (plain, divided):
            with SpanHook(find_layers(model)) as hook:
                spans.append(hook.run(model, inputs, torch.zeros_like(inputs["input_ids"], dtype=torch.bool)))
        found[f"{path.name} spans"] = torch.equal(*spans)
    settle()
    return found


def hold(folder: Path, models: list[str]) -> dict[str, int]:
    """Waits with a model in memory, so that somebody can look from outside."""
    from interlace_cli.io.models import load_config, load_model
    from interlace_cli.io.shards import Shards

    path = Path(models[0])
    load_config(path)
    dist.init_process_group("gloo")
    load_model(Path(models[1]), "float32", Shards("cpu"))
    found = []
    for one in (None, path):
        model = None if one is None else load_model(one, "float32", Shards("cpu"))
        print("ready", flush=True)
        sys.stdin.readline()
        found.append(0 if model is None else sum(p.numel() * p.itemsize for p in model.parameters()))
    return {"bytes": found[-1]}


def run_commands(folder: Path, names: list[str]) -> dict[str, int]:
    """Commands, one a line of the file in the folder."""
    from workspaces import call

    del names
    found = {}
    for line in (folder / "commands.json").read_text().splitlines():
        # Each command's processes find each other anew; usually they are new ones.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        done = call(*json.loads(line))
        found[line] = done.code
        if done.code:
            print(done.err, file=sys.stderr)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    modes = {"zoo": compare_zoo, "uneven": compare_uneven, "hold": hold, "commands": run_commands}
    answer = modes[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    print(json.dumps(answer), flush=True)
