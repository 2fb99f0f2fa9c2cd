"""Files in FineVision's schema: the real columns, whose order, and that of their fields, differs between subsets."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RATINGS = ("relevance", "image_correspondence", "formatting", "visual_dependency")


def make_image(seed: int, size: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(seed).randbytes(3 * size * size)).save(buffer, "PNG")
    return buffer.getvalue()


def make_row(number: int, images: int = 1, turns: int = 1, rating: int = 5, **more: Any) -> dict[str, Any]:
    """Row `number` asks for its own number, so that a sample tells where it is from."""
    texts = [{"user": f"Question {number}.{t}?", "assistant": f"Answer {number}.{t}."} for t in range(turns)]
    texts[0]["user"] = "<image>" * images + texts[0]["user"]
    row: dict[str, Any] = {
        "images": [{"bytes": make_image(1000 * number + i), "path": None} for i in range(images)],
        "texts": texts,
        "source": "somewhere",
    }
    for name in RATINGS:
        row |= {f"{name}_ratings": [rating] * turns, f"{name}_min": rating}
    return row | more


def write_subset(
    root: Path, name: str, rows: list[dict[str, Any]], files: int = 2, group: int = 10, reverse: bool = False
) -> None:
    """`<root>/<name>/train-00000-of-00002.parquet` and so on."""
    turn = [("user", pa.string()), ("assistant", pa.string())]
    fields: list[tuple[str, Any]] = [
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("texts", pa.list_(pa.struct(turn[::-1] if reverse else turn))),
        ("source", pa.string()),
    ]
    for rating in RATINGS:
        fields += [(f"{rating}_ratings", pa.list_(pa.int64())), (f"{rating}_min", pa.int64())]
    schema = pa.schema(fields[::-1] if reverse else fields)
    (root / name).mkdir(parents=True, exist_ok=True)
    share = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * share : (number + 1) * share], schema)
        path = root / name / f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=group)


def make_card(names: list[str], counts: dict[str, int] | None = None) -> dict[str, Any]:
    """The metadata of the dataset's README."""
    card: dict[str, Any] = {
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]} for name in names
        ]
    }
    if counts:
        card["dataset_info"] = [
            {"config_name": name, "splits": [{"name": "train", "num_examples": count}]}
            for name, count in counts.items()
        ]
    return card


def write_card(root: Path, card: dict[str, Any]) -> None:
    """README.md with the card as its front matter; JSON is YAML."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# FineVision\n")
