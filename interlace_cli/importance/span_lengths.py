"""The lengths of spans that are measured: SPAN_LENGTHS, the only constant for them in this room."""

from __future__ import annotations

SPAN_LENGTHS = (1, 2, 3)
"""Lengths of spans in layers, from 1 without gaps. S_p[i] compares the states before layer i and before layer i + p;
the paper's triplets need S_3, its pairs S_2, single layers S_1 (arXiv 2511.19676, section 3). To measure another
length, add it here, and a field for it (`s4`) to `SpanSimilarity` in `domain/analysis.py` and to `Scores` in
`domain/scores.py`."""
