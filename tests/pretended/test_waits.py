"""How often the host waits for the GPU in a batch, in lines of ours, and that no batch is copied from memory that is
not pinned. What transformers waits for is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretend import Pretend
from workspaces import succeed

HEAL = "finetune --objective distill+anchor --save-every 100 --batch-size 8 --grad-accum 1 --epochs"
ANALYZE = "analyze {space}/pruned --batch-size 4 --samples"
EVAL = "eval {space}/pruned --batch-size 3 --max-new-tokens 3 --no-speed --samples"


def is_ours(key: str) -> bool:
    """A line of a library has ours in brackets behind it."""
    return "(" not in key


@pytest.mark.parametrize(
    ("words", "few", "many", "batches", "most"),
    [(HEAL, 0.3, 1, 2, 3), (ANALYZE, 4, 12, 2, 2), (EVAL, 3, 6, 1, 2)],
    ids=["a-step-of-healing", "a-batch-of-analysis", "a-batch-of-answers"],
)
def test_the_host_waits_so_often(
    words: str, few: float, many: float, batches: int, most: int, space: Path, tmp_path: Path
) -> None:
    """Between two runs, one of which has more batches."""
    found = []
    for count in (few, many):
        with Pretend() as gpu:
            out = ("--out", tmp_path / f"{count}", "-w", space, "--dtype", "float32")
            succeed(*words.format(space=space).split(), count, *out)
        found.append(gpu)
    waits, pageable = found[1].waits - found[0].waits, found[1].pageable - found[0].pageable
    ours = {key: times for key, times in waits.items() if is_ours(key)}
    assert sum(waits.values()) > 0
    assert sum(ours.values()) <= most * batches, ours
    assert not [key for key in pageable if is_ours(key)]
