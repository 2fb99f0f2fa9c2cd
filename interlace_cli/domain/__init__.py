"""Frozen records that the other packages share. No torch, no disk.

Records that are written as files: `dataset.py`, `analysis.py`, `plan.py`, `checkpoint.py`, `evaluation.py`,
`comparison.py`, `benchmark.py`; their base classes are in `record.py`. To add a field to a file, change its record.
"""
