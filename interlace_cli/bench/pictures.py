"""Questions about pictures of a given size, as files that `prepare` reads: what an analysis starts from.

The pictures are smooth colours with grain, so that they take a photograph's time to decode.
"""

from __future__ import annotations

import random
from pathlib import Path

from interlace_cli.io.artifacts import to_json_text

WORDS = ("how", "many", "squares", "are", "left", "of", "the", "circle", "what", "colour", "is", "largest", "one")
FEWEST, MOST = 16, 64
GRID, GRAIN = 16, 24


def draw_pictures(folder: Path, count: int, side: int) -> Path:
    """Writes `count` JPEG files of `side` x `side` pixels, and the records that ask about them, of 16 to 64 words."""
    from PIL import Image, ImageChops

    rng = random.Random(0)
    records = []
    grain = Image.effect_noise((side, side), GRAIN).convert("RGB")
    for number in range(count):
        colours = Image.frombytes("RGB", (GRID, GRID), rng.randbytes(3 * GRID * GRID)).resize((side, side))
        name = f"{number}.jpg"
        ImageChops.overlay(colours, grain).save(folder / name, quality=90)
        question = " ".join(rng.choices(WORDS, k=rng.randint(FEWEST, MOST)))
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "one"}]
        records.append({"id": str(number), "image": name, "conversations": turns})
    path = folder / "pictures.json"
    path.write_text(to_json_text(records), encoding="utf-8")
    return path
