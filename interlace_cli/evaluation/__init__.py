"""How good and how fast a checkpoint is.

To change: a metric -> `metrics/` (one file each); which samples are asked -> `tasks.py`; how answers are generated ->
`generation.py`; what a reply is without its thoughts -> `thoughts.py`; batches and the loss -> `quality.py`, of
CLIP-like models `retrieval.py`; scores and retention -> `aggregation.py`; confidence intervals -> `statistics.py`; the
rows of `interlace compare` -> `table.py`; timings -> `speed.py` and `sparse_kernels.py`; the check that a pruned
checkpoint equals the dense model without its dropped layers -> `fidelity.py`; checkpoints by the options of `eval` ->
`checkpoints.py`; lmms-eval and VLMEvalKit -> `harness/`.
"""
