"""Makes JPEG files and questions about them, in the format that `prepare` reads.

The pictures are smooth colours with noise, so that decoding them takes as long as decoding a photograph.
"""

from __future__ import annotations

import random
from pathlib import Path

from interlace_cli.io.artifacts import to_json_text

WORDS = ("how", "many", "squares", "are", "left", "of", "the", "circle", "what", "colour", "is", "largest", "one")
FEWEST, MOST = 16, 64
GRID, GRAIN = 16, 24


def draw_pictures(folder: Path, count: int, side: int) -> Path:
    """Writes `count` JPEG files of `side` x `side` pixels, and a question of 16 to 64 words about each.

    Returns the path of the JSON file with the questions. The same arguments give the same questions.
    """
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
