"""Samples with images that are bytes and no pictures, for what stores them."""

from __future__ import annotations

import os
import random

from interlace_cli.domain.dataset import Sample, Turn
from interlace_cli.io.files import hash_bytes


def build_samples(count: int, seed: int = 0) -> list[tuple[Sample, dict[str, bytes]]]:
    """Rows with none, one or several images, some of which many rows show, and one that shows the same one twice."""
    chance = random.Random(seed)
    pool = [os.urandom(chance.randrange(1, 9000)) for _ in range(count // 2)]
    rows = []
    for number in range(count):
        chosen = [chance.choice(pool) for _ in range(chance.choice([0, 0, 1, 1, 1, 3]))]
        chosen += chosen[:1] if number % 7 == 0 else []
        images = {f"{hash_bytes(data)[:32]}.png": data for data in chosen}
        names = [f"{hash_bytes(data)[:32]}.png" for data in chosen]
        turns = [Turn(speaker="human", value=f"{seed} ä {number} " * chance.randrange(1, 30))]
        turns.append(Turn(speaker="gpt", value=str(number)))
        rows.append((Sample(id=f"s{number}", image=names, conversations=turns, source="made"), images))
    return rows
