"""How many records datasets have, for where the Hub cannot be asked.

`finevision.json`: the counts that the method was released with (dataset_sample_counts.json).
"""

from __future__ import annotations

from pathlib import Path

from interlace_cli.io.files import parse_json


def load_known_counts(name: str) -> dict[str, int]:
    """Subset -> records, in the Hub's order."""
    counts: dict[str, int] = parse_json((Path(__file__).parent / f"{name}.json").read_bytes())
    return counts
